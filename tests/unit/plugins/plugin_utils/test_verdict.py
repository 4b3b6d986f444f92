# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the gates make of what hosts recorded. The results are cut from those of real runs."""

from __future__ import annotations

import pytest
from ansible_collections.shoal.deploy.plugins.plugin_utils import _story as story
from ansible_collections.shoal.deploy.plugins.plugin_utils import _verdict as verdict

ORDER = ["host1", "host2", "host3", "host4", "host5"]
LOOK = {"release": {"current": "1.1", "previous": "1.0", "staged": ["1.0", "1.1", "1.2"], "releases": []}}
UNREACHABLE = {"unreachable": True, "msg": "Task failed: Connection refused\nmore"}
SKIPPED = {"skipped": True, "skip_reason": "Conditional result was False"}
HEALTH = "health: http://127.0.0.1:8080/health answered 500 for 10 s"
ROLLED_BACK = {
    "failed": True,
    "msg": f"1.2 was not activated: {HEALTH}; 1.1 is active and healthy again.",
    "outcome": "rolled_back",
    "reason": HEALTH,
    "seconds": {"check": 0.1, "health": 10.0, "switch_back": 0.1, "restart_back": 0.2, "health_back": 0.1},
}


def switched(**more):
    return {"shoal_look": LOOK, "shoal_switch": {"outcome": "activated", "seconds": {"health": 0.5}}, **more}


@pytest.mark.parametrize(
    ("variables", "outcome", "version"),
    [
        (switched(), "switched", "1.2"),
        ({"shoal_look": LOOK, "shoal_switch": {"outcome": "already_active"}}, "switched", "1.2"),
        (
            {"shoal_look": {"release": {"current": "1.2"}}, "shoal_switch": {"outcome": "already_active"}},
            "unchanged",
            "1.2",
        ),
        ({"shoal_look": LOOK, "shoal_switch": ROLLED_BACK}, "rolled_back", "1.1"),
        ({"shoal_look": LOOK, "shoal_switch": {"failed": True, "msg": "locked", "error": {}}}, "kept", "1.1"),
        ({"shoal_look": LOOK, "shoal_switch": {**ROLLED_BACK, "healthy": False}}, "failed", None),
        ({"shoal_look": LOOK, "shoal_switch": {**ROLLED_BACK, "outcome": "failed", "seconds": {}}}, "kept", "1.1"),
        (
            {"shoal_look": LOOK, "shoal_switch": {"failed": True, "msg": "it was killed", "healthy": False}},
            "failed",
            None,
        ),
        ({"shoal_look": LOOK, "shoal_switch": {"outcome": "already_active", "healthy": False}}, "failed", None),
        ({"shoal_look": LOOK, "shoal_switch": UNREACHABLE}, "lost", None),
        ({"shoal_look": LOOK}, "waiting", "1.1"),
        ({"shoal_look": LOOK, "shoal_switch": SKIPPED, "shoal_drain_failed": "no"}, "kept", "1.1"),
        (switched(shoal_undrain_failed="the balancer says no"), "switched", "1.2"),
        ({}, "waiting", None),
    ],
)
def test_what_became_of_a_switch(variables, outcome, version):
    found = verdict.switch_of(variables, "1.2")
    assert (found.outcome, found.version) == (outcome, version)
    assert found.arrived == (outcome in ("switched", "unchanged") and "shoal_undrain_failed" not in variables)
    assert (found.problem is None) == found.arrived


def test_the_last_result_that_was_not_skipped_counts():
    job = {"ansible_job_id": "j1", "changed": False}
    variables = switched(shoal_switch=job, shoal_switch_wait=UNREACHABLE, shoal_switch_again={"outcome": "activated"})
    assert verdict.switch_of(variables, "1.2").outcome == "switched"
    variables["shoal_switch_again"] = SKIPPED
    assert verdict.switch_of(variables, "1.2").outcome == "lost"


def test_a_batch_is_told_in_a_line():
    sick = verdict.switch_of({"shoal_look": LOOK, "shoal_switch": ROLLED_BACK}, "1.2")
    good = verdict.switch_of(switched(), "1.2")
    assert verdict.tell_batch({"host2": good, "host3": good}, ORDER) == ("switched", "host2 host3 ✓")
    assert verdict.tell_batch({"host1": sick}, ORDER) == ("switch", f"host1 ✗ {HEALTH}: back on 1.1 in 0.4 s")
    first = verdict.Switch("rolled_back", None, None, HEALTH)
    assert verdict.tell_batch({"host1": first}, ORDER)[1].endswith("for 10 s: there was none to go back to")
    many = {f"web{number}": good for number in range(50)}
    assert verdict.tell_batch(many, list(many))[1] == "web0 to web49 (50 hosts) ✓"


def test_hosts_whose_turn_never_came_are_told():
    versions = {"host2": "1.1", "host3": "1.1", "host4": "1.1", "host5": None}
    assert verdict.tell_waiting(["host2", "host3", "host4"], versions, ORDER) == "host2 to host4 never left 1.1"
    assert verdict.tell_waiting(["host2", "host5"], versions, ORDER) == "host2 never left 1.1; host5 was never switched"


@pytest.mark.parametrize(
    ("on_failure", "back"),
    [("stop", {}), ("rollback_batch", {"host2": "1.1"}), ("rollback_all", {"host1": "1.0", "host2": "1.1"})],
)
def test_who_is_taken_back(on_failure, back):
    found = {
        "host1": verdict.Switch("switched", "1.2", "1.0"),
        "host2": verdict.Switch("switched", "1.2", "1.1"),
        "host3": verdict.Switch("rolled_back", "1.1", "1.1", HEALTH),
        "host4": verdict.Switch("unchanged", "1.2", "1.2"),
        "host5": verdict.Switch("switched", "1.2", None),  # there is nothing it could go back to
    }
    assert verdict.to_take_back(found, ["host2", "host3", "host5"], on_failure) == back


