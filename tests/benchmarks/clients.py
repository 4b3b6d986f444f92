"""Ways to bring one payload from a publisher to many hosts: ours, and those that people use today.

All get the same payload and the same .torrent, a tracker of their own trial, and their makers' defaults, except for
what keeps them on the test network (no DHT, no local discovery) and has them seed on to the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from network import HUB_ADDRESS, Network, Place, log_of

from shoal.agent.client import Client as AgentClient
from shoal.agent.errors import UnreachableError

HERE = Path(__file__).parent
START_SECONDS = 120  # for the slowest start of all hosts together
TRACKER_PORT = 6969
ANNOUNCE = f"http://{HUB_ADDRESS}:{TRACKER_PORT}/announce"


class TrialError(Exception):
    """A trial cannot be brought to its end; says why."""


@dataclass(frozen=True)
class Job:
    """What is to be brought where."""

    network: Network
    folder: Path  # of this trial; short, as unix sockets are in it
    payload: Path
    torrent: Path
    info_hash: str
    late: bool  # the hosts are there first, the publisher joins: time counts from then

    @property
    def publisher(self) -> Place:
        return self.network.hosts[0]

    @property
    def hosts(self) -> tuple[Place, ...]:
        return self.network.hosts[1:]

    def of(self, number: int) -> Path:
        """The folder of a host; 0 is the publisher."""
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Transfer(ABC):
    """One trial of one client. `prepare`, then `start`, then `finished` until all are; `close` in any case."""

    programs: tuple[str, ...] = ()  # what has to be installed

    def __init__(self, job: Job, variant: dict[str, Any]) -> None:
        self.job = job
        self.variant = variant
        self.processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    def missing(cls) -> str | None:
        absent = [program for program in cls.programs if not shutil.which(program)]
        return f"{' and '.join(absent)} not found" if absent else None

    @abstractmethod
    def prepare(self) -> None:
        """Have the publisher serve, and on the hosts what runs there anyway."""

    @abstractmethod
    def start(self) -> None:
        """Have all hosts begin, at once."""

    @abstractmethod
    def finished(self) -> dict[int, float]:
        """When each host, from 1, had everything: Unix time."""

    def result(self, number: int) -> Path:
        """Where a host has the payload."""
        return self.job.of(number) / self.job.payload.name

    def close(self) -> None:
        self.job.network.end(self.processes)

    def run(self, number: int | None, *command: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a program on a host (None: on the hub); its words go to a file."""
        place = None if number is None else self.job.network.hosts[number]
        name = f"{Path(str(command[0])).name}-{'hub' if number is None else number}"
        with log_of(self.job.folder / "log", name) as log:
            process = self.job.network.popen(
                place, command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options
            )
        self.processes.append(process)
        return process

    def wait(self, what: str, done: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise TrialError(f"{what}: not within {seconds:.0f} s; see {self.job.folder / 'log'}")
            time.sleep(0.05)


class Swarm(Transfer):
    """With a tracker on the hub, whose link is not shaped."""

    def prepare(self) -> None:
        self._start_tracker()
        self.make_ready()
        if self.job.late:
            self.add_hosts()
            self.wait("the hosts' announces", lambda: self._known("incomplete") == len(self.job.hosts))
        else:
            self.add_publisher()
            self.wait("the publisher's announce as a seed", lambda: self._known("complete") == 1)

    def start(self) -> None:
        if self.job.late:
            self.add_publisher()
        else:
            self.add_hosts()

    def make_ready(self) -> None:
        """Start what runs on all hosts before there is anything to fetch."""

    @abstractmethod
    def add_publisher(self) -> None: ...

    @abstractmethod
    def add_hosts(self) -> None: ...

    def _start_tracker(self) -> None:
        if self.variant.get("tracker") == "chihaya":
            config = self.job.folder / "chihaya.yaml"
            config.write_text(json.dumps(_CHIHAYA))  # JSON is YAML
            tracker = self.run(None, "chihaya", "--config", config)
        else:
            command = [sys.executable, "-m", "shoal", "tracker", "--listen", f"{HUB_ADDRESS}:{TRACKER_PORT}"]
            tracker = self.run(None, *command)
        self.wait("the tracker's start", lambda: tracker.poll() is not None or self._known("complete") is not None)
        if tracker.poll() is not None:
            raise TrialError(f"the tracker did not start; see {self.job.folder / 'log'}")

    def _known(self, what: str) -> int | None:
        """How many peers the tracker knows that are ``complete`` or ``incomplete``; None while it does not answer."""
        path = f"/scrape?info_hash={quote_from_bytes(bytes.fromhex(self.job.info_hash))}"
        command = ["curl", "-s", "-m", "2", f"http://{HUB_ADDRESS}:{TRACKER_PORT}{path}"]
        inside = ["ip", "netns", "exec", self.job.network.hub]
        answer = subprocess.run([*inside, *command], capture_output=True, check=False).stdout
        if not answer:
            return None
        _before, _found, rest = answer.partition(f"{len(what)}:{what}i".encode())
        return int(rest.partition(b"e")[0] or 0)


class Shoal(Swarm):
    """Resident agents, asked over their APIs."""

    def make_ready(self) -> None:
        self.times: dict[int, float] = {}
        self.errors: list[str] = []
        self.metainfo = self.job.torrent.read_bytes()
        self.agents = [self._start_agent(number) for number in range(len(self.job.network.hosts))]
        for number, agent in enumerate(self.agents):
            self.wait(f"the start of agent {number}", partial(_answers, agent))

    def _start_agent(self, number: int) -> AgentClient:
        folder = self.job.of(number)
        place = self.job.network.hosts[number]
        config = {
            "name": f"host{number}",
            "socket": str(folder / "s"),
            "state_dir": str(folder / "state"),
            "listen": [f"{place.address}:6891"],
            "log": {"level": "warning", "format": "text"},
        }
        (folder / "agent.yml").write_text(json.dumps(config))
        overrides = {key: value for key, value in self.variant.items() if key != "tracker"}
        program = [HERE / "agent_with.py", json.dumps(overrides)] if overrides else ["-m", "shoal"]
        self.run(number, sys.executable, *program, "agent", "--config", folder / "agent.yml")
        return AgentClient(folder / "s")

    def add_publisher(self) -> None:
        self.agents[0].add(torrent=self.metainfo, data_path=self.job.payload)

    def add_hosts(self) -> None:
        for number in range(1, len(self.agents)):
            threading.Thread(target=self._fetch, args=(number,), daemon=True).start()

    def _fetch(self, number: int) -> None:
        agent = self.agents[number]
        try:
            agent.add(torrent=self.metainfo)
            while (status := agent.torrent(self.job.info_hash, wait=60))["state"] != "complete":
                if status["state"] == "error":
                    self.errors.append(f"host{number}: {status['error']}")
                    return
            self.fetched(number)
            self.times[number] = time.time()
        except UnreachableError as error:
            self.errors.append(f"host{number}: {error}")

    def fetched(self, number: int) -> None:
        """Do what a host does before it is finished."""

    def finished(self) -> dict[int, float]:
        if self.errors:
            raise TrialError("; ".join(self.errors))
        return dict(self.times)

    def result(self, number: int) -> Path:
        return self.job.of(number) / "state" / "store" / self.job.info_hash / self.job.payload.name


def _answers(agent: AgentClient) -> bool:
    try:
        agent.agent()
    except UnreachableError:
        return False
    return True


class WithMark(Transfer):
    """Whatever has a hook that runs once a host has everything: it makes a file, whose time counts."""

    def hook(self, number: int) -> Path:
        folder = self.job.of(number)
        script = folder / "done.sh"
        script.write_text(f"#!/bin/sh\n: >{folder}/done\n")
        script.chmod(0o755)
        return script

    def finished(self) -> dict[int, float]:
        marks = {number: self.job.of(number) / "done" for number in range(1, len(self.job.network.hosts))}
        return {number: mark.stat().st_mtime for number, mark in marks.items() if mark.exists()}

    def result(self, number: int) -> Path:
        return self.job.of(number) / "data" / self.job.payload.name

    def data(self, number: int) -> Path:
        """Where a host's client is to put (or, for the publisher, find) the payload."""
        folder = self.job.of(number) / "data"
        folder.mkdir()
        if number == 0:
            (folder / self.job.payload.name).hardlink_to(self.job.payload)
        return folder


class OneShot(WithMark, Swarm):
    """A client that is begun when its host is to seed or to fetch."""

    checking: str  # what has it look at what is there

    def add_publisher(self) -> None:
        self._add(0, self.checking)

    def add_hosts(self) -> None:
        for number in range(1, len(self.job.network.hosts)):
            self._add(number)

    def _add(self, number: int, *more: str) -> None:
        raise NotImplementedError


class Aria2(OneShot):
    programs = ("aria2c",)
    checking = "--check-integrity=true"

    def _add(self, number: int, *more: str) -> None:
        command = ["aria2c", "--no-conf", "--enable-dht=false", "--bt-enable-lpd=false", "--seed-ratio=0.0"]
        command += ["--file-allocation=none", "--listen-port=6881", "--summary-interval=0", *more]
        command += [f"--dir={self.data(number)}", f"--on-bt-download-complete={self.hook(number)}"]
        self.run(number, *command, self.job.torrent)


class Transmission(OneShot):
    programs = ("transmission-cli",)
    checking = "--verify"

    def _add(self, number: int, *more: str) -> None:
        config = self.job.of(number) / "config"
        config.mkdir()
        quiet = {"dht-enabled": False, "lpd-enabled": False, "port-forwarding-enabled": False}
        (config / "settings.json").write_text(json.dumps(quiet))
        command = ["transmission-cli", "--config-dir", config, "--download-dir", self.data(number), "--no-portmap"]
        self.run(number, *command, "--finish", self.hook(number), *more, self.job.torrent)


class Libtorrent(WithMark, Swarm):
    """libtorrent as it comes, without our settings."""

    def make_ready(self) -> None:
        numbers = range(len(self.job.network.hosts))
        for number in numbers:
            address = self.job.network.hosts[number].address
            script = [HERE / "plain_libtorrent.py", address, self.job.torrent, self.data(number), self.job.of(number)]
            self.run(number, sys.executable, *script)
        marks = [self.job.of(number) / "ready" for number in numbers]
        self.wait("the start of the hosts", lambda: all(mark.exists() for mark in marks))

    def add_publisher(self) -> None:
        (self.job.of(0) / "go").touch()

    def add_hosts(self) -> None:
        for number in range(1, len(self.job.network.hosts)):
            (self.job.of(number) / "go").touch()


class FromServer(Transfer):
    """Every host fetches from the publisher by a command of its own, whose end counts."""

    def start(self) -> None:
        self.times: dict[int, float] = {}
        self.errors: list[str] = []
        self.pool = ThreadPoolExecutor(len(self.job.hosts))
        for number in range(1, len(self.job.network.hosts)):
            self.pool.submit(self._fetch, number, self.run(number, *self.command(number)))

    @abstractmethod
    def command(self, number: int) -> list[str | Path]: ...

    def _fetch(self, number: int, process: subprocess.Popen[bytes]) -> None:
        if process.wait() == 0:
            self.times[number] = time.time()
        else:
            self.errors.append(f"host {number}: exit status {process.returncode}")

    def finished(self) -> dict[int, float]:
        if self.errors:
            raise TrialError("; ".join(self.errors))
        return dict(self.times)

    def close(self) -> None:
        super().close()
        self.pool.shutdown()


class Curl(FromServer):
    programs = ("nginx", "curl")

    def prepare(self) -> None:
        folder = self.job.of(0)
        root = folder / "www"
        root.mkdir()
        (root / self.job.payload.name).hardlink_to(self.job.payload)
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, root=root, address=self.job.publisher.address))
        self.run(0, "nginx", "-c", config, "-e", folder / "error.log")
        self.wait("nginx's start", lambda: (folder / "nginx.pid").exists())

    @property
    def url(self) -> str:
        return f"http://{self.job.publisher.address}:8080/{self.job.payload.name}"

    def command(self, number: int) -> list[str | Path]:
        return ["curl", "-sS", "--fail", "-o", self.result(number), self.url]


