# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import multiprocessing

import pytest
from ansible_collections.shoal.deploy.plugins.action.torrent_fetch import Fleet


@pytest.fixture
def fleet(tmp_path):
    return lambda size, key=("task", "shop.torrent"): Fleet(str(tmp_path), list(key), size)


def test_a_line_for_each_tenth_of_the_whole(fleet):
    one = fleet(2)
    assert one.tell("a", "shop", 0.1, True) is None  # 5 %
    assert one.tell("b", "shop", 0.1, True) == "shop: 10 % of 2 hosts, 0 of 2 complete"
    assert one.tell("a", "shop", 0.15, True) is None
    assert one.tell("a", "shop", 1.0, False) == "shop: 50 % of 2 hosts, 1 of 2 complete"
    assert one.tell("b", "shop", 1.0, False) == "shop: 100 % of 2 hosts, 2 of 2 complete"


def test_nothing_is_said_of_what_is_over_at_once(fleet):
    assert [fleet(2).tell(host, "shop", 1.0, False) for host in "ab"] == [None, None]


def test_hosts_that_were_done_at_once_count_when_another_takes_longer(fleet):
    fleet(4).tell("a", "shop", 1.0, False)
    fleet(4).tell("b", "shop", 1.0, False)
    assert fleet(4).tell("c", "shop", 0.4, True) == "shop: 60 % of 4 hosts, 2 of 4 complete"


def test_a_host_alone(fleet):
    assert fleet(1).tell("a", "shop", 0.3, True) == "shop: 30 % of 1 host, 0 of 1 complete"


def test_other_tasks_and_torrents_are_others(fleet):
    fleet(1).tell("a", "shop", 0.5, True)
    assert fleet(1, ("task", "other.torrent")).tell("a", "other", 0.3, True).startswith("other: 30 %")


def worker(fleet, number, queue):
    lines = [
        fleet.tell("host%d" % (number * 50 + host), "shop", step / 10, step < 10)
        for host in range(50)
        for step in (5, 10)
    ]
    queue.put([line for line in lines if line])


def test_hundreds_of_hosts_in_many_processes_get_ten_lines_at_most(fleet):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(fleet(400), number, queue)) for number in range(8)]
    for process in processes:
        process.start()
    lines = [line for _process in processes for line in queue.get(timeout=60)]
    for process in processes:
        process.join(60)
    assert len(lines) == len({line.split()[1] for line in lines}) <= 10
    assert "shop: 100 % of 400 hosts, 400 of 400 complete" in lines
