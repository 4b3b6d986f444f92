"""What was verified is what is unpacked: pieces, SHA-256, and files that change while they are read."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from release_helpers import App, Result, spec, tar_bytes

from shoal.release import archive, metainfo, payload
from shoal.release.archive import Ownership
from shoal.release.errors import ArchiveError, ReleaseError
from shoal.release.metainfo import MetainfoError
from shoal.release.payload import Payload
from shoal.release.request import ArchiveSpec, Limits

PIECE = 16 << 10


def bencode(value: Any) -> bytes:
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def info_of(data: bytes, **more: Any) -> dict[bytes, Any]:
    pieces = b"".join(
        hashlib.sha1(data[at : at + PIECE], usedforsecurity=False).digest() for at in range(0, len(data), PIECE)
    )
    found: dict[bytes, Any] = {b"name": b"x", b"length": len(data), b"piece length": PIECE, b"pieces": pieces}
    return {**found, **{key.encode(): value for key, value in more.items()}}


def torrent(path: Path, data: bytes | None = None) -> str:
    """A .torrent for the file ``path`` beside it (for ``data`` if that is told); its path."""
    made = path.with_name(f"{path.name}.torrent")
    made.write_bytes(bencode({b"info": info_of(path.read_bytes() if data is None else data)}))
    return str(made)


@pytest.fixture(autouse=True)
def _read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """As archives that are large are read block by block."""
    monkeypatch.setattr(payload, "BLOCK", PIECE)


@pytest.fixture
def app(tmp_path: Path) -> App:
    app = App(tmp_path)
    app.stage("1.0")
    app.activate("1.0")
    return app


BIG: dict[str, bytes | str] = {f"file{number}": bytes([number]) * 40_000 for number in range(10)}


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 0xFF]))


# -- verified by pieces and by SHA-256 ---------------------------------------------------------------------------


def test_the_pieces_of_a_torrent_are_enough(app: App) -> None:
    path = app.archive("1.1", BIG)
    told = {"path": str(path), "torrent": torrent(path)}
    first = app.ask("stage", version="1.1", archive=told)
    assert first["archive"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert first["archive"]["info_hash"] == metainfo.read(Path(told["torrent"])).info_hash
    assert app.ask("stage", version="1.1", archive=told)["outcome"] == "already_staged"


@pytest.mark.parametrize("at", [0, PIECE, 5 * PIECE + 7, -1])
def test_a_flipped_bit_is_refused_by_its_piece(app: App, at: int) -> None:
    path = app.archive("1.1", BIG)
    told = {"path": str(path), "torrent": torrent(path)}
    at %= path.stat().st_size
    flip(path, at)
    result = app.ask("stage", version="1.1", archive=told)
    assert result["error"]["code"] == "wrong_bytes"
    assert f"piece {at // PIECE} of {path}" in result["error"]["message"]
    assert app.ask("info")["release"]["staged"] == ["1.0"]


def test_a_flipped_bit_is_refused_by_the_sha256_alone(app: App) -> None:
    path = app.archive("1.1", BIG)
    told = spec(path)
    flip(path, 30_000)  # within a file: nothing else would notice
    result = app.ask("stage", version="1.1", archive=told)
    assert result["error"]["code"] == "wrong_bytes"
    assert told["sha256"] in result["error"]["message"]
    assert app.ask("info")["release"]["staged"] == ["1.0"]
    assert not any((app.home / "staging").iterdir())


def test_the_torrent_of_another_archive_is_refused_by_the_sha256(app: App) -> None:
    """The agent keeps the torrent; the manifest's SHA-256 is what was published."""
    path = app.archive("1.1", BIG)
    told = {**spec(app.archive("1.1-published")), "path": str(path), "torrent": torrent(path)}
    result = app.ask("stage", version="1.1", archive=told)
    assert (result["error"]["code"], "SHA-256" in result["error"]["message"]) == ("wrong_bytes", True)


def test_a_wrong_size_is_seen_before_reading(app: App) -> None:
    path = app.archive("1.1", BIG)
    told = spec(path, torrent=torrent(path))
    with path.open("ab") as file:
        file.write(b"more")
    assert "the torrent says" in app.ask("stage", version="1.1", archive=told)["error"]["message"]
    told = spec(path, size=5)
    assert "the request says 5" in app.ask("stage", version="1.1", archive=told)["error"]["message"]


def test_without_either_nothing_can_be_verified(app: App) -> None:
    result = app.ask("stage", version="1.1", archive={"path": str(app.archive("1.1"))})
    assert (result["error"]["code"], "sha256 or archive.torrent" in result["error"]["message"]) == ("bad_request", True)


