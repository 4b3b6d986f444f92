# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os

import pytest
import torf
from ansible_collections.shoal.deploy.plugins.module_utils import _metainfo
from ansible_collections.shoal.deploy.plugins.module_utils._metainfo import KIB, MIB, MetainfoError


def bencode(value):
    """As BEP 3 has it, but keys keep the order they have: so that torrents can be wrong."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(item) for key, item in value.items()) + b"e"


def torrent(**changes):
    """The bytes of a small torrent; what is changed to None is left out."""
    info = {"length": 20000, "name": "shop.tar", "piece length": 16384, "pieces": b"x" * 40}
    info.update({key.replace("_", " "): value for key, value in changes.items()})
    return bencode({"info": {key: value for key, value in info.items() if value is not None}})


def make(path, piece_length=32 * KIB, **options):
    payload = _metainfo.select_payload(str(path), options.pop("include", ()), options.pop("exclude", ()))
    hashes, _sha256 = _metainfo.hash_payload(payload, piece_length)
    return _metainfo.make_torrent(payload, piece_length, hashes, **options)


class TestMaking:
    def test_a_torrent_of_a_directory_says_what_is_in_it(self, payload):
        data = make(
            payload,
            trackers=[["http://a/announce", "http://b/announce"], ["udp://c:6969/announce"]],
            web_seeds=["https://files.example.com/"],
            private=True,
            comment="weekly",
            source="eu",
        )
        metainfo = _metainfo.read_metainfo(data)
        assert [file.path for file in metainfo.files] == [
            ("bin", "start"),
            ("empty",),
            ("lib", "B.jar"),
            ("lib", "a.jar"),
            ("lib", "ä.jar"),
            ("lib.txt",),
        ]
        assert metainfo.size == sum(file.stat().st_size for file in payload.rglob("*") if file.is_file())
        assert metainfo.name == "shop-1.0"
        assert not metainfo.is_file
        assert metainfo.trackers == (("http://a/announce", "http://b/announce"), ("udp://c:6969/announce",))
        assert metainfo.web_seeds == ("https://files.example.com/",)
        assert (metainfo.private, metainfo.comment, metainfo.source) == (True, "weekly", "eu")
        assert metainfo.creation_date is None

    def test_hashes_are_those_of_the_files_one_after_the_other(self, payload):
        metainfo = _metainfo.read_metainfo(make(payload))
        whole = b"".join(payload.joinpath(*file.path).read_bytes() for file in metainfo.files)
        pieces = [whole[start : start + 32 * KIB] for start in range(0, len(whole), 32 * KIB)]
        assert metainfo.piece_hashes == b"".join(hashlib.sha1(piece).digest() for piece in pieces)
        assert metainfo.pieces == len(pieces) > 3

    def test_torf_reads_the_same(self, payload):
        data = make(payload, trackers=[["http://a/announce"]])
        other, own = torf.Torrent.read_stream(data), _metainfo.read_metainfo(data)
        assert own.info_hash == other.infohash
        assert own.size == other.size
        assert torf.Magnet.from_string(own.magnet).infohash == own.info_hash

    @pytest.mark.parametrize("size", [1, 16 * KIB, 3 * MIB, 5 * MIB + 1])
    def test_a_file_is_read_once_for_pieces_and_sha256(self, tmp_path, size):
        file = tmp_path / "model.bin"
        file.write_bytes(os.urandom(size))
        payload = _metainfo.select_payload(str(file))
        hashes, sha256 = _metainfo.hash_payload(payload, 16 * KIB)
        assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert len(hashes) == 20 * -(-size // (16 * KIB))
        metainfo = _metainfo.read_metainfo(_metainfo.make_torrent(payload, 16 * KIB, hashes))
        assert metainfo.is_file
        assert metainfo.size == size

    def test_the_same_content_gives_the_same_bytes_whatever_the_order_on_disk(self, payload, tmp_path):
        copy = tmp_path / "elsewhere" / payload.name
        for file in sorted(payload.rglob("*"), reverse=True):
            if file.is_file():
                target = copy / file.relative_to(payload)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
        assert make(copy) == make(payload)

    def test_include_and_exclude_choose(self, payload):
        def names(**patterns):
            return ["/".join(file.path) for file in _metainfo.select_payload(str(payload), **patterns).files]

        assert names(include=["*.jar"]) == ["lib/B.jar", "lib/a.jar", "lib/ä.jar"]
        assert names(include=["lib/*"], exclude=["a.jar", "ä.jar"]) == ["lib/B.jar"]
        assert names(exclude=["lib"]) == ["bin/start", "empty", "lib.txt"]

    def test_what_a_torrent_cannot_carry_is_refused_by_name(self, payload):
        (payload / "lib" / "link.jar").symlink_to("a.jar")
        with pytest.raises(MetainfoError, match=r"lib/link\.jar is a symbolic link.*exclude"):
            make(payload)
        (payload / "lib" / "link.jar").unlink()
        os.mkfifo(payload / "pipe")
        with pytest.raises(MetainfoError, match="pipe is neither a file nor a directory"):
            make(payload)
        make(payload, exclude=["pipe"])
        (payload / "pipe").unlink()
        os.mkdir(os.fsencode(payload) + b"/\xff")
        with pytest.raises(MetainfoError, match="not UTF-8"):
            make(payload)

    def test_nothing_is_refused(self, tmp_path, payload):
        with pytest.raises(MetainfoError, match=r"cannot read the payload .*missing: No such file"):
            make(tmp_path / "missing")
        with pytest.raises(MetainfoError, match="holds no bytes that include and exclude leave over"):
            make(payload, include=["nothing"])
        with pytest.raises(MetainfoError, match="holds no bytes"):
            make(payload, include=["empty"])

    def test_a_file_that_is_written_to_meanwhile_is_noticed(self, tmp_path):
        file = tmp_path / "log"
        file.write_bytes(b"x" * 100)
        payload = _metainfo.select_payload(str(file))
        with file.open("ab") as log:
            log.write(b"more")
        with pytest.raises(MetainfoError, match="changed while it was read"):
            _metainfo.hash_payload(payload, 16 * KIB)

    @pytest.mark.parametrize(
        ("size", "piece_length"),
        [
            (1, 16 * KIB),
            (42300000, 16 * KIB),
            (5000 * 16 * KIB, 16 * KIB),
            (5000 * 16 * KIB + 1, 32 * KIB),
            (4 * 1024 * MIB, MIB),
            (100 * 1024 * MIB, MIB),
            (210 * 1024 * MIB, 2 * MIB),  # 1 MiB would make 215,040 hashes of 20 bytes
        ],
    )
    def test_piece_length_follows_the_size(self, size, piece_length):
        assert _metainfo.choose_piece_length(size) == piece_length

    def test_a_torrent_stays_small(self, tmp_path):
        file = tmp_path / "sparse"
        with file.open("wb") as sparse:
            sparse.truncate(4 * 1024 * MIB)
        payload = _metainfo.select_payload(str(file))
        with pytest.raises(MetainfoError, match="larger piece_length"):
            _metainfo.make_torrent(payload, 16 * KIB, b"x" * 20 * (4 * 1024 * MIB // (16 * KIB)))


class TestReading:
    def test_the_info_hash_is_that_of_the_bytes_as_they_are(self):
        # Keys out of order: encoding what was decoded would hash another text.
        info = {"pieces": b"x" * 20, "piece length": 16384, "name": "a", "length": 1}
        metainfo = _metainfo.read_metainfo(bencode({"info": info, "comment": "hi"}))
        assert metainfo.info_hash == hashlib.sha1(bencode(info)).hexdigest()
        assert metainfo.comment == "hi"

    def test_a_v2_torrent_is_read(self):
        tree = {
            "bin": {"start": {"": {"length": 20000, "pieces root": b"r" * 32}}},
            "empty": {"": {"length": 0}},
        }
        info = {"file tree": tree, "meta version": 2, "name": "shop", "piece length": 16384}
        metainfo = _metainfo.read_metainfo(bencode({"info": info}))
        digest = hashlib.sha256(bencode(info)).hexdigest()
        assert (metainfo.version, metainfo.info_hash, metainfo.info_hash_v2) == ("v2", digest[:40], digest)
        assert [(file.path, file.length) for file in metainfo.files] == [(("bin", "start"), 20000), (("empty",), 0)]
        assert metainfo.pieces == 2
        assert "urn:btmh:1220" + digest in metainfo.magnet
        assert "btih" not in metainfo.magnet

    def test_a_hybrid_of_one_file_is_read(self):
        info = {
            "file tree": {"a": {"": {"length": 10, "pieces root": b"r" * 32}}},
            "length": 10,
            "meta version": 2,
            "name": "a",
            "piece length": 16384,
            "pieces": b"x" * 20,
        }
        metainfo = _metainfo.read_metainfo(bencode({"info": info}))
        assert (metainfo.version, metainfo.is_file, metainfo.size) == ("hybrid", True, 10)
        assert metainfo.info_hash == hashlib.sha1(bencode(info)).hexdigest()

    def test_padding_is_not_payload(self):
        files = [
            {"length": 10, "path": ["a"]},
            {"attr": "p", "length": 16374, "path": [".pad", "16374"]},
            {"length": 5, "path": ["b"]},
        ]
        metainfo = _metainfo.read_metainfo(torrent(length=None, files=files))
        assert metainfo.size == 15
        assert [file["path"] for file in metainfo.facts()["files"]] == ["shop.tar/a", "shop.tar/b"]

    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (b"", "the data ends"),
            (b"<!DOCTYPE html><title>404</title>", "looks like a web page"),
            (b"hello", "no value of bencoding starts at byte 0"),
            (torrent()[:-3], "the text of 40 bytes at byte 69 is cut off"),
            (torrent()[:-1], "the key of a dictionary is expected at byte"),
            (torrent() + b"\n", "1 bytes follow its end"),
            (b"4:spam", "no dictionary `info`"),
            (bencode({"info": "text"}), "no dictionary `info`"),
            (b"d4:infod4:name9999999:x", "cut off"),
            (b"d4:infodi1ei2eee", "the key of a dictionary is expected"),
            (b"i" + b"9" * 5000 + b"e", "a number is expected"),
            (b"l" * 5000, "nested deeper"),
            (b"li1e", "the data ends at byte 4"),
            (torrent(pieces=None), "neither `pieces` nor"),
            (torrent(pieces=b"x" * 20), "hashes of 2 pieces and has not"),
            (torrent(piece_length=0), "not a positive number"),
            (torrent(length=-1), "a file in it has no length"),
            (torrent(name="../../etc/passwd"), "not allowed as the name of a file: '../../etc/passwd'"),
            (torrent(name=".."), "not allowed"),
            (torrent(name=""), "not allowed"),
            (torrent(name=b"\xff"), "not UTF-8"),
            (torrent(length=None, files=[{"length": 1, "path": ["a", "..", "b"]}]), "the path of file number 0"),
            (torrent(length=None, files=[{"length": 1, "path": []}]), "file number 0 has no path"),
            (torrent(length=None, files=[{"length": 10000, "path": ["a"]}] * 2), "two files called 'a'"),
        ],
    )
    def test_what_is_no_torrent_is_refused_with_the_reason(self, data, found):
        with pytest.raises(MetainfoError) as refusal:
            _metainfo.read_metainfo(data)
        assert found in str(refusal.value)

    def test_errors_of_a_file_name_it(self, tmp_path):
        file = tmp_path / "x.torrent"
        with pytest.raises(MetainfoError, match=r"cannot read the torrent .*x\.torrent: No such file"):
            _metainfo.read_torrent_file(str(file))
        file.write_bytes(b"no")
        with pytest.raises(MetainfoError, match=r"cannot use the torrent .*x\.torrent: this is not"):
            _metainfo.read_torrent_file(str(file))


class TestMagnets:
    V1 = "d0d14c926e6e99761a2fdcff27b403d96376eff6"

    def test_all_of_a_link_is_told(self):
        link = (
            "magnet:?xt=urn:btih:%s&dn=shop+1.0&xl=42&tr.1=http%%3A%%2F%%2Fa%%2Fannounce&tr.2=udp://b:1&ws=http://w/"
            "&x.pe=192.0.2.1:6891&so=0,2" % self.V1.upper()
        )
        facts = _metainfo.read_magnet(link)
        assert (facts["info_hash"], facts["name"], facts["size"]) == (self.V1, "shop 1.0", 42)
        assert facts["trackers"] == [["http://a/announce"], ["udp://b:1"]]
        assert facts["web_seeds"] == ["http://w/"]
        assert facts["peers"] == ["192.0.2.1:6891"]
        assert facts["file_selection"] == "0,2"

    def test_base32_is_hex_in_disguise(self):
        assert _metainfo.read_magnet("magnet:?xt=urn:btih:2DIUZETON2MXMGRP3T7SPNAD3FRXN37W")["info_hash"] == self.V1

    def test_hybrid(self):
        facts = _metainfo.read_magnet("magnet:?xt=urn:btih:%s&xt=urn:btmh:1220%s" % (self.V1, "ab" * 32))
        assert (facts["version"], facts["info_hash"], facts["info_hash_v2"]) == ("hybrid", self.V1, "ab" * 32)

    def test_it_has_the_keys_of_a_torrent(self):
        facts = _metainfo.read_magnet("magnet:?xt=urn:btih:" + self.V1)
        assert set(_metainfo.read_metainfo(torrent()).facts()) <= set(facts)

    @pytest.mark.parametrize("link", ["http://a/b.torrent", "magnet:?dn=x", "magnet:?xt=urn:btih:1234", "magnet:"])
    def test_others_are_refused(self, link):
        with pytest.raises(MetainfoError, match="magnet"):
            _metainfo.read_magnet(link)
