"""Print what processes of this host are called with where it has a planted secret in it."""

import os
import time

born = {}
while True:
    now = time.monotonic()
    born = {pid: born.get(pid, now) for pid in os.listdir("/proc") if pid.isdigit()}
    for pid in (pid for pid, since in born.items() if now - since < 2):  # between fork and exec it is called as its parent
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if b"planted-secret" in line:
            print(pid, line, flush=True)
    time.sleep(0.01)
