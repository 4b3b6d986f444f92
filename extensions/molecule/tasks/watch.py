"""Print what processes of this host are called with where it has a planted secret in it."""

import time
from pathlib import Path

born = {}
while True:
    now = time.monotonic()
    born = {folder: born.get(folder, now) for folder in Path("/proc").iterdir() if folder.name.isdigit()}
    # a while: between fork and exec it is called as its parent
    for folder in (folder for folder, since in born.items() if now - since < 2):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"planted-secret" in line:
            print(folder.name, line, flush=True)
    time.sleep(0.01)
