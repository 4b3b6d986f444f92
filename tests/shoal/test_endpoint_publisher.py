"""Publishing: done twice is done once, a dry run writes nothing, and a reader never sees half of anything."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from endpoint_helpers import HOUR, NOW, Publisher, manifest_of, served, snapshot_of

from shoal.endpoint import documents, folder, keys, publisher
from shoal.endpoint.client import Client
from shoal.endpoint.errors import EndpointError, RefusedError
from shoal.endpoint.folder import Lease
from shoal.endpoint.repository import Repository

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def shop(tmp_path: Path) -> Publisher:
    """An end point with 1.0 on stable."""
    made = Publisher(tmp_path / "shop", at=NOW - 2 * HOUR)
    made.publish("1.0", at=NOW - HOUR)
    return made


def test_what_is_published_is_what_a_host_reads(tmp_path: Path) -> None:
    shop = Publisher(tmp_path / "shop")
    result = shop.publish("1.0", rollout=["10", "50@+2h", "100@+1d"])
    assert (result["outcome"], result["changed"]) == ("published", True)
    view = shop.client(tmp_path / "host").read("stable")
    assert (view.app, view.channel, view.sequence, view.version) == ("shop", "stable", 1, "1.0")
    assert view.manifest == manifest_of("shop", "1.0")
    assert view.torrent == b"torrent of shop 1.0"
    assert (view.halted, view.revoked, view.percent()) == (False, False, 10)
    assert [step.percent for step in view.document.rollout] == [10, 50, 100]
    assert timedelta(hours=23) < view.expires - view.signed_at <= timedelta(hours=24)


# Each verb with what it is told; each changes the end point of `shop`.
VERBS: dict[str, dict[str, Any]] = {
    "publish": {"version": "1.1", "manifest": manifest_of("shop", "1.1"), "torrent": b"torrent"},
    "promote": {"source": "stable", "channel": "slow"},
    "percent": {"rollout": ["100"]},
    "halt": {"reason": "it burns"},
    "resume": {},
    "revoke": {"version": "1.0"},
    "withdraw": {"versions": ["1.0"]},
    "refresh": {},
}


def call(shop: Publisher, verb: str, check: bool = False) -> dict[str, Any]:
    fields = dict(VERBS[verb])
    if verb == "publish":
        manifest, torrent = fields.pop("manifest"), fields.pop("torrent")
        return publisher.publish(shop.request(**fields), manifest, torrent, check=check, at=NOW)
    return shop.do(verb, check=check, at=NOW, **fields)


def prepare(shop: Publisher, verb: str) -> None:
    """Something for the verb to do."""
    if verb == "percent":
        shop.publish("1.0", again=True, rollout=["10"], at=NOW - HOUR / 2)
    if verb == "resume":
        shop.do("halt", at=NOW - HOUR / 2)
    if verb == "withdraw":
        for channel in ("stable", "canary"):
            shop.publish("1.0.1", channel=channel, at=NOW - HOUR / 2)


@pytest.mark.parametrize("verb", VERBS)
def test_check_then_change_then_both_again(verb: str, shop: Publisher) -> None:
    if verb == "refresh":
        shop.do("refresh", force=True, at=NOW - HOUR)
    prepare(shop, verb)
    before = shop.files()
    predicted = call(shop, verb, check=True)
    assert predicted["changed"]
    assert shop.files() == before
    done = call(shop, verb)
    assert {**done, "diff": 0, "endpoint": 0} == {**predicted, "diff": 0, "endpoint": 0}
    assert done["endpoint"]["channels"] == predicted["endpoint"]["channels"]
    after = shop.files()
    assert after != before
    for check in (True, False):
        again = call(shop, verb, check=check)
        assert (again["changed"], again["outcome"]) == (False, "unchanged")
        assert again["diff"] == {"before": {}, "after": {}}
        assert shop.files() == after


def test_init_is_idempotent_and_refuses_another_application(tmp_path: Path) -> None:
    shop = Publisher(tmp_path / "shop")
    files, secrets = shop.files(), [snapshot_of(Path(path)) for path in shop.keys]
    request = shop.request(app="shop", operator_keys=shop.keys[0], publisher_keys=shop.keys[1], keys=[])
    assert publisher.init(request, check=False)["outcome"] == "already_there"
    assert publisher.init(request, check=True)["changed"] is False
    assert (shop.files(), [snapshot_of(Path(path)) for path in shop.keys]) == (files, secrets)
    with pytest.raises(EndpointError, match="end point of shop, not of mail"):
        Publisher(tmp_path / "shop", "mail")
    elsewhere = shop.request(folder=str(tmp_path / "new"), app="shop", operator_keys="/o", publisher_keys="/p")
    assert publisher.init(elsewhere, check=True)["changed"] is True
    assert not (tmp_path / "new").exists()


def test_keys_are_kept_apart_and_only_for_their_owner(tmp_path: Path) -> None:
    shop = Publisher(tmp_path / "shop", root_keys=2)
    names = [sorted(path.name for path in Path(key).iterdir()) for key in shop.keys]
    assert names == [["root-1.pem", "root-2.pem", "targets.pem"], ["snapshot.pem", "timestamp.pem"]]
    assert all(path.stat().st_mode & 0o777 == 0o600 for key in shop.keys for path in Path(key).iterdir())
    (Path(shop.keys[1]) / "timestamp.pem").chmod(0o644)
    with pytest.raises(EndpointError, match="0644: others than its owner could read it"):
        shop.publish("1.0")
    with pytest.raises(EndpointError, match="which a web server serves"):
        publisher.init(
            shop.request(folder=str(tmp_path / "x"), app="x", operator_keys=str(tmp_path / "x/k"), publisher_keys="/p"),
            check=False,
        )


def test_the_publishers_keys_alone_sign_anew_and_publish_nothing(shop: Publisher, tmp_path: Path) -> None:
    shop.keys = shop.keys[1:]
    assert shop.do("refresh", at=NOW)["outcome"] == "refreshed"
    before = shop.files()
    for attempt in (lambda: shop.publish("1.1"), lambda: shop.do("halt"), lambda: shop.publish("1.1", check=True)):
        with pytest.raises(EndpointError, match=r"targets needs 1 signature.*missing: [0-9a-f]{8}") as found:
            attempt()
        assert found.value.code == "no_key"
    assert shop.files() == before


def test_keys_may_be_encrypted_or_come_from_a_vault(tmp_path: Path) -> None:
    shop = Publisher(tmp_path / "shop", passphrase="open sesame")
    with pytest.raises(EndpointError, match="no passphrase was given"):
        shop.publish("1.0")
    with pytest.raises(EndpointError) as found:
        shop.publish("1.0", passphrase="wrong")
    assert "passphrase" in found.value.hint
    assert shop.publish("1.0", passphrase="open sesame")["changed"]
    pems = [(Path(shop.keys[0]) / "targets.pem").read_text()]
    assert shop.publish("1.1", passphrase="open sesame", keys=shop.keys[1:], pems=pems)["changed"]


# -- versions and sequences ----------------------------------------------------------------------------------------


def test_a_versions_bytes_never_change(shop: Publisher) -> None:
    before = shop.files()
    other = manifest_of("shop", "1.0", info_hash="0" * 40, unpacked_bytes=4)
    with pytest.raises(EndpointError, match=r"other bytes \(what differs: unpacked_bytes, info_hash\)"):
        shop.publish("1.0", manifest=other)
    with pytest.raises(EndpointError, match="end point of shop, the manifest is about mail"):
        shop.publish("1.1", manifest=manifest_of("mail", "1.1"))
    with pytest.raises(EndpointError, match=r"the published folder is of 1\.1, not of 1\.2"):
        shop.publish("1.2", manifest=manifest_of("shop", "1.1"))
    assert shop.files() == before
    told = manifest_of("shop", "1.0", published_by="bob", notes="built again, the same bytes")
    assert shop.publish("1.0", manifest=told)["changed"] is False


def test_going_back_is_a_new_sequence_that_somebody_asked_for(shop: Publisher, tmp_path: Path) -> None:
    shop.publish("1.1")
    with pytest.raises(EndpointError, match=r"1\.0 was sequence 1 of stable, which is at 1\.1") as found:
        shop.publish("1.0")
    assert "--again" in found.value.hint
    shop.publish("1.0", again=True)
    view = shop.client(tmp_path / "host").read("stable")
    assert (view.sequence, view.version) == (3, "1.0")
    with pytest.raises(EndpointError, match="sequence 3 is not above 3"):
        shop.publish("1.2", sequence=3)
    assert shop.publish("1.2", sequence=10)["endpoint"]["channels"][0]["sequence"] == 10


def test_there_is_no_way_back_past_an_irreversible_version(shop: Publisher) -> None:
    shop.publish("2.0", manifest=manifest_of("shop", "2.0", irreversible=True))
    shop.publish("2.1")
    with pytest.raises(EndpointError, match="irreversible") as found:
        shop.publish("1.0", again=True)
    assert found.value.code == "no_way_back"
    back = publisher.publish(shop.request(version="2.0", again=True), None, None, check=False)
    assert back["endpoint"]["channels"][0]["version"] == "2.0"


def test_a_promotion_brings_no_new_bytes_and_expects_what_was_meant(shop: Publisher, tmp_path: Path) -> None:
    shop.publish("1.1", channel="canary")
    bytes_of = [name for name in shop.files() if "manifests" in name or "torrents" in name]
    with pytest.raises(EndpointError, match=r"canary is at 1\.1, not at 1\.0"):
        shop.do("promote", source="canary", version="1.0")
    result = shop.do("promote", source="canary", version="1.1", rollout=["10"])
    assert result["outcome"] == "promoted"
    assert [name for name in shop.files() if "manifests" in name or "torrents" in name] == bytes_of
    view = shop.client(tmp_path / "host").read("stable")
    assert (view.sequence, view.version, view.percent()) == (2, "1.1", 10)


def test_a_revoked_version_is_so_on_every_channel_and_never_comes_back(shop: Publisher, tmp_path: Path) -> None:
    shop.publish("1.0", channel="canary")
    shop.do("revoke", version="1.0", reason="leaks")
    assert shop.client(tmp_path / "a").read("stable").revoked
    assert shop.client(tmp_path / "b").read("canary").revoked
    for channel in ("stable", "new"):
        with pytest.raises(EndpointError, match="revoked by alice: leaks"):
            shop.publish("1.0", channel=channel, again=True)
    shop.publish("1.1", channel="new")
    assert shop.client(tmp_path / "c").read("new").document.is_revoked("1.0")


def test_a_withdrawn_version_is_gone_and_its_name_is_not_used_again(shop: Publisher, tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"stable is at 1\.0") as found:
        shop.do("withdraw", versions=["1.0"])
    assert found.value.code == "in_use"
    with pytest.raises(EndpointError, match=r"9\.9 is not at the end point"):
        shop.do("withdraw", versions=["9.9"])
    for channel in ("stable", "canary"):
        shop.publish("1.1", channel=channel)
    shop.publish("1.2")
    before = len(shop.file("*.targets.json").read_bytes())
    done = shop.do("withdraw", versions=["1.0"])
    assert [one["version"] for one in done["endpoint"]["versions"]] == ["1.1", "1.2"]
    assert len(shop.file("*.targets.json").read_bytes()) < before - 200
    view = shop.client(tmp_path / "host").read("stable")
    assert (view.sequence, view.version) == (3, "1.2")
    for manifest in (manifest_of("shop", "1.0"), manifest_of("shop", "1.0", entries=4)):
        with pytest.raises(EndpointError, match="was published here and withdrawn"):
            shop.publish("1.0", manifest=manifest, again=True)


def test_what_hosts_would_not_take_is_not_published(shop: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shop.files()
    size = len(shop.file("*.targets.json").read_bytes())
    with monkeypatch.context() as small:
        small.setitem(documents.MAX_METADATA, "targets", size + 100)
        with pytest.raises(EndpointError, match=r"targets\.json would have") as found:
            shop.publish("1.1")
    assert (found.value.code, "withdraw" in found.value.hint) == ("too_big", True)
    with monkeypatch.context() as small:
        small.setattr(documents, "MAX_DOCUMENT", 2000)
        with pytest.raises(EndpointError, match=r"channels/stable\.json would have"):
            shop.do("revoke", version="1.0", reason="x" * 2000)
    assert shop.files() == before


def test_a_share_does_not_shrink_and_keeps_its_sequence(shop: Publisher, tmp_path: Path) -> None:
    shop.publish("1.1", rollout=["10", "100@+2h"], at=NOW)
    shop.do("percent", rollout=["30", "60@+1h"], at=NOW)
    channel = shop.client(tmp_path / "host").read("stable").document
    assert channel.sequence == 2
    assert [channel.percent(NOW + hours * HOUR) for hours in (0, 1, 5)] == [30, 60, 60]
    with pytest.raises(EndpointError, match="has reached 30 %") as found:
        shop.do("percent", rollout=["20"], at=NOW)
    assert "halt" in found.value.hint


@pytest.mark.parametrize(
    "words",
    [["ten"], ["101"], ["10@later"], ["50", "10@+1h"], ["10@+2h", "50@+1h"], ["10@+1w"], ["10@2026-13-01T00:00:00Z"]],
)
def test_a_rollout_that_makes_no_sense_is_refused(words: list[str], shop: Publisher) -> None:
    with pytest.raises(EndpointError, match="rollout"):
        shop.publish("1.1", rollout=words)


@pytest.mark.parametrize("name", ["", "../x", "Stable", "a/b", ".hidden", "x" * 65, "ä"])
def test_names_are_strict(name: str, shop: Publisher) -> None:
    before = shop.files()
    with pytest.raises(EndpointError) as found:
        shop.publish("1.1", channel=name)
    assert found.value.code == "bad_request"
    assert shop.files() == before


# -- keys ----------------------------------------------------------------------------------------------------------


def test_a_host_follows_three_generations_of_root_keys(shop: Publisher, tmp_path: Path) -> None:
    awake, asleep = tmp_path / "awake", tmp_path / "asleep"
    shop.client(asleep).read("stable")
    for generation in range(1, 4):
        new = str(tmp_path / f"root{generation}")
        result = shop.do("rotate", role="root", new_keys=new, at=NOW + generation * HOUR)
        assert result["outcome"] == "rotated"
        shop.keys = [new, *shop.keys]
        assert shop.client(awake).read("stable").version == "1.0"
    shop.publish("1.1")
    for host in (awake, asleep, tmp_path / "new"):
        assert shop.client(host).read("stable").version == "1.1"
    # with the first generation's key alone nothing is rotated any more
    shop.keys = [shop.keys[-2]]
    with pytest.raises(EndpointError, match="root needs 1 signature"):
        shop.do("rotate", role="root", new_keys=str(tmp_path / "stolen"))
    # a host that gets the newest root pinned needs none of the old ones
    newest = (shop.folder / "metadata" / "4.root.json").read_bytes()
    assert shop.client(tmp_path / "pinned", root=newest).read("stable").version == "1.1"


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_key_is_replaced_also_when_it_is_lost(role: str, lost: bool, shop: Publisher, tmp_path: Path) -> None:
    shop.client(tmp_path / "host").read("stable")
    old = next(path for key in shop.keys for path in Path(key).glob(f"{role}.pem"))
    if lost:
        old.unlink()
    shop.do("rotate", role=role, new_keys=str(tmp_path / "new"))
    shop.keys.append(str(tmp_path / "new"))
    if not lost:
        old.unlink()
    shop.publish("1.1")
    for host in ("host", "new host"):
        assert shop.client(tmp_path / host).read("stable").version == "1.1"


def test_a_rotation_is_only_tried_in_check_mode(shop: Publisher, tmp_path: Path) -> None:
    before = shop.files()
    assert shop.do("rotate", role="root", new_keys=str(tmp_path / "new"), check=True)["changed"]
    assert shop.files() == before
    assert not (tmp_path / "new").exists()


def test_what_expires_is_told_in_time_and_renewed(tmp_path: Path) -> None:
    shop = Publisher(tmp_path / "shop", at=NOW - timedelta(days=350))
    shop.publish("1.0", at=NOW - timedelta(days=350))
    warnings = publisher.list_(shop.request())["endpoint"]["warnings"]
    assert [warning.split()[0] for warning in warnings] == ["root", "targets", "snapshot", "timestamp"]
    online = shop.do("refresh", keys=shop.keys[1:], at=NOW)["endpoint"]["warnings"]
    assert [warning.split()[0] for warning in online] == ["root", "targets"]
    assert shop.do("refresh", at=NOW)["endpoint"]["warnings"] == []
    assert shop.client(tmp_path / "host").read("stable").version == "1.0"


def test_hourly_refreshes_change_the_snapshot_twice_a_day_and_leave_no_heap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Publisher(tmp_path / "shop", at=NOW - 80 * HOUR)
    shop.publish("1.0", at=NOW - 80 * HOUR)
    for path in (shop.folder / "metadata").iterdir():
        os.utime(path, (0, 0))
    names = set()
    for hour in range(-79, 0):
        shop.do("refresh", keys=shop.keys[1:], at=NOW + hour * HOUR)
        names.add(shop.file("*.snapshot.json").name)
    assert 5 <= len(names) <= 8
    assert len(list((shop.folder / "metadata").glob("*.targets.json"))) == 1


def test_who_read_the_old_timestamp_a_moment_ago_finds_all_that_it_leads_to(shop: Publisher, tmp_path: Path) -> None:
    """The state before was there for days when the next one came; it goes when nobody can believe it any more."""
    before = set(shop.folder.rglob("*.*"))
    for path in before:
        os.utime(path, (0, 0))
    with served(shop.folder) as server:
        server.lie["metadata/timestamp.json"] = (shop.folder / "metadata/timestamp.json").read_bytes()
        shop.publish("1.1")
        shop.do("withdraw", versions=["1.0"])
        assert shop.client(tmp_path / "host", server.url).read("stable").version == "1.0"

    for path in set(shop.folder.rglob("*.*")):
        os.utime(path, (0, 0))
    shop.do("refresh", force=True)
    names = {path.name.partition(".")[2] for path in before - set(shop.folder.rglob("*.*"))}
    assert names == {"snapshot.json", "targets.json", "stable.json", "1.0.json", "1.0.torrent"}


# -- kills and crowds ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


WORK: dict[str, Callable[[Publisher, Path], Any]] = {
    "publish": lambda shop, _new: shop.publish("1.1", at=NOW),
    "refresh": lambda shop, _new: shop.do("refresh", force=True, at=NOW),
    "rotate root": lambda shop, new: shop.do("rotate", role="root", new_keys=str(new), at=NOW),
    "rotate targets": lambda shop, new: shop.do("rotate", role="targets", new_keys=str(new), at=NOW),
    "rotate snapshot": lambda shop, new: shop.do("rotate", role="snapshot", new_keys=str(new), at=NOW),
    "rotate timestamp": lambda shop, new: shop.do("rotate", role="timestamp", new_keys=str(new), at=NOW),
}


@pytest.mark.parametrize("work", WORK)
def test_killed_between_two_writes_it_is_readable_and_is_done_when_run_again(
    work: str, shop: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untouched = tmp_path / "untouched"
    shutil.copytree(shop.folder, untouched)
    known = tmp_path / "known"
    shop.client(known).read("stable")
    real = folder.write_whole
    for survived in range(20):
        shutil.rmtree(shop.folder)
        shutil.copytree(untouched, shop.folder)
        new, again = tmp_path / f"keys{survived}", tmp_path / f"again{survived}"
        new.mkdir()
        again.mkdir()
        left = [survived]

        def write(
            path: Path, data: bytes, mode: int = 0o644, modified: int | None = None, left: list[int] = left
        ) -> None:
            if left[0] == 0:
                path.with_name(f".{path.name}.new").write_bytes(data[: len(data) // 2])
                raise Killed
            left[0] -= 1
            real(path, data, mode, modified)

        with monkeypatch.context() as patched:
            patched.setattr(folder, "write_whole", write)
            try:
                WORK[work](shop, new)
                finished = True
            except Killed:
                finished = False
        shutil.rmtree(tmp_path / "host", ignore_errors=True)
        shutil.copytree(known, tmp_path / "host")
        for host in (tmp_path / "host", tmp_path / f"new{survived}"):
            view = shop.client(host).read("stable")
            assert view.version == ("1.1" if work == "publish" and finished else "1.0")
        if finished:
            break
        shop.keys.append(str(new))
        WORK[work](shop, again)
        shop.keys.append(str(again))
        shop.client(tmp_path / "host").read("stable")
        assert not publisher.list_(shop.request())["endpoint"]["warnings"]
    assert survived >= 1


def test_a_rotation_without_the_old_key_that_was_killed_is_brought_to_its_end(
    shop: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here alone there is a moment in which readers refuse: the new root is there, what it wants is not yet."""
    (Path(shop.keys[1]) / "timestamp.pem").unlink()
    real = folder.write_whole

    def write(path: Path, data: bytes, mode: int = 0o644, modified: int | None = None) -> None:
        if path.name == "timestamp.json":
            raise Killed
        real(path, data, mode, modified)

    with monkeypatch.context() as patched:
        patched.setattr(folder, "write_whole", write)
        with pytest.raises(Killed):
            shop.do("rotate", role="timestamp", new_keys=str(tmp_path / "new"))
    with pytest.raises(RefusedError):
        shop.client(tmp_path / "host").read("stable")
    warnings = publisher.list_(shop.request())["endpoint"]["warnings"]
    assert "timestamp is not signed by its present key" in warnings[0]
    assert shop.do("refresh", keys=[str(tmp_path / "new")])["outcome"] == "refreshed"
    assert shop.client(tmp_path / "host").read("stable").version == "1.0"


