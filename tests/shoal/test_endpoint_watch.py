"""An agent that watches end points fetches and seeds what is published, and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torf
import yaml
from endpoint_helpers import NOW, Publisher, manifest_of, served

from shoal.agent.config import load
from shoal.agent.errors import ConfigError
from shoal.endpoint import documents, publisher

WAIT = 120.0  # seconds; polls in vain make the agent wait longer each time


@pytest.fixture
def release(make_payload: Callable[..., Path], make_torrent: Callable[..., Path]) -> Callable[..., Any]:
    """``release("1.0")``: archive, torrent and manifest of a version."""

    def make(version: str) -> tuple[Path, Path, documents.Manifest]:
        archive = make_payload(f"shop-{version}.tar", 200_000)
        torrent = make_torrent(archive, source=f"shop {version}")
        data = archive.read_bytes()
        described = documents.Archive(archive.name, len(data), hashlib.sha256(data).hexdigest())
        info_hash = torf.Torrent.read(torrent).infohash
        return archive, torrent, manifest_of("shop", version, archive=described, info_hash=info_hash)

    return make


def publish(shop: Publisher, torrent: Path, manifest: documents.Manifest, **fields: Any) -> None:
    publisher.publish(shop.request(**fields), manifest, torrent.read_bytes(), check=False)


def test_what_is_published_is_fetched_and_seeded_and_what_is_forged_is_not(
    agent_factory: Any, release: Callable[..., Any], wait_until: Callable[..., Any], tmp_path: Path
) -> None:
    shop = Publisher(tmp_path / "shop")
    pinned = tmp_path / "root.json"
    pinned.write_bytes(shop.root)
    seeder = agent_factory("publisher")
    archive, torrent, manifest = release("1.0")
    seeder.seed(archive, torrent)
    with served(shop.folder) as server:
        app = {"name": "shop", "endpoints": [server.url], "root": str(pinned), "interval": 1}
        host = agent_factory("host1", apps=[app])

        def state() -> dict[str, Any]:
            found: dict[str, Any] = host.client.agent()["apps"][0]
            return found

        # nothing is published yet
        wait_until(lambda: state()["error"], timeout=WAIT, what="the first poll")
        assert state()["error"]["code"] == "no_channel"

        publish(shop, torrent, manifest)
        wait_until(lambda: state()["sequence"] == 1, timeout=WAIT, what="sequence 1")
        assert (state()["version"], state()["error"]) == ("1.0", None)
        assert state()["refused"]["no_channel"] >= 1
        wait_until(lambda: host.client.torrents(), timeout=WAIT, what="the torrent at the agent")
        host.client.change(manifest.info_hash, peers=[seeder.peer])
        fetched = host.await_end(manifest.info_hash)
        assert fetched["state"] == "complete"
        assert Path(fetched["payload_path"]).read_bytes() == archive.read_bytes()
        assert fetched["label"] == {"app": "shop", "version": "1.0"}

        # removed by hand, it stays away: it was asked for once
        host.client.remove(manifest.info_hash, data=True)
        asked = len(server.asked)
        wait_until(lambda: len(server.asked) > asked + 4, timeout=WAIT, what="two more polls")
        assert host.client.torrents() == []
        assert state()["decision"] == "up_to_date"

        # not everybody's turn, halted, revoked: nothing is fetched
        _, torrent, manifest = release("1.1")
        publish(shop, torrent, manifest, rollout=["0"])
        wait_until(lambda: state()["decision"] == "not_its_turn", timeout=WAIT, what="the share")
        shop.do("halt")
        shop.do("percent", rollout=["100"])
        wait_until(lambda: state()["decision"] == "halted", timeout=WAIT, what="the halt")
        shop.do("revoke", version="1.1")
        shop.do("resume")
        wait_until(lambda: state()["decision"] == "revoked", timeout=WAIT, what="the revocation")
        assert host.client.torrents() == []

        _, torrent, manifest = release("1.2")
        # forged: the last state that was believed stays
        mallory = Publisher(tmp_path / "mallory")
        publish(mallory, torrent, manifest, channel="stable", sequence=9)
        server.folder = mallory.folder
        wait_until(lambda: state()["error"], timeout=WAIT, what="a refusal")
        assert (state()["error"]["code"], state()["sequence"]) == ("wrongly_signed", 2)
        assert host.client.torrents() == []
        server.folder = shop.folder
        publish(shop, torrent, manifest)
        wait_until(lambda: host.client.torrents(), timeout=WAIT, what="1.2 at the agent")
        assert state()["error"] is None

        # the configuration takes it away again
        host.config["apps"] = []
        host.config_path.write_text(yaml.safe_dump(host.config))
        host.process.send_signal(signal.SIGHUP)
        wait_until(lambda: host.client.agent()["apps"] == [], timeout=WAIT, what="the reload")
        assert "refused" in host.log


def test_an_end_point_that_drips_does_not_hold_an_agent_that_stops(
    agent_factory: Any, wait_until: Callable[..., Any], tmp_path: Path
) -> None:
    shop = Publisher(tmp_path / "shop", at=NOW)
    pinned = tmp_path / "root.json"
    shutil.copy(shop.folder / "metadata/1.root.json", pinned)
    with served(shop.folder) as server:
        server.lie["metadata/2.root.json"] = server.drip
        app = {"name": "shop", "endpoints": [server.url], "root": str(pinned), "interval": 1}
        host = agent_factory("host1", apps=[app])
        wait_until(lambda: server.asked, timeout=WAIT, what="the poll")
        assert host.client.torrents() == []
        assert host.stop() == 0


APP = {"name": "shop", "endpoints": ["https://publisher/shop/"], "root": "/etc/shoal/shop.root.json"}
WRONG: dict[str, tuple[list[Any], str]] = {
    "twice": ([APP, APP], "apps[1].name: found shop twice"),
    "no root": ([{key: APP[key] for key in ("name", "endpoints")}], "apps[0].root: missing"),
    "no URL": ([{**APP, "endpoints": ["publisher"]}], "apps[0].endpoints[0]: found 'publisher', expected a URL"),
    "a name": ([{**APP, "name": "../shop"}], "apps[0].name: found '../shop'"),
    "a channel": ([{**APP, "channel": "Stable"}], "apps[0].channel: found 'Stable'"),
    "what it does not do": (
        [{**APP, "auto": "activate"}],
        "apps[0].auto: found 'activate', expected one of off, fetch",
    ),
    "too often": ([{**APP, "interval": 0}], "apps[0].interval: found 0, expected at least 1 seconds"),
    "a slip": ([{**APP, "chanel": "x"}], "apps[0].chanel: unknown key; did you mean 'channel'?"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_an_application_is_told(name: str, tmp_path: Path) -> None:
    apps, words = WRONG[name]
    path = tmp_path / "agent.yml"
    path.write_text(yaml.safe_dump({"apps": apps}))
    path.chmod(0o600)
    with pytest.raises(ConfigError) as found:
        load(path)
    assert words in str(found.value)
