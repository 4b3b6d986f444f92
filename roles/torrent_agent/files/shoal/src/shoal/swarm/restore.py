"""What the state folder has of a torrent made ready for libtorrent again, as far as it can be trusted."""

from __future__ import annotations

from pathlib import Path

import libtorrent as lt

from shoal.swarm import metainfo
from shoal.swarm.errors import BadTorrent
from shoal.swarm.metainfo import Metainfo, Parsed
from shoal.swarm.resume import Quarantined, Record, Saved, StateFolder, stamp
from shoal.swarm.settings import LOAD_LIMITS


def restore(saved: Saved, folder: StateFolder, store: Path, *, clean: bool) -> tuple[Parsed | None, list[Quarantined]]:
    """Parse ``saved``, with the pieces that need no check; its record is changed where it is not true any more.

    :param store: where the payload is, unless it is seeded in place
    :param clean: the engine was stopped, not killed. After a kill libtorrent's resume data is stale (its #4974, #6975).
    :returns: the torrent, None if nothing usable is left of it; and files that were moved out of the way
    """
    record = saved.record
    parsed, spoilt = _read_torrent(saved, folder)
    if parsed is None:
        lost = folder.quarantine(folder.record_file(record.info_hash), "neither .torrent nor magnet is left of it")
        return None, [*spoilt, lost]
    known = parsed.metainfo
    if record.files is not None and known is not None:
        # A complete torrent is not written to any more: if its files look as they did then, they are the same.
        if stamp(known.paths(_payload(record, known, store))) == record.files:
            parsed.params.have_pieces = [True] * known.pieces
        else:
            record.files = None  # all of it is checked
    elif clean and saved.resume is not None:
        try:
            _take_resume_data(record, parsed, saved.resume)
        except RuntimeError as error:
            spoilt.append(folder.quarantine(folder.resume_file(record.info_hash), str(error)))
    return parsed, spoilt


def _read_torrent(saved: Saved, folder: StateFolder) -> tuple[Parsed | None, list[Quarantined]]:
    record = saved.record
    spoilt: list[Quarantined] = []
    if saved.torrent is not None:
        try:
            parsed = metainfo.load_torrent(saved.torrent)
            # what was added by a v2 magnet may turn out to be a hybrid
            if record.info_hash not in (parsed.info_hash, (parsed.info_hash_v2 or "")[:40]):
                raise BadTorrent(f"it is about {parsed.info_hash}")
            return parsed, spoilt
        except BadTorrent as error:
            spoilt.append(folder.quarantine(folder.torrent_file(record.info_hash), str(error)))
    if record.magnet is not None:
        return metainfo.load_magnet(record.magnet), spoilt  # it was read before it was recorded
    return None, spoilt


def _payload(record: Record, known: Metainfo, store: Path) -> Path:
    return Path(record.data_path) if record.data_path else store / known.root


def _take_resume_data(record: Record, parsed: Parsed, data: bytes) -> None:
    resumed = lt.read_resume_data(data, LOAD_LIMITS)  # type: ignore[call-overload]
    if metainfo.key(resumed.info_hashes) != record.info_hash and parsed.info_hash_v2 is None:
        raise RuntimeError("it is about another torrent")
    # Only what cannot be had elsewhere. Nor may the parsed `ti` be assigned to `resumed`: libtorrent's threads would
    # give a Python object back without holding the interpreter's lock, and so end the process some day.
    parsed.params.have_pieces = resumed.have_pieces
    parsed.params.unfinished_pieces = resumed.unfinished_pieces
    parsed.params.peers = resumed.peers
