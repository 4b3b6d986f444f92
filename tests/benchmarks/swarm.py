"""How long it takes until the last of many hosts has everything: our agents, and what people use today.

    sudo make bench-quick        five hosts, some minutes
    sudo make bench              every row of docs/benchmarks.md; hours
    sudo .venv/bin/python tests/benchmarks/swarm.py --case n20-32mb --client shoal --client aria2 --runs 3

Each host is a network namespace with a link shaped both ways. All clients of a case take turns in the same run, so that
what else the machine does falls on all of them. A client may be given libtorrent settings, to see what one is worth:

    --client shoal --client 'shoal:{"unchoke_slots_limit": 3}'

and 'shoal:{"tracker": "chihaya"}' for that tracker (v2.0.0-rc.2), if it is on PATH. Results go to --output: one JSON a
case with every host's time, tables as Markdown, pictures as SVG. Needs root; says what it skips, and why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import network
import pictures
from clients import ANNOUNCE, CLIENTS, Job, TrialError
from network import Network
from results import COLUMNS, Case, Trial, load, markdown, save, table, title
from rich.console import Console
from rich.table import Table
from usage import cpu_of_children

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))
import _metainfo  # what torrent_create makes is what is measured

MB = 1_000_000
MBIT = 1e6

QUICK = [Case("n5-8mb", 5, 10 * MBIT, 8 * MB)]
CASES = [
    Case("n5-32mb", 5, 10 * MBIT, 32 * MB, goal=1.10),
    Case("n20-5mb", 20, 10 * MBIT, 5 * MB, goal=1.25),
    Case("n20-32mb", 20, 10 * MBIT, 32 * MB, goal=1.12),
    Case("n20-128mb", 20, 10 * MBIT, 128 * MB, goal=1.10),
    Case("n50-32mb", 50, 2 * MBIT, 32 * MB, goal=1.15),
    Case("n100-16mb", 100, 1 * MBIT, 16 * MB, goal=1.30),
    Case("mixed-32mb", 20, 10 * MBIT, 32 * MB, slow=0.5, goal=1.20),
    Case("join-5mb", 20, 100 * MBIT, 5 * MB, late=True),
    Case("n20-64mb-fast", 20, 100 * MBIT, 64 * MB, goal=1.20),
    Case("n1-unshaped", 1, 0, 1000 * MB),
    Case("n5-unshaped", 5, 0, 1000 * MB),
]

SAMPLE_SECONDS = 0.5
COOL_SECONDS = 15
"""Before a trial whose links are not shaped. A virtual machine gives free memory back to its host, and who touches it
next waits: 1 GB took 0.7 s to write right after another was deleted, 3.3 s half a minute later. So that no client finds
the memory that the one before it has just let go, all find none.
"""

PATIENCE = 12.0
"""Times the ideal time (or for links that are not shaped: minutes) after which a trial is given up."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five hosts and a small payload only")
    parser.add_argument("--case", action="append", help=f"one of {', '.join(case.name for case in CASES)}; repeatable")
    parser.add_argument("--client", action="append", help=f"one of {', '.join(CLIENTS)}; repeatable; default: all")
    parser.add_argument("--runs", type=int, default=1, help="trials of each client in each case (default: 1)")
    parser.add_argument("--size", type=float, help="megabytes of the payload, instead of the case's")
    parser.add_argument("--hosts", type=int, help="number of hosts, instead of the case's")
    parser.add_argument("--piece", type=int, help="KiB of a piece, instead of what torrent_create chooses")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"))
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: tables and pictures of what --output holds"
    )
    parser.add_argument("--keep-logs", action="store_true", help="leave the clients' logs in the output folder")
    arguments = parser.parse_args()
    console = Console(width=130)
    if arguments.draw:
        draw(arguments.output)
        return 0
    if why := network.missing():
        console.print(f"[yellow]Skipped: {why}")
        return 0
    names = [case.name for case in QUICK] if arguments.quick else arguments.case
    known = {case.name: case for case in (*QUICK, *CASES)}
    if unknown := [name for name in names or () if name not in known]:
        parser.error(f"unknown case {', '.join(unknown)}; there are {', '.join(known)}")
    cases = [known[name] for name in names] if names else CASES
    clients = list(usable(arguments.client or list(CLIENTS), console))
    arguments.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        for case in cases:
            if arguments.size:
                case = replace(case, size=int(arguments.size * MB), name=f"{case.name}-{arguments.size:g}mb")
            if arguments.hosts:
                case = replace(case, hosts=arguments.hosts, name=f"{case.name}-{arguments.hosts}hosts")
            measure(case, clients, arguments, console)
        draw(arguments.output)
        console.print(f"Tables and pictures are in {arguments.output}")
    except KeyboardInterrupt:
        console.print("Interrupted; namespaces and processes are gone.")
        return 130
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def usable(wanted: list[str], console: Console) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(label, client, variant) of each that can run here."""
    for label in wanted:
        name, _colon, options = label.partition(":")
        if name not in CLIENTS:
            raise SystemExit(f"unknown client {name}; there are {', '.join(CLIENTS)}")
        variant = json.loads(options) if options else {}
        why = CLIENTS[name].missing()
        if not why and variant.get("tracker") == "chihaya" and not shutil.which("chihaya"):
            why = "chihaya not found"
        if why:
            console.print(f"[yellow]Skipped: {label}: {why}")
        else:
            yield label, name, variant


def measure(
    case: Case,
    clients: list[tuple[str, str, dict[str, Any]]],
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    """All trials of a case, one client after the other, `runs` times."""
    console.print(f"[bold]{title(case)}")
    trials: list[Trial] = []
    with ExitStack() as stack:
        # as short as can be: unix sockets are below it
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb-")))
        payload = make_payload(folder / "payload" / "app-1.0.tar", case.size)
        torrent, info_hash, piece_length = make_torrent(payload, folder / "app.torrent", arguments.piece)
        digest = sha256(payload)
        hosts = stack.enter_context(Network(case.rates))
        for run in range(1, arguments.runs + 1):
            for number, (label, name, variant) in enumerate(clients):
                place = folder / f"{run}-{number}"
                job = Job(hosts, place, payload, torrent, info_hash, case.late)
                trial = one(case, label, run, CLIENTS[name], variant, job, digest)
                if arguments.keep_logs or trial.error:
                    shutil.copytree(
                        place / "log",
                        arguments.output / "log" / f"{case.name}-{run}-{number}-{name}",
                        dirs_exist_ok=True,
                    )
                shutil.rmtree(place)
                trials.append(trial)
                shown = trial.error or f"last host {max(case.fast(trial.seconds)):.2f} s"
                console.print(f"  run {run}: {label}: {shown}", highlight=False)
                save(arguments.output / f"{case.name}.json", machine(piece_length), case, trials)
    show(case, trials, console)


def draw(folder: Path) -> None:
    """Tables and pictures of every result in ``folder``."""
    results = [load(path) for path in sorted(folder.glob("*.json"))]
    for case, trials in results:
        (folder / f"{case.name}.md").write_text(markdown(case, trials))
        pictures.draw(folder, case, trials)
    # only those that differ in nothing but the number of hosts
    alike = [
        (case, trials)
        for case, trials in results
        if (case.rate, case.size, case.slow, case.late) == (10 * MBIT, 32 * MB, 0, False)
    ]
    if alike:
        pictures.over_hosts(folder, alike)


def one(case: Case, label: str, run: int, client: Any, variant: dict[str, Any], job: Job, digest: str) -> Trial:
    """One trial, brought to its end in any case."""
    job.folder.mkdir()
    limit = PATIENCE * (case.ideal or 60)
    transfer = client(job, variant)
    cpu_before = cpu_of_children()
    curve: list[tuple[float, list[int]]] = []
    try:
        transfer.prepare()
        if not case.rate:
            time.sleep(COOL_SECONDS)
        before = job.network.traffic()
        began = time.time()
        transfer.start()
        seconds: list[float] = []
        sample_at = began
        while len(seconds) < case.hosts:
            if (now := time.time()) >= sample_at:
                traffic = job.network.traffic()
                received = [a[0] - b[0] for a, b in zip(traffic, before, strict=True)]
                curve.append((round(now - began, 2), received[1:]))
                sample_at = now + SAMPLE_SECONDS
            if now - began > limit:
                missing = case.hosts - len(transfer.finished())
                raise TrialError(f"{missing} of {case.hosts} hosts not complete after {limit:.0f} s")
            time.sleep(0.02)
            times = transfer.finished()
            if len(times) == case.hosts:
                seconds = [times[host] - began for host in range(1, case.hosts + 1)]
        after = job.network.traffic()
        for host in range(1, case.hosts + 1):
            if sha256(transfer.result(host)) != digest:
                raise TrialError(f"host {host} has other bytes than the publisher")
    except TrialError as error:
        return Trial(label, run, [], 0, error=str(error))
    finally:
        transfer.close()
    received = [a[0] - b[0] for a, b in zip(after, before, strict=True)][1:]
    cpu = cpu_of_children() - cpu_before
    return Trial(label, run, seconds, after[0][1] - before[0][1], received, curve, cpu)


def show(case: Case, trials: list[Trial], console: Console) -> None:
    shown = Table(*COLUMNS)
    for row in table(case, trials):
        shown.add_row(*row)
    console.print(shown)


def make_payload(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True)
    source = random.Random(size)
    with path.open("wb") as file:
        for begin in range(0, size, MB):
            file.write(source.randbytes(min(MB, size - begin)))
    return path


def make_torrent(payload: Path, path: Path, piece_kib: int | None) -> tuple[Path, str, int]:
    """The .torrent that torrent_create makes of it; its path, info hash and piece length."""
    chosen = _metainfo.select_payload(str(payload))
    piece_length = piece_kib * 1024 if piece_kib else _metainfo.choose_piece_length(chosen.size)
    hashes, _sha256 = _metainfo.hash_payload(chosen, piece_length)
    path.write_bytes(_metainfo.make_torrent(chosen, piece_length, hashes, trackers=[[ANNOUNCE]]))
    return path, _metainfo.read_torrent_file(str(path)).info_hash, piece_length


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def machine(piece_length: int) -> dict[str, Any]:
    """What a figure cannot be judged without."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "piece_length": piece_length,
        "versions": {name: version(name) for name in ("aria2c", "transmission-cli", "nginx", "curl", "rsync")},
    }


def version(program: str) -> str | None:
    if not shutil.which(program):
        return None
    flag = {"transmission-cli": "-V", "nginx": "-v"}.get(program, "--version")
    result = subprocess.run([program, flag], capture_output=True, text=True, check=False)
    return (result.stdout + result.stderr).strip().partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
