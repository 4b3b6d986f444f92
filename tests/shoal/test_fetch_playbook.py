"""torrent_fetch as somebody at the controller sees it: several hosts of one play, and how far they are together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rollout_helpers import ANSIBLE_CONFIG, BIN, make_collections

pytestmark = pytest.mark.slow

LINE = re.compile(r"^shop\.tar: (\d+) % of 3 hosts, (\d) of 3 complete$", re.MULTILINE)

Play = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """``play({"host1": agent, ...}, arguments_of_torrent_fetch, **keywords_of_the_task)``"""
    collections = make_collections(tmp_path / "collections")

    def run(agents: dict[str, Any], arguments: dict[str, Any], **keywords: Any) -> subprocess.CompletedProcess[str]:
        hosts = {
            name: {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "folder": str(tmp_path / name),
                "agent_socket": str(agent.socket),
            }
            for name, agent in agents.items()
        }
        for host in hosts.values():
            Path(host["folder"]).mkdir(exist_ok=True)
        task = {
            "shoal.deploy.torrent_fetch": {"socket": "{{ agent_socket }}", "dest": "{{ folder }}/", **arguments},
            **keywords,
        }
        inventory, playbook = tmp_path / "inventory.yml", tmp_path / "play.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        playbook.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
        return subprocess.run(
            [BIN / "ansible-playbook", "-i", inventory, playbook],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ANSIBLE_CONFIG),
                "ANSIBLE_COLLECTIONS_PATH": str(collections),
                "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local-tmp"),
                "ANSIBLE_REMOTE_TMP": str(tmp_path / "remote-tmp"),
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


@pytest.fixture
def fleet(agent_factory: Any) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A seed with this configuration, and three hosts."""

    def make(**config: Any) -> tuple[Any, dict[str, Any]]:
        return agent_factory("seed", **config), {name: agent_factory(name) for name in ("host1", "host2", "host3")}

    return make


def test_a_fetch_that_takes_long_shows_at_most_a_line_for_each_tenth_of_the_whole_play(
    fleet: Any, play: Play, make_payload: Any, make_torrent: Any, tmp_path: Path
) -> None:
    payload = make_payload("shop.tar", 3_000_000)  # 10 s, twice what passes before the first line
    torrent = make_torrent(payload)
    seed, hosts = fleet(limits={"upload": 300_000})
    seed.seed(payload, torrent)

    done = play(hosts, {"torrent": str(torrent), "peers": [seed.peer], "mode": "0640"})

    assert done.returncode == 0, done.stdout + done.stderr
    for name in hosts:
        assert (tmp_path / name / "shop.tar").read_bytes() == payload.read_bytes()
    lines = [(int(percent), int(complete)) for percent, complete in LINE.findall(done.stderr)]
    percents = [percent for percent, _complete in lines]
    assert percents == sorted(set(percents)), done.stderr
    assert lines[-1] == (100, 3)
    assert len(lines) > 1
    assert not LINE.search(done.stdout)
    assert not list((tmp_path / "local-tmp").iterdir()), "the shared file is gone with the run"


def test_a_fetch_that_is_over_at_once_shows_nothing_and_again_changes_nothing(
    fleet: Any, play: Play, make_payload: Any, make_torrent: Any
) -> None:
    payload = make_payload("shop.tar", 100_000)
    torrent = make_torrent(payload)
    seed, hosts = fleet()
    seed.seed(payload, torrent)
    for changed in (1, 0):
        done = play(hosts, {"torrent": str(torrent), "peers": [seed.peer]})
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(f"changed={changed} ") == 3
        assert "shop.tar" not in done.stderr


def test_a_stalled_fetch_fails_with_how_far_it_got_and_goes_on_when_run_again(
    agent_factory: Any, play: Play, make_payload: Any, make_torrent: Any, tmp_path: Path
) -> None:
    payload = make_payload("shop.tar", 1_000_000)
    torrent = make_torrent(payload, trackers=["http://127.0.0.1:1/announce"])
    seed, host = agent_factory("seed", limits={"upload": 100_000}), agent_factory("host1")
    info_hash = seed.seed(payload, torrent)["info_hash"]
    host.client.add(torrent=torrent.read_bytes(), peers=[seed.peer])
    host.client.torrent(info_hash, wait=60, progress=0.2)
    seed.stop()

    arguments = {"torrent": str(torrent), "stall_timeout": 2}
    failed = play({"host1": host}, arguments)
    assert failed.returncode != 0
    told = re.sub(r"\s+", " ", failed.stdout + failed.stderr)
    assert "no byte came for 2 s (stall_timeout)" in told
    far = re.search(r"So far (\d+) of 1000000 bytes", told)
    assert far, told
    assert int(far[1]) >= 150_000
    assert "Trackers: http://127.0.0.1:1/announce: " in told
    assert "No tracker works: see whether this host reaches them, or give peers." in told
    assert not (tmp_path / "host1" / "shop.tar").exists()

    seed.config["limits"] = {}
    seed.start()
    done = play({"host1": host}, {**arguments, "peers": [seed.peer]})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "host1" / "shop.tar").read_bytes() == payload.read_bytes()
    status = host.client.torrent(info_hash)
    assert status["downloaded"] <= payload.stat().st_size + 10 * status["piece_length"]


def test_in_the_background_the_module_waits_itself(
    fleet: Any, play: Play, make_payload: Any, make_torrent: Any, tmp_path: Path
) -> None:
    payload = make_payload("shop.tar", 600_000)
    torrent = make_torrent(payload)
    seed, hosts = fleet(limits={"upload": 300_000})
    seed.seed(payload, torrent)
    # async of core keeps its results below the user's home unless told otherwise
    done = play(
        hosts,
        {"torrent": str(torrent), "peers": [seed.peer]},
        **{"async": 100, "poll": 1, "vars": {"ansible_async_dir": str(tmp_path / "async")}},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not LINE.search(done.stderr)
    for name in hosts:
        assert (tmp_path / name / "shop.tar").read_bytes() == payload.read_bytes()
