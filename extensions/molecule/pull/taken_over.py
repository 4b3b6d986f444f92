"""What somebody does who took the agent over, as its user and where its unit is confined, against the real units.

Prints, as JSON, what the privileged side answered to each act. Each leaves what the next one finds; the last leave
wrong bytes in the store and old metadata in the memory of the agent.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/shoal")  # the agent's
SOCKET = "/run/shoal-upgrade/shop.sock"
FLOOD = 200  # connections
PAYLOAD = next(STATE.glob("store/*/shop-1.2.tar.gz"))
RIGHT = PAYLOAD.read_bytes()


def connect() -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(SOCKET)  # waits where there are too many
    client.settimeout(120)
    return client


def answer(client: socket.socket) -> str:
    """The reason of the result; of those that are hung up on before they were heard, too."""
    lines = [b'{"reason": "limit"}']
    with contextlib.suppress(ConnectionError):
        lines.extend(client.makefile("rb"))
    return str(json.loads(lines[-1])["reason"])


def ask(**more: str) -> str:
    with connect() as client:
        client.sendall(json.dumps({"protocol": 1, "app": "shop", **more}).encode() + b"\n")
        return answer(client)


def evil(size: int) -> bytes:
    """An archive of that many bytes which unpacks well, and is another."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        content = b"raise SystemExit('evil')\n"
        member = tarfile.TarInfo("./shop.py")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return file.getvalue().ljust(size, b"\0")


@contextlib.contextmanager
def in_its_place(put: Callable[[], object]) -> Iterator[None]:
    """`put` makes something else of the payload's name."""
    PAYLOAD.unlink()
    put()
    yield
    PAYLOAD.unlink()
    PAYLOAD.write_bytes(RIGHT)


def swapped() -> list[str]:
    """The payload's halves are right in turn, never both: in place, and as another file under its name."""
    half = len(RIGHT) // 2
    wrong = bytearray(RIGHT)
    wrong[half // 2] ^= 1
    first = bytes(wrong[:half]) + RIGHT[half:]
    wrong[half + half // 2] ^= 1
    second = RIGHT[:half] + bytes(wrong[half:])
    stop = threading.Event()

    def swap() -> None:
        other = PAYLOAD.with_name("other")
        while not stop.is_set():
            for data in (first, second):
                with PAYLOAD.open("r+b") as file:
                    file.write(data)
                other.write_bytes(data)
                other.replace(PAYLOAD)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        return [ask(), ask()]
    finally:
        stop.set()
        thread.join()


def flooded() -> list[str]:
    """Silent connections, as many as are let in and more; then requests without end; and who asks after that."""
    with contextlib.ExitStack() as opened:
        for _number in range(FLOOD):
            opened.enter_context(connect())
    with contextlib.ExitStack() as opened:
        for _number in range(FLOOD):
            client = opened.enter_context(connect())
            with contextlib.suppress(ConnectionError):  # refused before it was said
                client.sendall(b'{"protocol": 1, "app": "shop"}\n' * 10)
    while (reason := ask()) == "limit":
        pass
    return [reason]


def written() -> list[str]:
    """What could be written to of what the other side runs or believes."""
    site = next(Path("/opt/shoal/current/lib").glob("python3*/site-packages"))
    places = [site, Path("/opt/shoal"), Path("/etc/shoal/apps.d"), Path("/var/lib/shoal-upgrade"), Path("/srv/shop")]
    found = []
    for place in places:
        try:
            (place / "evil.pth").write_text("import os; os.system('touch /evil')\n")
        except OSError:
            continue
        found.append(str(place))
    return found


def main() -> None:
    elsewhere = STATE / "elsewhere"
    elsewhere.write_bytes(RIGHT)
    told: dict[str, Any] = {"written": written()}
    told["another app"] = ask(app="blog")
    told["another version"] = ask(version="0.1")
    with in_its_place(lambda: PAYLOAD.symlink_to(elsewhere)):
        told["symlink to the right bytes"] = ask()
    with in_its_place(lambda: os.mkfifo(PAYLOAD)):
        told["FIFO"] = ask()
    elsewhere.write_bytes(evil(len(RIGHT)))
    with in_its_place(lambda: PAYLOAD.hardlink_to(elsewhere)):
        told["hard link"] = ask()
    told["swapped"] = swapped()
    PAYLOAD.write_bytes(evil(len(RIGHT)))
    told["flood"] = flooded()
    shutil.rmtree(STATE / "endpoints")
    shutil.copytree(STATE / "kept", STATE / "endpoints")
    told["old metadata"] = ask()
    print(json.dumps(told))


main()
