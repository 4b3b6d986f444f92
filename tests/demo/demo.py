"""``make demo``: the main job on one machine, told as a short story, and checked.

Publishes and rolls out 1.0 and 1.1 of a web shop to five hosts, then a broken 1.2. Then the hosts follow an end point:
1.3 is published, and nothing else is done, then a broken 1.4. Exit status 0 only if every claim that is printed held.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from build_shop import BROKEN, archives
from fleet import CHECKOUT, HOSTS, PUBLISHER, DemoError, Fleet, started_fleet
from pull import CHANNEL, Arrival, EndPoint
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FOLDER = CHECKOUT / ".cache" / "demo"
LIMIT = 8_000_000  # bytes per second, up and down, of each agent: alone the publisher would need five times as long
MOST_SENT = 1.5  # times the archive, by the publisher
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a job's time limit, a closed terminal
TOLERANCE = 0.01  # of the archive, in the sum of what a host received

console = Console(highlight=False)


def demo() -> None:
    """The story. DemoError where it does not go as it is told."""
    with console.status("Building the shop's archives, the first time with libraries from the registry"):
        built = archives(["1.0", "1.1", "1.2", "1.3", "1.4"], FOLDER)
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
        pushed = time.monotonic()
        console.print(f"\n{pushed - started:.0f} seconds. Now the hosts look for themselves.\n")
        pull(fleet, built)
        console.print(f"\n{time.monotonic() - pushed:.0f} seconds.")
    left = [*fleet.running().values(), *(f"the shop of {host}" for host in fleet.listening())]
    check("nothing is left running", not left, left)
    console.print(
        f"{time.monotonic() - started:.0f} seconds in all. What was said: {fleet.home / 'logs'}", soft_wrap=True
    )


def pull(fleet: Fleet, built: dict[str, Path]) -> None:
    """The hosts follow an end point: a good version, then a broken one, and nothing but `publish` is called."""
    end_point = EndPoint(fleet)
    with end_point.served("1.1"):
        end_point.have_hosts_follow()
        with end_point.watched(1) as arrivals:
            pass
        follows = all(arrival.outcome == "nothing" for arrival in arrivals.values())
        check("every host follows the end point, which says what runs: 1.1", follows, arrivals)
        for sequence, version in ((2, "1.3"), (3, "1.4")):
            with end_point.watched(sequence) as arrivals:
                publish(fleet, version, built[version], shoal_channel=CHANNEL)
            tell_arrivals(version, arrivals)
            expected = "rolled_back" if version in BROKEN else "activated"
            outcomes = {host: arrival.outcome for host, arrival in arrivals.items()}
            check(f"what the hosts say: {expected}", outcomes == dict.fromkeys(HOSTS, expected), outcomes)
            check_shops(fleet, "1.3")
        end_point.wait_for_polls(2)
        tries = {host: end_point.tries(host, "1.4") for host in HOSTS}
        check("they looked again, and none tried 1.4 a second time", tries == dict.fromkeys(HOSTS, 1), tries)


def tell_arrivals(version: str, arrivals: dict[str, Arrival]) -> None:
    """The split of the time between the publication and its end on each host."""
    back = version in BROKEN
    console.print(f"{version}  {'pull':<9}  nobody touched the hosts; seconds since {version} was published:")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("host", "seen after", "fetched in", "back after" if back else "healthy after"):
        table.add_column(column, justify="left" if column == "host" else "right", header_style="")
    for host, one in arrivals.items():
        table.add_row(host, f"{one.seen:.1f} s", f"{one.fetched_in:.1f} s", f"{one.settled:.1f} s")
    console.print(table, style="red" if back else None)


def publish(fleet: Fleet, version: str, archive: Path, **more: str) -> str:
    """Publish `archive` by playbook; the torrent's info hash."""
    variables = {"shoal_app": "shop", "shoal_version": version, "shoal_archive": str(archive), **more}
    with console.status(f"Publishing {version}"):
        fleet.playbook("publish", show=tell, **variables)
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