class Rsync(FromServer):
    programs = ("rsync",)

    def prepare(self) -> None:
        folder = self.job.of(0)
        config = folder / "rsyncd.conf"
        config.write_text(f"[files]\npath = {self.job.payload.parent}\nuse chroot = no\nmax connections = 0\n")
        pid = folder / "rsyncd.pid"
        options = [f"--config={config}", f"--dparam=pidfile={pid}", f"--address={self.job.publisher.address}"]
        self.run(0, "rsync", "--daemon", "--no-detach", "--port=8730", *options)
        self.wait("rsync's start", pid.exists)

    def command(self, number: int) -> list[str | Path]:
        source = f"rsync://{self.job.publisher.address}:8730/files/{self.job.payload.name}"
        return ["rsync", "-q", "--whole-file", source, self.result(number)]


class Module(Transfer):
    """One of Ansible's own modules: the publisher is the controller, and reaches all hosts at once by ssh."""

    programs = ("sshd", "ssh-keygen")
    module: str

    @abstractmethod
    def arguments(self) -> dict[str, str]:
        """The module's, but for `dest`."""

    def prepare(self) -> None:
        keys = self.job.of(0)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
        (keys / "user.pub").rename(keys / "allowed")
        Path("/run/sshd").mkdir(exist_ok=True)
        for number, place in enumerate(self.job.hosts, start=1):
            config = self.job.of(number) / "sshd.conf"
            config.write_text(_SSHD.format(address=place.address, keys=keys))
            self.run(number, shutil.which("sshd") or "sshd", "-D", "-e", "-f", config)
        hosts = {
            f"host{number}": {"ansible_host": place.address, "dest": str(self.result(number))}
            for number, place in enumerate(self.job.hosts, start=1)
        }
        options = (
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ControlMaster=auto -o ControlPersist=60s"
        )
        variables = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(keys / "user"),
            "ansible_ssh_common_args": options,
            "ansible_python_interpreter": sys.executable,
        }
        (keys / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}))
        ping = self._ansible("ansible.builtin.ping", {"data": "here"})
        if ping.wait(START_SECONDS) != 0:
            raise TrialError(f"Ansible does not reach the hosts; see {self.job.folder / 'log'}")

    def start(self) -> None:
        self.task = self._ansible(self.module, {**self.arguments(), "dest": "{{ dest }}"})

    def _ansible(self, module: str, arguments: dict[str, str]) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("ansible")
        command = [program, "all", "-i", self.job.of(0) / "inventory.json", "-m", module, "-a", json.dumps(arguments)]
        forks = str(len(self.job.hosts))
        environment = os.environ | {"ANSIBLE_FORKS": forks, "ANSIBLE_PIPELINING": "1", "LC_ALL": "C.UTF-8"}
        environment |= {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.job.of(0) / "cp")}
        return self.run(0, *command, env=environment)

    def finished(self) -> dict[int, float]:
        if self.task.poll():
            raise TrialError(f"ansible ended with {self.task.returncode}; see {self.job.folder / 'log'}")
        found = {number: self.result(number) for number in range(1, len(self.job.network.hosts))}
        # it gets its name when it is whole
        return {number: path.stat().st_ctime for number, path in found.items() if path.exists()}


