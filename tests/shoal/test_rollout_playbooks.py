"""The playbooks, run on a fleet of real agents on this machine."""

from __future__ import annotations

import functools
import http.server
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conftest import AgentFactory
from ports import free_port
from rollout_helpers import Fleet, Run, digest, make_archive, make_collections

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # each playbook takes 10 s on two free cores

HOSTS = ["host1", "host2", "host3"]
SHOP_CHECK = {"command": ["sh", "-c", "{{ shop_check | default('true') }}"], "timeout": 1, "interval": 0.2}
"""A health check of which each host may have its own."""


@pytest.fixture
def make_fleet(tmp_path: Path, agent_factory: AgentFactory) -> Callable[..., Fleet]:
    def make(*, agents: bool) -> Fleet:
        return Fleet(
            folder=tmp_path,
            collections=make_collections(tmp_path / "collections"),
            publisher=agent_factory("pub"),
            hosts={name: agent_factory(name, start=agents) for name in HOSTS},
        )

    return make


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """A publisher and three hosts; nothing is published and nothing runs."""
    return make_fleet(agents=True)


@pytest.fixture
def fetched(make_fleet: Callable[..., Fleet]) -> Fleet:
    """A fleet on 1.0 that has 1.1 already, so that it needs no agents: for what is about switching."""
    fleet = make_fleet(agents=False)
    fleet.deploy("1.0")
    fleet.have_published("1.1")
    fleet.stage("1.1")
    return fleet


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """``site(folder)``: the URL of a web server for it."""
    servers = []

    def serve(folder: Path) -> str:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def outcomes(run: Run, hosts: Sequence[str] = HOSTS) -> list[str]:
    return [run.stats["hosts"][host]["outcome"] for host in hosts]


def ok(run: Run) -> Run:
    assert run.status == 0, run.out + run.story
    return run


def test_a_version_comes_a_sick_one_goes_and_the_next_one_goes_on(fleet: Fleet) -> None:
    # by a playbook of one's own, which publishes and rolls out
    archive = make_archive(fleet.folder / "shop-1.0.tar.gz", "1.0")
    books = ["publish", "rollout"]
    (fleet.folder / "deploy.yml").write_text("".join(f"- import_playbook: shoal.deploy.{book}\n" for book in books))
    first = ok(fleet.run("deploy.yml", version="1.0", archive=str(archive)))
    assert "1.0  published  shop-1.0.tar.gz  300 kB, 19 pieces" in first.story
    assert fleet.versions == ["1.0", "1.0", "1.0"]
    assert "1.0  prefetch   3/3 hosts in " in first.story
    for host in HOSTS:
        assert f"1.0  switched   {host} ✓" in first.story
    assert first.stats["complete"]
    assert outcomes(first) == ["switched"] * 3
    for host in first.stats["hosts"].values():
        came = host["prefetch"]["from_peers"] + host["prefetch"]["from_publisher"]
        assert came == (fleet.folder / "shop-1.0.tar.gz").stat().st_size

    moved = [agent.client.agent()["downloaded"] for agent in fleet.hosts.values()]
    again = ok(fleet.run("rollout", version="1.0"))
    assert again.total_changed == 0
    assert outcomes(again) == ["unchanged"] * 3
    assert "1.0  prefetch   3/3 hosts had it already" in again.story
    assert [agent.client.agent()["downloaded"] for agent in fleet.hosts.values()] == moved

    fleet.have_published("1.1", sick=True)
    sick = fleet.run("rollout", version="1.1")
    assert sick.status != 0
    assert fleet.versions == ["1.0", "1.0", "1.0"]
    assert "1.1  switch     host1 ✗ health: sh -c test ! -e sick exited with 1 for 1 s: back on 1.0 in " in sick.story
    assert "; host2 and host3 never left 1.0" in sick.story
    assert outcomes(sick) == ["rolled_back", "waiting", "waiting"]
    assert not sick.stats["complete"]

    fleet.have_published("1.2")
    fleet.app["ramp"] = ["100%"]
    ok(fleet.run("rollout", version="1.2"))
    assert fleet.versions == ["1.2", "1.2", "1.2"]

    back = ok(fleet.run("rollback"))
    assert fleet.versions == ["1.0", "1.0", "1.0"]
    assert "1.0  switched   host1 host2 host3 ✓" in back.story
    twice = ok(fleet.run("rollback"))
    assert twice.total_changed == 0
    assert fleet.versions == ["1.0", "1.0", "1.0"]

    table = ok(fleet.run("status")).story.splitlines()
    assert table[0].split() == ["host", "current", "since", "previous", "staged", "state"]
    assert [line.split()[:2] for line in table[1:4]] == [[host, "1.0"] for host in HOSTS]


