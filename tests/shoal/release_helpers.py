"""What the tests of the release room share: small archives, the real command, and digests of whole trees."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports import free_port

from shoal.cli.release import perform

DEADLINE = 60.0  # seconds that anything expected may take on a busy machine

Result = dict[str, Any]


def wait_until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Wait for ``condition`` to be true and return it; fails by the name of ``what``."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {deadline:g} s: {what}")


def digest(path: Path) -> dict[str, tuple[Any, ...]]:
    """Everything about a tree but its access times: what changed shows in the comparison, by name."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, names, files in os.walk(path):
        for name in [".", *names, *files]:
            one = Path(folder, name)
            status = one.lstat()
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(one.read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = str(one.readlink())
            key = str(one.relative_to(path))
            found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_ino, content)
    return found


def tar_bytes(files: dict[str, bytes | str], mode: str = "w", executable: tuple[str, ...] = ()) -> bytes:
    """A tar archive (compressed as ``mode`` says) of ``files``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755 if name in executable else 0o644
            info.mtime = 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def spec(path: Path, **more: Any) -> Result:
    """The archive of a request, with the SHA-256 that the file has now."""
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **more}


def call(verb: str, request: Result, *flags: str, on_event: Callable[[Result], object] = lambda _: None) -> Result:
    """The result of a verb, with the events before it under "events": the command's own way, in this process."""
    events: list[Result] = []

    def emit(event: Result) -> None:
        events.append(event)
        on_event(event)

    result = perform(verb, lambda: request, "--check" in flags, emit)
    return {**json.loads(json.dumps(result)), "events": events}


def run(verb: str, request: Result, *flags: str, env: dict[str, str] | None = None) -> Result:
    """The same by the real command: ``shoal release VERB --json``."""
    process = subprocess.run(
        [sys.executable, "-m", "shoal", "release", verb, "--json", *flags],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout, process.stderr
    *events, result = map(json.loads, process.stdout.splitlines())
    assert result["event"] == "result", process.stdout
    assert process.returncode == (0 if result["ok"] else 2 if result["error"]["code"] == "bad_request" else 1)
    assert process.stderr == ""
    return {**result, "events": events}


@dataclass
class App:
    """An application of a test: archives in one folder, the root in another."""

    base: Path
    request: Result = field(default_factory=dict)  # what every request of this test says

    @property
    def root(self) -> Path:
        return self.base / "srv"

    @property
    def home(self) -> Path:
        return self.root / ".shoal"

    def archive(self, version: str, files: dict[str, bytes | str] | None = None, **more: Any) -> Path:
        """An archive that holds ``files`` and its version in the file VERSION."""
        path = self.base / "archives" / f"shop-{version}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tar_bytes({"VERSION": version, "a": version, **(files or {})}, **more))
        return path

    def asked(self, **request: Any) -> Result:
        return {"app": "shop", "root": str(self.root), **self.request, **request}

    def ask(self, verb: str, *flags: str, **request: Any) -> Result:
        return call(verb, self.asked(**request), *flags)

    def stage(self, version: str, files: dict[str, bytes | str] | None = None, **request: Any) -> Result:
        result = self.ask("stage", version=version, archive=spec(self.archive(version, files)), **request)
        assert result["ok"], result
        return result

    def activate(self, version: str, *flags: str, **request: Any) -> Result:
        return self.ask("activate", *flags, version=version, **request)

    def current(self) -> str | None:
        """The version that a reader finds through `current`."""
        try:
            return (self.root / "current" / "VERSION").read_text()
        except FileNotFoundError:
            return None

    def assert_settled(self) -> None:
        """No mark, no lock, nothing half-made."""
        info = self.ask("info")["release"]
        assert info["unproven"] is None
        assert info["running_operation"] is None
        assert not any((self.home / "staging").iterdir())
        assert not (self.home / "current.new").is_symlink()


SERVER = r"""
import http.server, json, os, sys
port, version, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
asked = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        if mode == "dies" and asked > 1:
            os._exit(1)
        status = 500 if mode == "ill" else 200
        body = json.dumps({"version": version, "pid": os.getpid()}).encode()
        self.send_response(status)
        self.send_header("X-Version", version)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
Server(("127.0.0.1", port), Handler).serve_forever()
"""

RESTART = r"""#!/bin/sh
# Stops the running server and starts the one of the active release; `stuck` does nothing.
[ "$SHOP_STUCK" ] && exit 0
state="$SHOAL_ROOT/../state"
[ -f "$state/stuck" ] && exit 0
if [ -f "$state/pid" ]; then
    kill "$(cat "$state/pid")" 2>/dev/null
    while kill -0 "$(cat "$state/pid")" 2>/dev/null; do sleep 0.01; done
fi
cd "$SHOAL_ROOT/current" || exit 1
setsid PYTHON "$state/server.py" "$(cat "$state/port")" "$(cat VERSION)" "$(cat mode 2>/dev/null || echo well)" \
    >/dev/null 2>&1 </dev/null &
echo $! > "$state/pid"
"""


@dataclass
class Service:
    """A real HTTP server that serves the active release and tells its version."""

    app: App
    port: int

    @property
    def state(self) -> Path:
        return self.app.base / "state"

    @property
    def restart(self) -> list[str]:
        return [str(self.state / "restart")]

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def pid(self) -> int | None:
        try:
            return int((self.state / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None


@contextmanager
def service(app: App) -> Iterator[Service]:
    """Make the server and its restart command in ``app``; whatever it runs is ended afterwards."""
    import signal
    from contextlib import suppress

    one = Service(app, free_port())
    one.state.mkdir()
    (one.state / "server.py").write_text(SERVER)
    (one.state / "port").write_text(str(one.port))
    (one.state / "restart").write_text(RESTART.replace("PYTHON", sys.executable))
    (one.state / "restart").chmod(0o755)
    try:
        yield one
    finally:
        pid = one.pid()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
