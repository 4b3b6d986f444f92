"""What an agent costs a host when nothing happens.

    python tests/benchmarks/idle_agent.py [--megabytes 1000] [--payloads 5] [--seconds 60]

One agent seeds five payloads (or more, or fewer) and sends one of them, of 1 GB, to three others; then nobody does
anything. Over the next 60 s each may use 0.5 % of a core, and 60 MB of memory of its own (RssAnon: RSS counts mapped
files, too), 120 MB with more than ten payloads. Prints a table; the exit status is 1 where an agent costs more. Needs
four times the big payload on disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from shoal.agent.client import Client
from shoal.agent.errors import UnreachableError

sys.path.insert(0, str(Path(__file__).parent.parent / "shoal"))
from swarm_helpers import make_torrent

MAX_CPU = 0.5  # percent of a core
MAX_ANONYMOUS = 60e6  # bytes
MAX_ANONYMOUS_OF_MANY = 120e6  # with more than ten payloads

PEERS = 3
SMALL = 10_000_000


class Agent:
    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        folder = root / name
        folder.mkdir()
        config = folder / "agent.yml"
        socket = folder / "s"
        config.write_text(
            yaml.safe_dump(
                {
                    "name": name,
                    "socket": str(socket),
                    "state_dir": str(folder / "state"),
                    "listen": ["127.0.0.1:0"],
                    "log": {"level": "warning"},
                }
            )
        )
        self.process = subprocess.Popen([sys.executable, "-m", "shoal", "agent", "--config", str(config)])
        self.client = Client(socket)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.port = self.client.agent()["listen"][0]
                return
            except UnreachableError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def complete(self, info_hash: str) -> dict[str, Any]:
        while True:
            status = self.client.torrent(info_hash, wait=60)
            if status["state"] == "error":
                raise SystemExit(f"{self.name}: {status['error']}")
            if status["state"] == "complete":
                return status

    def memory(self, name: str) -> int:
        """Bytes that /proc/PID/status tells of as ``name``."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise KeyError(name)

    def cpu_seconds(self) -> float:
        # fields 14 and 15 of proc(5), counted after the name in parentheses
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wake_ups(self) -> dict[str, int]:
        """Voluntary context switches so far, by thread."""
        return {
            task.name: int(line.split()[1])
            for task in Path(f"/proc/{self.process.pid}/task").iterdir()
            for line in (task / "status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the payload that travels")
    parser.add_argument("--payloads", type=int, default=5, help="what the publisher seeds, that one included")
    parser.add_argument("--seconds", type=float, default=60, help="how long to look at the idle agents")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-idle-") as folder:
        return measure(Path(folder), arguments.megabytes * 1_000_000, arguments.payloads, arguments.seconds)


def make_payload(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for begin in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - begin)))
    return path


def measure(root: Path, size: int, count: int, seconds: float) -> int:
    agents: list[Agent] = []
    try:
        agents += [Agent(root, name) for name in ("publisher", *(f"host{n + 1}" for n in range(PEERS)))]
        publisher, *hosts = agents
        payloads = [make_payload(root / f"small-{n}.tar", SMALL) for n in range(count - 1)]
        payloads.append(make_payload(root / "big.tar", size))
        for payload in payloads:
            torrent = make_torrent(payload, piece_length=256 * 1024)
            info_hash = publisher.client.add(torrent=torrent, data_path=payload)["torrent"]["info_hash"]
            publisher.complete(info_hash)
        began = time.monotonic()
        for number, host in enumerate(hosts):
            known = [publisher, *hosts[:number]]
            host.client.add(torrent=torrent, peers=[f"127.0.0.1:{agent.port}" for agent in known])
        for host in hosts:
            host.complete(info_hash)
        moved = time.monotonic() - began
        time.sleep(5)  # the last blocks are synced, peers have parted
        before = [(agent.cpu_seconds(), agent.wake_ups()) for agent in agents]
        time.sleep(seconds)
        after = [(agent.cpu_seconds(), agent.wake_ups()) for agent in agents]
        title = (
            f"{count} payloads; {size / 1e6:.0f} MB to {PEERS} hosts in {moved:.1f} s, then {seconds:.0f} s of nothing"
        )
        budget = MAX_ANONYMOUS if count <= 10 else MAX_ANONYMOUS_OF_MANY
        return report(title, agents, before, after, seconds, budget)
    finally:
        for agent in agents:
            agent.process.terminate()
        for agent in agents:
            agent.process.wait(30)


def report(
    title: str,
    agents: list[Agent],
    before: list[tuple[float, dict[str, int]]],
    after: list[tuple[float, dict[str, int]]],
    seconds: float,
    budget: float,
) -> int:
    table = Table("agent", "CPU %", "wake-ups/s", "RssAnon MB", "RSS MB", title=title)
    too_much = 0
    for agent, (cpu, wakes), (cpu_after, wakes_after) in zip(agents, before, after, strict=True):
        percent = 100 * (cpu_after - cpu) / seconds
        woken = sum(count - wakes.get(thread, 0) for thread, count in wakes_after.items())
        anonymous = agent.memory("RssAnon")
        too_much += percent > MAX_CPU or anonymous > budget
        table.add_row(
            agent.name,
            f"{percent:.2f}",
            f"{woken / seconds:.1f}",
            f"{anonymous / 1e6:.1f}",
            f"{agent.memory('VmRSS') / 1e6:.1f}",
        )
    Console().print(table)
    return int(too_much > 0)


if __name__ == "__main__":
    sys.exit(main())
