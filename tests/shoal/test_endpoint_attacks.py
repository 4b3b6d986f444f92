"""Python-tuf's client attacks, against a real HTTP server: each is refused with its reason and leaves nothing."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_helpers import HOUR, NOW, Publisher, Server, served, snapshot_of
from tuf.api.metadata import Metadata

from shoal.endpoint import documents, keys
from shoal.endpoint.errors import EndpointError, Reason, RefusedError
from shoal.endpoint.repository import Repository

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def shop(tmp_path: Path) -> Publisher:
    """An end point with 1.0 on stable, signed an hour ago."""
    made = Publisher(tmp_path / "shop", at=NOW - 2 * HOUR)
    made.publish("1.0", at=NOW - HOUR)
    return made


@pytest.fixture
def server(shop: Publisher) -> Iterator[Server]:
    with served(shop.folder) as made:
        yield made


def refused(shop: Publisher, server: Server, folder: Path, **options: Any) -> RefusedError:
    """The refusal of the next poll; it must leave everything as it was, but for roots that the pinned one leads to."""
    before = snapshot_of(folder) if folder.exists() else {}
    with pytest.raises(RefusedError) as found:
        shop.client(folder, server.url, **options).read("stable")
    after = {name: data for name, data in snapshot_of(folder).items() if not name.startswith("root_history/")}
    assert after == {name: data for name, data in before.items() if not name.startswith("root_history/")}
    assert not list(folder.glob(".poll-*"))
    assert str(found.value)
    return found.value


def forged(path: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A metadata file changed without the keys."""
    tree = json.loads(path.read_bytes())
    change(tree)
    return json.dumps(tree, separators=(",", ":")).encode()


# Each attack: what it does to the server's answers. The reader has read 1.0 and 1.1 was published since, so that
# every file is asked for.
def _changed_target(shop: Publisher, server: Server) -> None:
    path = next((shop.folder / "targets/manifests").glob("*[0-9a-f].1.1.json"))
    server.lie[f"targets/manifests/{path.name}"] = path.read_bytes().replace(b"alice", b"mally")


def _short_target(shop: Publisher, server: Server) -> None:
    path = next((shop.folder / "targets/torrents").glob("*[0-9a-f].1.1.torrent"))
    server.lie[f"targets/torrents/{path.name}"] = path.read_bytes()[:-3]


def _long_target(shop: Publisher, server: Server) -> None:
    path = next((shop.folder / "targets/torrents").glob("*[0-9a-f].1.1.torrent"))
    server.lie[f"targets/torrents/{path.name}"] = path.read_bytes() + b"more"


def _changed_metadata(role: str) -> Callable[[Publisher, Server], None]:
    def attack(shop: Publisher, server: Server) -> None:
        path = shop.folder / "metadata/timestamp.json" if role == "timestamp" else shop.file(f"*.{role}.json")
        server.lie[f"metadata/{path.name}"] = forged(
            path, lambda tree: tree["signed"].__setitem__("expires", "2099-01-01T00:00:00Z")
        )

    return attack


def _mixed(role: str) -> Callable[[Publisher, Server], None]:
    """The file of the state before, properly signed, under the new one's name."""

    def attack(shop: Publisher, server: Server) -> None:
        new, old = sorted((shop.folder / "metadata").glob(f"*.{role}.json"), reverse=True)[:2]
        server.lie[f"metadata/{new.name}"] = old.read_bytes()

    return attack


def _wrong_key(shop: Publisher, server: Server) -> None:
    """A whole repository of the right name, by somebody else's keys."""
    other = Publisher(server.folder.parent / "mallory", at=NOW)
    other.publish("6.6.6", at=NOW)
    server.folder = other.folder


def _wrong_root(shop: Publisher, server: Server) -> None:
    """A next root by somebody else."""
    other = Publisher(server.folder.parent / "mallory", at=NOW)
    other.do("rotate", role="root", new_keys=str(server.folder.parent / "mallory/new"), at=NOW)
    server.lie["metadata/2.root.json"] = (other.folder / "metadata/2.root.json").read_bytes()


def _other_app(shop: Publisher, server: Server) -> None:
    other = Publisher(server.folder.parent / "mail", "mail", at=NOW)
    other.publish("9.0", at=NOW)
    server.folder = other.folder


def _other_app_same_keys(shop: Publisher, server: Server) -> None:
    """The operator has one pair of keys for all applications, and so has the publisher: signatures prove nothing."""
    home = server.folder.parent / "mail"
    for name in ("operator", "publisher"):
        shutil.copytree(server.folder.parent / name, home / name)
    other = Publisher(home, "mail", at=NOW)
    other.publish("9.0", at=NOW)
    server.folder = other.folder


def _older(shop: Publisher, server: Server) -> None:
    server.folder = server.folder.parent / "before"