def fetched(seconds, **peers):
    fetch = {"duration": seconds, "bytes_from": {"peers": peers, "web_seeds": 0}}
    return {"shoal_look": LOOK, "shoal_start": {"changed": True}, "shoal_fetch": fetch, "shoal_stage": {}}


def test_a_prefetch_is_told_with_where_the_bytes_came_from():
    found = {
        "host1": verdict.prefetch_of(fetched(1.9, pub=44_000_000, host2=40_000_000), ["pub"]),
        "host2": verdict.prefetch_of(fetched(1.2, host1=84_000_000), ["pub"]),
    }
    assert verdict.tell_prefetch(found, 84_000_000, check=False) == (
        "2/2 hosts in 1.9 s; 124 MB came from peers, 44.0 MB from the publisher (0.52 × the archive)"
    )


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"shoal_look": UNREACHABLE, "shoal_start": SKIPPED}, "unreachable: Connection refused"),
        ({**fetched(1), "shoal_fetch": {"failed": True, "msg": "no byte came for 600 s"}}, "no byte came for 600 s"),
        ({**fetched(1), "shoal_stage": {"failed": True, "msg": "no space"}}, "no space"),
        ({**fetched(1), "shoal_stage": {"ansible_job_id": "j"}, "shoal_stage_wait": UNREACHABLE}, "unreachable"),
        ({}, "its turn never came"),
    ],
)
def test_a_host_without_the_release_says_why(variables, problem):
    assert verdict.prefetch_of(variables, ["pub"]).problem.startswith(problem)


def test_a_quorum_is_of_all_hosts():
    assert verdict.has_quorum(5, 5, 100)
    assert not verdict.has_quorum(799, 800, 100)
    assert verdict.has_quorum(2, 3, 66)
    assert not verdict.has_quorum(2, 3, 67)


def releases(**staged_at):
    return [{"version": name.replace("v", "1."), "staged_at": when} for name, when in staged_at.items()]


@pytest.mark.parametrize(
    ("wanted", "release", "aim"),
    [
        (None, {"current": "1.1", "previous": "1.0", "releases": releases(v0=1, v1=2)}, ("1.0", None)),
        # it came back from 1.1: going there again would be forward
        (None, {"current": "1.0", "previous": "1.1", "releases": releases(v0=1, v1=2)}, ("1.0", None)),
        ("1.1", {"current": "1.0", "previous": "1.1", "releases": []}, ("1.1", None)),
        ("2.0", {"current": "1.0", "previous": None, "releases": []}, (None, "2.0 is not staged (it has 1.0, 1.1)")),
        (None, {"current": "1.0", "previous": None, "releases": []}, (None, "has no release before")),
    ],
)
def test_what_a_host_goes_back_to(wanted, release, aim):
    version, problem = verdict.aim_of({"shoal_look": {"release": {"staged": ["1.0", "1.1"], **release}}}, wanted)
    assert version == aim[0]
    assert problem == aim[1] or problem.startswith(aim[1])


def test_the_report_has_a_row_for_each_host():
    good = verdict.Switch("switched", "1.2", "1.1", None, {"restart": 0.2, "health": 0.5, "prune": 0.1})
    prefetch = verdict.prefetch_of(fetched(1.9, pub=44_000_000), ["pub"])
    assert verdict.report_row("host1", prefetch, good) == (
        "host1", "1.2", "1.9 s", "0 B", "44.0 MB", "0.8 s", "0.7 s",
    )  # fmt: skip
    waiting = verdict.Switch("waiting", "1.1", "1.1", "its turn never came")
    assert verdict.report_row("host2", verdict.Prefetch(), waiting) == ("host2", "1.1", "-", "-", "-", "-", "-")
    assert verdict.report_row("host3", None, verdict.Switch("lost", None, "1.1", "unreachable"))[1] == "?"


def test_the_status_has_a_row_for_each_host(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    verdict.time.tzset()
    log = [
        {"to": "1.1", "outcome": "rolled_back", "time": 300},
        {"to": "1.1", "outcome": "activated", "time": 120},
    ]
    release = {"current": "1.1", "previous": "1.0", "staged": ["1.0", "1.1", "1.2"], "log": log}
    row = ("1.1", "1970-01-01 00:02", "1.0", "1.2", "ok")
    assert verdict.status_row({"release": release}) == row
    assert verdict.status_row({"release": {**release, "unproven": {"version": "1.1"}}})[4].startswith("unproven")
    assert verdict.status_row(UNREACHABLE) == ("?", "?", "?", "?", "unreachable: Connection refused")
    nothing = {"current": None, "previous": None, "staged": [], "log": []}
    assert verdict.status_row({"release": nothing}) == ("-", "-", "-", "-", "nothing deployed")


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (["host1"], "host1"),
        (["host2", "host3"], "host2 and host3"),
        (["host2", "host4"], "host2 and host4"),
        (["host2", "host3", "host4"], "host2 to host4"),
        (["host1", "host3", "host4"], "host1, host3 and host4"),
    ],
)
def test_hosts_are_told_shortly(hosts, told):
    assert story.names(hosts, ORDER) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (999, "999 B"), (42_300_000, "42.3 MB"), (172_000_000, "172 MB"), (5e15, "5000 TB")],
)
def test_sizes_are_told_as_links_are_sold(count, told):
    assert story.size(count) == told