def test_a_second_publisher_waits_or_is_told_who_is_at_it(shop: Publisher) -> None:
    with Lease(shop.folder, "bob"), pytest.raises(EndpointError, match=r"another publisher works on .*: bob, process"):
        shop.publish("1.1")
    assert shop.publish("1.1")["changed"]


def _publish(home: Path, version: str, start: Any) -> None:
    shop = Publisher(home)
    start.wait(60)
    shop.publish(version, lock_timeout=60, channel=f"channel-{version}")


def test_two_publishers_at_once_both_publish(shop: Publisher, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    versions = ["2.0", "3.0", "4.0"]
    workers = [context.Process(target=_publish, args=(tmp_path / "shop", version, start)) for version in versions]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    for version in versions:
        assert shop.client(tmp_path / version).read(f"channel-{version}").version == version


def test_a_publisher_that_does_not_see_the_lease_is_noticed(shop: Publisher) -> None:
    mine = Repository.open(shop.folder)
    shop.publish("1.1")
    ring = keys.load_all([Path(path) for path in shop.keys])
    mine.put({documents.channel_path("x"): b"{}"})
    mine.sign_targets(ring, NOW)
    with pytest.raises(EndpointError, match="changed by another publisher meanwhile"):
        mine.save()


@pytest.mark.parametrize("pattern", ["timestamp.json", "*.snapshot.json", "*.targets.json", "1.root.json"])
def test_a_publisher_does_not_sign_what_other_hands_wrote(pattern: str, shop: Publisher) -> None:
    path = max((shop.folder / "metadata").glob(pattern))
    path.write_bytes(
        path.read_bytes().replace(b'"version":', b'"versiom":').replace(b'"threshold":1', b'"threshold":2')
    )
    with pytest.raises(EndpointError) as found:
        shop.publish("1.1")
    assert found.value.code == "damaged"


def test_two_changes_in_one_second_look_different_to_a_web_server(shop: Publisher) -> None:
    """nginx makes its ETag of size and time in seconds."""
    path, seen = shop.folder / "metadata" / "timestamp.json", set()
    for verb in ("halt", "resume", "halt", "resume"):
        shop.do(verb, at=NOW)
        seen.add((path.stat().st_size, int(path.stat().st_mtime)))
    assert len(seen) == 4


# -- what a poll costs ---------------------------------------------------------------------------------------------


def test_an_unchanged_poll_is_two_small_requests_and_writes_nothing(shop: Publisher, tmp_path: Path) -> None:
    host = tmp_path / "host"
    with served(shop.folder) as server:
        client: Client = shop.client(host, server.url)
        first = client.read("stable")
        assert first.changed
        before, marks = snapshot_of(host), {path: path.stat().st_mtime_ns for path in host.rglob("*.json")}
        server.asked.clear()
        view = client.read("stable")
        assert server.asked == [("metadata/2.root.json", 404), ("metadata/timestamp.json", 304)]
        assert (view.changed, view.requests) == (False, 2)
        assert view.received < 1000
        assert (view.document, view.manifest, view.torrent) == (first.document, first.manifest, first.torrent)
        assert snapshot_of(host) == before
        assert {path: path.stat().st_mtime_ns for path in host.rglob("*.json")} == marks
        # signed anew, and nothing else: the timestamp is all that travels
        server.asked.clear()
        shop.do("refresh", at=NOW)
        assert client.read("stable").changed
        assert [status for _path, status in server.asked] == [404, 200]
        # a damaged cache costs a download and no trust
        next((host / "targets").glob("*.torrent")).write_bytes(b"rot")
        (host / "timestamp.json").write_bytes(b"rot")
        assert client.read("stable").torrent == first.torrent


def test_a_reader_that_was_killed_leaves_nothing_in_the_way(shop: Publisher, tmp_path: Path) -> None:
    host = tmp_path / "host"
    shop.client(host).read("stable")
    (host / ".poll-dead" / "root_history").mkdir(parents=True)
    (host / ".timestamp.json.new").write_bytes(b"half")
    shop.publish("1.1")
    assert shop.client(host).read("stable").version == "1.1"
    assert not list(host.glob(".poll-*"))


@pytest.mark.parametrize("killed_at", range(6))
def test_a_reader_killed_between_two_writes_believes_the_same_afterwards(
    killed_at: int, shop: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.endpoint import client

    host = tmp_path / "host"
    shop.client(host).read("stable")
    shop.publish("1.1")
    left = [killed_at]
    real = client.write_whole

    def write(path: Path, data: bytes, mode: int = 0o644) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(path, data, mode)

    with monkeypatch.context() as patched:
        patched.setattr(client, "write_whole", write)
        with pytest.raises(Killed):
            shop.client(host).read("stable")
    assert shop.client(host).read("stable").version == "1.1"