def test_check_mode_touches_nothing_and_predicts_what_comes(fleet: Fleet) -> None:
    make_archive(fleet.folder / "shop-1.1.tar.gz", "1.1")
    watched = [fleet.published, *(fleet.root(host) for host in HOSTS)]

    def torrents() -> list[int]:
        return [len(agent.client.torrents()) for agent in (fleet.publisher, *fleet.hosts.values())]

    def tried_and_done(playbook: str, *arguments: str, **extra: str) -> None:
        before, known = digest(*watched), torrents()
        check = ok(fleet.run(playbook, *arguments, "--check", "--diff", **extra))
        assert digest(*watched) == before
        assert torrents() == known
        real = ok(fleet.run(playbook, *arguments, "--diff", **extra))
        assert check.changed == real.changed
        assert real.total_changed > 0
        again = ok(fleet.run(playbook, *arguments, **extra))
        assert again.total_changed == 0

    # nothing yet, the version before, and the new version ready beside it
    fleet.deploy("1.0", HOSTS[1:])
    tried_and_done("publish", version="1.1", archive="shop-1.1.tar.gz")
    fleet.stage("1.1", HOSTS[2:])
    tried_and_done("rollout", version="1.1")
    tried_and_done("rollback", "--limit", "host2,host3")


def test_an_unreachable_host_counts_as_missing_until_the_quorum_allows_it(fleet: Fleet) -> None:
    fleet.have_published("1.0")
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": free_port()}
    fleet.host_variables["pub"] = gone
    nowhere = fleet.run("rollout", version="1.0")
    assert nowhere.status != 0
    assert "UNREACHABLE" in nowhere.out
    assert "TASK [Look" not in nowhere.out, "no host was asked for anything"

    fleet.host_variables = {"host2": gone}
    ended = fleet.run("rollout", version="1.0")
    assert ended.status != 0
    assert fleet.versions == [None, None, None]
    assert "1.0  prefetch   2/3 hosts" in ended.story
    assert "1.0  prefetch   host2 ✗ unreachable: " in ended.story
    assert "2 of 3 hosts are ready, 100 % are needed: nothing is switched" in ended.story

    fleet.app["quorum"] = 60
    most = fleet.run("rollout", version="1.0")
    assert most.status != 0, "the whole fleet is not there"
    assert fleet.versions == ["1.0", None, "1.0"]
    assert outcomes(most) == ["switched", "waiting", "switched"]

    fleet.host_variables.clear()
    rest = ok(fleet.run("rollout", version="1.0"))
    assert fleet.versions == ["1.0", "1.0", "1.0"]
    assert outcomes(rest) == ["unchanged", "switched", "unchanged"]


