"""Who brought what, where bytes come too fast to be told of each block."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from swarm_helpers import hosts, make_payload, make_torrent, sum_uploaded

from shoal.swarm import totals
from shoal.swarm.settings import ALERT_MASK, ALERT_MASK_FAST
from shoal.swarm.totals import Pace, Totals, split

SIZE = 16_000_000
LIMIT = 6_000_000
A, B, C = (("10.0.0.1", port) for port in (1, 2, 3))


def test_what_is_new_since_the_last_look_is_what_was_brought() -> None:
    looked = Totals()
    assert looked.look({A: 5, B: 0}) == {A: 5}
    assert looked.look({A: 7, B: 1, C: 3}) == {A: 2, B: 1, C: 3}
    assert looked.look({B: 1, C: 2}) == {C: 2}, "less than before: another connection from that address"
    assert looked.look({A: 4}) == {A: 4}, "gone and back"


@pytest.mark.parametrize("size", [0, 1, 10, 999_999_999_999])
def test_what_is_shared_out_is_all_of_it(size: int) -> None:
    shares = split(size, {A: 3, B: 1, C: 2})
    assert sum(shares.values()) == size
    assert shares[A] >= shares[C] >= shares[B] >= 0


def test_fast_is_what_comes_at_once_not_what_has_come_in_all() -> None:
    pace = Pace()
    began = time.monotonic()
    pace.count(100_000_000)
    assert not pace.fast(began), "too short to tell"
    assert pace.fast(began + 1)
    pace.count(1_000_000)
    assert not pace.fast(began + 2)


@pytest.mark.parametrize("restarted", [False, True], ids=["in one go", "stopped on the way"])
def test_the_books_balance_by_totals_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool) -> None:
    monkeypatch.setattr(totals, "LARGE", SIZE // 2)
    payload = make_payload(tmp_path / "shop.tar", SIZE)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host2", "host1") as (publisher, host2, host1):
        for seed in (publisher, host2):
            seed.seed(torrent, payload)
        info_hash = host1.fetch(torrent, publisher, host2, download_limit=LIMIT)
        host1.wait_until(info_hash, lambda s: host1.engine._tuned["alert_mask"] == ALERT_MASK_FAST)
        if restarted:
            host1.wait_until(info_hash, lambda s: s.progress > 0.6)
            host1.restart()
        status = host1.wait_complete(info_hash)
        assert sum(status.from_peers.values()) == status.downloaded == SIZE
        assert (status.from_web_seeds, status.refetched, status.rehashed) == (0, 0, 0)
        assert set(status.from_peers) == {"publisher", "host2"}
        for seed in (publisher, host2):
            # what came between the last look and the end, twice where it was stopped, is shared out
            name = seed.settings.agent_name
            assert status.from_peers[name] == pytest.approx(sum_uploaded(info_hash, seed), abs=LIMIT / 2)
        assert host1.engine._tuned["alert_mask"] == ALERT_MASK, "each block is told again"
