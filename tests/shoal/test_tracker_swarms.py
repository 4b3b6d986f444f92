"""The tracker's memory: who is told of whom, who is counted, who is forgotten, and how much it takes at most."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from shoal.tracker.swarms import Announce, Counts, Event, Limits, Swarms, TrackerError

SHOP, OTHER = b"shop-1.0".ljust(20, b"."), b"other".ljust(20, b".")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def swarms(clock: Clock) -> Swarms:
    return Swarms(lifetime=180, clock=clock, chance=random.Random(7))


def host(number: int, left: int = 1, event: Event = Event.REGULAR, **more) -> Announce:
    values = {"info_hash": SHOP, "peer_id": b"host%16d" % number, "address": ip_address(f"192.0.2.{number}")} | more
    return Announce(port=6891, left=left, event=event, **values)


def told(swarms: Swarms, request: Announce) -> set[str]:
    _, peers = swarms.announce(request)
    return {str(peer.address) for peer in peers}


def test_a_swarm_grows_and_everyone_hears_of_everyone_else(swarms: Swarms) -> None:
    assert told(swarms, host(1)) == set()
    assert told(swarms, host(2)) == {"192.0.2.1"}
    assert told(swarms, host(1)) == {"192.0.2.2"}  # and not of itself
    assert told(swarms, host(3, info_hash=OTHER)) == set()


def test_seeds_are_told_of_leechers_only(swarms: Swarms) -> None:
    for request in (host(1, left=0), host(2, left=0), host(3)):
        swarms.announce(request)
    assert told(swarms, host(1, left=0)) == {"192.0.2.3"}
    assert told(swarms, host(3)) == {"192.0.2.1", "192.0.2.2"}


def test_counts_follow_a_host_from_its_start_to_its_end(swarms: Swarms) -> None:
    story = [
        (host(1, left=0, event=Event.STARTED), Counts(complete=1)),
        (host(2, left=9, event=Event.STARTED), Counts(complete=1, incomplete=1)),
        (host(2, left=0, event=Event.COMPLETED), Counts(complete=2, downloaded=1)),
        (host(2, left=0, event=Event.COMPLETED), Counts(complete=2, downloaded=1)),  # said again, counted once
        (host(2, left=0, event=Event.STOPPED), Counts(complete=1, downloaded=1)),
        (host(2, left=0, event=Event.STOPPED), Counts(complete=1, downloaded=1)),
        (host(1, left=0, event=Event.STOPPED), Counts(downloaded=1)),
    ]
    for request, counts in story:
        assert swarms.announce(request)[0] == counts
        assert swarms.scrape(SHOP) == counts


def test_a_host_on_both_address_families_is_told_twice_and_counted_once(swarms: Swarms) -> None:
    six = ip_address("2001:db8::1")
    swarms.announce(host(1, left=9))
    assert told(swarms, host(1, left=9, address=six)) == set()  # its own other address is no news to it
    assert told(swarms, host(2, left=9)) == {"192.0.2.1", "2001:db8::1"}
    swarms.announce(host(1, left=0, event=Event.COMPLETED))
    counts, _ = swarms.announce(host(1, left=0, event=Event.COMPLETED, address=six))
    assert counts == Counts(complete=1, incomplete=1, downloaded=1)


def test_a_killed_client_that_starts_again_takes_its_old_place(swarms: Swarms) -> None:
    swarms.announce(host(1))
    swarms.announce(host(1, peer_id=b"another-peer-id-0001"))
    assert swarms.scrape(SHOP) == Counts(incomplete=1)


def test_nobody_can_push_another_host_out_by_taking_its_peer_id(swarms: Swarms) -> None:
    swarms.announce(host(1))
    swarms.announce(host(66, peer_id=host(1).peer_id))
    assert told(swarms, host(2)) == {"192.0.2.1", "192.0.2.66"}


def test_who_is_not_heard_of_for_the_lifetime_is_forgotten(swarms: Swarms, clock: Clock) -> None:
    swarms.announce(host(1))
    clock.now += 100
    swarms.announce(host(2))
    clock.now += 79.9
    assert swarms.scrape(SHOP) == Counts(incomplete=2)
    clock.now += 0.1
    assert swarms.scrape(SHOP) == Counts(incomplete=1)
    assert told(swarms, host(3)) == {"192.0.2.2"}
    # An announce counts anew from then on
    clock.now += 90
    swarms.announce(host(2))
    clock.now += 95
    assert swarms.scrape(SHOP) == Counts(incomplete=1)


@pytest.mark.parametrize(("numwant", "expected"), [(None, 50), (0, 0), (7, 7), (200, 200), (5000, 200)])
def test_numwant_is_heeded_up_to_a_limit(swarms: Swarms, numwant: int | None, expected: int) -> None:
    for number in range(1, 251):
        swarms.announce(host(number, numwant=0))
    assert len(told(swarms, host(251, numwant=numwant))) == expected


def test_peers_are_chosen_by_chance_and_the_same_chance_chooses_the_same(clock: Clock) -> None:
    def choices(seed: int) -> list[set[str]]:
        swarms = Swarms(clock=clock, chance=random.Random(seed))
        for number in range(1, 51):
            swarms.announce(host(number, numwant=0))
        return [told(swarms, host(51, numwant=5)) for _ in range(100)]

    assert choices(1) == choices(1) != choices(2)
    assert len(set().union(*choices(1))) == 50  # nobody is left out


def test_what_strangers_make_it_remember_is_bounded(clock: Clock) -> None:
    swarms = Swarms(lifetime=180, limits=Limits(swarms=2, peers_per_swarm=2, peers=3), clock=clock)
    swarms.announce(host(1))
    swarms.announce(host(2, left=0, event=Event.COMPLETED))
    with pytest.raises(TrackerError, match="this swarm is full: it has 2 peers"):
        swarms.announce(host(3))
    swarms.announce(host(3, info_hash=OTHER))
    with pytest.raises(TrackerError, match="this tracker is full: it knows 3 peers"):
        swarms.announce(host(4, info_hash=OTHER))
    # Those who are in are served on, and who leaves makes room
    assert told(swarms, host(1)) == {"192.0.2.2"}
    swarms.announce(host(1, event=Event.STOPPED))
    with pytest.raises(TrackerError, match="this tracker is full: it has 2 swarms"):
        swarms.announce(host(5, info_hash=b"third".ljust(20, b".")))
    # A swarm that everyone left is remembered for its downloads until its place is needed
    clock.now += 180
    assert swarms.scrape(SHOP) == Counts(downloaded=1)
    swarms.announce(host(5, info_hash=b"third".ljust(20, b".")))
    assert swarms.scrape(SHOP) == Counts()


def test_only_who_joins_makes_a_swarm(clock: Clock) -> None:
    swarms = Swarms(limits=Limits(swarms=1), clock=clock)
    for number in range(100):
        info_hash = b"%20d" % number
        assert swarms.scrape(info_hash) == Counts()
        assert swarms.announce(host(1, event=Event.STOPPED, info_hash=info_hash)) == (Counts(), [])
    assert swarms.announce(host(1)) == (Counts(incomplete=1), [])
