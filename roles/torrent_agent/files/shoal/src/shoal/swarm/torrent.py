"""One torrent while the engine runs: its libtorrent handle, our record of it, and what only this process knows."""

from __future__ import annotations

import re
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import libtorrent as lt

from shoal.swarm.metainfo import Parsed
from shoal.swarm.queueing import Queueing
from shoal.swarm.resume import Record
from shoal.swarm.settings import BLOCK, MAX_SOURCES
from shoal.swarm.shares import Shares
from shoal.swarm.totals import Pace, Totals, split
from shoal.swarm.types import (
    Hold,
    Label,
    PeerStatus,
    SeedingPolicy,
    State,
    TorrentError,
    TorrentStatus,
    TrackerStatus,
    WebSeedPolicy,
)
from shoal.swarm.webseeds import WebSeedTimer, port_of

_STATES = {
    lt.torrent_status.states.checking_files: State.CHECKING,
    lt.torrent_status.states.downloading_metadata: State.METADATA,
    lt.torrent_status.states.downloading: State.DOWNLOADING,
    lt.torrent_status.states.finished: State.COMPLETE,
    lt.torrent_status.states.seeding: State.COMPLETE,
    lt.torrent_status.states.checking_resume_data: State.CHECKING,
}
_PEER_SOURCES = {
    "tracker": lt.peer_info.tracker,
    "dht": lt.peer_info.dht,
    "pex": lt.peer_info.pex,
    "lsd": lt.peer_info.lsd,
    "resume_data": lt.peer_info.resume_data,
}
_PEER_FLAGS = (
    "interesting",
    "choked",
    "remote_interested",
    "remote_choked",
    "outgoing_connection",
    "connecting",
    "handshake",
    "seed",
    "upload_only",
    "optimistic_unchoke",
    "snubbed",
    "endgame_mode",
    "on_parole",
)
_AGENT = re.compile(r"shoal/\S+ \(([\x21-\x7e]{1,128})\)")
_WEB_SEED = 0  # in Torrent.sources: not a peer's name
_OTHERS = "others"


def agent_name(client: str) -> str:
    """The name that an agent of ours gave itself (``handshake_client_version``); empty for any other client."""
    match = _AGENT.fullmatch(client)
    return match[1] if match else ""


def client_of(info: Any) -> str:
    client = info.client
    return client.decode("utf-8", "replace") if isinstance(client, bytes) else str(client)


def endpoint_of(info: Any) -> tuple[str, int]:
    # `remote_endpoint` is 2.1's, `ip` 2.0's
    address, port = info.remote_endpoint() if hasattr(info, "remote_endpoint") else info.ip
    return address, port


