"""What Ansible itself takes of a rollout to many hosts, and whether it holds the swarm back.

    .venv/bin/python tests/benchmarks/rollout.py [--hosts 50] [--forks 5 --forks 50] [--size 8] [--limit 1]

All hosts are this machine (connection local), each with an agent of its own. For each number of forks a version is
published and rolled out with `ramp: [100%]`. Prints how long it took, of that the swarm (from when the first agent was
told of the torrent until the last had all of it), the rest, which is Ansible's with staging and switching; how long it
took until all agents had been told of it, against one round of a task over all hosts (the one that looks what is
there); and processor time of the controller with the modules it ran, agents not included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tarfile
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from usage import cpu_of_children

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from fleet import BIN, PUBLISHER, Fleet, started_fleet

HERE = Path(__file__).resolve().parent
MB = 1_000_000
COLUMNS = ("forks", "s in all", "swarm", "the rest", "until all fetch", "one round", "controller's CPU, s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--forks", type=int, action="append", help="repeatable; default: 5 and 50")
    parser.add_argument("--size", type=float, default=8, help="megabytes of the archive")
    parser.add_argument("--limit", type=float, default=1, help="megabytes a second of each agent, up and down; 0: none")
    parser.add_argument("--tasks", action="store_true", help="print how long each task took, too")
    options = parser.parse_args()
    hosts = tuple(f"host{number}" for number in range(1, options.hosts + 1))
    console = Console(width=130)
    found = Table(*COLUMNS)
    with (
        tempfile.TemporaryDirectory(prefix="sr-") as folder,
        started_fleet(Path(folder) / "fleet", int(options.limit * MB), hosts) as fleet,
    ):
        write_inventory(fleet)
        for number, forks in enumerate(options.forks or [5, 50]):
            cells = roll_out(fleet, f"1.{number}", forks, int(options.size * MB), show_tasks=options.tasks)
            found.add_row(str(forks), *cells)
    console.print(f"{options.hosts} hosts, {options.size:g} MB, {options.limit:g} MB/s", found)
    return 0


def write_inventory(fleet: Fleet) -> None:
    inventory = fleet.home / "inventory.json"
    fleet.ansible = {
        "ANSIBLE_INVENTORY": str(inventory),
        "ANSIBLE_CALLBACK_PLUGINS": f"{HERE}/callback_plugins:{HERE.parent}/demo/callback_plugins",
        "ANSIBLE_CALLBACKS_ENABLED": "demo_stats,task_times",
        "SHOAL_TASK_TIMES": str(fleet.home / "times.json"),
    }
    variables = {
        "shoal_apps": {
            "shop": {
                "hosts": "shop_servers",
                "root": "{{ demo_home }}/hosts/{{ inventory_hostname }}/shop",
                "health": {"command": ["true"]},
                "ramp": ["100%"],
            }
        },
        "shoal_trackers": [fleet.tracker],
        "shoal_archive_remote_src": True,
        "shoal_publish_dir": "{{ demo_home }}/hosts/publisher/published",
        "shoal_socket": "{{ demo_sockets }}/{{ inventory_hostname }}",
        "shoal_become": False,
        "shoal_executable": str(BIN / "shoal"),
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    groups = {"shoal_publishers": [PUBLISHER], "shop_servers": fleet.hosts}
    content = {"all": {"vars": variables}} | {
        group: {"hosts": {name: {} for name in names}} for group, names in groups.items()
    }
    inventory.write_text(json.dumps(content))


def roll_out(fleet: Fleet, version: str, forks: int, size: int, *, show_tasks: bool) -> list[str]:
    """A version for this number of forks; the cells of its row."""
    archive = fleet.home / f"shop-{version}.tar"
    payload = fleet.home / "payload"
    payload.write_bytes(random.Random(version).randbytes(size))
    with tarfile.open(archive, "w") as tar:
        tar.add(payload, "payload")
    fleet.playbook(
        "publish", show=lambda line: None, shoal_app="shop", shoal_version=version, shoal_archive=str(archive)
    )
    manifest = json.loads((fleet.home / f"hosts/{PUBLISHER}/published/shop/{version}/manifest.json").read_text())
    fleet.ansible["ANSIBLE_FORKS"] = str(forks)
    before = cpu_of_children()
    fleet.playbook("rollout", show=lambda line: None, shoal_app="shop", shoal_version=version)
    cpu = cpu_of_children() - before
    tasks = json.loads(Path(fleet.ansible["SHOAL_TASK_TIMES"]).read_text())
    whole = tasks[-1][0] - tasks[0][0]
    rounds = {name: then - began for (began, name), (then, _next) in itertools.pairwise(tasks)}
    transfers = [fleet.agent(host).torrent(manifest["info_hash"]) for host in fleet.hosts]
    told = [transfer["added_at"] for transfer in transfers]
    swarm = max(transfer["completed_at"] for transfer in transfers) - min(told)
    seconds = (whole, swarm, whole - swarm, max(told) - min(told), rounds["Look which releases the host has"], cpu)
    if show_tasks:
        for name, duration in rounds.items():
            print(f"{duration:8.2f} s  {name}")
    return [f"{each:.1f}" for each in seconds]


if __name__ == "__main__":
    sys.exit(main())
