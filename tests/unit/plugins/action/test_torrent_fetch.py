# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import multiprocessing

import pytest
from ansible_collections.shoal.deploy.plugins.action.torrent_fetch import Fleet


@pytest.fixture
def shown():
    return []


@pytest.fixture
def fleet(tmp_path, shown):
    return lambda size, key=("task", "shop.torrent"): Fleet(str(tmp_path), list(key), size, shown.append)


def test_a_line_for_each_tenth_of_the_whole(fleet, shown):
    one = fleet(2)
    one.tell("a", "shop", 0.1, True)
    assert shown == []  # 5 %
    one.tell("b", "shop", 0.1, True)
    assert shown == ["shop: 10 % of 2 hosts, 0 of 2 complete"]
    one.tell("a", "shop", 0.15, True)
    one.tell("a", "shop", 1.0, False)
    one.tell("b", "shop", 1.0, False)
    assert shown[1:] == ["shop: 50 % of 2 hosts, 1 of 2 complete", "shop: 100 % of 2 hosts, 2 of 2 complete"]


def test_nothing_is_said_of_what_is_over_at_once(fleet, shown):
    for host in "ab":
        fleet(2).tell(host, "shop", 1.0, False)
    assert shown == []


def test_hosts_that_were_done_at_once_count_when_another_takes_longer(fleet, shown):
    fleet(4).tell("a", "shop", 1.0, False)
    fleet(4).tell("b", "shop", 1.0, False)
    fleet(4).tell("c", "shop", 0.4, True)
    assert shown == ["shop: 60 % of 4 hosts, 2 of 4 complete"]


def test_a_host_alone(fleet, shown):
    fleet(1).tell("a", "shop", 0.3, True)
    assert shown == ["shop: 30 % of 1 host, 0 of 1 complete"]


def test_other_tasks_and_torrents_are_others(fleet, shown):
    fleet(1).tell("a", "shop", 0.5, True)
    fleet(1, ("task", "other.torrent")).tell("a", "other", 0.3, True)
    assert shown[1].startswith("other: 30 %")


def worker(fleet, number):
    for step in (2, 5, 8, 10):
        for host in range(50):
            fleet.tell("host%d" % (number * 50 + host), "shop", step / 10, step < 10)


def test_hundreds_of_hosts_in_many_processes_get_ten_growing_lines_at_most(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()  # as Ansible's own way from a worker to the screen: in the order of the puts
    fleet = Fleet(str(tmp_path), ["task"], 400, queue.put)
    processes = [context.Process(target=worker, args=(fleet, number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    lines = []
    while not queue.empty():
        lines.append(queue.get())
    percents = [int(line.split()[1]) for line in lines]
    assert percents == sorted(set(percents))
    assert lines[-1] == "shop: 100 % of 400 hosts, 400 of 400 complete"
