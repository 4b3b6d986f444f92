"""A fleet for the playbooks: a publisher and hosts with agents of their own, all on this machine, and archives of an
application that is healthy or not.

The application is a folder with a file ``version``; the file ``sick`` makes its health check fail. Nothing serves, so
that a switch takes no longer than the tasks of a playbook.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torf
import yaml
from conftest import Agent

from shoal.cli.release import perform

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
BIN = Path(sys.executable).parent
ANSIBLE_CONFIG = HERE / "ansible.cfg"


def make_archive(path: Path, version: str, *, sick: bool = False, size: int = 300_000, **members: str) -> Path:
    """A .tar.gz of the application; ``members`` are further files, their names with _ for a dot, and executable."""
    files = {"version": version, **({"sick": ""} if sick else {}), **members}
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            _add(tar, name.replace("_", "."), text.encode(), 0o755 if name in members else 0o644)
        # bytes that do not compress, another set for each version
        _add(tar, "blob", b"".join(hashlib.sha256(f"{version}{n}".encode()).digest() for n in range(size // 32)), 0o644)
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    tar.addfile(member, io.BytesIO(data))


def make_collections(folder: Path) -> Path:
    """A tree for ANSIBLE_COLLECTIONS_PATH in which this checkout is the collection."""
    place = folder / "ansible_collections" / "shoal"
    place.mkdir(parents=True)
    (place / "deploy").symlink_to(CHECKOUT)
    return folder


@dataclass
class Run:
    """How a playbook ended."""

    status: int
    out: str
    story: str  # the lines of the playbook itself, on stderr
    changed: dict[str, int]  # tasks that changed something, by host
    stats: dict[str, Any]  # what set_stats kept

    @property
    def total_changed(self) -> int:
        return sum(self.changed.values())


@dataclass
class Fleet:
    """Hosts, their inventory, and the playbooks run on them."""

    folder: Path
    collections: Path
    publisher: Agent
    hosts: dict[str, Agent]
    second_publisher: Agent | None = None
    app: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    host_variables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def root(self, host: str) -> Path:
        return self.folder / host / "shop"

    def version(self, host: str) -> str | None:
        """What `current` of the host really holds."""
        file = self.root(host) / "current" / "version"
        return file.read_text() if file.exists() else None

    @property
    def versions(self) -> list[str | None]:
        return [self.version(host) for host in self.hosts]

    @property
    def published(self) -> Path:
        return self.folder / "published"

    @property
    def publishers(self) -> dict[str, Agent]:
        second = {"pub2": self.second_publisher} if self.second_publisher else {}
        return {"pub": self.publisher, **second}

    @functools.cached_property
    def seeds(self) -> list[str]:
        """Where the publishers' agents listen; asked once, while they run."""
        return [agent.peer for agent in self.publishers.values()]

    def write_inventory(self) -> Path:
        """The inventory with what `app`, `variables` and `host_variables` say now."""
        app = {
            "hosts": "shop_servers",
            "root": "{{ shop_root }}",
            "health": {"command": ["sh", "-c", "test ! -e sick"], "timeout": 1, "interval": 0.2},
            "proof": "none",
            **self.app,
        }
        shared = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "shoal_become": False,
            "shoal_executable": str(BIN / "shoal"),
            "shoal_publish_dir": str(self.published),
            "shoal_peers": self.seeds,
            "shoal_apps": {"shop": app},
            **self.variables,
        }
        agents = {**self.publishers, **self.hosts}
        own = {
            name: {
                "shoal_socket": str(agent.socket),
                "shop_root": str(self.root(name)),
                "ansible_remote_tmp": str(self.folder / name / "tmp"),
                **self.host_variables.get(name, {}),
            }
            for name, agent in agents.items()
        }
        inventory = {
            "all": {
                "vars": shared,
                "children": {
                    "shoal_publishers": {"hosts": {name: own.pop(name) for name in self.publishers}},
                    "shop_servers": {"hosts": own},
                },
            }
        }
        path = self.folder / "inventory.yml"
        path.write_text(yaml.safe_dump(inventory))
        return path

    def start(
        self,
        playbook: str,
        *arguments: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> subprocess.Popen[str]:
        """Start a playbook of the collection, or a file of another one; ``extra`` are extra variables (shoal_ is put
        before their names)."""
        named = playbook if playbook.endswith(".yml") else f"shoal.deploy.{playbook}"
        command = [str(BIN / "ansible-playbook"), "-i", str(self.write_inventory()), named]
        command += ["-e", json.dumps({f"shoal_{name}": value for name, value in extra.items()}), *arguments]
        return subprocess.Popen(
            command,
            cwd=cwd or self.folder,
            env={
                **os.environ,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "ANSIBLE_CONFIG": str(ANSIBLE_CONFIG),
                "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "ansible"),
                "ANSIBLE_ASYNC_DIR": str(self.folder / "jobs"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_STRATEGY": "free",  # as a user may have it: a gate has to see all hosts all the same
                "LC_ALL": "C.UTF-8",
                **(env or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, playbook: str, *arguments: str, **extra: Any) -> Run:
        """Run a playbook of the collection to its end."""
        with self.start(playbook, *arguments, app="shop", **extra) as process:
            return self.end_of(process)

    @staticmethod
    def end_of(process: subprocess.Popen[str]) -> Run:
        """How a playbook that was started ends."""
        out, err = process.communicate(timeout=600)
        return Run(process.returncode, out, err, _changed(out), _stats(out))

    def deploy(self, version: str, hosts: Iterable[str] = ()) -> None:
        """Have hosts, all if none are named, run a version, without a playbook: where a test begins."""
        hosts = hosts or self.hosts
        self.stage(version, hosts)
        for host in hosts:
            self._release("activate", host, version=version, switch={"proof": "none"})

    def stage(self, version: str, hosts: Iterable[str] = ()) -> None:
        """Have hosts, all if none are named, keep a version ready, without a playbook."""
        archive = self._archive(version)
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        for host in hosts or self.hosts:
            self._release("stage", host, version=version, archive={"path": str(archive), "sha256": sha256})

    def have_published(self, version: str, **archive: Any) -> None:
        """Have a version published and seeded as the playbook does it, without the playbook: where a test begins."""
        source = self._archive(version, **archive)
        inspected = self._inspect(source)
        place = self.published / "shop" / version
        place.mkdir(parents=True)
        shutil.copy(source, place)
        torrent = torf.Torrent(source, source=f"shop {version}", piece_size=32 * 1024)
        torrent.creation_date = None
        torrent.generate()
        torrent.write(place / f"{source.name}.torrent")
        manifest = {
            "format": 1,
            "app": "shop",
            "version": version,
            "archive": {"name": source.name, "size": inspected["size"], "sha256": inspected["sha256"]},
            "unpacked_bytes": inspected["unpacked_bytes"],
            "entries": inspected["entries"],
            "irreversible": False,
            "notes": "",
            "info_hash": torrent.infohash,
            "piece_length": torrent.piece_size,
            "published_by": "alice@controller",
            "published_at": "2026-11-22T17:00:00Z",
        }
        (place / "manifest.json").write_text(json.dumps(manifest))
        self.publisher.seed(place / source.name, place / f"{source.name}.torrent")

    def _archive(self, version: str, **archive: Any) -> Path:
        path = self.folder / f"shop-{version}.tar.gz"
        return path if path.exists() else make_archive(path, version, **archive)

    def _inspect(self, archive: Path) -> dict[str, Any]:
        result = perform("inspect", lambda: {"protocol": 1, "archive": {"path": str(archive)}}, False, lambda _: None)
        assert result["ok"], result
        found: dict[str, Any] = result["archive"]
        return found

    def _release(self, verb: str, host: str, **request: Any) -> None:
        request = {"protocol": 1, "app": "shop", "root": str(self.root(host)), **request}
        result = perform(verb, lambda: request, False, lambda _event: None)
        assert result["ok"], result

    def publish(self, version: str, **archive: Any) -> Run:
        path = make_archive(self.folder / f"shop-{version}.tar.gz", version, **archive)
        run = self.run("publish", version=version, archive=str(path))
        assert run.status == 0, run.out + run.story
        return run


def _changed(out: str) -> dict[str, int]:
    """The `changed=` column of the recap."""
    recap = out.partition("PLAY RECAP")[2].splitlines()[1:]
    rows = [line.split() for line in recap if " : ok=" in line]
    return {row[0]: int(row[3].removeprefix("changed=")) for row in rows}


def _stats(out: str) -> dict[str, Any]:
    for line in out.partition("CUSTOM STATS")[2].splitlines():
        if line.strip().startswith("RUN: "):
            found: dict[str, Any] = json.loads(line.partition("RUN: ")[2])
            return found.get("shoal_rollout", {})
    return {}


def digest(*folders: Path) -> dict[str, str]:
    """Every path below the folders with what is there, to be compared with itself later."""
    found = {}
    for folder in folders:
        for path in sorted([folder, *folder.rglob("*")]):
            if path.is_symlink():
                found[str(path)] = f"-> {path.readlink()}"
            elif path.is_file():
                found[str(path)] = f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            elif path.exists():
                found[str(path)] = f"{path.stat().st_mode:o}"
    return found


FleetFactory = Callable[..., Fleet]