class Copy(Module):
    module = "ansible.builtin.copy"

    def arguments(self) -> dict[str, str]:
        return {"src": str(self.job.payload)}


class GetUrl(Module):
    module = "ansible.builtin.get_url"
    programs = (*Module.programs, *Curl.programs)

    def prepare(self) -> None:
        super().prepare()
        self.server = Curl(self.job, {})
        self.server.processes = self.processes  # ended with ours
        self.server.prepare()

    def arguments(self) -> dict[str, str]:
        return {"url": self.server.url, "timeout": "3600"}


CLIENTS: dict[str, type[Transfer]] = {
    "shoal": Shoal,
    "aria2": Aria2,
    "transmission": Transmission,
    "libtorrent": Libtorrent,
    "curl": Curl,
    "rsync": Rsync,
    "copy": Copy,
    "get_url": GetUrl,
}

_SSHD = """\
ListenAddress {address}
HostKey {keys}/host
AuthorizedKeysFile {keys}/allowed
PermitRootLogin prohibit-password
PidFile none
StrictModes no
UsePAM no
"""

_NGINX = """\
daemon off;
master_process off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen {address}:8080; root {root}; }}
}}
"""

_CHIHAYA = {
    "chihaya": {
        "announce_interval": "60s",
        "prometheus_addr": "127.0.0.1:6880",
        "max_numwant": 200,
        "default_numwant": 100,
        "max_scrape_infohashes": 50,
        "http": {"addr": f"{HUB_ADDRESS}:{TRACKER_PORT}", "read_timeout": "5s", "write_timeout": "5s"},
        # its first collection would forget peers that announce within its first second
        "storage": {"name": "memory", "config": {"shard_count": 16, "peer_lifetime": "3m", "gc_interval": "1h"}},
    }
}