def _serve(path: str, lie: str) -> Callable[[Publisher, Server], None]:
    def attack(shop: Publisher, server: Server) -> None:
        server.lie[path] = getattr(server, lie)

    return attack


def _bytes(path: str, data: bytes) -> Callable[[Publisher, Server], None]:
    def attack(shop: Publisher, server: Server) -> None:
        server.lie[path] = data

    return attack


def _cut(shop: Publisher, server: Server) -> None:
    path = shop.file("*.targets.json")
    server.lie[f"metadata/{path.name}"] = Server.cut(path.read_bytes())


def _short_snapshot(shop: Publisher, server: Server) -> None:
    path = shop.file("*.snapshot.json")
    server.lie[f"metadata/{path.name}"] = path.read_bytes()[:-20]


def _status(code: int, **headers: str) -> Callable[[Publisher, Server], None]:
    def attack(shop: Publisher, server: Server) -> None:
        server.lie["metadata/timestamp.json"] = Server.status(code, **headers)

    return attack


ATTACKS = {
    "changed target": (_changed_target, Reason.CHANGED),
    "target with an end missing": (_short_target, Reason.TRUNCATED),
    "target with more at its end": (_long_target, Reason.OVERSIZED),
    "changed timestamp": (_changed_metadata("timestamp"), Reason.WRONGLY_SIGNED),
    "changed snapshot": (_changed_metadata("snapshot"), Reason.CHANGED),
    "changed targets metadata": (_changed_metadata("targets"), Reason.CHANGED),
    "snapshot of the state before": (_mixed("snapshot"), Reason.MIX_AND_MATCH),
    "targets of the state before": (_mixed("targets"), Reason.MIX_AND_MATCH),
    "the whole state before": (_older, Reason.OLDER),
    "somebody else's keys": (_wrong_key, Reason.WRONGLY_SIGNED),
    "somebody else's next root": (_wrong_root, Reason.WRONGLY_SIGNED),
    "another application": (_other_app, Reason.OTHER_APP),
    "another application with the same keys": (_other_app_same_keys, Reason.OTHER_APP),
    "endless timestamp": (_serve("metadata/timestamp.json", "endless"), Reason.OVERSIZED),
    "endless root": (_serve("metadata/2.root.json", "endless"), Reason.OVERSIZED),
    "slow drip": (_serve("metadata/timestamp.json", "drip"), Reason.SLOW),
    "slow drip of headers": (_serve("metadata/timestamp.json", "drip_headers"), Reason.SLOW),
    "silence": (_serve("metadata/2.root.json", "silent"), Reason.SLOW),
    "connection cut": (_cut, Reason.TRUNCATED),
    "snapshot with an end missing": (_short_snapshot, Reason.TRUNCATED),
    "a login page": (_bytes("metadata/timestamp.json", b"<html>log in</html>"), Reason.NONSENSE),
    "nothing": (_bytes("metadata/timestamp.json", b""), Reason.NONSENSE),
    "deep nonsense": (_bytes("metadata/timestamp.json", b"[" * 16000), Reason.NONSENSE),
    "the wrong file": (
        _bytes("metadata/timestamp.json", b'{"signatures": [], "signed": {"_type": 3}}'),
        Reason.NONSENSE,
    ),
    "server error": (_status(503), Reason.UNREACHABLE),
    "no end point": (_status(404), Reason.UNREACHABLE),
    "redirect": (_status(302, Location="http://127.0.0.1:1/"), Reason.UNREACHABLE),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_with_its_reason_and_leaves_nothing(
    name: str, shop: Publisher, server: Server, tmp_path: Path
) -> None:
    attack, reason = ATTACKS[name]
    host = tmp_path / "host"
    shop.publish("1.0.1", at=NOW - HOUR / 2)
    shutil.copytree(shop.folder, shop.folder.parent / "before")
    shop.publish("1.0.2", at=NOW - HOUR / 4)
    assert shop.client(host, server.url).read("stable").version == "1.0.2"
    shop.publish("1.1", at=NOW)
    attack(shop, server)
    seconds = 0.5 if reason is Reason.SLOW else 60
    began = time.monotonic()
    error = refused(shop, server, host, seconds=seconds)
    assert error.reason is reason
    assert time.monotonic() - began < 20
    # and it is over when the attack is over
    server.lie.clear()
    server.folder = shop.folder
    assert shop.client(host, server.url).read("stable").version == "1.1"


@pytest.mark.parametrize("name", ["another application with the same keys", "changed target", "slow drip", "nothing"])
def test_a_new_host_refuses_too(name: str, shop: Publisher, server: Server, tmp_path: Path) -> None:
    attack, reason = ATTACKS[name]
    shop.publish("1.1", at=NOW)
    attack(shop, server)
    assert refused(shop, server, tmp_path / "host", seconds=0.5 if reason is Reason.SLOW else 60).reason is reason


def test_an_expired_end_point_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    shop = Publisher(tmp_path / "shop", at=NOW - 26 * HOUR)
    shop.publish("1.0", at=NOW - 25 * HOUR)
    with served(shop.folder) as server:
        error = refused(shop, server, tmp_path / "host")
        assert error.reason is Reason.EXPIRED
        assert "refresh" in error.hint
        shop.do("refresh", at=NOW)
        assert shop.client(tmp_path / "host", server.url).read("stable").version == "1.0"


def test_an_expired_end_point_is_refused_by_a_host_that_believed_it_yesterday(
    shop: Publisher, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tuf.ngclient._internal.trusted_metadata_set as python_tuf

    view = shop.client(tmp_path / "host", server.url).read("stable")

    class Tomorrow(python_tuf.datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return NOW + 24 * HOUR

    monkeypatch.setattr(python_tuf.datetime, "datetime", Tomorrow)
    assert view.expires < NOW + 24 * HOUR
    assert refused(shop, server, tmp_path / "host").reason is Reason.EXPIRED


def test_a_threshold_that_is_not_met_is_told_apart_from_a_wrong_key(tmp_path: Path) -> None:
    shop = Publisher(tmp_path / "shop", at=NOW - HOUR, root_keys=3, root_threshold=2)
    shop.publish("1.0", at=NOW - HOUR)
    with served(shop.folder) as server:
        shop.client(tmp_path / "host", server.url).read("stable")
        root: Metadata[Any] = Metadata.from_bytes(shop.root)
        root.signed.version = 2
        ring = keys.load_all([Path(shop.keys[0])])
        root.signatures.clear()
        root.sign(ring[root.signed.roles["root"].keyids[0]])
        server.lie["metadata/2.root.json"] = root.to_bytes()
        assert refused(shop, server, tmp_path / "host").reason is Reason.THRESHOLD
        root.sign(ring[root.signed.roles["root"].keyids[1]], append=True)
        server.lie["metadata/2.root.json"] = root.to_bytes()
        assert shop.client(tmp_path / "host", server.url).read("stable").version == "1.0"


def test_a_sequence_below_the_one_that_was_seen_is_refused(shop: Publisher, server: Server, tmp_path: Path) -> None:
    """The publisher's folder came back from an old backup: its signatures are new, its sequence is not."""
    shutil.copytree(shop.folder, tmp_path / "backup")
    shop.publish("1.1")
    host = tmp_path / "host"
    assert shop.client(host, server.url).read("stable").sequence == 2
    shutil.rmtree(shop.folder)
    shutil.copytree(tmp_path / "backup", shop.folder)
    shop.publish("1.0", channel="canary", at=NOW + HOUR)
    error = refused(shop, server, host)
    assert error.reason is Reason.OLDER
    assert "sequence 1" in str(error)
    shop.publish("1.2", sequence=3, at=NOW + 2 * HOUR)
    assert shop.client(host, server.url).read("stable").version == "1.2"


def test_a_stolen_timestamp_key_cannot_stop_a_host_for_ever(shop: Publisher, server: Server, tmp_path: Path) -> None:
    """Fast forward: a forged timestamp of the highest version; after a rotation of the key hosts come back."""
    host = tmp_path / "host"
    forged_timestamp: Metadata[Any] = Metadata.from_bytes((shop.folder / "metadata/timestamp.json").read_bytes())
    forged_timestamp.signed.version = 2**60
    ring = keys.load_all([Path(shop.keys[1])])
    forged_timestamp.sign(ring[forged_timestamp.signatures.popitem()[0]])
    server.lie["metadata/timestamp.json"] = forged_timestamp.to_bytes()
    assert shop.client(host, server.url).read("stable").version == "1.0"
    server.lie.clear()
    shop.publish("1.1")
    assert refused(shop, server, host).reason is Reason.OLDER
    shop.do("rotate", role="timestamp", new_keys=str(tmp_path / "new"))
    assert shop.client(host, server.url).read("stable").version == "1.1"


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_stolen_publishers_keys_cannot_have_a_host_read_without_end(
    role: str, shop: Publisher, server: Server, tmp_path: Path
) -> None:
    """What they can sign is how long a file is."""
    repository = Repository.open(shop.folder)
    keyring = keys.load_all([Path(shop.keys[1])])
    if role == "targets":
        repository.snapshot.signed.meta["targets.json"].length = 1 << 40
        repository._sign(repository.snapshot, keyring, NOW, ())
    repository.sign_timestamp(keyring, NOW)
    if role == "snapshot":
        repository.timestamp.signed.snapshot_meta.length = 1 << 40
        repository._sign(repository.timestamp, keyring, NOW, ())
    repository.save()
    server.lie[f"metadata/{shop.file(f'*.{role}.json').name}"] = server.endless
    with pytest.raises(RefusedError) as found:
        shop.client(tmp_path / "host", server.url, seconds=10).read("stable")
    assert found.value.reason is Reason.OVERSIZED
    assert f"where {documents.MAX_METADATA[role]} are allowed" in str(found.value)


def test_properly_signed_nonsense_in_a_document_is_refused(shop: Publisher, server: Server, tmp_path: Path) -> None:
    ring = keys.load_all([Path(path) for path in shop.keys])
    for number, (data, words) in enumerate(
        [
            (b"{", "wrong"),
            (b'{"format": 7}', "update shoal"),
            (b'{"format": 1, "app": "mail"}', "wrong"),
            (documents.encode(Repository.open(shop.folder).channels()[0]).replace(b'"stable"', b'"other"'), "stable"),
        ]
    ):
        repository = Repository.open(shop.folder)
        repository.put({"channels/stable.json": data})
        repository.sign_targets(ring, NOW + number * HOUR)
        repository.save()
        error = refused(shop, server, tmp_path / "host")
        assert error.reason is Reason.NONSENSE
        assert words in f"{error} {error.hint}"


ODD: list[Any] = [None, -1, 2**70, "", "x", [], {}, True, 1.5, "9" * 5000, "\ud800"]


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, or one value by one of another kind."""
    if rng.random() < 0.4:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    tree = node = json.loads(data)
    while True:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.3:
            node[key] = rng.choice(ODD)
            return json.dumps(tree).encode()
        node = node[key]


def test_random_damage_is_refused_and_nothing_worse(shop: Publisher, tmp_path: Path) -> None:
    known = tmp_path / "known"
    shop.client(known).read("stable")
    shop.publish("1.1", at=NOW)
    names = ["timestamp.json", shop.file("*.snapshot.json").name, shop.file("*.targets.json").name, "2.root.json"]
    rng, refusals = random.Random(1), 0
    for number in range(120):
        path = shop.folder / "metadata" / names[number % 4]
        whole = path.read_bytes() if path.exists() else shop.root
        path.write_bytes(damaged(rng, whole))
        host = shutil.copytree(known, tmp_path / f"host{number}")
        try:  # what is not signed may be changed, if that does not change what it says
            assert shop.client(host).read("stable").version == "1.1"
        except RefusedError:
            refusals += 1
        if path.name == "2.root.json":
            path.unlink()
        else:
            path.write_bytes(whole)
    assert refusals >= 110


def test_a_channel_that_is_not_there_has_its_own_reason(shop: Publisher, server: Server, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as found:
        shop.client(tmp_path / "host", server.url).read("canary")
    assert found.value.reason is Reason.NO_CHANNEL


def test_mirrors_are_asked_in_order_and_all_refusals_are_told(shop: Publisher, server: Server, tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:1/", server.url, shop.folder.as_uri()]
    server.lie["metadata/timestamp.json"] = b"nonsense"
    view = shop.client(tmp_path / "host", urls=urls).read("stable")
    assert [one.reason for one in view.refused] == [Reason.UNREACHABLE, Reason.NONSENSE]
    with pytest.raises(RefusedError) as found:
        shop.client(tmp_path / "host", urls=urls[:2]).read("stable")
    assert found.value.reason is Reason.NONSENSE
    assert [one.url for one in found.value.attempts] == urls[:2]


def test_passwords_in_urls_are_not_told(shop: Publisher, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as found:
        shop.client(tmp_path / "host", "http://user:secret@127.0.0.1:1/").read("stable")
    assert "secret" not in f"{found.value} {found.value.url} {found.value.hint}"


@pytest.mark.parametrize(
    "url", ["http://u:secret@[::1/", "http://x:99999/", "http://a..b/", "http://[::1]:1/", "ftp://x/"]
)
def test_what_is_no_address_is_not_reached(url: str, shop: Publisher, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as found:
        shop.client(tmp_path / "host", url).read("stable")
    assert found.value.reason is Reason.UNREACHABLE
    assert "secret" not in f"{found.value} {found.value.url} {found.value.hint}"


@pytest.mark.parametrize("data", [b"", b"{}", b"no root"])
def test_a_pinned_root_that_is_none_is_told_at_once(shop: Publisher, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(EndpointError) as found:
        shop.client(tmp_path / "host", root=data)
    assert found.value.code == "bad_root"


def test_a_pinned_root_of_another_application_is_told_at_once(shop: Publisher, tmp_path: Path) -> None:
    other = Publisher(tmp_path / "mail", "mail")
    with pytest.raises(EndpointError, match="that of mail, not of shop"):
        shop.client(tmp_path / "host", root=other.root)
