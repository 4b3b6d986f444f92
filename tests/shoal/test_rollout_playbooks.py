"""The playbooks, run on a fleet of real agents on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import AgentFactory
from rollout_helpers import Fleet, make_collections

HOSTS = ["host1", "host2", "host3"]


@pytest.fixture
def fleet(tmp_path: Path, agent_factory: AgentFactory) -> Fleet:
    """A publisher and three hosts; nothing is published and nothing runs."""
    return Fleet(
        folder=tmp_path,
        collections=make_collections(tmp_path / "collections"),
        publisher=agent_factory("pub"),
        hosts={name: agent_factory(name) for name in HOSTS},
    )


def test_a_version_is_published_rolled_out_and_upgraded(fleet: Fleet) -> None:
    published = fleet.publish("1.0")
    assert "1.0  published  shop-1.0.tar.gz" in published.story

    first = fleet.run("rollout", version="1.0")
    assert first.status == 0, first.out + first.story
    assert fleet.versions == ["1.0", "1.0", "1.0"]
    assert "1.0  prefetch   3/3 hosts in " in first.story
    assert "1.0  switched   host1 ✓" in first.story
    assert first.stats["complete"] is True
    assert {host["outcome"] for host in first.stats["hosts"].values()} == {"switched"}

    again = fleet.run("rollout", version="1.0")
    assert again.status == 0, again.out + again.story
    assert again.total_changed == 0
    assert "3/3 hosts had it already" in again.story