class Torrent:
    """Used under the engine's lock only. Times named ``*_at`` are of the monotonic clock unless in the record."""

    def __init__(self, record: Record, parsed: Parsed, payload_root: Path, policy: WebSeedPolicy) -> None:
        self.record = record
        self.metainfo = parsed.metainfo
        self.info_hash_v2 = parsed.info_hash_v2
        self.torrent_trackers = parsed.trackers
        self.payload_root = payload_root  # the folder that holds the payload
        self.handle: Any = None

        self.state = State.CHECKING
        self.error: TorrentError | None = None  # ours; libtorrent's is in its status
        self.flushed = False  # all content has left libtorrent's buffers since it was complete
        self.checking = True  # a check is due or runs: libtorrent has not told of its end
        self.hashing = False  # the check that runs reads the data, it does not only look at resume data
        self.hold: Hold | None = None  # why the engine keeps it still
        self.on_disk = 0  # bytes that its files had when the check that is due or runs began
        self.halted = False  # paused, and all that was received is on disk
        self.unclean = False  # what is on disk may be more or less than the record says
        self.rehashed = 0
        # libtorrent counts from 0 in each session
        self.failed_before = record.failed
        self.redundant_before = record.redundant

        self.sources: dict[tuple[str, int], str | int] = {}
        self.requested: dict[tuple[int, int], tuple[str, int]] = {}  # (piece, block): whom it was asked of last
        self.totals: Totals | None = None  # instead of the account of each block, once they come fast
        self.sample_due: float | None = None  # when to look at the totals again
        self.fetching_since: float | None = None
        self.last_byte_at = 0.0
        self.progress_due: float | None = None
        self.resume_due: float | None = None
        self.progressed_at = 0.0
        self.shares_due: float | None = None  # when to look who else fetches, and to share the pieces out anew
        self.dial_due: float | None = None  # it has enough peers; when to dial more all the same
        self.known_peers = 0  # connected or not, when the last one connected
        self.queueing = Queueing()
        self.pace = Pace()
        self.looked_at = (0.0, 0)  # when, and the bytes that had come until then
        self.shares: Shares | None = None  # from when its metainfo is known until it is complete
        self.web_seeds = WebSeedTimer(policy)
        self.swarm_delivered = False  # since the last look
        self.web_delivered = False
        self.saving = 0  # resume data asked for and not here yet
        self.record_write: Future[None] | None = None

    @property
    def info_hash(self) -> str:
        return self.record.info_hash

    @property
    def in_place(self) -> bool:
        return self.record.data_path is not None

    @property
    def payload(self) -> Path | None:
        if self.record.data_path is not None:
            return Path(self.record.data_path)
        return self.payload_root / self.metainfo.root if self.metainfo else None

    def file_paths(self) -> list[Path | None]:
        """Where each file of the torrent is, None for pads; empty while the metainfo is unknown."""
        payload = self.payload
        return self.metainfo.paths(payload) if self.metainfo and payload else []

    def state_in(self, status: Any) -> State:
        """The state that libtorrent's ``status`` amounts to."""
        if self.error or status.errc.value():
            return State.ERROR
        state = _STATES.get(status.state, State.CHECKING)
        if self.checking and state is not State.METADATA:
            return State.CHECKING
        if state is State.COMPLETE and not self.flushed:
            # Readers must find every byte in the files, and libtorrent may still hold some.
            return self.state if self.state in (State.CHECKING, State.DOWNLOADING) else State.CHECKING
        return state

    @property
    def fills_disk(self) -> bool:
        """Whether more of it is to be written, or may be once the check has ended; if only there is room."""
        unfinished = self.state in (State.CHECKING, State.DOWNLOADING)
        return unfinished and not self.in_place and not self.record.paused and self.metainfo is not None

    def need(self) -> int:
        """Bytes that are still to be written until it is complete."""
        if not self.fills_disk or self.metainfo is None:
            return 0
        here = self.on_disk if self.checking else self.handle.status().total_done
        return max(0, self.metainfo.size - here)

    def seeding_ended(self, policy: SeedingPolicy, now: float) -> Hold | None:
        """Why it need not be seeded any more at ``now`` (Unix time). What was not fetched was given to us to seed."""
        record = self.record
        if (
            self.state is not State.COMPLETE
            or self.in_place
            or record.paused
            or not record.received
            or not self.metainfo
        ):
            return None
        if policy.ratio and record.uploaded >= policy.ratio * self.metainfo.size:
            return Hold("seeding", f"not seeded any more: {policy.ratio:g} times its size has been sent")
        if policy.time and record.completed_at and now >= record.completed_at + policy.time:
            return Hold("seeding", f"not seeded any more: it has been complete for {policy.time:g} s")
        return None

    def difference(self) -> TorrentError:
        """Why a payload that should be seeded in place cannot be: the first file that is not the torrent's."""
        assert self.metainfo is not None
        right = self.handle.file_progress()
        for index, (path, file) in enumerate(zip(self.file_paths(), self.metainfo.files, strict=True)):
            if path is None or right[index] == file.size:
                continue
            try:
                size = path.stat().st_size
            except OSError as error:
                return TorrentError(f"the payload to seed cannot be read: {error.strerror}", str(path))
            if size != file.size:
                message = f"the payload to seed has {size} bytes where the torrent says {file.size}"
                return TorrentError(message, str(path))
            return TorrentError("the payload to seed does not match the torrent's hashes", str(path))
        return TorrentError("the payload to seed is not the torrent's", str(self.payload or ""))

    # --- where bytes come from ---

    def count_block(self, source: tuple[str, int], piece: int, block: int) -> None:
        """A block came from the peer (or web seed) at ``source`` and is on disk."""
        if self.metainfo is None or self.flushed or self.totals:
            return  # it was told of late and is in the account, see count_rest and count_totals
        self.requested.pop((piece, block), None)
        size = self.metainfo.block_size(piece, block)
        self.pace.count(size)
        self._count_from(self.source(source), size)

    def count_request(self, source: tuple[str, int], piece: int, block: int) -> None:
        """A block was asked of the peer (or web seed) at ``source``."""
        if self.totals is None:
            self.requested[piece, block] = source
            self.source(source)  # now: by the time its blocks are here, a seed may have left

    def begin_totals(self) -> None:
        """From now on go by what the connections say that they brought, not by blocks."""
        self.totals = Totals()
        self.totals.look(self._totals_now())
        self.requested.clear()

    def count_totals(self) -> None:
        """Account for what has come since the last call: among the connections as each brought of it."""
        assert self.totals is not None
        brought = self.totals.look(self._totals_now())
        self.take_counters(self.handle.status())
        uncounted = self._uncounted()
        if not brought or uncounted <= 0:
            return
        for address, size in split(uncounted, brought).items():
            self._count_from(self.source(address), size)

    def count_uncounted(self) -> None:
        """No more comes for now: make up for what came since the last look at the totals."""
        if self.totals:
            self.take_counters(self.handle.status())
            self.count_unknown(max(0, self._uncounted()))

    def _uncounted(self) -> int:
        record = self.record
        return record.done + record.failed + record.refetched - record.found - record.received

    def _totals_now(self) -> dict[tuple[str, int], int]:
        peers = self._peer_info()
        for address, info in peers.items():
            self._note_source(address, info)
        return {address: info.total_download for address, info in peers.items()}

    def _count_from(self, name: str | int, size: int) -> None:
        if isinstance(name, int):
            self.record.from_web_seeds += size
            self.web_delivered = True
        else:
            self._count(name, size)
            self.swarm_delivered = True

    def source(self, address: tuple[str, int]) -> str | int:
        """Who is at ``address``: a peer's name, or _WEB_SEED."""
        if address not in self.sources:
            self._look_up_sources()
        return self.sources.setdefault(address, self._gone_from(address))

    def _gone_from(self, address: tuple[str, int]) -> str | int:
        """Who may have been at ``address``, which is all that is known of it: a web seed, if one has that port."""
        return _WEB_SEED if address[1] in map(port_of, self.record.web_seeds) else address[0]

    def account_for_check(self, status: Any) -> None:
        """A check has ended: what was found that is not known to have been fetched, and what is here no more."""
        record = self.record
        known = record.found + record.received - record.failed - record.refetched
        # Blocks may have come before we are told that the check has ended; we are told of them next. libtorrent counts
        # from 0 after each check, and begun blocks with the others, though they are not done.
        since = status.total_payload_download
        difference = status.total_done - since - known
        begun = status.num_peers * BLOCK if since else 0
        if -begun < difference < 0:
            difference = 0
        if difference < 0:
            record.refetched -= difference
        elif self.unclean and record.received:
            self.count_unknown(difference)  # fetched just before the crash, after the last note of the counters
        else:
            record.found += difference
        self.unclean = False
        self.take_counters(status)

    def count_rest(self) -> None:
        """Complete now: make up for the blocks that were not told of."""
        if self.metainfo is None:
            return
        record = self.record
        unseen = self.metainfo.size + record.failed + record.refetched - record.found - record.received
        # libtorrent tells late, or not at all, of blocks whose write ends after the last piece was verified
        for (piece, block), source in self.requested.items():
            if unseen <= 0:
                break
            size = min(unseen, self.metainfo.block_size(piece, block))
            self._count_from(self.source(source), size)
            unseen -= size
        self.requested.clear()
        if unseen > 0:  # alerts were dropped
            self.count_unknown(unseen)

    def count_unknown(self, size: int) -> None:
        """``size`` bytes came, from whom was not seen: shared out as the others were."""
        record = self.record
        if not record.received:
            self._count(_OTHERS, size)
            return
        for source, share in split(size, {**record.from_peers, _WEB_SEED: record.from_web_seeds}).items():
            if isinstance(source, int):
                record.from_web_seeds += share
            else:
                self._count(source, share)

    def _count(self, name: str, size: int) -> None:
        counts = self.record.from_peers
        if name not in counts and len(counts) >= MAX_SOURCES:
            name = _OTHERS
        counts[name] = counts.get(name, 0) + size

    def _look_up_sources(self) -> None:
        if len(self.sources) > 4 * MAX_SOURCES:
            self.sources.clear()  # peers long gone
        for address, info in self._peer_info().items():
            self._note_source(address, info)

    def _note_source(self, address: tuple[str, int], info: Any) -> None:
        if info.connection_type != lt.peer_info.standard_bittorrent:
            self.sources[address] = _WEB_SEED
        elif not info.flags & (lt.peer_info.handshake | lt.peer_info.connecting):
            self.sources[address] = agent_name(client_of(info)) or address[0]

    def _peer_info(self) -> dict[tuple[str, int], Any]:
        return {endpoint_of(info): info for info in self.handle.get_peer_info()}

    def take_counters(self, status: Any) -> None:
        """Bring the record up to what libtorrent has counted."""
        record = self.record
        record.failed = self.failed_before + status.total_failed_bytes
        record.redundant = self.redundant_before + status.total_redundant_bytes
        record.uploaded = max(record.uploaded, status.all_time_upload)
        record.done = status.total_done

    def take_seconds(self, now: float) -> None:
        """Bring the record's time spent fetching up to ``now``."""
        if self.fetching_since is not None:
            self.record.download_seconds += now - self.fetching_since
            self.fetching_since = now

    # --- what to fetch first, and how much to ask for ---

    def look_at_rate(self, status: Any, now: float) -> int:
        """How much to ask peers for in advance (``request_queue_time``)."""
        (before, had), self.looked_at = self.looked_at, (now, status.total_payload_download)
        recent = (status.total_payload_download - had) / max(0.1, now - before)
        return self.queueing.look(status.download_payload_rate, recent, status.num_peers)

    def share_out(self) -> None:
        """Begin with the pieces that are ours to ask for, beside the other agents that fetch them, too."""
        if self.shares is None:
            return
        peers = self.handle.get_peer_info()
        names = {agent_name(client_of(info)) for info in peers if not info.flags & lt.peer_info.seed} - {""}
        if self.shares.add(names):
            self.handle.prioritize_pieces(self.shares.priorities())

    # --- views ---

    def status(self) -> TorrentStatus:
        status = self.handle.status()
        now = time.monotonic()
        self.take_counters(status)
        record = self.record
        metainfo = self.metainfo
        state = self.state
        size = metainfo.size if metainfo else 0
        done = size
        if state is not State.COMPLETE:
            # libtorrent's total_done has blocks of unverified pieces in it
            done = min(size, status.total_done, status.num_pieces * metainfo.piece_length) if metainfo else 0
        fetching = self.fetching_since is not None
        return TorrentStatus(
            info_hash=record.info_hash,
            info_hash_v2=self.info_hash_v2,
            name=metainfo.name if metainfo else str(status.name),
            state=state,
            paused=record.paused,
            size=size,
            done=done,
            progress=status.progress if state is State.CHECKING else (done / size if size else 0.0),
            piece_length=metainfo.piece_length if metainfo else 0,
            pieces=metainfo.pieces if metainfo else 0,
            pieces_done=status.num_pieces if metainfo else 0,
            files=metainfo.file_count if metainfo else 0,
            payload_path=self.payload,
            in_store=not self.in_place,
            private=bool(metainfo and metainfo.private),
            download_rate=status.download_payload_rate,
            upload_rate=status.upload_payload_rate,
            downloaded=record.received,
            uploaded=record.uploaded,
            from_peers=dict(record.from_peers),
            from_web_seeds=record.from_web_seeds,
            wasted=record.failed + record.redundant,
            refetched=record.refetched,
            rehashed=self.rehashed,
            peers=status.num_peers,
            seeds=status.num_seeds,
            trackers=tuple(_tracker(entry) for entry in self.handle.trackers()),
            web_seeds=tuple(record.web_seeds),
            upload_limit=record.upload_limit,
            download_limit=record.download_limit,
            error=self.error or _libtorrent_error(self, status),
            stalled_for=max(0.0, now - self.last_byte_at) if fetching else 0.0,
            added_at=record.added_at,
            completed_at=record.completed_at,
            download_seconds=record.download_seconds + (now - self.fetching_since if self.fetching_since else 0.0),
            held=self.hold,
            label=Label(record.app, record.version) if record.app else None,
            pinned=record.pinned,
            wanted_at=record.wanted_at or record.added_at,
        )

    def peers(self) -> list[PeerStatus]:
        return [
            _peer(info)
            for info in self.handle.get_peer_info()
            if info.connection_type == lt.peer_info.standard_bittorrent
        ]


