"""``make demo``: the main job on one machine, told as a short story, and checked.

Publishes and rolls out 1.0 and 1.1 of a web shop to five hosts, then a broken 1.2. Exit status 0 only if every claim
that is printed held.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from build_shop import archives
from fleet import CHECKOUT, HOSTS, PUBLISHER, DemoError, Fleet, started_fleet
from rich.console import Console
from rich.markup import escape

FOLDER = CHECKOUT / ".cache" / "demo"
LIMIT = 16_000_000  # bytes per second, up and down, of each agent: alone the publisher would need five times as long
MOST_SENT = 1.5  # times the archive, by the publisher
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a job's time limit, a closed terminal
TOLERANCE = 0.01  # of the archive, in the sum of what a host received

console = Console(highlight=False)


def demo() -> None:
    """The story. DemoError where it does not go as it is told."""
    with console.status("Building the shop's archives, the first time with libraries from the registry"):
        built = archives(["1.0", "1.1", "1.2"], FOLDER)
    started = time.monotonic()
    with started_fleet(FOLDER, LIMIT) as fleet:
        console.print(
            f"A tracker, a publisher and {len(HOSTS)} hosts on this machine, each with an agent that may send and "
            f"receive {LIMIT // 10**6} MB/s.\n",
            soft_wrap=True,
        )
        for version in ("1.0", "1.1"):
            info_hash = publish(fleet, version, built[version])
            roll_out(fleet, version)
            check_transfer(fleet, info_hash)
            check_shops(fleet, version)
        publish(fleet, "1.2", built["1.2"])
        result = roll_out(fleet, "1.2", fails=True)
        outcomes = {host: found["outcome"] for host, found in result["hosts"].items()}
        expected = dict.fromkeys(HOSTS, "waiting") | {HOSTS[0]: "rolled_back"}
        check("the first host went back, the others were not touched", outcomes == expected, outcomes)
        check_shops(fleet, "1.1")
    left = [*fleet.running().values(), *(f"the shop of {host}" for host in fleet.listening())]
    check("nothing is left running", not left, left)
    console.print(f"\n{time.monotonic() - started:.0f} seconds. What the playbooks said: {fleet.home / 'logs'}")


def publish(fleet: Fleet, version: str, archive: Path) -> str:
    """Publish `archive` by playbook; the torrent's info hash."""
    with console.status(f"Publishing {version}"):
        fleet.playbook("publish", show=tell, shoal_app="shop", shoal_version=version, shoal_archive=str(archive))
    manifest = fleet.home / "hosts" / PUBLISHER / "published" / "shop" / version / "manifest.json"
    info_hash: str = json.loads(manifest.read_text())["info_hash"]
    return info_hash


def roll_out(fleet: Fleet, version: str, *, fails: bool = False) -> dict[str, Any]:
    """Roll `version` out by playbook; its result. With `fails` it has to fail."""
    with console.status(f"Rolling {version} out"):
        told = fleet.playbook("rollout", fails=fails, show=tell, shoal_app="shop", shoal_version=version)
    result: dict[str, Any] = told["shoal_rollout"]
    return result


def check_transfer(fleet: Fleet, info_hash: str) -> None:
    """That it was a swarm, by the agents' own counters."""
    seed = fleet.agent(PUBLISHER).torrent(info_hash)
    hosts = {host: fleet.agent(host).torrent(info_hash) for host in HOSTS}
    size = seed["size"]
    sent = seed["uploaded"] / size
    check(f"the publisher sent at most {MOST_SENT} × the archive", sent <= MOST_SENT, f"{sent:.2f} ×")
    silent = [host for host, status in hosts.items() if not status["uploaded"]]
    check("every host sent to others", not silent, f"nothing from {silent}")
    received = {host: sum(status["from_peers"].values()) for host, status in hosts.items()}
    wrong = {host: total for host, total in received.items() if abs(total - size) > TOLERANCE * size}
    check(f"what each host received sums to the archive ± {TOLERANCE:.0%}", not wrong, f"{wrong}, not {size}")


def check_shops(fleet: Fleet, version: str) -> None:
    """That every shop serves `version`: each is asked."""
    answers = {host: fleet.shop(host) for host in HOSTS}
    wrong = {host: answer for host, answer in answers.items() if answer != (200, {"version": version})}
    check(f"every shop answers that it is {version}", not wrong, wrong)


def tell(line: str) -> None:
    """Print what a playbook told if it is part of the story: `1.0  switched   host1 ✓`, or a row of its table."""
    if line.startswith(("1.", "host")):
        console.print(escape(line), soft_wrap=True, style="red" if "✗" in line else None)


def check(claim: str, held: bool, found: Any) -> None:
    """Print `claim` if it held; else DemoError with what was found."""
    if not held:
        raise DemoError(f"this did not hold: {claim}; found {found}")
    console.print(f"     [green]checked:[/] {escape(claim)}")


def main() -> int:
    def end(number: int, _frame: object) -> None:
        for each in ENDINGS:
            signal.signal(each, signal.SIG_IGN)  # once is enough: what is left to do is the cleaning up
        console.print("Stopping.")
        sys.exit(128 + number)

    for each in ENDINGS:
        signal.signal(each, end)
    try:
        demo()
    except DemoError as error:
        console.print(f"[red]The demo failed:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
