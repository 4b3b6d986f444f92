# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make and read metainfo, the content of a .torrent file (BEP 3, 12, 19, 27, 47, 52), and magnet links (BEP 9).

Making is torf's: :func:`make_torrent` is the only place that writes a torrent. Reading needs no library, since
``torrent_fetch`` checks payloads on hosts that have none; it takes the info hash from the very bytes of the file, as
clients do, where a decode and encode would hash another text for files that are not canonical.

Sizes are in bytes, times are Unix times, info hashes lower-case hex. Private to this collection.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from base64 import b32decode
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import Any, Iterable, Iterator, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

KIB = 1024
MIB = 1024 * KIB

MIN_PIECE_LENGTH = 16 * KIB  # a block of the wire protocol: smaller pieces are refused by clients
MAX_PIECE_LENGTH = 64 * MIB
# Measured in swarms of 20 to 100 peers: many small pieces spread best, but more than some thousand cost more in
# messages than they bring, and pieces above 1 MiB slow down even a single fast peer.
PIECES_AIM = 5000
USUAL_MAX_PIECE_LENGTH = MIB
# Room below what clients and trackers' web pages take, and small enough to hand to every host of a fleet.
MAX_TORRENT_SIZE = 4000000
# What is read at all; libtorrent's load_torrent_file has the same limit.
MAX_READ_SIZE = 10000000

# In the file instead of torf's name and version, so that an update of torf does not change unchanged torrents.
CREATED_BY = "shoal.deploy"

TRACKER_SCHEMES = ("http", "https", "udp")

_MAX_DEPTH = 100
_HEX_HASH = re.compile(r"[0-9a-fA-F]{40}\Z")


class MetainfoError(Exception):
    """The torrent, magnet link or payload cannot be used; the text says what was found where and what to do."""


# Reading


class TorrentFile(NamedTuple):
    """One file of a torrent."""

    path: tuple  # of str, below the torrent's name; empty for a torrent that is one file
    length: int
    pad: bool = False  # zeros between files that nobody stores (BEP 47)
    link: bool = False  # a symbolic link (BEP 47)
    pieces_root: bytes = b""  # v2 only: root of the file's merkle tree of SHA-256 (BEP 52)


class Metainfo(NamedTuple):
    """What a .torrent file says."""

    info_hash: str  # v1; of a v2-only torrent the first 40 digits of its SHA-256, as on the wire
    info_hash_v2: str | None
    version: str  # v1, v2 or hybrid
    name: str
    piece_length: int
    piece_hashes: bytes  # 20 bytes for each piece; empty for a v2-only torrent
    files: tuple  # of TorrentFile
    is_file: bool  # the payload is one file called `name`, not a directory
    private: bool
    trackers: tuple  # announce tiers
    web_seeds: tuple
    comment: str | None
    source: str | None
    created_by: str | None
    creation_date: int | None

    @property
    def size(self):
        """Bytes of the payload."""
        return sum(file.length for file in self.files if not file.pad)

    @property
    def pieces(self):
        """Number of pieces."""
        if self.piece_hashes:
            return len(self.piece_hashes) // 20
        return sum(-(-file.length // self.piece_length) for file in self.files)

    @property
    def magnet(self):
        """A magnet link that tells name, size, trackers and web seeds (BEP 9)."""
        exact_topics = []
        if self.version != "v2":
            exact_topics.append("urn:btih:" + self.info_hash)
        if self.info_hash_v2:
            exact_topics.append("urn:btmh:1220" + self.info_hash_v2)  # multihash: SHA-256, 32 bytes
        fields = [("dn", self.name), ("xl", str(self.size))]
        fields += [("tr", url) for tier in self.trackers for url in tier]
        fields += [("ws", url) for url in self.web_seeds]
        link = "&".join("xt=" + topic for topic in exact_topics)
        return "magnet:?" + link + "".join("&%s=%s" % (key, quote(value, safe="")) for key, value in fields)

    def facts(self):
        """The torrent as a dict for people and playbooks."""
        return {
            "info_hash": self.info_hash,
            "info_hash_v2": self.info_hash_v2,
            "version": self.version,
            "name": self.name,
            "size": self.size,
            "piece_length": self.piece_length,
            "pieces": self.pieces,
            "is_file": self.is_file,
            "files": [
                {"path": "/".join((self.name, *file.path)), "length": file.length}
                for file in self.files
                if not file.pad
            ],
            "private": self.private,
            "trackers": [list(tier) for tier in self.trackers],
            "web_seeds": list(self.web_seeds),
            "comment": self.comment,
            "source": self.source,
            "created_by": self.created_by,
            "creation_date": self.creation_date,
            "magnet": self.magnet,
        }


class _Decoder:
    """Bencoding (BEP 3) to bytes, int, list and dict; remembers where the outermost dictionary's values lie."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.spans: dict[bytes, tuple[int, int]] = {}

    def value(self, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("nested deeper than %d levels at byte %d" % (_MAX_DEPTH, self.at))
        kind = self.data[self.at : self.at + 1]
        if kind == b"i":
            self.at += 1
            return self._number(b"e")
        if kind == b"l":
            return list(self._items(depth))
        if kind == b"d":
            return dict(self._pairs(depth))
        if kind.isdigit():
            return self._bytes()
        raise ValueError("%s at byte %d" % ("the data ends" if not kind else "no value of bencoding starts", self.at))

    def _number(self, end: bytes) -> int:
        stop = self.data.find(end, self.at, self.at + 24)
        text = self.data[self.at : stop]
        if stop < 0 or not re.match(rb"-?[0-9]+\Z", text):
            raise ValueError("a number is expected at byte %d" % self.at)
        self.at = stop + 1
        return int(text)

    def _bytes(self) -> bytes:
        start = self.at
        length = self._number(b":")
        value = self.data[self.at : self.at + length]
        if len(value) != length:
            raise ValueError("the text of %d bytes at byte %d is cut off" % (length, start))
        self.at += length
        return value

    def _items(self, depth: int) -> Iterator[Any]:
        self.at += 1
        while self.data[self.at : self.at + 1] != b"e":
            yield self.value(depth + 1)
        self.at += 1

    def _pairs(self, depth: int) -> Iterator[tuple[bytes, Any]]:
        self.at += 1
        while self.data[self.at : self.at + 1] != b"e":
            if not self.data[self.at : self.at + 1].isdigit():
                raise ValueError("the key of a dictionary is expected at byte %d" % self.at)
            key = self._bytes()
            start = self.at
            value = self.value(depth + 1)
            if depth == 0:
                self.spans[key] = (start, self.at)
            yield key, value
        self.at += 1


def read_metainfo(data: bytes) -> Metainfo:
    """What the bytes of a .torrent file say. Raises MetainfoError, which tells what is wrong with them."""
    if len(data) > MAX_READ_SIZE:
        raise MetainfoError(
            "the torrent is larger than %d bytes, which no client reads. Make it anew with a larger piece_length."
            % MAX_READ_SIZE
        )
    decoder = _Decoder(data)
    try:
        outer = decoder.value()
        if decoder.at != len(data):
            raise ValueError("%d bytes follow its end" % (len(data) - decoder.at))
        if not isinstance(outer, dict) or not isinstance(outer.get(b"info"), dict):
            raise ValueError("it has no dictionary `info`")
        start, end = decoder.spans[b"info"]
        return _metainfo(outer, data[start:end])
    except ValueError as error:
        hint = " It looks like a web page." if data.lstrip()[:1] == b"<" else ""
        raise MetainfoError("this is not a .torrent file: %s.%s" % (error, hint)) from None


def read_torrent_file(path: str) -> Metainfo:
    """As read_metainfo(), of the file at `path`; the errors name it."""
    return parse_torrent_file(path)[0]


def parse_torrent_file(path: str) -> tuple[Metainfo, bytes]:
    """The metainfo in the file at `path` and the file's bytes. Raises MetainfoError with the path in it."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_READ_SIZE + 1)
    except OSError as error:
        raise MetainfoError("cannot read the torrent %s: %s" % (path, error.strerror)) from None
    try:
        return read_metainfo(data), data
    except MetainfoError as error:
        raise MetainfoError("cannot use the torrent %s: %s" % (path, error)) from None


def _metainfo(outer: dict[bytes, Any], info_bytes: bytes) -> Metainfo:
    info = outer[b"info"]
    is_v2 = info.get(b"meta version") == 2
    is_v1 = b"pieces" in info
    if not is_v1 and not is_v2:
        raise ValueError("its `info` has neither `pieces` nor `meta version` 2")
    name = _name_part(info.get(b"name"), "its name")
    piece_length = info.get(b"piece length")
    if not isinstance(piece_length, int) or piece_length <= 0:
        raise ValueError("its `piece length` is not a positive number")
    if is_v1:
        files, is_file = _files_v1(info)
        piece_hashes = info[b"pieces"]
        expected = -(-sum(file.length for file in files) // piece_length)
        if not isinstance(piece_hashes, bytes) or len(piece_hashes) != 20 * expected:
            raise ValueError("it should have the hashes of %d pieces and has not" % expected)
    else:
        files, is_file = _files_v2(info, name)
        piece_hashes = b""
    seen = set()
    for file in files:
        if not file.pad and file.path in seen:
            raise ValueError("it has two files called %r" % "/".join(file.path))
        seen.add(file.path)
    sha256 = hashlib.sha256(info_bytes).hexdigest()
    creation_date = outer.get(b"creation date")
    return Metainfo(
        info_hash=hashlib.sha1(info_bytes).hexdigest() if is_v1 else sha256[:40],
        info_hash_v2=sha256 if is_v2 else None,
        version="hybrid" if is_v1 and is_v2 else "v1" if is_v1 else "v2",
        name=name,
        piece_length=piece_length,
        piece_hashes=piece_hashes,
        files=files,
        is_file=is_file,
        private=info.get(b"private") == 1,
        trackers=_tiers(outer),
        web_seeds=_texts(outer.get(b"url-list")),
        comment=_text(outer.get(b"comment")),
        source=_text(info.get(b"source")),
        created_by=_text(outer.get(b"created by")),
        creation_date=creation_date if isinstance(creation_date, int) else None,
    )


def _files_v1(info: dict[bytes, Any]) -> tuple[tuple[TorrentFile, ...], bool]:
    if b"files" not in info:
        return (TorrentFile(path=(), length=_length(info.get(b"length"))),), True
    if not isinstance(info[b"files"], list):
        raise ValueError("its `files` is no list")
    files = []
    for number, entry in enumerate(info[b"files"]):
        if not isinstance(entry, dict) or not isinstance(entry.get(b"path"), list) or not entry[b"path"]:
            raise ValueError("file number %d has no path" % number)
        path = tuple(_name_part(part, "the path of file number %d" % number) for part in entry[b"path"])
        attr = _text(entry.get(b"attr")) or ""
        files.append(TorrentFile(path, _length(entry.get(b"length")), pad="p" in attr, link="l" in attr))
    return tuple(files), False


def _files_v2(info: dict[bytes, Any], name: str) -> tuple[tuple[TorrentFile, ...], bool]:
    def walk(tree: Any, path: tuple[str, ...]) -> Iterator[TorrentFile]:
        if not isinstance(tree, dict) or not tree:
            raise ValueError("its `file tree` has an empty branch at %r" % "/".join(path))
        for key, branch in sorted(tree.items()):
            if key:
                yield from walk(branch, (*path, _name_part(key, "its file tree")))
                continue
            if not isinstance(branch, dict):
                raise ValueError("%r is not described in its `file tree`" % "/".join(path))
            root = branch.get(b"pieces root", b"")
            length = _length(branch.get(b"length"))
            if not isinstance(root, bytes) or len(root) != (32 if length else 0):
                raise ValueError("%r has no SHA-256 root" % "/".join(path))
            yield TorrentFile(path, length, link="l" in (_text(branch.get(b"attr")) or ""), pieces_root=root)

    files = tuple(walk(info.get(b"file tree"), ()))
    if len(files) == 1 and files[0].path == (name,):
        return (files[0]._replace(path=()),), True
    return files, False


def _length(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("a file in it has no length")
    return value


def _name_part(value: Any, what: str) -> str:
    """A component of a path that is safe to join: what comes from a torrent is not to be trusted."""
    if not isinstance(value, bytes):
        raise ValueError("%s is no text" % what)
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("%s is not UTF-8: %r" % (what, value)) from None
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        raise ValueError("%s is not allowed as the name of a file: %r" % (what, text))
    return text


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item.decode("utf-8", "replace") for item in values if isinstance(item, bytes) and item)


def _tiers(outer: dict[bytes, Any]) -> tuple[tuple[str, ...], ...]:
    """Announce tiers; a non-empty `announce-list` stands in for `announce` (BEP 12)."""
    tiers = outer.get(b"announce-list")
    found = tuple(filter(None, (_texts(tier) for tier in tiers))) if isinstance(tiers, list) else ()
    return found or tuple((url,) for url in _texts(outer.get(b"announce")))


def read_magnet(link: str) -> dict[str, Any]:
    """What a magnet link says (BEP 9, 53), with the keys of Metainfo.facts(); None where a link cannot tell.

    Adds ``peers`` (``x.pe``) and ``file_selection`` (``so``). Raises MetainfoError.
    """
    parts = urlsplit(link.strip())
    if parts.scheme.lower() != "magnet":
        raise MetainfoError("%r is not a magnet link: it does not start with `magnet:?`" % link)
    fields: dict[str, list[str]] = {}
    for key, value in parse_qsl(parts.query):
        # Some writers number repeated keys: tr.1, tr.2
        fields.setdefault(re.sub(r"\.[0-9]+\Z", "", key), []).append(value)
    v1 = v2 = None
    for topic in fields.get("xt", []):
        kind, _colon, text = topic.lower().rpartition(":")
        if kind == "urn:btih" and _HEX_HASH.match(text):
            v1 = text
        elif kind == "urn:btih" and re.match(r"[a-z2-7]{32}\Z", text):
            v1 = b32decode(text.upper()).hex()
        elif kind == "urn:btmh" and re.match(r"1220[0-9a-f]{64}\Z", text):
            v2 = text[4:]
    if not v1 and not v2:
        raise MetainfoError("the magnet link has no info hash (xt=urn:btih:... or xt=urn:btmh:1220...): %s" % link)

    def first(key: str) -> str | None:
        return fields.get(key, [None])[0]  # type: ignore[list-item]

    length = first("xl")
    return {
        "info_hash": v1 or (v2 or "")[:40],
        "info_hash_v2": v2,
        "version": "hybrid" if v1 and v2 else "v1" if v1 else "v2",
        "name": first("dn"),
        "size": int(length) if length and length.isdigit() else None,
        "piece_length": None,
        "pieces": None,
        "is_file": None,
        "files": None,
        "private": None,
        "trackers": [[url] for url in fields.get("tr", [])],
        "web_seeds": fields.get("ws", []),
        "comment": None,
        "source": None,
        "created_by": None,
        "creation_date": None,
        "magnet": link.strip(),
        "peers": fields.get("x.pe", []),
        "file_selection": first("so"),
    }


# Making


class PayloadFile(NamedTuple):
    """One file that goes into a torrent."""

    path: tuple  # of str, below the payload; empty if the payload is this file
    location: str
    size: int


class Payload(NamedTuple):
    """The file or directory that a torrent is to carry."""

    location: str
    files: tuple  # of PayloadFile, in the order of the torrent
    is_file: bool

    @property
    def size(self):
        """Bytes in all files."""
        return sum(file.size for file in self.files)

    @property
    def name(self):
        """What a torrent of it is called unless told otherwise."""
        return os.path.basename(os.path.realpath(self.location) if self.location in (".", "/") else self.location)


def select_payload(path: str, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Payload:
    """The files of the payload at `path`, in an order that depends on their names only.

    `include` and `exclude` are shell patterns, matched against a file's name and against its path below `path` (in
    which ``*`` matches ``/`` too); a directory that `exclude` matches is left out with all that is in it. Empty
    directories cannot be told by a torrent and are left out. Raises MetainfoError for what a torrent cannot carry:
    symbolic links, devices, sockets, pipes, names that are not UTF-8, nothing at all.
    """
    path = os.path.normpath(path)
    include, exclude = tuple(include), tuple(exclude)
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            if include or exclude:
                raise MetainfoError(
                    "include and exclude choose files of a directory, and %s is a file. Leave them out." % path
                )
            files = [PayloadFile((), path, status.st_size)]
        elif stat.S_ISDIR(status.st_mode):
            files = list(_walk(path, (), include, exclude))
        else:
            raise MetainfoError("%s is neither a file nor a directory: a torrent cannot carry it." % path)
    except OSError as error:
        raise MetainfoError("cannot read the payload %s: %s" % (error.filename or path, error.strerror)) from None
    if not sum(file.size for file in files):
        raise MetainfoError(
            "there is nothing to make a torrent of: %s holds no bytes%s."
            % (path, " that include and exclude leave over" if include or exclude else "")
        )
    files.sort(key=lambda file: [part.encode() for part in file.path])
    return Payload(path, tuple(files), stat.S_ISREG(status.st_mode))


def is_selected(path: tuple[str, ...], include: Iterable[str], exclude: Iterable[str]) -> bool:
    """Whether a file with this path below the payload would be part of the torrent."""
    include = tuple(include)
    if any(_matches(path[:depth], exclude) for depth in range(1, len(path) + 1)):
        return False
    return not include or _matches(path, include)


def _matches(path: tuple[str, ...], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path[-1], pattern) or fnmatchcase("/".join(path), pattern) for pattern in patterns)


def _walk(
    directory: str, path: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...]
) -> Iterator[PayloadFile]:
    with os.scandir(directory) as entries:
        for entry in entries:
            here = (*path, entry.name)
            if _matches(here, exclude):
                continue
            try:
                entry.name.encode("utf-8")
            except UnicodeEncodeError:
                raise MetainfoError("the name of %r is not UTF-8: rename it or exclude it." % entry.path) from None
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, here, include, exclude)
                continue
            if include and not _matches(here, include):
                continue
            if not entry.is_file(follow_symlinks=False):
                kind = "a symbolic link" if entry.is_symlink() else "neither a file nor a directory"
                raise MetainfoError(
                    "%s is %s: a torrent cannot carry it. Remove it or name it in exclude." % (entry.path, kind)
                )
            yield PayloadFile(here, entry.path, entry.stat(follow_symlinks=False).st_size)


def choose_piece_length(size: int, overhead: int = 0) -> int:
    """The piece length for `size` bytes: a power of two that gives at most 5,000 pieces of at most 1 MiB.

    It is larger only where the .torrent, with `overhead` bytes beside the hashes, would be over 4 MB otherwise.
    """
    length = MIN_PIECE_LENGTH
    while length < USUAL_MAX_PIECE_LENGTH and size > length * PIECES_AIM:
        length *= 2
    while length < MAX_PIECE_LENGTH and overhead + 20 * -(-size // length) > MAX_TORRENT_SIZE:
        length *= 2
    return length


def hash_payload(payload: Payload, piece_length: int) -> tuple[bytes, str | None]:
    """The SHA-1 of every piece, one after the other, and the SHA-256 of a payload that is a file, read once.

    hashlib lets go of the interpreter's lock, so pieces are hashed beside each other; the SHA-256 has a thread of its
    own. Raises MetainfoError where a file cannot be read or changes meanwhile.
    """
    block_size = piece_length * max(1, MIB // piece_length)
    sha256 = hashlib.sha256()
    hashes: list[bytes] = []
    waiting: deque[Any] = deque()
    workers = min(4, os.cpu_count() or 1)
    most_waiting = 2 * workers  # bounds the memory, whatever the size
    # Used again and again: fresh memory for every block costs as much time as hashing it. One more is being filled.
    buffers = deque(bytearray(block_size) for _number in range(most_waiting + 1))

    def take() -> None:
        buffer, pieces, whole = waiting.popleft()
        hashes.append(pieces.result())
        whole.result()
        buffers.append(buffer)

    with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as in_order:
        for buffer, length in _blocks(payload.files, buffers):
            block = memoryview(buffer)[:length]
            pieces = pool.submit(_sha1_pieces, block, piece_length)
            waiting.append((buffer, pieces, in_order.submit(sha256.update, block)))
            if len(waiting) >= most_waiting:
                take()
        while waiting:
            take()
    return b"".join(hashes), sha256.hexdigest() if payload.is_file else None


def _sha1_pieces(block: memoryview, piece_length: int) -> bytes:
    return b"".join(
        hashlib.sha1(block[start : start + piece_length]).digest() for start in range(0, len(block), piece_length)
    )


def _blocks(files: Iterable[PayloadFile], buffers: deque[bytearray]) -> Iterator[tuple[bytearray, int]]:
    """The files' bytes, one after the other as BEP 3 has them, in buffers that are taken from `buffers` when needed.

    Each comes with the number of bytes that are in it: all of it, but for the last.
    """
    buffer, filled = buffers.popleft(), 0
    for entry in files:
        try:
            with open(entry.location, "rb", buffering=0) as file:
                before = os.fstat(file.fileno())
                left = entry.size
                while left:
                    count = file.readinto(memoryview(buffer)[filled : filled + left])
                    if not count:
                        break
                    left -= count
                    filled += count
                    if filled == len(buffer):
                        yield buffer, filled
                        buffer, filled = buffers.popleft(), 0
                after = os.fstat(file.fileno())
        except OSError as error:
            raise MetainfoError("cannot read the payload %s: %s" % (entry.location, error.strerror)) from None
        if left or after.st_size != entry.size or after.st_mtime_ns != before.st_mtime_ns:
            raise MetainfoError(
                "%s changed while it was read. Run this again when nothing writes to it any more." % entry.location
            )
    if filled:
        yield buffer, filled


def announce_tiers(trackers: Iterable[Any]) -> list[list[str]]:
    """Trackers as users give them, as tiers: a URL alone is a tier of its own. Raises MetainfoError."""
    tiers = [[item] if isinstance(item, str) else item for item in trackers]
    for tier in tiers:
        if not isinstance(tier, list) or not all(isinstance(url, str) for url in tier):
            raise MetainfoError("trackers must be URLs or lists of URLs, and one of them is %r." % (tier,))
        for url in tier:
            if url.split("://")[0] not in TRACKER_SCHEMES:
                raise MetainfoError(
                    "%r is not a tracker's URL. Expected is one like http://tracker.example.com:6969/announce." % url
                )
    return tiers


def make_torrent(
    payload: Payload,
    piece_length: int,
    piece_hashes: bytes,
    name: str | None = None,
    trackers: Iterable[Iterable[str]] = (),
    web_seeds: Iterable[str] = (),
    private: bool = False,
    comment: str | None = None,
    source: str | None = None,
    creation_date: int | None = None,
) -> bytes:
    """The bytes of a v1 .torrent file; the same for the same payload and options. Raises MetainfoError. Needs torf."""
    import torf  # only here: who reads torrents neither needs nor waits for it

    torrent = torf.Torrent(created_by=CREATED_BY)
    info = torrent.metainfo["info"]
    info["name"] = payload.name if name is None else name
    info["piece length"] = piece_length
    info["pieces"] = piece_hashes
    if payload.is_file:
        info["length"] = payload.size
    else:
        info["files"] = [{"length": file.size, "path": list(file.path)} for file in payload.files]
    try:
        _name_part(info["name"].encode(), "name")
        torrent.trackers = [list(tier) for tier in trackers]
        torrent.webseeds = list(web_seeds)
        torrent.private = True if private else None
        torrent.comment = comment
        torrent.source = source
        if creation_date is not None:
            torrent.metainfo["creation date"] = creation_date
        data = torrent.dump()
    except (torf.TorfError, ValueError) as error:
        raise MetainfoError("cannot make a torrent of %s: %s" % (payload.location, error)) from None
    if len(data) > MAX_TORRENT_SIZE:
        raise MetainfoError(
            "the torrent of %s would have %d bytes, and clients cannot be trusted with more than %d. Give a larger "
            "piece_length, or pack its %d files into one archive."
            % (payload.location, len(data), MAX_TORRENT_SIZE, len(payload.files))
        )
    return data


def file_list_overhead(payload: Payload) -> int:
    """About how many bytes of a .torrent are not piece hashes; for choose_piece_length()."""
    # `d6:lengthi<digits>e4:pathl<length>:<part>...ee` and 2 KiB for all the rest
    return 2 * KIB + sum(40 + sum(8 + len(part.encode()) for part in file.path) for file in payload.files)
