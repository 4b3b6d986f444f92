"""When a host asks and what it then does: pure functions, tried on whole fleets."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from endpoint_helpers import HOUR, NOW

from shoal.endpoint import schedule
from shoal.endpoint.documents import Channel, Halt, Publication, Revocation, Step
from shoal.endpoint.policy import Decision, Past, Pin, Policy, Window, decide, share

HOSTS = [f"host{number}.example.com" for number in range(1000)]


def chosen(sequence: int, percent: int) -> set[str]:
    return {host for host in HOSTS if share("shop", host, sequence) < percent}


@pytest.mark.parametrize("sequence", range(1, 21))
def test_ten_per_cent_of_a_thousand_hosts_are_about_a_hundred(sequence: int) -> None:
    assert 70 <= len(chosen(sequence, 10)) <= 130


def test_a_growing_share_only_adds_hosts() -> None:
    assert chosen(7, 0) < chosen(7, 10) < chosen(7, 30) < chosen(7, 100) == set(HOSTS)
    assert 240 <= len(chosen(7, 30)) <= 360


def test_the_same_hosts_for_one_sequence_and_others_for_the_next() -> None:
    assert chosen(7, 10) == chosen(7, 10)
    assert len(chosen(7, 10) & chosen(8, 10)) < 30  # 10 are to be expected
    mail = {host for host in HOSTS if share("mail", host, 7) < 10}
    assert len(chosen(7, 10) & mail) < 30


def test_a_share_is_the_same_on_every_machine_and_python() -> None:
    assert f"{share('shop', 'host1', 7):.6f}" == "31.981239"


# -- decisions -----------------------------------------------------------------------------------------------------


def channel_of(**fields: Any) -> Channel:
    history = (
        Publication(sequence=6, version="1.0", who="alice", at=NOW),
        Publication(sequence=7, version="1.1", who="alice", at=NOW),
    )
    plain = {
        "app": "shop",
        "channel": "stable",
        "sequence": 7,
        "version": "1.1",
        "rollout": (Step(at=NOW, percent=100),),
        "history": history,
    }
    return Channel(**{**plain, **fields})


ANY_TIME = Policy(auto="activate")
NIGHT = Window(cron="0 2 * * *", duration=7200)
HALT = Halt(who="alice", at=NOW)
REVOKED = Revocation(version="1.1", who="alice", at=NOW)
BACK = (
    Publication(sequence=5, version="1.1", who="alice", at=NOW),
    Publication(sequence=6, version="2.0", who="alice", at=NOW),
    Publication(sequence=7, version="1.1", who="alice", at=NOW),
)

# what is decided: the channel's fields, the policy, the host's past
DECISIONS: dict[str, tuple[dict[str, Any], Policy, Past]] = {
    "activate due": ({}, ANY_TIME, Past(sequence=6)),
    "fetch due": ({}, Policy(auto="fetch"), Past(sequence=6)),
    "stage due": ({}, Policy(auto="stage"), Past()),
    "none off": ({}, Policy(), Past(sequence=6)),
    "none up_to_date": ({}, ANY_TIME, Past(sequence=7)),
    "none held": ({}, Policy(auto="activate", hold=True), Past(sequence=6)),
    "none pinned": ({}, Policy(auto="activate", pin=Pin("1.0")), Past(sequence=6)),
    "none failed_before": ({}, ANY_TIME, Past(sequence=6, failed=frozenset({7}))),
    "none halted": ({"halt": HALT}, ANY_TIME, Past(sequence=6)),
    "none revoked": ({"revoked": (REVOKED,)}, ANY_TIME, Past(sequence=6)),
    "none not_its_turn": ({"rollout": (Step(at=NOW, percent=0),)}, ANY_TIME, Past(sequence=6)),
    "none no_way_back": ({"history": BACK, "no_way_back_before": 6}, ANY_TIME, Past(sequence=6)),
}


@pytest.mark.parametrize("expected", DECISIONS)
def test_a_decision_has_one_reason(expected: str) -> None:
    fields, policy, past = DECISIONS[expected]
    decision = decide(channel_of(**fields), policy, past, "host1", NOW)
    assert f"{decision.action} {decision.reason}" == expected


def test_a_pin_ends_and_a_pin_to_the_channels_version_lets_it_through() -> None:
    pinned = Policy(auto="activate", pin=Pin("1.0", until=NOW + HOUR))
    assert decide(channel_of(), pinned, Past(), "host1", NOW) == Decision("none", "pinned", NOW + HOUR)
    assert decide(channel_of(), pinned, Past(), "host1", NOW + HOUR).action == "activate"
    assert decide(channel_of(), Policy(auto="activate", pin=Pin("1.1")), Past(), "host1", NOW).action == "activate"


def test_a_failure_counts_for_its_sequence_only() -> None:
    again = channel_of(sequence=8)
    assert decide(again, ANY_TIME, Past(sequence=6, failed=frozenset({7})), "host1", NOW).action == "activate"


def test_who_never_passed_the_point_of_no_return_may_still_go_below_it() -> None:
    channel = channel_of(history=BACK, no_way_back_before=6)
    assert decide(channel, ANY_TIME, Past(sequence=5), "host1", NOW).action == "activate"


def test_a_host_knows_when_its_turn_comes() -> None:
    steps = tuple(Step(at=NOW + number * HOUR, percent=percent) for number, percent in enumerate((10, 50, 100)))
    channel = channel_of(rollout=steps)
    for host in HOSTS[:50]:
        place = share("shop", host, 7)
        decision = decide(channel, ANY_TIME, Past(), host, NOW)
        if place < 10:
            assert decision.action == "activate"
        else:
            turn = NOW + (HOUR if place < 50 else 2 * HOUR)
            assert decision == Decision("none", "not_its_turn", turn)
            assert decide(channel, ANY_TIME, Past(), host, turn).action == "activate"
    assert [channel.percent(NOW + delta) for delta in (-HOUR, 0 * HOUR, HOUR, 9 * HOUR)] == [0, 10, 50, 100]


# -- windows -------------------------------------------------------------------------------------------------------


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


WINDOWS = [
    # cron, seconds, zone, time (UTC), open?
    ("0 2 * * *", 7200, "UTC", "2026-11-22 01:59:59", False),
    ("0 2 * * *", 7200, "UTC", "2026-11-22 02:00:00", True),
    ("0 2 * * *", 7200, "UTC", "2026-11-22 03:59:59", True),
    ("0 2 * * *", 7200, "UTC", "2026-11-22 04:00:00", False),
    ("0 22 * * FRI", 86400, "UTC", "2026-11-28 21:59:00", True),  # over midnight, to the next day
    ("0 2 * * *", 3600, "Europe/Berlin", "2026-11-22 01:30:00", True),  # 02:30 there
    ("0 2 * * *", 3600, "Europe/Berlin", "2026-07-01 00:30:00", True),  # 02:30 there, in summer
    ("0 2 * * *", 3600, "Europe/Berlin", "2026-07-01 01:30:00", False),
    # 2026-03-29, 02:30 does not exist there: as Debian's cron, at 03:00 (01:00 UTC), and for the full time
    ("30 2 * * *", 3600, "Europe/Berlin", "2026-03-29 01:59:00", True),
    ("30 2 * * *", 3600, "Europe/Berlin", "2026-03-29 02:00:00", False),
    # 2026-10-25, 02:30 is there twice: once, at the first of them (00:30 UTC)
    ("30 2 * * *", 3600, "Europe/Berlin", "2026-10-25 01:29:00", True),
    ("30 2 * * *", 3600, "Europe/Berlin", "2026-10-25 01:31:00", False),
]


@pytest.mark.parametrize(("cron", "seconds", "zone", "time", "is_open"), WINDOWS)
def test_a_window_opens_by_the_clock_on_the_wall(cron: str, seconds: int, zone: str, time: str, is_open: bool) -> None:
    assert Window(cron=cron, duration=seconds, timezone=zone).is_open(utc(time)) is is_open


def test_outside_its_window_a_host_prepares_everything_and_knows_when_it_opens() -> None:
    policy = Policy(auto="activate", windows=(NIGHT, Window(cron="0 20 * * *", duration=60)))
    channel = channel_of(rollout=(Step(at=utc("2026-01-01 00:00:00"), percent=100),))
    evening, night = utc("2026-11-22 20:00:00"), utc("2026-11-23 02:00:00")
    assert decide(channel, policy, Past(), "host1", utc("2026-11-22 12:00:00")) == Decision(
        "stage", "outside_window", evening
    )
    assert decide(channel, policy, Past(), "host1", evening + timedelta(minutes=1)) == Decision(
        "stage", "outside_window", night
    )
    assert decide(channel, policy, Past(), "host1", night).action == "activate"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cron": "0 2 * *"}, "five fields"),
        ({"cron": "0 25 * * *"}, "Bad hour"),
        ({"cron": "0 0 31 2 *"}, "names no time"),
        ({"timezone": "Europe/Atlantis"}, "tzdata"),
        ({"timezone": "../etc/passwd"}, "not known"),
        ({"duration": 5}, "60"),
    ],
)
def test_a_window_that_never_opens_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert({"cron": "0 2 * * *", "duration": 3600, **fields}, Window)


# -- the herd ------------------------------------------------------------------------------------------------------

AGENTS = 10_000
OUTAGE = (600.0, 900.0)  # seconds


def polls_per_second(seed: int, end: float) -> Counter[int]:
    """How many of a fleet that started within one second poll in each second; the end point is away in OUTAGE."""
    rng = random.Random(seed)
    agents = [(rng.random() + schedule.first_delay(rng), 0) for _ in range(AGENTS)]
    heapq.heapify(agents)
    polls: Counter[int] = Counter()
    while agents[0][0] < end:
        time, failures = agents[0]
        polls[int(time)] += 1
        failures = failures + 1 if OUTAGE[0] <= time < OUTAGE[1] else 0
        heapq.heapreplace(agents, (time + schedule.next_delay(rng, failures), failures))
    return polls


@pytest.mark.parametrize("seed", [1, 2])
def test_a_fleet_never_polls_as_a_herd(seed: int) -> None:
    polls = polls_per_second(seed, 1500)
    mean = AGENTS / schedule.INTERVAL
    started = [polls[second] for second in range(int(OUTAGE[0]))]
    back = [polls[second] for second in range(int(OUTAGE[1]), 1500)]
    assert abs(sum(started) / len(started) / mean - 1) < 0.05
    assert max(started) < 1.5 * mean
    assert max(back) < 1.5 * mean
    # and it is back: everybody polls again as before
    assert abs(sum(back[-120:]) / 120 / mean - 1) < 0.05


def test_a_single_host_backs_off_and_comes_back_soon() -> None:
    rng = random.Random(3)
    delays = [schedule.next_delay(rng, failures) for failures in range(40)]
    assert all(0.75 * 60 <= delay <= 1.25 * 300 for delay in delays)
    assert delays[1] > 80
    assert min(delays[4:]) >= 0.75 * 300
    assert all(schedule.next_delay(rng, 10**9, interval=900) >= 0.75 * 900 for _ in range(10))