def test_the_same_archive_in_another_torrent_is_the_same_release(app: App) -> None:
    path = app.archive("1.1", BIG)
    assert app.ask("stage", version="1.1", archive=spec(path))["ok"]
    assert app.ask("stage", version="1.1", archive={"path": str(path), "torrent": torrent(path)})["ok"]
    other = app.archive("1.1-other", BIG)
    result = app.ask("stage", version="1.1", archive={"path": str(other), "torrent": torrent(other)})
    assert result["error"]["code"] == "conflict"


# -- whoever writes meanwhile ------------------------------------------------------------------------------------


def unpack(path: Path, into: Path, on_read: Callable[[int], None], **told: Any) -> archive.Contents:
    into.mkdir()
    return archive.unpack(ArchiveSpec(str(path), **told), Limits(), 0, into, Ownership(), on_read)


def test_bytes_written_after_they_were_read_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(BIG))
    made = torrent(path)

    def overwrite_what_was_read(taken: int) -> None:
        with path.open("r+b") as file:
            file.write(os.urandom(taken))

    unpack(path, tmp_path / "out", overwrite_what_was_read, torrent=made)
    assert {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()} == BIG


def test_bytes_written_before_they_are_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    good = tar_bytes(BIG)
    path.write_bytes(good)
    evil = tar_bytes({**BIG, "file9": b"evil" * 10_000})
    assert len(evil) == len(good)

    def swap(taken: int) -> None:
        with path.open("r+b") as file:
            file.write(evil)

    with pytest.raises(ArchiveError, match="does not match the torrent"):
        unpack(path, tmp_path / "out", swap, torrent=torrent(path, good))


@pytest.mark.parametrize("replace", ["renamed over", "truncated"])
def test_the_opened_file_counts_not_its_name(tmp_path: Path, replace: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(BIG))
    made = torrent(path)
    other = tmp_path / "other"
    other.write_bytes(b"evil")

    def swap(taken: int) -> None:
        if replace == "truncated":
            os.truncate(path, PIECE)
        elif other.exists():
            other.rename(path)

    if replace == "truncated":
        with pytest.raises(ArchiveError, match="became shorter while it was read"):
            unpack(path, tmp_path / "out", swap, torrent=made)
    else:
        unpack(path, tmp_path / "out", swap, torrent=made)
        assert (tmp_path / "out" / "file9").read_bytes() == BIG["file9"]


