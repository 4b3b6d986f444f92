"""Hosts for a benchmark: network namespaces on one bridge, each with a shaped link.

Every name carries the process id of the benchmark that made it, so several can run at once, and what a killed one left
behind is known and taken away by the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PREFIX = "shoalbench"
HUB_ADDRESS = "10.77.0.1"

# How long a packet may wait at a link: a few round trips' worth, as a switch or a home router has.
QUEUE = "100ms"

# What kernels come with. This machine's may be BBR, which fills so short a queue: a quarter of the packets was lost.
CONGESTION_CONTROL = "cubic"


@dataclass(frozen=True)
class Place:
    """One host: its namespace and its address."""

    namespace: str
    address: str
    link: str  # the hub's end of its link


def missing() -> str | None:
    """Why namespaces cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root: run it as root, or with sudo"
    if absent := [tool for tool in ("ip", "tc", "sysctl") if not shutil.which(tool)]:
        return f"{' and '.join(absent)} not found: install iproute2 and procps"
    return None


class Network:
    """``rates``: bits per second of each host's link, both ways; 0: not shaped. A context manager."""

    def __init__(self, rates: Sequence[float]) -> None:
        self._name = f"{PREFIX}-{os.getpid()}-{time.monotonic_ns() % 1_000_000:06d}"
        self.hub = f"{self._name}-hub"
        self.rates = tuple(rates)
        self.hosts = tuple(
            Place(f"{self._name}-{number}", f"10.77.{1 + number // 200}.{1 + number % 200}", f"h{number}")
            for number in range(len(rates))
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self._kernel: dict[Path, str] = {}

    def __enter__(self) -> Network:  # noqa: PYI034
        sweep()
        try:
            self._build()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._tear_down()

    def _build(self) -> None:
        # All namespaces share the kernel's bound on neighbours, 1,024: 50 hosts that know each other are 2,500, and the
        # last of them would reach nobody.
        for name in ("gc_thresh3", "gc_thresh2"):
            self._set_kernel(f"neigh/default/{name}", lambda bound: str(max(int(bound), 4 * len(self.hosts) ** 2)))
        # Where this machine's own default is another, namespaces may not have it unless all may.
        self._set_kernel("tcp_allowed_congestion_control", lambda allowed: f"{allowed.strip()} {CONGESTION_CONTROL}")
        _run("ip", "netns", "add", self.hub)
        _batch(
            "ip",
            self.hub,
            [
                "link set lo up",
                "link add br0 type bridge forward_delay 0",
                "link set br0 up",
                f"address add {HUB_ADDRESS}/16 dev br0",
            ],
        )
        for place, rate in zip(self.hosts, self.rates, strict=True):
            _run("ip", "netns", "add", place.namespace)
            _batch(
                "ip",
                self.hub,
                [
                    f"link add {place.link} type veth peer name eth0 netns {place.namespace}",
                    f"link set {place.link} master br0 up",
                ],
            )
            _batch(
                "ip",
                place.namespace,
                ["link set lo up", f"address add {place.address}/16 dev eth0", "link set eth0 up"],
            )
            if rate:
                # A bucket of 10 ms, so that bursts stay below what a real link's queue would show
                shape = f"root tbf rate {rate:.0f}bit burst {max(16_000, int(rate / 8 * 0.01))} latency {QUEUE}"
                _batch("tc", self.hub, [f"qdisc add dev {place.link} {shape}"])
                _batch("tc", place.namespace, [f"qdisc add dev eth0 {shape}"])
            setting = f"net.ipv4.tcp_congestion_control={CONGESTION_CONTROL}"
            _run("ip", "netns", "exec", place.namespace, "sysctl", "-qw", setting)

    def _set_kernel(self, name: str, value: Callable[[str], str]) -> None:
        """Change a setting of all namespaces, where that is allowed, until the benchmark ends."""
        setting = Path("/proc/sys/net/ipv4", name)
        with contextlib.suppress(OSError):
            before = setting.read_text()
            setting.write_text(value(before))
            self._kernel[setting] = before

    def popen(self, place: Place | None, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process on a host (None: on the hub), in a process group of its own."""
        namespace = place.namespace if place else self.hub
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *map(str, command)], start_new_session=True, **options
        )
        self._processes.append(process)
        return process

    def end(self, processes: Sequence[subprocess.Popen[bytes]], seconds: float = 20) -> None:
        """Have processes end, kindly at first."""
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process in self._processes:
                self._processes.remove(process)

    def traffic(self) -> list[tuple[int, int]]:
        """Bytes that each host has received and sent so far, headers included, as its link counted them."""
        command = ["ip", "-n", self.hub, "-s", "-j", "link", "show"]
        links = {link["ifname"]: link["stats64"] for link in json.loads(subprocess.check_output(command))}
        # what the hub's end sends is what the host receives
        return [(links[place.link]["tx"]["bytes"], links[place.link]["rx"]["bytes"]) for place in self.hosts]

    def _tear_down(self) -> None:
        self.end(list(self._processes), seconds=10)
        _remove([self.hub, *(place.namespace for place in self.hosts)])
        for setting, before in self._kernel.items():
            setting.write_text(before)


def sweep() -> None:
    """Take away what benchmarks that were killed have left: namespaces with the id of a process that is no more."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in listed.splitlines() if line.startswith(PREFIX + "-")]
    _remove([name for name in names if not Path(f"/proc/{name.split('-')[1]}").exists()])


def _remove(namespaces: Sequence[str]) -> None:
    for namespace in namespaces:
        inside = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
        for pid in inside.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _batch(tool: str, namespace: str, lines: Sequence[str]) -> None:
    subprocess.run(
        [tool, "-n", namespace, "-batch", "-"], input="\n".join(lines).encode(), check=True, capture_output=True
    )


def log_of(folder: Path, name: str) -> IO[bytes]:
    """A file for what a process says, for who looks why it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{name}.log").open("wb")
