"""The demo's machines: a tracker, a publisher and hosts as processes of this one, and playbooks run against them.

Every process started here carries SHOAL_DEMO=FOLDER in its environment, and so does what it starts in turn; commands
of a switch, which get an environment of their own, carry SHOAL_ROOT below that folder. That is how all of them are
found again, however they detached themselves, by this run or by the next one after a crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from shoal.agent.client import Client
from shoal.agent.errors import UnreachableError

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
BIN = Path(sys.executable).parent
PUBLISHER = "publisher"
HOSTS = tuple(f"host{number}" for number in range(1, 6))

START_SECONDS = 60.0
STOP_SECONDS = 20.0
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoError(Exception):
    """The demo cannot go on, or did not show what it is to show."""


@contextlib.contextmanager
def started_fleet(folder: Path, limit: int, hosts: tuple[str, ...] = HOSTS) -> Iterator[Fleet]:
    """A fleet below `folder`, new and started; whatever happens, nothing of it runs afterwards.

    `limit` is what each agent may send and what it may receive, in bytes per second; 0: all there is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "lock").open("w") as lock,
        # Beside the folder, not in it: a unix socket's path has room for 107 bytes only
        tempfile.TemporaryDirectory(prefix="shoal-") as sockets,
    ):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"another demo runs in {folder}: wait for its end") from None
        fleet = Fleet(folder, Path(sockets), limit, hosts)
        fleet.stop()  # what an earlier run left behind that was killed with no time to clean up
        try:
            fleet.start()
            yield fleet
        finally:
            fleet.stop()