def _libtorrent_error(torrent: Torrent, status: Any) -> TorrentError | None:
    if not status.errc.value():
        return None
    paths = torrent.file_paths()
    index = int(status.error_file)
    what = str(paths[index] or "") if 0 <= index < len(paths) else ""
    return TorrentError(status.errc.message(), what or str(torrent.payload or ""))


def _tracker(entry: dict[str, Any]) -> TrackerStatus:
    # One entry per address that we listen at and per info hash version: whichever works speaks for all.
    attempts = [attempt for place in entry.get("endpoints", ()) for attempt in place.get("info_hashes", [place])]
    working = [attempt for attempt in attempts if attempt.get("start_sent") and not attempt.get("fails")]
    tried = working or [attempt for attempt in attempts if attempt.get("fails") or attempt.get("message")]
    message = ""
    if not working and tried:
        error = tried[0].get("last_error") or {}
        message = tried[0].get("message") or _error_text(error)
    due = [attempt["next_announce"] for attempt in tried if attempt.get("next_announce", 0) > 0]

    def scraped(name: str) -> int | None:
        counts = [attempt[name] for attempt in attempts if attempt.get(name, -1) >= 0]
        return max(counts) if counts else None

    return TrackerStatus(
        url=entry["url"],
        tier=entry["tier"],
        working=bool(working),
        message=message,
        next_announce=max(0.0, min(due) - time.time()) if due else None,
        seeders=scraped("scrape_complete"),
        leechers=scraped("scrape_incomplete"),
    )


def _error_text(error: dict[str, Any]) -> str:
    if not error.get("value"):
        return ""
    categories = {"system": lt.system_category, "libtorrent": lt.libtorrent_category, "http": lt.http_category}
    category = categories.get(error.get("category", ""))
    return category().message(error["value"]) if category else f"{error.get('category')} error {error['value']}"


def _peer(info: Any) -> PeerStatus:
    address, port = endpoint_of(info)
    client = client_of(info)
    flags = tuple(name for name in _PEER_FLAGS if info.flags & getattr(lt.peer_info, name))
    source = next((name for name, bit in _PEER_SOURCES.items() if info.source & bit), "")
    if not source:
        source = "manual" if info.flags & lt.peer_info.outgoing_connection else "incoming"
    return PeerStatus(
        address=address,
        port=port,
        client=client,
        agent_name=agent_name(client),
        source=source,
        progress=info.progress,
        seed=bool(info.flags & lt.peer_info.seed),
        downloaded=info.total_download,
        uploaded=info.total_upload,
        download_rate=info.payload_down_speed,
        upload_rate=info.payload_up_speed,
        flags=flags,
    )
