"""Running what the user configured: hooks, scripts, restart and health commands.

Each runs in a process group of its own with a known environment and a time limit; when the time is over, the whole
group goes.
"""

from __future__ import annotations

import os
import pwd
import selectors
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.release.errors import ReleaseError

OUTPUT_LIMIT = 64 << 10  # bytes of a command's output that are kept: its end, where the error is
LINE_LIMIT = 2000  # characters of one line handed to `on_line`
LINES_LIMIT = 500  # lines handed to `on_line`
READ = 64 << 10  # bytes of output taken at once: all that a pipe holds
READS = 16  # in a row, then somebody else looks at the clock: a command may write faster than it is read, for ever
TERM_GRACE = 5.0  # seconds between SIGTERM and SIGKILL

# What of the caller's environment a command may see; the rest is of no use to it, or a secret.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int | None  # exit status, negative for a signal; None: it ran out of time
    output: str  # the end of what it wrote to stdout and stderr
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == 0

    def reason(self) -> str:
        """In words: `exited with 3: last line`."""
        last = next((line for line in reversed(self.output.splitlines()) if line.strip()), "")
        tail = f": {last.strip()[:300]}" if last else ""
        if self.status is None:
            return f"was not done after {self.seconds:.0f} s and was killed{tail}"
        if self.status < 0:
            return f"was killed by signal {-self.status}{tail}"
        return f"exited with {self.status}{tail}"


def find(command: list[str], cwd: Path, run_as: str | None = None) -> Path:
    """The file that ``command`` would run, if it is there and nobody untrusted can change it.

    A name with a slash is relative to ``cwd`` (the release); one without is looked up on PATH. Raises ReleaseError.
    """
    name = command[0]
    found = str(cwd / name) if "/" in name else shutil.which(name)
    if found is None:
        raise ReleaseError(f"command {name!r} is not on PATH", hint="give its full path", code="bad_command")
    path = Path(found)
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ReleaseError(f"{path} is not an executable file", hint=f"chmod +x {path}", code="bad_command")
    if os.geteuid() == 0:
        _check_trusted(path, run_as)
    return path  # as it was named: an interpreter in a virtual environment is a link that must not be followed


def _check_trusted(path: Path, run_as: str | None) -> None:
    """Root runs only what none but root (or the user it runs as) can change, the folders above included."""
    trusted = {0} if run_as is None else {0, user(run_as).pw_uid}
    hop = Path(os.path.normpath(path.absolute()))
    places = [*hop.parents]
    while hop.is_symlink():
        hop = Path(os.path.normpath(hop.parent / hop.readlink()))
        places += hop.parents
    real = Path(os.path.realpath(path))
    for place in dict.fromkeys([real, *real.parents, *places]):
        found = place.stat()
        mode = stat.S_IMODE(found.st_mode)
        sticky_folder = stat.S_ISDIR(found.st_mode) and mode & stat.S_ISVTX
        if found.st_uid not in trusted or (mode & 0o022 and not sticky_folder):
            raise ReleaseError(
                f"{path} is not run as root: {place} belongs to user {found.st_uid} with mode {mode:04o}, "
                "so others could change what runs",
                hint=f"chown root {place} && chmod go-w {place}, or set run_as to the user it belongs to",
                code="not_trusted",
            )


def user(name: str) -> pwd.struct_passwd:
    """The account ``name``. Raises ReleaseError."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ReleaseError(f"there is no user {name!r} on this host", hint="create it, or correct run_as") from None


def environment(extra: Mapping[str, str], run_as: str | None = None) -> dict[str, str]:
    """What a command finds in its environment: the basics and ``extra``."""
    account = user(run_as) if run_as else pwd.getpwuid(os.geteuid())
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        **passed,
        **extra,
    }


def run(
    command: list[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    run_as: str | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_line: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run ``command`` and wait for its end, or for ``timeout`` seconds and then for its death.

    Processes that it left behind keep running if it ended by itself; when it ran out of time its whole process group
    gets SIGTERM, then SIGKILL. Raises ReleaseError if it cannot be started.
    """
    path = find(command, cwd, run_as)
    begun = time.monotonic()
    try:
        process = subprocess.Popen(
            [str(path), *command[1:]],
            cwd=cwd,
            env=environment(env, run_as),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **_identity(run_as),
        )
    except OSError as error:
        raise ReleaseError(f"cannot run {path}: {error.strerror}", code="bad_command") from None
    on_start(process.pid)
    output = _Output(process, on_line)
    deadline = begun + timeout
    while process.poll() is None and time.monotonic() < deadline:
        output.collect(min(0.05, max(0.0, deadline - time.monotonic())))
    timed_out = process.poll() is None
    if timed_out:

        def meanwhile() -> None:
            output.collect(0.02)
            process.poll()  # a dead leader that nobody waited for would still count as alive

        kill_group(process.pid, meanwhile)
        process.wait()
    output.collect(0)
    output.close()
    return Outcome(None if timed_out else process.returncode, output.text(), time.monotonic() - begun)


def _identity(run_as: str | None) -> dict[str, Any]:
    if run_as is None or user(run_as).pw_uid == os.geteuid():
        return {}
    account = user(run_as)
    if os.geteuid() != 0:
        raise ReleaseError(f"only root can run commands as {run_as!r}", hint="run as root, or leave run_as out")
    groups = os.getgrouplist(run_as, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


def kill_group(group: int, meanwhile: Callable[[], object] = lambda: time.sleep(0.02)) -> None:
    """End every process of ``group``: SIGTERM, then SIGKILL. A group outlives its leader, whose end is not enough."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + TERM_GRACE
        while time.monotonic() < deadline:
            meanwhile()
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


class _Output:
    """The end of a process's output, and its first lines as they come. It never waits for the pipe's end: a process
    left in the background may hold that open for ever."""

    def __init__(self, process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> None:
        assert process.stdout is not None
        self._pipe = process.stdout
        self._on_line = on_line
        self._kept = b""
        self._line = b""
        self._lines = 0
        self._selector = selectors.DefaultSelector()
        os.set_blocking(self._pipe.fileno(), False)
        self._selector.register(self._pipe, selectors.EVENT_READ)
        self._open = True

    def collect(self, wait: float) -> None:
        """Take what is there, waiting up to ``wait`` seconds for something."""
        if not self._open:
            time.sleep(wait)
            return
        for _read in range(READS):
            if not self._selector.select(wait):
                return
            data = os.read(self._pipe.fileno(), READ)
            if not data:
                self._open = False
                return
            self._kept = (self._kept + data)[-OUTPUT_LIMIT:]
            self._split(data)
            wait = 0

    def _split(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[:LINE_LIMIT]
        for line in lines:
            self._tell(line)

    def _tell(self, line: bytes) -> None:
        self._lines += 1
        if self._lines <= LINES_LIMIT:
            self._on_line(line[:LINE_LIMIT].decode("utf-8", "replace"))

    def close(self) -> None:
        if self._line:
            self._tell(self._line)
        self._selector.close()
        self._pipe.close()

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")