def test_limit_holds_and_may_exclude_the_publisher(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(agents=False)
    fleet.hosts["host2"].start()
    fleet.have_published("1.0")
    limited = ok(fleet.run("rollout", "--limit", "host2", version="1.0"))
    assert fleet.versions == [None, "1.0", None]
    assert list(limited.stats["hosts"]) == ["host2"]
    outside = fleet.run("rollout", "--limit", "pub", version="1.0")
    assert outside.status != 0
    assert "shoal_apps.shop.hosts: --limit leaves none of its 3 hosts" in outside.out
    unpublishable = fleet.run("publish", "--limit", "host1", version="1.1", archive="shop-1.0.tar.gz")
    assert unpublishable.status != 0
    assert "shoal_publishers: pub is outside of --limit" in unpublishable.out


def test_a_host_that_serves_is_never_left_drained(fetched: Fleet) -> None:
    log = fetched.folder / "balancer.log"
    for name in ("drain", "undrain"):
        (fetched.folder / f"{name}.yml").write_text(
            f"- ansible.builtin.shell: >-\n    echo {name} {{{{ inventory_hostname }}}}\n"
            f"    $(cat {{{{ shop_root }}}}/current/version) >> {log}\n"
            f"- ansible.builtin.fail:\n    msg: the balancer says no\n  when: {name}_fails | default(false)\n"
        )
    fetched.app.update(drain="drain.yml", undrain="undrain.yml", ramp=[1, "100%"])

    def told() -> list[list[str]]:
        """What the balancer was told, of each host, since this was asked last."""
        words = [line.split() for line in log.read_text().splitlines()]
        log.unlink()
        return [[f"{what} {version}" for what, one, version in words if one == host] for host in HOSTS]

    # the second host is not healthy with the new version, and the balancer does not let the third one go
    fetched.app["health"] = SHOP_CHECK
    fetched.host_variables["host2"] = {"shop_check": "grep -q 1.0 version"}
    fetched.host_variables["host3"] = {"drain_fails": True}
    run = fetched.run("rollout", version="1.1")
    assert run.status != 0
    assert fetched.versions == ["1.1", "1.0", "1.0"]
    assert "host3 ✗ draining failed: the balancer says no: still on 1.0" in run.story
    assert told() == [["drain 1.0", "undrain 1.1"], ["drain 1.0", "undrain 1.0"], ["drain 1.0", "undrain 1.0"]]

    fetched.host_variables = {"host3": {"undrain_fails": True}}
    run = fetched.run("rollout", version="1.1")
    assert run.status != 0
    assert fetched.versions == ["1.1", "1.1", "1.1"]
    assert "host3 ✗ undraining failed: the balancer says no" in run.story
    stays = ["undrain 1.1"]  # a host that is where it is to go stays in service
    assert told() == [stays, ["drain 1.0", "undrain 1.1"], ["drain 1.0", "undrain 1.1"]]

    fetched.host_variables.clear()
    ok(fetched.run("rollout", version="1.1"))
    assert told() == [stays, stays, stays]


def test_a_host_that_stands_between_two_versions_stays_drained(fetched: Fleet) -> None:
    log = fetched.folder / "balancer.log"
    for name in ("drain", "undrain"):
        (fetched.folder / f"{name}.yml").write_text(f"- ansible.builtin.shell: echo {name} >> {log}\n")
    # what the switch notes at its end cannot be written any more, as on a full disk
    spoil = "rm $SHOAL_ROOT/.shoal/state.json; mkdir -p $SHOAL_ROOT/.shoal/state.json/full"
    fetched.app.update(drain="drain.yml", undrain="undrain.yml", restart=["sh", "-c", spoil])
    run = fetched.run("rollout", "--limit", "host1", version="1.1")
    assert run.status != 0
    assert ": on no healthy version" in run.story
    assert run.stats["hosts"]["host1"]["outcome"] == "failed"
    assert log.read_text().splitlines() == ["drain"]


@pytest.mark.parametrize(
    ("on_failure", "versions", "ends"),
    [
        ("rollback_batch", ["1.1", "1.0", "1.0"], ["switched", "taken_back", "rolled_back"]),
        ("rollback_all", ["1.0", "1.0", "1.0"], ["taken_back", "taken_back", "rolled_back"]),
    ],
)
def test_hosts_go_back_on_failure_where_that_is_wanted(
    fetched: Fleet, on_failure: str, versions: list[str], ends: list[str]
) -> None:
    fetched.app.update(on_failure=on_failure, ramp=[1, "100%"])
    fetched.app["health"] = SHOP_CHECK
    fetched.host_variables["host3"] = {"shop_check": "grep -q 1.0 version"}
    run = fetched.run("rollout", version="1.1")
    assert run.status != 0
    assert fetched.versions == versions
    assert outcomes(run) == ends
    assert "1.1  switch     host2 ✓; host3 ✗ health: " in run.story


def test_a_fleet_larger_than_the_forks_works_at_once_and_with_the_second_publisher_when_the_first_is_gone(
    tmp_path: Path, agent_factory: AgentFactory, wait_until: Callable[..., object]
) -> None:
    """With fewer forks than hosts, fetching, staging and switching go on beside each other on the hosts."""
    second = agent_factory("pub2")
    hosts = [f"host{number}" for number in range(1, 5)]
    fleet = Fleet(
        folder=tmp_path,
        collections=make_collections(tmp_path / "collections"),
        publisher=agent_factory("pub"),
        hosts={name: agent_factory(name) for name in hosts},
        second_publisher=second,
    )
    fleet.deploy("1.0")
    fleet.publish("1.1")
    [published] = second.client.torrents()
    assert published["state"] == "complete"
    second.client.change(published["info_hash"], upload_limit=1000)  # so that no host can have it before all ask
    fleet.publisher.stop()

    fleet.app["ramp"] = ["100%"]
    fleet.app["health"] = SHOP_CHECK
    fleet.host_variables["host2"] = {"shop_check": "grep -q 1.0 version"}
    with fleet.start("rollout", "--forks", "2", app="shop", version="1.1") as process:
        wait_until(
            lambda: all(agent.client.torrents() for agent in fleet.hosts.values()), 240, "all hosts fetch, 2 at a time"
        )
        assert not any(agent.client.torrents()[0]["state"] == "complete" for agent in fleet.hosts.values())
        second.client.change(published["info_hash"], upload_limit=0)
        run = fleet.end_of(process)
    assert run.status != 0
    assert "1.1  prefetch   4/4 hosts in " in run.story
    assert "the agent of the publisher does not answer" in run.out + run.story
    assert "TASK [Wait until it is switched]" in run.out
    assert "1.1  switch     host1 host3 host4 ✓; host2 ✗ health: " in run.story
    assert outcomes(run, hosts) == ["switched", "rolled_back", "switched", "switched"]
    assert fleet.versions == ["1.1", "1.0", "1.1", "1.1"]
    assert [run.changed[host] for host in hosts] == [3, 3, 3, 3]


def test_a_switch_goes_on_when_the_playbook_is_interrupted(
    fetched: Fleet, wait_until: Callable[..., object], tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    wait = f"touch {begun}; while [ ! -e {go} ]; do sleep 0.05; done"
    fetched.app.update(ramp=["100%"], restart=["sh", "-c", wait])
    with fetched.start("rollout", app="shop", version="1.1") as process:
        wait_until(begun.exists, 120, "the switch began")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode != 0
    go.touch()
    for host in HOSTS:
        wait_until(lambda host=host: fetched.version(host) in ("1.0", "1.1"), 60, f"{host} serves one version")
    rest = ok(fetched.run("rollout", version="1.1"))
    assert fetched.versions == ["1.1", "1.1", "1.1"]
    assert rest.stats["complete"]


def test_a_switch_whose_connection_is_lost_is_followed_when_it_is_back(fetched: Fleet, tmp_path: Path) -> None:
    gone, tried = tmp_path / "gone", tmp_path / "tried"
    ssh = tmp_path / "ssh"  # runs what it is given on this machine, except while the host is gone
    ssh.write_text(
        f"#!/bin/sh\nif [ -e {gone} ]; then touch {tried}; echo No route to host >&2; exit 255; fi\n"
        'for command; do :; done\nexec sh -c "$command"\n'
    )
    ssh.chmod(0o755)
    fetched.app.update(ramp=["100%"], restart=["sh", "-c", "{{ shop_restart | default('true') }}"])
    fetched.host_variables["host2"] = {
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_ssh_executable": str(ssh),
        "ansible_ssh_transfer_method": "piped",
        "shop_restart": f"touch {gone}; while [ ! -e {tried} ]; do sleep 0.1; done; rm {gone}",
    }
    run = ok(fetched.run("rollout", "--forks", "1", version="1.1"))
    assert "fatal: [host2]: UNREACHABLE!" in run.out, "it was away in between"
    assert fetched.versions == ["1.1", "1.1", "1.1"]
    assert outcomes(run) == ["switched"] * 3


def test_an_archive_comes_from_where_the_user_stands_the_publisher_or_a_url(
    make_fleet: Callable[..., Fleet], site: Callable[[Path], str], tmp_path: Path
) -> None:
    fleet = make_fleet(agents=False)
    here = tmp_path / "project" / "build"
    here.mkdir(parents=True)
    make_archive(here / "shop-1.0.tar.gz", "1.0")
    with fleet.start("publish", cwd=here.parent, app="shop", version="1.0", archive="build/shop-1.0.tar.gz") as process:
        run = ok(fleet.end_of(process))
    assert "1.0  published  shop-1.0.tar.gz" in run.story

    there = make_archive(tmp_path / "shop-1.1.tar.gz", "1.1")
    ok(fleet.run("publish", version="1.1", archive=str(there), archive_remote_src=True))
    assert there.exists(), "it was copied, not moved"

    url = site(tmp_path) + "/shop-1.1.tar.gz"
    ok(fleet.run("publish", version="1.2", archive=url))
    same = ok(fleet.run("publish", version="1.2", archive=url))
    assert same.total_changed == 0
    assert sorted(path.name for path in fleet.published.iterdir()) == ["shop"], "nothing is left behind"
    assert sorted(path.name for path in (fleet.published / "shop").iterdir()) == ["1.0", "1.1", "1.2"]


def test_what_is_published_never_changes(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(agents=False)
    fleet.have_published("1.0")
    published = digest(fleet.published)
    make_archive(fleet.folder / "other.tar.gz", "other bytes")
    other = fleet.run("publish", version="1.0", archive="other.tar.gz")
    assert other.status != 0
    assert "with other bytes" in other.out
    assert digest(fleet.published) == published

    hostile = make_archive(fleet.folder / "hostile.tar.gz", "1.1", **{"../../etc/cron_d/evil": "* * * * * root rm"})
    refused = fleet.run("publish", version="1.1", archive=str(hostile))
    assert refused.status != 0
    assert "../../etc/cron.d/evil" in refused.out
    assert digest(fleet.published) == published

    missing = fleet.run("rollout", version="1.1")
    assert missing.status != 0
    assert "shop 1.1 is not published" in missing.out
    assert fleet.versions == [None, None, None]

    archive = fleet.published / "shop" / "1.0" / "shop-1.0.tar.gz.torrent"
    archive.write_bytes(archive.read_bytes().replace(b"shop-1.0.tar.gz", b"shop-1.1.tar.gz"))
    swapped = fleet.run("rollout", version="1.0")
    assert swapped.status != 0
    assert "somebody changed what is published" in swapped.out


def test_wrong_variables_and_an_empty_inventory_end_before_anything_happens(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(agents=False)

    def everything() -> dict[str, str]:
        # but what Ansible needs itself, and what an agent keeps, which it writes when it finds the time
        not_meant = ("agents", "ansible", "inventory.yml")
        return digest(*(path for path in fleet.folder.iterdir() if path.name not in not_meant))

    before = everything()
    wrong = fleet.run("rollout", version=1.10)
    assert wrong.status != 0
    assert "shoal_version: is the number 1.1, not a text" in wrong.out
    fleet.app["root"] = "{{ nowhere }}"
    undefined = fleet.run("rollout", version="1.0")
    assert undefined.status != 0
    assert "shoal_apps.shop.root of host1 has no value: 'nowhere' is undefined" in undefined.out
    nobody = fleet.run("rollout", "-i", "localhost,", version="1.0", publishers="nobody")
    assert nobody.status != 0
    assert everything() == before
    assert fleet.publisher.client.torrents() == []
