"""An agent that watches end points fetches and seeds what is published, and nothing else."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torf
import yaml
from endpoint_helpers import NOW, Publisher, manifest_of, served

from shoal.endpoint import apps, documents, publisher
from shoal.endpoint.errors import EndpointError

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


def write_app(folder: Path, url: str, root: bytes) -> Path:
    """The file that has an agent fetch shop, and nothing more."""
    folder.mkdir(exist_ok=True)
    path = folder / "shop.yml"
    path.write_text(yaml.safe_dump({"endpoint": {"urls": [url], "interval": 1}, "policy": {"auto": "fetch"}}))
    path.with_suffix(".root.json").write_bytes(root)
    return path


def publish(shop: Publisher, torrent: Path, manifest: documents.Manifest, **fields: Any) -> None:
    publisher.publish(shop.request(**fields), manifest, torrent.read_bytes(), check=False)


def test_what_is_published_is_fetched_and_seeded_and_what_is_forged_is_not(
    agent_factory: Any, release: Callable[..., Any], wait_until: Callable[..., Any], tmp_path: Path
) -> None:
    shop = Publisher(tmp_path / "shop")
    seeder = agent_factory("publisher")
    archive, torrent, manifest = release("1.0")
    seeder.seed(archive, torrent)
    with served(shop.folder) as server:
        file = write_app(tmp_path / "apps.d", server.url, shop.root)
        host = agent_factory("host1", apps_dir=str(file.parent))

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
        file.unlink()
        host.process.send_signal(signal.SIGHUP)
        wait_until(lambda: host.client.agent()["apps"] == [], timeout=WAIT, what="the reload")
        assert "refused" in host.log


def test_an_end_point_that_drips_does_not_hold_an_agent_that_stops(
    agent_factory: Any, wait_until: Callable[..., Any], tmp_path: Path
) -> None:
    shop = Publisher(tmp_path / "shop", at=NOW)
    with served(shop.folder) as server:
        server.lie["metadata/2.root.json"] = server.drip
        file = write_app(tmp_path / "apps.d", server.url, shop.root)
        host = agent_factory("host1", apps_dir=str(file.parent))
        wait_until(lambda: server.asked, timeout=WAIT, what="the poll")
        assert host.client.torrents() == []
        assert host.stop() == 0


ENDPOINT = {"urls": ["https://publisher/shop/"]}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no end point": ({}, "endpoint: missing"),
    "no URL": ({"endpoint": {"urls": ["publisher"]}}, "endpoint.urls[0]: found 'publisher', expected a URL"),
    "no host": ({"endpoint": {"urls": ["https://:80/"]}}, "endpoint.urls[0]: found 'https://:80/', expected a URL"),
    "no port": ({"endpoint": {"urls": ["http://x:99999/"]}}, "endpoint.urls[0]: found 'http://x:99999/', expected a"),
    "half a bracket": ({"endpoint": {"urls": ["http://[::1/"]}}, "endpoint.urls[0]: found 'http://[::1/', expected a"),
    "a channel": ({"endpoint": {**ENDPOINT, "channel": "Stable"}}, "endpoint.channel: found 'Stable'"),
    "no such policy": ({"policy": {"auto": "on"}}, "policy.auto: found 'on', expected one of off, fetch, stage"),
    "a window": (
        {"policy": {"windows": [{"cron": "0 2 * *", "duration": 60}]}},
        "policy.windows[0]: cron '0 2 * *' must have five fields",
    ),
    "too short": (
        {"policy": {"windows": [{"cron": "0 2 * * *", "duration": 1}]}},
        "policy.windows[0].duration: found 1, expected",
    ),
    "a pin": ({"policy": {"pin": {"version": "1.0", "til": 1}}}, "policy.pin"),
    "too often": ({"endpoint": {**ENDPOINT, "interval": 0}}, "endpoint.interval: found 0, expected at least 1 seconds"),
    "a slip": ({"endpoint": {**ENDPOINT, "chanel": "x"}}, "endpoint.chanel: unknown key; did you mean 'channel'?"),
    "nothing to release": ({}, "release: missing, and policy.auto is activate"),
    "a report": ({"report_url": "mailto:me"}, "report_url: found 'mailto:me', expected a URL"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_an_application_is_told(name: str, tmp_path: Path) -> None:
    keys, words = WRONG[name]
    document = keys if name == "no end point" else {"endpoint": ENDPOINT, **keys}
    (tmp_path / "shop.yml").write_text(yaml.safe_dump(document))
    with pytest.raises(EndpointError) as found:
        apps.load(tmp_path, "shop")
    assert found.value.code == "bad_config"
    assert f"{tmp_path}/shop.yml: " in str(found.value)
    assert words in str(found.value)
    with pytest.raises(EndpointError, match=r"app '\.\./shop' cannot be used"):
        apps.load(tmp_path, "../shop")


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("!!bool maybe", "not valid YAML"),
        ("!!timestamp tomorrow", "not valid YAML"),
        ("{hold: !!int many}", "not valid YAML"),
        ('{auto: "\\ud800"}', "policy.auto: found text with lone surrogates"),
    ],
)
def test_yaml_that_no_file_should_have_is_told_too(policy: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "shop.yml").write_text(f"endpoint: {{urls: [https://publisher/shop/]}}\npolicy: {policy}\n")
    with pytest.raises(EndpointError, match=words) as found:
        apps.load(tmp_path, "shop")
    assert found.value.code == "bad_config"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root obeys files that others may have written")
def test_a_file_that_others_can_write_is_not_obeyed_by_root(tmp_path: Path) -> None:
    folder = tmp_path / "apps.d"
    path = write_app(folder, "http://publisher/", b"root")
    apps.load(folder, "shop")
    for target in (path, folder):
        mode = target.stat().st_mode
        target.chmod(mode | 0o002)
        with pytest.raises(EndpointError, match="others than root can write it"):
            apps.load(folder, "shop")
        target.chmod(mode)
    path.with_suffix(".root.json").chmod(0o666)
    with pytest.raises(EndpointError, match="others than root can write it"):
        apps.load(folder, "shop").read_root()
