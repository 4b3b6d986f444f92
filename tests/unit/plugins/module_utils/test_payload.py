# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import hashlib
import os
import shutil

import pytest
from ansible_collections.shoal.deploy.plugins.module_utils import _metainfo, _payload
from ansible_collections.shoal.deploy.plugins.module_utils._payload import PayloadError, WrongContentError

PIECE = 32 * 1024


def metainfo_of(path):
    payload = _metainfo.select_payload(str(path))
    hashes, _sha256 = _metainfo.hash_payload(payload, PIECE)
    return _metainfo.read_metainfo(_metainfo.make_torrent(payload, PIECE, hashes))


def content_of(size):
    """Random bytes, but for the one that tests put into wrong content."""
    return os.urandom(size).replace(b"?", b"!")


def tree(path):
    """Everything below a path: names, and the content of files."""
    return {str(entry.relative_to(path)): entry.read_bytes() if entry.is_file() else None for entry in path.rglob("*")}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "store" / "shop.tar"
    path.parent.mkdir()
    path.write_bytes(content_of(5 * PIECE + 17))
    return path


@pytest.fixture
def to(tmp_path):
    path = tmp_path / "to"
    path.mkdir()
    return path


class TestPut:
    def test_a_file_comes_whole(self, file, to):
        dest = to / "shop.tar"
        metainfo = metainfo_of(file)
        assert not _payload.matches(str(dest), metainfo)
        _payload.put(str(file), str(dest), metainfo)
        assert dest.read_bytes() == file.read_bytes()
        assert _payload.matches(str(dest), metainfo)
        assert os.listdir(to) == ["shop.tar"]

    def test_a_directory_comes_whole(self, payload, to):
        dest = to / "shop"
        metainfo = metainfo_of(payload)
        _payload.put(str(payload), str(dest), metainfo)
        assert tree(dest) == tree(payload)
        assert _payload.matches(str(dest), metainfo)
        assert os.listdir(to) == ["shop"]

    def test_it_is_a_copy_of_its_own(self, file, to):
        """Nobody who may write to the store may write to what was put elsewhere."""
        _payload.put(str(file), str(to / "x"), metainfo_of(file))
        assert (to / "x").stat().st_ino != file.stat().st_ino

    def test_one_wrong_byte_and_nothing_comes(self, file, payload, to):
        metainfo = metainfo_of(file)
        with file.open("r+b") as content:
            content.seek(3 * PIECE + 5)
            content.write(b"?")
        with pytest.raises(WrongContentError, match=r"piece 4 of 6, in shop\.tar, is not what the torrent tells"):
            _payload.put(str(file), str(to / "x"), metainfo)
        metainfo = metainfo_of(payload)
        (payload / "lib" / "B.jar").write_bytes(b"C" * 40000)
        with pytest.raises(WrongContentError, match=r"B\.jar|a\.jar|start"):
            _payload.put(str(payload), str(to / "y"), metainfo)
        assert os.listdir(to) == []

    def test_one_byte_too_few_or_too_many_and_nothing_comes(self, file, to):
        metainfo = metainfo_of(file)
        content = file.read_bytes()
        for wrong in (content[:-1], content + b"x", b""):
            file.write_bytes(wrong)
            with pytest.raises(WrongContentError):
                _payload.put(str(file), str(to / "x"), metainfo)
        assert os.listdir(to) == []

    def test_the_checksum_counts_too(self, file, to):
        metainfo = metainfo_of(file)
        with pytest.raises(WrongContentError, match=r"shop\.tar has the SHA-256 .*, expected is abab"):
            _payload.put(str(file), str(to / "x"), metainfo, "ab" * 32)
        with pytest.raises(WrongContentError, match="expected is abab"):
            _payload.check_sha256(str(file), metainfo, "ab" * 32)
        right = hashlib.sha256(file.read_bytes()).hexdigest()
        _payload.check_sha256(str(file), metainfo, right)
        _payload.put(str(file), str(to / "x"), metainfo, right)
        assert _payload.matches(str(to / "x"), metainfo, right)
        assert not _payload.matches(str(to / "x"), metainfo, "ab" * 32)

    def test_what_was_there_stays_until_the_new_is_whole(self, file, payload, to):
        (to / "shop.tar").write_text("old")
        metainfo = metainfo_of(file)
        with file.open("ab") as content:
            content.write(b"?")
        with pytest.raises(WrongContentError):
            _payload.put(str(file), str(to / "shop.tar"), metainfo)
        assert (to / "shop.tar").read_text() == "old"

    def test_what_it_replaces_hands_down_its_mode(self, file, to):
        dest = to / "shop.tar"
        dest.write_text("old")
        dest.chmod(0o604)
        _payload.put(str(file), str(dest), metainfo_of(file))
        assert dest.stat().st_mode & 0o7777 == 0o604

    def test_attributes_are_set_before_anybody_can_see_it(self, payload, to):
        dest = to / "shop"
        prepared = []

        def prepare(path):
            assert not dest.exists()
            prepared.append(path)

        metainfo = metainfo_of(payload)
        _payload.put(str(payload), str(dest), metainfo, prepare=prepare)
        assert len(prepared) == len(_payload.paths(str(dest), metainfo)) == 9

    def test_a_directory_replaces_its_older_self_only(self, payload, to):
        dest = to / "shop"
        metainfo = metainfo_of(payload)
        _payload.put(str(payload), str(dest), metainfo)
        (dest / "lib" / "B.jar").write_text("damaged")
        _payload.put(str(payload), str(dest), metainfo)
        assert tree(dest) == tree(payload)
        (dest / "lib" / "B.jar").write_text("damaged")
        (dest / "lib" / "notes.txt").write_text("mine")
        with pytest.raises(PayloadError, match=r"lib/notes\.txt is not the torrent's"):
            _payload.put(str(payload), str(dest), metainfo)
        assert (dest / "lib" / "notes.txt").read_text() == "mine"
        assert os.listdir(to) == ["shop"]

    def test_what_is_in_the_way_is_named(self, file, payload, to):
        with pytest.raises(PayloadError, match=r"there is no directory .*/no\. Create it first"):
            _payload.put(str(file), str(to / "no" / "x"), metainfo_of(file))
        with pytest.raises(PayloadError, match="that is a directory"):
            _payload.put(str(file), str(to), metainfo_of(file))
        (to / "x").write_text("a file")
        with pytest.raises(PayloadError, match="that is there and not a directory"):
            _payload.put(str(payload), str(to / "x"), metainfo_of(payload))

    def test_a_full_disk_leaves_nothing_behind(self, file, to, monkeypatch):
        def full(*_arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(_payload.os, "write", full)
        with pytest.raises(PayloadError, match=r"No space left on device\. It needs as much space"):
            _payload.put(str(file), str(to / "x"), metainfo_of(file))
        assert os.listdir(to) == []

    def test_a_reflink_is_checked_as_a_copy_is(self, file, to, monkeypatch):
        """The kernel's part is played, for file systems that cannot; reading the result is ours."""
        metainfo = metainfo_of(file)
        cloned = []

        def clone(copy, request, original):
            assert request == _payload.FICLONE
            os.pwrite(copy, os.pread(original, 10 * PIECE, 0), 0)
            cloned.append(copy)

        monkeypatch.setattr(_payload.fcntl, "ioctl", clone)
        _payload.put(str(file), str(to / "x"), metainfo)
        assert cloned
        assert (to / "x").read_bytes() == file.read_bytes()
        file.write_bytes(b"?" * file.stat().st_size)
        with pytest.raises(WrongContentError, match="piece 1"):
            _payload.put(str(file), str(to / "y"), metainfo)


class TestHostileStore:
    """Whoever owns the store can put anything in the place of what was fetched."""

    def test_a_link_is_not_followed(self, file, to, tmp_path):
        metainfo = metainfo_of(file)
        (tmp_path / "elsewhere").write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(PayloadError, match="Too many levels of symbolic links"):
            _payload.put(str(file), str(to / "x"), metainfo)

    def test_a_linked_directory_is_not_followed(self, payload, to, tmp_path):
        metainfo = metainfo_of(payload)
        shutil.move(str(payload / "lib"), str(tmp_path / "elsewhere"))
        (payload / "lib").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(PayloadError, match="cannot put the payload"):
            _payload.put(str(payload), str(to / "x"), metainfo)

    def test_a_pipe_does_not_hold_us(self, file, to):
        metainfo = metainfo_of(file)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(PayloadError, match="not a regular file"):
            _payload.put(str(file), str(to / "x"), metainfo)

    def test_what_is_not_there_is_named(self, file, to):
        metainfo = metainfo_of(file)
        file.unlink()
        with pytest.raises(PayloadError, match=r"store/shop\.tar: No such file"):
            _payload.put(str(file), str(to / "x"), metainfo)
        with pytest.raises(PayloadError, match=r"cannot read the payload .*/shop\.tar: No such file"):
            _payload.check_sizes(str(file), metainfo)


class TestV2:
    def test_a_file_is_checked_by_its_merkle_root(self, tmp_path, to):
        """BEP 52: leaves of 16 KiB, missing ones zero up to a power of two."""
        content = content_of(2 * 16384 + 100)
        leaves = [hashlib.sha256(content[start : start + 16384]).digest() for start in range(0, len(content), 16384)]
        left = hashlib.sha256(leaves[0] + leaves[1]).digest()
        right = hashlib.sha256(leaves[2] + bytes(32)).digest()
        root = hashlib.sha256(left + right).digest()
        file = tmp_path / "a"
        file.write_bytes(content)
        metainfo = metainfo_of(file)._replace(
            version="v2",
            piece_hashes=b"",
            files=(_metainfo.TorrentFile((), len(content), pieces_root=root),),
        )
        _payload.put(str(file), str(to / "a"), metainfo)
        assert (to / "a").read_bytes() == content
        file.write_bytes(content[:-1] + b"?")
        with pytest.raises(WrongContentError, match="SHA-256"):
            _payload.put(str(file), str(to / "b"), metainfo)

    def test_padding_is_zeros_that_nobody_stores(self, tmp_path, to):
        a, b = b"a" * 100, b"b" * 50
        pieces = hashlib.sha1(a + bytes(16384 - 100)).digest() + hashlib.sha1(b).digest()
        files = (
            _metainfo.TorrentFile(("a",), 100),
            _metainfo.TorrentFile((".pad", "16284"), 16284, pad=True),
            _metainfo.TorrentFile(("b",), 50),
        )
        source = tmp_path / "two"
        source.mkdir()
        (source / "a").write_bytes(a)
        (source / "b").write_bytes(b)
        metainfo = metainfo_of(source)._replace(piece_length=16384, piece_hashes=pieces, files=files)
        _payload.put(str(source), str(to / "two"), metainfo)
        assert tree(to / "two") == {"a": a, "b": b}
