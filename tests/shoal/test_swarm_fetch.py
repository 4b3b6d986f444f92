"""An archive travels: from a seed to hosts, and between hosts, with no tracker."""

from __future__ import annotations

from pathlib import Path

import pytest
from swarm_helpers import content, hosts, make_payload, make_torrent, sum_uploaded, wait_for

from shoal.swarm import EventKind


def test_a_file_reaches_every_host_and_the_books_balance(tmp_path: Path) -> None:
    payload = make_payload(tmp_path / "shop-1.0.tar", 3_000_000)
    torrent = make_torrent(payload)
    with hosts(tmp_path, "publisher", "host1", "host2") as (publisher, host1, host2):
        publisher.seed(torrent, payload)
        for host, others in ((host1, (publisher,)), (host2, (publisher, host1))):
            info_hash = host.fetch(torrent, *others)
        for host in (host1, host2):
            status = host.wait_complete(info_hash)
            assert status.payload_path == host.settings.store_dir / info_hash / "shop-1.0.tar"
            assert content(status.payload_path) == content(payload)
            assert status.done == status.size == status.downloaded == 3_000_000
            assert sum(status.from_peers.values()) == 3_000_000
            assert set(status.from_peers) <= {"publisher", "host1", "host2"}
            assert status.rehashed == 0
        wait_for(lambda: sum_uploaded(info_hash, publisher, host1, host2) >= 2 * 3_000_000)
        assert sum_uploaded(info_hash, publisher, host1, host2) == pytest.approx(2 * 3_000_000, rel=0.01)
        kinds = [event.kind for event in host1.events.events]
        assert kinds[0] is EventKind.ADDED
        assert kinds.count(EventKind.COMPLETE) == 1