class Fleet:
    """A tracker, a publisher and some hosts, each with an agent.

    SHOAL_DEMO_TRACKER in the environment takes the place of the tracker of our own: an announce URL on 127.0.0.1, where
    the agents listen.
    """

    def __init__(self, folder: Path, sockets: Path, limit: int, hosts: tuple[str, ...]) -> None:
        self.hosts = hosts
        self.ansible: dict[str, str] = {}  # more of Ansible's settings, as its environment variables
        self.folder = folder
        self.sockets = sockets
        self.limit = limit
        self.home = folder / "run"
        self._reserved = [reserved_port() for _ in hosts]
        self.ports = {host: each.getsockname()[1] for host, each in zip(hosts, self._reserved, strict=True)}
        self.tracker = ""
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self._playbooks = 0

    def start(self) -> None:
        """Start all daemons, from nothing; DemoError if one does not."""
        shutil.rmtree(self.home, ignore_errors=True)
        (self.home / "logs").mkdir(parents=True)
        self.tracker = os.environ.get("SHOAL_DEMO_TRACKER") or self._own_tracker()

        agents = {}
        for name in (PUBLISHER, *self.hosts):
            config = self.home / "hosts" / name / "agent.yml"
            config.parent.mkdir(parents=True)
            config.write_text(json.dumps(self._agent_config(name), indent=2))  # JSON is YAML
            self.apps_dir(name).mkdir()
            self.apps_dir(name).chmod(0o755)  # what others could write is not believed
            agents[name] = self.shoal(name, "agent", "--config", str(config))
        self._agents = agents
        deadline = time.monotonic() + START_SECONDS
        for name, process in agents.items():
            while not self._answers(name):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise DemoError(f"the agent of {name} did not start: {self._tail(name)}")
                time.sleep(0.05)

        # As a user has it: the collection below a collections path, and scripts where hosts have them
        collection = self.folder.parent / "collections/ansible_collections/shoal/deploy"
        collection.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            collection.unlink()
        collection.symlink_to(CHECKOUT)
        (self.home / "variables.json").write_text(
            json.dumps(
                {
                    "demo_home": str(self.home),
                    "demo_scripts": str(HERE),
                    "demo_sockets": str(self.sockets),
                    "demo_ports": self.ports,
                    "demo_tracker": self.tracker,
                }
            )
        )

    def _own_tracker(self) -> str:
        tracker = self.shoal("tracker", "tracker", "--listen", "127.0.0.1:0", stdout=subprocess.PIPE)
        assert tracker.stdout is not None
        url = tracker.stdout.readline().decode().strip()
        if not url:
            raise DemoError(f"the tracker did not start: {self._tail('tracker')}")
        return url

    def _agent_config(self, name: str) -> dict[str, object]:
        return {
            "name": name,
            "socket": str(self.sockets / name),
            "state_dir": str(self.home / "hosts" / name / "agent"),
            "listen": ["127.0.0.1:0"],
            "limits": {"upload": self.limit, "download": self.limit},
            "apps_dir": str(self.apps_dir(name)),
            "upgrade": {"by": "child"},  # there is no systemd here whose unit could be asked
        }

    def apps_dir(self, name: str) -> Path:
        """Where the files of the applications are that a host follows by itself."""
        return self.home / "hosts" / name / "apps.d"

    def root(self, host: str) -> Path:
        """The root of the shop on a host, as in inventory/hosts.yml."""
        return self.home / "hosts" / host / "shop"

    def reload(self, name: str) -> None:
        """Have an agent read its files again."""
        self._agents[name].send_signal(signal.SIGHUP)

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "SHOAL_"))}
        return ours | {
            "SHOAL_DEMO": str(self.folder),
            "PATH": f"{BIN}{os.pathsep}{ours.get('PATH', os.defpath)}",
            "LC_ALL": "C.UTF-8",  # Ansible insists on UTF-8
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def shoal(self, name: str, *command: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start a `shoal` command that logs as `name`."""
        with (self.home / "logs" / f"{name}.log").open("ab") as log:
            return self._run([str(BIN / "shoal"), *command], stdout=log if stdout is None else stdout, stderr=log)

    def _run(
        self, command: list[str], stdout: int | IO[bytes], stderr: int | IO[bytes], **more: str
    ) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C is for the driver, which then stops all in order
        return subprocess.Popen(
            command,
            cwd=self.home,
            env=self._environment() | more,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def _answers(self, name: str) -> bool:
        try:
            self.agent(name).agent()
        except UnreachableError:
            return False
        return True

    def _tail(self, name: str, lines: int = 30) -> str:
        log = self.home / "logs" / f"{name}.log"
        return f"see {log}, which ends\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

    def agent(self, name: str) -> Client:
        """The agent of `name`."""
        return Client(self.sockets / name, timeout=10)

    def shop(self, host: str) -> tuple[int, dict[str, Any]]:
        """Status and body of the /health of the shop on `host`, asked over HTTP."""
        try:
            with NO_PROXY.open(f"http://127.0.0.1:{self.ports[host]}/health", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            raise DemoError(f"the shop of {host} does not answer: {error}") from error

    def listening(self) -> list[str]:
        """The hosts on whose port somebody listens."""
        found = []
        for host, port in self.ports.items():
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
                found.append(host)
        return found

    def playbook(
        self, name: str, *, fails: bool = False, show: Callable[[str], None], **variables: str
    ) -> dict[str, Any]:
        """Run the collection's playbook `name` as a user would and return what it told with set_stats.

        Each line of its standard error, where the playbooks tell how it goes, is given to `show`. DemoError if the
        playbook fails, or with `fails` if it does not.
        """
        self._playbooks += 1
        log_name = f"{self._playbooks}-{name}-{variables.get('shoal_version', 'all')}"
        stats = self.home / "logs" / f"{log_name}.json"
        command = [str(BIN / "ansible-playbook"), f"shoal.deploy.{name}"]
        command += ["--extra-vars", f"@{self.home / 'variables.json'}", "--extra-vars", json.dumps(variables)]
        with (self.home / "logs" / f"{log_name}.log").open("ab", buffering=0) as log:
            process = self._run(
                command,
                stdout=log,
                stderr=subprocess.PIPE,
                ANSIBLE_CONFIG=str(HERE / "ansible.cfg"),
                ANSIBLE_HOME=str(self.home / "ansible"),
                ANSIBLE_COLLECTIONS_PATH=str(self.folder.parent / "collections"),
                ANSIBLE_REMOTE_TMP=str(self.home / "ansible/tmp"),
                SHOAL_DEMO_STATS=str(stats),
                **self.ansible,
            )
            assert process.stderr is not None
            for line in process.stderr:
                log.write(line)
                show(line.decode(errors="replace").rstrip())
            status = process.wait()
        if (status != 0) != fails:
            expected = "was to fail" if fails else f"failed with exit status {status}"
            raise DemoError(f"shoal.deploy.{name} {expected}: {self._tail(log_name)}")
        custom: dict[str, Any] = json.loads(stats.read_text())
        told: dict[str, Any] = custom.get("_run", {})
        return told

    def running(self) -> dict[int, str]:
        """The processes of this demo that are alive, by number: their command lines."""
        marks = (f"SHOAL_DEMO={self.folder}\0".encode(), f"SHOAL_ROOT={self.home}/".encode())
        alive = {}
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                    environment = b"\0" + (process / "environ").read_bytes()
                    if any(b"\0" + mark in environment for mark in marks):
                        words = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                        alive[int(process.name)] = words.decode(errors="replace").strip()
        return alive

    def stop(self) -> None:
        """End all processes of this demo, whichever run started them; DemoError if one will not go."""
        deadline = time.monotonic() + STOP_SECONDS
        told: set[int] = set()
        while alive := self.running():
            over = time.monotonic() > deadline
            for pid in alive:
                # One that is told to go may start another on its way out: hence a loop, and each is told once
                if over or pid not in told:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL if over else signal.SIGTERM)
                    told.add(pid)
            if time.monotonic() > deadline + 5:
                raise DemoError(f"these processes do not end: {alive}")
            time.sleep(0.05)


def reserved_port() -> socket.socket:
    """A TCP port on 127.0.0.1, held until the socket is closed.

    Bound without listening, and both sides with SO_REUSEADDR: whoever asks for this very port gets it, whoever asks for
    any (agents do) gets another.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder
