"""What a request is about: .torrent bytes and magnets parsed within bounds, web seeds taken out of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import libtorrent as lt

from shoal.swarm.errors import BadTorrent
from shoal.swarm.settings import BLOCK, LOAD_LIMITS, MAX_TORRENT_BYTES, MAX_TRACKERS, MAX_WEB_SEEDS
from shoal.swarm.types import AddTorrent


@dataclass(frozen=True)
class PayloadFile:
    path: PurePosixPath  # relative; its first part is the torrent's name
    size: int
    pad: bool  # not a file, but a gap between two (BEP 47)


class Metainfo:
    """What we need to know of a torrent's info dictionary."""

    def __init__(self, ti: Any) -> None:
        # torrent_info.files() is deprecated in 2.1, layout() is not there in 2.0
        storage = ti.layout() if hasattr(ti, "layout") else ti.files()
        self.ti = ti
        self.name = str(ti.name())
        self.piece_length = int(ti.piece_length())
        self.pieces = int(ti.num_pieces())
        self.private = bool(ti.priv())
        self.files = [
            PayloadFile(
                PurePosixPath(storage.file_path(index).replace("\\", "/")),
                storage.file_size(index),
                bool(storage.file_flags(index) & lt.file_flags_t.flag_pad_file),
            )
            for index in range(storage.num_files())
        ]
        self.size = sum(file.size for file in self.files if not file.pad)
        self.file_count = sum(not file.pad for file in self.files)
        self.root = self.files[0].path.parts[0]
        self.single_file = len(self.files[0].path.parts) == 1
        # Payload in the pieces that are not full of it: in v2 and hybrid torrents each file begins a piece of its own.
        self._tails: dict[int, int] = {}
        ends = [(storage.file_offset(i) + f.size, i) for i, f in enumerate(self.files) if f.size and not f.pad]
        starts = [storage.file_offset(i) for _end, i in ends[1:]] + [-1]
        for (end, _index), following in zip(ends, starts, strict=True):
            if following != end:
                piece = (end - 1) // self.piece_length
                self._tails[piece] = end - piece * self.piece_length

    def paths(self, payload: Path) -> list[Path | None]:
        """Where each file is when the payload (file or directory) is at ``payload``; None for pads."""
        return [None if file.pad else payload.joinpath(*file.path.parts[1:]) for file in self.files]

    def renames(self, payload: Path) -> dict[int, str]:
        """What libtorrent has to call the files, by index, where the payload has another name than the torrent's."""
        if payload.name == self.root:
            return {}
        return {
            index: str(Path(payload.name, *file.path.parts[1:]))
            for index, file in enumerate(self.files)
            if not file.pad
        }

    def block_size(self, piece: int, block: int) -> int:
        """Payload bytes of one block: 16 KiB, but for the tail of a file or of the torrent."""
        return min(BLOCK, max(0, self._tails.get(piece, self.piece_length) - block * BLOCK))


def key(info_hashes: Any) -> str:
    """The info hash that a torrent is known by here: SHA-1 of v1 and hybrid ones, else 40 digits of the SHA-256."""
    return str(info_hashes.v1) if info_hashes.has_v1() else str(info_hashes.v2)[:40]


def key_v2(info_hashes: Any) -> str | None:
    return str(info_hashes.v2) if info_hashes.has_v2() else None


@dataclass
class Parsed:
    params: Any  # lt.add_torrent_params, with nothing of a web seed in it
    web_seeds: tuple[str, ...]
    trackers: tuple[tuple[str, ...], ...]  # tiers
    metainfo: Metainfo | None

    @property
    def info_hash(self) -> str:
        return key(self.params.info_hashes)

    @property
    def info_hash_v2(self) -> str | None:
        return key_v2(self.params.info_hashes)


def load_torrent(data: bytes) -> Parsed:
    """Parse the bytes of a .torrent file (BEP 3, 52).

    :raises BadTorrent: with libtorrent's own words.
    """
    if len(data) > MAX_TORRENT_BYTES:
        raise BadTorrent(f"the .torrent is {len(data)} bytes long, at most {MAX_TORRENT_BYTES} are taken")
    try:
        params = lt.load_torrent_buffer(data, LOAD_LIMITS)  # type: ignore[call-overload]
    except RuntimeError as error:
        raise BadTorrent(f"the .torrent cannot be read: {error}") from error
    return _take_apart(params)


def load_magnet(uri: str) -> Parsed:
    """Parse a magnet link (BEP 9).

    :raises BadTorrent: with libtorrent's own words.
    """
    if len(uri) > 1 << 16:
        raise BadTorrent(f"the magnet link is {len(uri)} characters long, at most {1 << 16} are taken")
    try:
        params = lt.parse_magnet_uri(uri)
    except RuntimeError as error:
        raise BadTorrent(f"the magnet link {uri[:200]!r} cannot be read: {error}") from error
    return _take_apart(params)


def load(request: AddTorrent) -> Parsed:
    """What ``request`` is about, from whichever of ``torrent`` and ``magnet`` it has."""
    if (request.torrent is None) == (request.magnet is None):
        raise BadTorrent("give exactly one of the bytes of a .torrent and a magnet link")
    if request.torrent is not None:
        return load_torrent(request.torrent)
    assert request.magnet is not None
    return load_magnet(request.magnet)


def _take_apart(params: Any) -> Parsed:
    # What is left in `url_seeds`, libtorrent would use from the first second, on all hosts at once.
    web_seeds = tuple(dict.fromkeys(params.url_seeds))[:MAX_WEB_SEEDS]
    params.url_seeds = []
    params.http_seeds = []
    tiers: dict[int, list[str]] = {}
    for number, url in enumerate(params.trackers[:MAX_TRACKERS]):
        tiers.setdefault(params.tracker_tiers[number] if number < len(params.tracker_tiers) else 0, []).append(url)
    return Parsed(
        params,
        web_seeds,
        tuple(tuple(tiers[tier]) for tier in sorted(tiers)),
        Metainfo(params.ti) if params.ti else None,
    )