def test_a_zip_is_unpacked_from_a_copy_that_nobody_can_reach(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, data in BIG.items():
            made.writestr(name, data)
    path.write_bytes(buffer.getvalue())
    told = torrent(path)
    size = path.stat().st_size

    def overwrite_when_all_is_read(taken: int) -> None:
        if taken == size:
            path.write_bytes(os.urandom(size))

    unpack(path, tmp_path / "out", overwrite_when_all_is_read, torrent=told)
    assert {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()} == BIG


def test_nothing_of_a_bad_piece_reaches_the_unpacker(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(os.urandom(5 * PIECE))
    made = torrent(path)
    flip(path, 3 * PIECE)
    with Payload(ArchiveSpec(str(path), torrent=made)) as reader:
        handed_on = sum(len(reader.read(PIECE)) for _ in range(3))
        with pytest.raises(ArchiveError, match="piece 3"):
            reader.read(1)
    assert handed_on == 3 * PIECE


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(tar_bytes({"a": "1"}))
    for name, words in (("fifo", "not a regular file"), ("link", "symbolic link"), (".", "not a regular file")):
        with pytest.raises(ReleaseError, match=words):
            Payload(ArchiveSpec(str(tmp_path / name)))
    with pytest.raises(ReleaseError, match="No such file"):
        Payload(ArchiveSpec(str(tmp_path / "nothing")))
    with pytest.raises(ReleaseError, match="not a regular file"):
        Payload(ArchiveSpec("/dev/zero"))


# -- the .torrent reader -----------------------------------------------------------------------------------------

DATA = b"x" * (2 * PIECE + 1)


def with_info(**more: Any) -> bytes:
    return bencode({b"info": info_of(DATA, **more)})


def without(key: bytes) -> bytes:
    info = info_of(DATA)
    del info[key]
    return bencode({b"info": info})


BAD_TORRENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not bencoded at byte 0"),
    "no dictionary": (b"4:spam", "no info dictionary"),
    "no info": (bencode({b"announce": b"x"}), "no info dictionary"),
    "cut": (with_info()[:-10], "within a string|not bencoded|not a string"),
    "followed": (with_info() + b"x", "1 bytes follow its end"),
    "folder": (bencode({b"info": {**info_of(DATA), b"files": []}}), "payload is a directory"),
    "v2 only": (bencode({b"info": {b"name": b"x", b"meta version": 2, b"file tree": {}}}), "v2 only"),
    "no name": (without(b"name"), "name or length"),
    "no length": (without(b"length"), "name or length"),
    "negative length": (with_info(length=-1), "name or length"),
    "no piece length": (without(b"piece length"), "piece length None"),
    "piece length 0": (with_info(**{"piece length": 0}), "piece length 0"),
    "huge pieces": (with_info(**{"piece length": 1 << 40}), "piece length 1099511627776"),
    "too few pieces": (with_info(pieces=b"x" * 40), "one SHA-1 for each"),
    "too many pieces": (with_info(pieces=b"x" * 80), "one SHA-1 for each"),
    "deep": (b"d4:info" + b"l" * 5000 + b"e" * 5001, "nests deeper than 32"),
    "long number": (b"d4:infoi" + b"9" * 5000 + b"ee", "broken number"),
    "no number": (b"d4:infoi12x4ee", "broken number"),
    "huge string": (b"d99999999999:x", "ends within a string"),
    "key twice": (b"d4:infod1:ai1e1:ai2eee", "key b'a' twice"),
    "key no string": (b"di1e1:ae", "key that is not a string"),
}


@pytest.mark.parametrize("name", BAD_TORRENTS)
def test_a_bad_torrent_is_refused(app: App, name: str) -> None:
    data, words = BAD_TORRENTS[name]
    with pytest.raises(MetainfoError, match=words):
        metainfo.parse(data)
    path = app.archive("1.1")
    bad = app.base / "bad.torrent"
    bad.write_bytes(data)
    result = app.ask("stage", version="1.1", archive={"path": str(path), "torrent": str(bad)})
    assert (result["error"]["code"], str(bad) in result["error"]["message"]) == ("bad_torrent", True)


def test_a_good_torrent_is_read_as_other_clients_read_it(tmp_path: Path) -> None:
    libtorrent = pytest.importorskip("libtorrent")
    made = bencode({b"announce": b"http://x/", b"info": info_of(DATA, private=1), b"url-list": [b"http://y/"]})
    found, theirs = metainfo.parse(made), libtorrent.torrent_info(made)
    assert found.info_hash == str(theirs.info_hash())
    assert (found.length, found.piece_length) == (theirs.total_size(), theirs.piece_length())
    assert [found.piece_hash(index) for index in range(3)] == [theirs.hash_for_piece(index) for index in range(3)]


def test_an_empty_payload_has_no_pieces() -> None:
    assert metainfo.parse(bencode({b"info": info_of(b"")})).length == 0


# -- two at once -------------------------------------------------------------------------------------------------


def test_two_stages_of_one_app_do_not_meet(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told who is at it; it does not take the first one's half-made folder for a dead run's."""
    results: list[Result] = []
    unpack_one = archive.unpack

    def unpack_and_try_another(*args: Any, **more: Any) -> archive.Contents:
        found = unpack_one(*args, **more)
        if not results:
            results.append(app.ask("stage", version="1.2", archive=spec(app.archive("1.2"))))
        return found

    monkeypatch.setattr(archive, "unpack", unpack_and_try_another)
    assert app.stage("1.1", who="alice")["ok"]
    assert results[0]["error"]["code"] == "locked"
    assert "stage 1.1 by alice" in results[0]["error"]["message"]


def test_a_tar_with_everything_that_tar_writes(tmp_path: Path) -> None:
    """The reference implementation's own archive, not one of Python's."""
    import subprocess

    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "run").write_text("#!/bin/sh\n")
    (source / "bin" / "run").chmod(0o755)
    (source / "again").hardlink_to(source / "bin" / "run")
    (source / "link").symlink_to("bin/run")
    (source / ("long" * 40)).mkdir()
    (source / ("long" * 40) / ("name" * 40)).write_text("deep")
    for format in ("gnu", "pax", "ustar"):
        path = tmp_path / f"{format}.tar.gz"
        if format == "ustar":
            (source / ("long" * 40) / ("name" * 40)).rename(source / "short")
            (source / ("long" * 40)).rmdir()
        subprocess.run(["tar", f"--format={format}", "-czf", path, "-C", source, "."], check=True)
        into = tmp_path / format
        contents = unpack(path, into, lambda _: None, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        assert contents.format == "tar.gz"
        assert (into / "again").samefile(into / "bin" / "run")
        assert str((into / "link").readlink()) == "bin/run"
        assert os.access(into / "bin" / "run", os.X_OK)
        assert subprocess.run(["diff", "-r", source, into], check=False).returncode == 0
    assert tarfile.is_tarfile(path)
