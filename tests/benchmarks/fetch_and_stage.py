"""From nothing to an unpacked release on one host whose link is not shaped, beside `curl | tar x` of the same archive.

    sudo .venv/bin/python tests/benchmarks/fetch_and_stage.py [--megabytes 1000] [--format tar.zst] [--runs 3]

Ours: two resident agents, then `shoal release stage` of what was fetched, which reads, hashes and unpacks it, checks
every byte and syncs. The other: nginx, curl and tar, which check nothing. Both take turns; a last `sync` of the file
system counts for both, since a release that a power cut takes away is none. Needs root (network namespaces), nginx and
curl; for tar.zst zstd, too.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median

import network
import zstandard
from clients import Curl, Job, Shoal, TrialError
from network import Network
from results import spread_of, triple
from rich.console import Console
from rich.table import Table
from swarm import make_torrent, sha256
from usage import cpu_of_children

MB = 1_000_000
FILES_PER_MB = 3  # as an application with its libraries has
FORMATS = {"tar": [], "tar.gz": ["-z"], "tar.zst": ["--zstd"]}


class StagedShoal(Shoal):
    def __init__(self, job: Job, sha256: str) -> None:
        super().__init__(job, {})
        self.sha256 = sha256

    def fetched(self, number: int) -> None:
        request = {
            "protocol": 1,
            "app": "shop",
            "root": str(self.job.of(number) / "shop"),
            "version": "1.0",
            "archive": {"path": str(self.result(number)), "sha256": self.sha256},
        }
        command = [sys.executable, "-m", "shoal", "release", "stage", "--json"]
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
        if done.returncode:
            self.errors.append(f"host {number}: {done.stdout[-500:]}")


class UnpackedCurl(Curl):
    def __init__(self, job: Job, options: list[str]) -> None:
        super().__init__(job, {})
        self.options = options

    def command(self, number: int) -> list[str | Path]:
        folder = self.job.of(number) / "shop"
        folder.mkdir()
        options = " ".join(self.options)
        return [
            "bash",
            "-c",
            f"set -o pipefail; curl -sS --fail {self.url} | tar -x {options} -C {folder} && sync -f {folder}",
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="of the files in the archive")
    parser.add_argument("--format", choices=FORMATS, default="tar.zst")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=130)
    if why := network.missing() or Curl.missing():
        console.print(f"[yellow]Skipped: {why}")
        return 0
    with tempfile.TemporaryDirectory(prefix="sf-") as name, Network([0, 0]) as hosts:
        folder = Path(name)
        archive = make_archive(folder / f"app-1.0.{options.format}", options.megabytes)
        torrent, info_hash, _piece_length = make_torrent(archive, folder / "app.torrent", None)
        clients = {
            "shoal": (StagedShoal, sha256(archive)),
            "curl | tar x": (UnpackedCurl, FORMATS[options.format]),
        }
        seconds: dict[str, list[float]] = {label: [] for label in clients}
        cpu: dict[str, list[float]] = {label: [] for label in clients}
        for run in range(options.runs):
            for label, (client, more) in clients.items():
                place = folder / f"{run}-{client.__name__}"
                place.mkdir()
                job = Job(hosts, place, archive, torrent, info_hash, late=False)
                began = cpu_of_children()
                seconds[label].append(one(client(job, more)))
                cpu[label].append(cpu_of_children() - began)
                shutil.rmtree(place)
        size = archive.stat().st_size / MB
    found = Table("", "s (min / median / max)", "CPU, s (median)", "÷ curl | tar x")
    for label, times in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(times, seconds["curl | tar x"], strict=True)]
        found.add_row(
            label, triple(spread_of(times), ".2f"), f"{median(cpu[label]):.1f}", triple(spread_of(ratios), ".2f")
        )
    console.print(f"{options.megabytes} MB in a {options.format} of {size:.0f} MB, {options.runs} runs", found)
    return 0


def make_archive(path: Path, megabytes: int) -> Path:
    """Files half of which compress well, as an application's do."""
    count = megabytes * FILES_PER_MB
    size = megabytes * MB // count
    words = [random.Random(number).randbytes(64) for number in range(200)]
    raw = path.with_name("raw.tar")
    with tarfile.open(raw, "w") as tar:
        for number in range(count):
            source = random.Random(number)
            text = b"".join(source.choices(words, k=size // 128))
            member = tarfile.TarInfo(f"lib/{number % 50}/file{number}")
            body = text + source.randbytes(size - len(text))
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    if path.suffix == ".tar":
        return raw.rename(path)
    if path.suffix == ".gz":
        with path.open("wb") as file:
            subprocess.run(["gzip", "-1", "-c", raw], stdout=file, check=True)
    else:
        with path.open("wb") as file, raw.open("rb") as source:
            zstandard.ZstdCompressor(level=3, threads=-1).copy_stream(source, file)
    raw.unlink()
    return path


def one(transfer: Shoal | Curl) -> float:
    """Seconds of one trial."""
    try:
        transfer.prepare()
        os.sync()  # what earlier ones have written is none of this one's
        began = time.time()
        transfer.start()
        while not (times := transfer.finished()):
            if time.time() - began > 600:
                raise TrialError("not complete after ten minutes")
            time.sleep(0.01)
        return times[1] - began
    finally:
        transfer.close()


if __name__ == "__main__":
    sys.exit(main())
