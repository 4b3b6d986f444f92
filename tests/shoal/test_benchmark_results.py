"""The benchmarks' arithmetic: what is made of the times that were measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from pictures import draw, over_hosts
from results import Case, Trial, load, markdown, ratio, save, summarise, table

CASE = Case("four", hosts=4, rate=8e6, size=10_000_000)  # 1 MB/s: 10 s are ideal


def trial(client: str, run: int, seconds: list[float], sent: int = 11_000_000) -> Trial:
    return Trial(client, run, seconds, sent, [10_500_000] * 4, [(0.0, [0] * 4), (5.0, [5_000_000] * 4)], 7.0)


def test_the_last_host_counts() -> None:
    assert CASE.ideal == 10
    assert ratio(CASE, [10.5, 11, 10.8, 12]) == pytest.approx(1.2)
    assert ratio(Case("loopback", hosts=1, rate=0, size=1), [3.0]) is None


def test_hosts_with_a_slow_link_are_not_waited_for() -> None:
    mixed = Case("mixed", hosts=4, rate=8e6, size=10_000_000, slow=0.5)
    assert mixed.rates == [8e6, 8e6, 8e6, 2e6, 2e6]  # the publisher's link first
    assert ratio(mixed, [11, 12, 39, 41]) == pytest.approx(1.2)


def test_runs_are_told_as_minimum_median_and_maximum() -> None:
    trials = [
        trial("shoal", 1, [11, 11, 11, 12]),
        trial("curl", 1, [40, 40, 40, 41], sent=40_000_000),
        trial("shoal", 2, [10, 10, 10, 11], sent=10_500_000),
        Trial("curl", 2, [], 0, error="exit status 7"),
        trial("shoal", 3, [12, 12, 12, 14], sent=12_000_000),
        Trial("aria2", 1, [], 0, error="never ended"),
    ]
    shoal, curl = summarise(CASE, trials)
    assert (shoal.client, shoal.last, shoal.ratio) == ("shoal", (11, 12, 14), (1.1, 1.2, 1.4))
    assert (shoal.sent, shoal.received) == (1.1, 1.05)
    assert shoal.spread == pytest.approx(1.1)  # of 12/11, 11/10 and 14/12
    assert (curl.trials, curl.failed) == (1, 1)
    assert table(CASE, trials)[0][:4] == ("shoal", "3", "11.0 / 12.0 / 14.0", "1.100 / 1.200 / 1.400")
    assert "| curl | 1 (1 failed) | 41.0 | 4.100 | 1.02 | 4.00 × | 1.05 × | 7 |" in markdown(CASE, trials)


def test_results_are_kept_and_drawn(tmp_path: Path) -> None:
    trials = [trial("shoal <1>", 1, [11, 11, 11, 12])]
    save(tmp_path / "four.json", {"cores": 2}, CASE, trials)
    case, read = load(tmp_path / "four.json")
    assert case == CASE
    assert summarise(case, read) == summarise(CASE, trials)
    draw(tmp_path, CASE, trials)
    over_hosts(tmp_path, [(CASE, trials)])
    progress = (tmp_path / "four-progress.svg").read_text()
    assert progress.count("<polyline") == 4
    assert "shoal &lt;1&gt;" in progress
    assert ">1.10<" in (tmp_path / "four-sent.svg").read_text()
    assert (tmp_path / "ratio-over-hosts.svg").exists()
