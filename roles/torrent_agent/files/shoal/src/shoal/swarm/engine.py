"""The engine: torrents added, removed, watched and kept over restarts.

One thread takes libtorrent's alerts and tells events; a second writes the state folder. Nobody polls: the alert thread
sleeps until an alert comes or, while something is being fetched, until the next of that torrent's own deadlines.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from pathlib import Path
from typing import Any

import libtorrent as lt
import msgspec

from shoal.swarm import alerts, metainfo, settings, space, totals
from shoal.swarm.endpoints import resolve
from shoal.swarm.errors import BadTorrent, ConflictingData, NoSpace, SwarmError, UnknownTorrent
from shoal.swarm.metainfo import Metainfo, Parsed, PayloadFile
from shoal.swarm.restore import restore
from shoal.swarm.resume import Quarantined, Record, Saved, StateFolder, stamp, write_atomically
from shoal.swarm.shares import Shares
from shoal.swarm.torrent import Torrent
from shoal.swarm.types import (
    AddTorrent,
    Endpoint,
    EngineSettings,
    Event,
    EventKind,
    Hold,
    PeerStatus,
    SeedingPolicy,
    SpaceStatus,
    State,
    TorrentError,
    TorrentStatus,
)

_log = logging.getLogger(__name__)

_PROGRESS_INTERVAL = 1.0
"""Seconds between progress events, and between notes of the counters, while bytes come in."""

_IDLE_WAIT = 3600.0
"""Seconds the alert thread sleeps when nothing is due: any number will do, alerts wake it."""

_GATHERING = 0.02
"""Seconds that alerts gather while something is fetched. Two come with each block; to wake for each cost more than to
work on them."""

_NEW_SOURCE = 0.5
"""Seconds without gathering after a fetch began or a peer connected, and no gathering either when no byte came for that
long: what comes then may be a peer, and a small payload is here, and the peer gone, before we look who it is."""

_SEEDING_INTERVAL = 5.0
"""Seconds between looks at what was sent and when, where a policy ends seeding: nobody tells us of sent bytes."""

_SPACE_INTERVAL = 1.0
"""Seconds between looks at the store's file system while something fetches or waits for space: nobody tells us when
others fill it, or make room. In that time they may take what we leave free, and we what we reserved: no more."""

_SHARES_DELAY = 0.1
"""Seconds after a peer connected until we look who it is: it has told its name, and others came with it."""

_DIAL_AGAIN = 5.0
"""Seconds after the last look, there is one a second while bytes come, from when we dial all the same: those we have
may have nothing for us."""

_DELETE_TIMEOUT = 60.0

_SAVING_TIMEOUT = 30.0
"""Seconds that who asks for a magnet's .torrent waits for a slow disk."""


class Reservation:
    """Bytes that somebody is about to write into the store. `done` ends it, however much was written."""

    def __init__(self, size: int, done: Callable[[Reservation], None]) -> None:
        self.left = size
        self._done = done

    def written(self, size: int) -> None:
        self.left -= size

    def close(self) -> None:
        self._done(self)


class Engine:
    """A libtorrent session with its torrents. All methods may be called from any thread.

    :param on_event: called with each event, one at a time and in order, from a thread of the engine or from one that
        called a method of it. The engine stands still meanwhile: it must return at once.
    """

    def __init__(self, settings: EngineSettings, on_event: Callable[[Event], None]) -> None:
        self._settings = settings
        self._on_event = on_event
        self._folder = StateFolder(settings.state_dir)
        self._lock = threading.RLock()
        self._worked = threading.Condition(self._lock)
        self._torrents: dict[str, Torrent] = {}
        self._by_handle: dict[Any, Torrent] = {}
        self._deleting: dict[str, Future[None]] = {}  # removed torrents whose payload is being deleted
        self._session: Any = None
        self._thread: threading.Thread | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._stopping = False
        self._unsaved = False  # resume data that could not be saved: the next start must not trust it
        self._ports: list[int] = []
        self._importing: list[Reservation] = []
        self._space_due: float | None = None  # when to look at the file system again
        self._seeding_due: float | None = None
        self._early: list[Event] = []  # of before the alert thread ran
        self._gather_from = 0.0  # when alerts may gather again
        self._tuned: dict[str, int] = {}  # settings that follow what is measured
        self._reactions: dict[type, Callable[[Torrent, Any], None]] = {
            lt.block_downloading_alert: self._on_request,
            lt.block_finished_alert: self._on_block,
            lt.peer_connect_alert: self._on_peer_connect,
            lt.add_torrent_alert: self._on_change,
            lt.state_changed_alert: self._on_state_changed,
            lt.torrent_finished_alert: self._on_change,
            lt.torrent_checked_alert: self._on_checked,
            lt.torrent_paused_alert: self._on_paused,
            lt.torrent_resumed_alert: self._on_resumed,
            lt.torrent_error_alert: self._on_change,
            lt.file_error_alert: self._on_change,
            lt.cache_flushed_alert: self._on_cache_flushed,
            lt.metadata_received_alert: self._on_metadata,
            lt.save_resume_data_alert: self._on_resume_data,
            lt.save_resume_data_failed_alert: self._on_resume_data_failed,
        }

    # --- life ---

    def start(self) -> None:
        """Open the session and load every torrent of the state folder.

        :raises SwarmError: the folders cannot be used, or nothing can be listened at
        """
        try:
            self._settings.store_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SwarmError(f"the store {self._settings.store_dir} cannot be used: {error}") from error
        clean = self._folder.open()
        try:
            self._session = lt.session(settings.session_settings(self._settings))  # type: ignore[call-overload]
            self._limit_everybody()
            self._session.set_ip_filter(settings.ip_filter(self._settings.allowed_peers))
            self._await_listening()
        except BaseException:
            self._session = None
            self._folder.close(clean=clean)
            raise
        self._bell = alerts.Bell()
        self._bell.hang_at(self._session)
        self._stopping = False
        self._unsaved = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="shoal-state")
        with self._lock:
            for saved in self._folder.load():
                self._load(saved, clean=clean)
        self._thread = threading.Thread(target=self._run, name="shoal-alerts", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 20) -> None:
        """Pause, save all resume data and end; within about ``timeout`` seconds, all saved or not.

        What was not saved is checked again at the next start.
        """
        if self._session is None or self._thread is None or self._writer is None:
            return
        deadline = time.monotonic() + timeout
        with self._lock:
            now = time.monotonic()
            fetching = self._fetching()
            for torrent in fetching:
                if torrent.totals:
                    torrent.count_totals()  # while its peers are there
            self._session.pause()
            for torrent in fetching:
                torrent.take_seconds(now)
            # Blocks on their way to the disk would be missing in resume data that is taken before they are there.
            self._wait_until(lambda: all(torrent.halted for torrent in fetching), deadline)
            for torrent in fetching:
                torrent.count_uncounted()
            for torrent in self._torrents.values():
                self._save_resume_data(torrent)
            saved = self._wait_until(lambda: not any(torrent.saving for torrent in self._torrents.values()), deadline)
            self._unsaved |= not saved
            self._stopping = True
        self._bell.ring()
        self._thread.join(max(1.0, deadline - time.monotonic()))
        self._writer.shutdown(wait=True)
        with self._lock:
            self._torrents.clear()
            self._by_handle.clear()
            self._session = None  # its destructor waits for trackers to be told, stop_tracker_timeout at most
            self._thread = self._writer = None
        self._bell.close()
        self._folder.close(clean=not self._unsaved)

    def _wait_until(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Let the alert thread work until ``condition`` holds; False if it does not by ``deadline``. Under the lock."""
        return self._worked.wait_for(condition, max(0.0, deadline - time.monotonic()))

    @property
    def listen_ports(self) -> tuple[int, ...]:
        """The TCP ports that are really bound, in the order of ``EngineSettings.listen``."""
        return tuple(self._ports)

    @property
    def alive(self) -> bool:
        """Whether the alert thread runs: without it the engine is deaf, whatever else still answers."""
        return self._thread is not None and self._thread.is_alive()

    def _limit_everybody(self) -> None:
        # By default peers on private networks and loopback are of the class `local` instead of `global`, and escape the
        # rate limits: on a fleet, that is everybody.
        everybody = 1 << int(self._session.global_peer_class_id)
        classes = lt.ip_filter()
        classes.add_rule("0.0.0.0", "255.255.255.255", everybody)
        classes.add_rule("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", everybody)
        self._session.set_peer_class_filter(classes)

    def _await_listening(self) -> None:
        self._session.listen_port()  # answered after the sockets were opened, so their alerts are there
        self._ports = []
        self._early = []
        for alert in self._session.pop_alerts():
            if isinstance(alert, lt.listen_succeeded_alert):
                if "TCP" in alert.message() and alert.port not in self._ports:
                    self._ports.append(alert.port)
            elif event := alerts.translate(alert, ""):
                self._early.append(event)
        if not self._ports:
            found = "; ".join(f"{event.what}: {event.message}" for event in self._early) or "no such address here"
            raise SwarmError(f"cannot listen at {', '.join(self._settings.listen)}: {found}")

    # --- torrents ---

    def add(self, request: AddTorrent) -> tuple[TorrentStatus, bool]:
        """Add a torrent; if it is known, give it the peers, trackers and web seeds that it lacks.

        :returns: its status, and whether it was unknown until now
        :raises BadTorrent: it cannot be read
        :raises ConflictingData: it is known with its payload elsewhere
        :raises NoSpace: it does not fit, and the settings say to refuse it then
        """
        parsed = metainfo.load(request)
        peers = resolve(request.peers)
        with self._lock:
            if self._session is None or self._stopping:
                raise SwarmError("the engine is not running")
            known = self._known(parsed, request)
            if known:
                known.record.wanted_at = time.time()
                if request.label:
                    known.record.app, known.record.version = request.label.app, request.label.version
                self._merge(known, request, parsed.trackers, peers, parsed.web_seeds)
                return known.status(), False
            self._refuse_what_does_not_fit(request, parsed)
            torrent, written = self._create(request, parsed, peers)
            added = torrent.status()
        # Whoever is told that the torrent is added finds it again after a power cut.
        try:
            written.result()
        except OSError as error:
            raise SwarmError(
                f"torrent {torrent.info_hash} works, but cannot be kept over a restart: {error}"
            ) from error
        with self._lock:
            kept = self._torrents.get(torrent.info_hash) is torrent  # or somebody removed it meanwhile
            return torrent.status() if kept else added, True

    def describe(self, request: AddTorrent) -> TorrentStatus | None:
        """The known torrent that ``request`` is about, None if there is none. Changes nothing.

        :raises BadTorrent, ConflictingData, NoSpace: as `add` would
        """
        parsed = metainfo.load(request)
        with self._lock:
            known = self._known(parsed, request)
            if known is None:
                self._refuse_what_does_not_fit(request, parsed)
            return known.status() if known else None

    def remove(self, info_hash: str, *, data: bool) -> None:
        """Forget a torrent, and with ``data`` delete its payload from the store, never one that is seeded in place.

        :raises UnknownTorrent: it is not here
        """
        self._remove(info_hash, data=data)

    def remove_unwanted(self, info_hash: str, wanted_at: float, why: str) -> None:
        """Forget a torrent with its payload, unless it was pinned or asked for since ``wanted_at``, or works."""
        self._remove(info_hash, data=True, why=why, wanted_at=wanted_at)

    def _remove(self, info_hash: str, *, data: bool, why: str = "", wanted_at: float | None = None) -> None:
        deleted: Future[None] = Future()
        with self._lock:
            torrent = self._get(info_hash)
            record = torrent.record
            if wanted_at is not None and (
                torrent.state is not State.COMPLETE
                or record.pinned
                or (record.wanted_at or record.added_at) > wanted_at
            ):
                return
            assert self._writer is not None
            delete = data and not torrent.in_place
            del self._torrents[info_hash]
            # now, as a handle's hash changes when its torrent is gone
            del self._by_handle[torrent.handle]
            if delete:
                self._deleting[info_hash] = deleted
                self._session.remove_torrent(torrent.handle, lt.options_t.delete_files)
            else:
                self._session.remove_torrent(torrent.handle)
            written = self._writer.submit(self._folder.forget, info_hash)
        written.result()
        if delete:
            try:
                deleted.result(_DELETE_TIMEOUT)
            except FutureTimeoutError as error:
                raise SwarmError(
                    f"{info_hash}: its payload is still being deleted after {_DELETE_TIMEOUT:.0f} s"
                ) from error
            # what libtorrent does not know of: files of an import, empty folders
            shutil.rmtree(self.store_path(info_hash), ignore_errors=True)
        with self._lock:
            self._tell(Event(EventKind.REMOVED, info_hash, message=why))

    def pause(self, info_hash: str) -> None:
        """Neither fetch nor seed until `resume`; also after a restart."""
        with self._lock:
            torrent = self._get(info_hash)
            torrent.record.paused = True
            torrent.hold = None
            if torrent.state is State.CHECKING:
                torrent.handle.set_flags(lt.torrent_flags.stop_when_ready)
            else:
                torrent.handle.pause()
            self._changed(torrent)
            self._write_record(torrent)

    def resume(self, info_hash: str) -> None:
        """Go on; after an error, try again."""
        with self._lock:
            torrent = self._get(info_hash)
            torrent.record.paused = False
            if torrent.error:
                # only another look can tell whether the payload is right now
                self.recheck(info_hash)
            else:
                torrent.handle.clear_error()
                self._ask_for_space(torrent)
                self._go_on(torrent)
            self._write_record(torrent)

    def recheck(self, info_hash: str) -> None:
        """Hash all data on disk again; a paused torrent is paused again afterwards."""
        with self._lock:
            torrent = self._get(info_hash)
            torrent.error = None
            torrent.checking = True
            torrent.flushed = False
            if _held_for(torrent, "seeding"):
                torrent.hold = None
            torrent.on_disk = space.allocated(torrent.file_paths())
            torrent.record.files = None
            torrent.handle.clear_error()
            torrent.handle.force_recheck()
            if torrent.record.paused or torrent.hold or torrent.in_place:
                torrent.handle.set_flags(lt.torrent_flags.stop_when_ready)
            torrent.handle.resume()  # a paused torrent does not check
            self._changed(torrent)
            self._write_record(torrent)

    def status(self, info_hash: str) -> TorrentStatus:
        """:raises UnknownTorrent: it is not here"""
        with self._lock:
            return self._get(info_hash).status()

    def statuses(self) -> list[TorrentStatus]:
        with self._lock:
            return [torrent.status() for torrent in self._torrents.values()]

    def peers(self, info_hash: str) -> list[PeerStatus]:
        """Every peer that the torrent is connected to, or is connecting to."""
        with self._lock:
            return self._get(info_hash).peers()

    def connect(self, info_hash: str, peers: Iterable[Endpoint]) -> None:
        """Make peers known to a torrent; names are looked up. They are kept with it."""
        resolved = resolve(peers)
        with self._lock:
            torrent = self._get(info_hash)
            self._add_peers(torrent, resolved)
            self._write_record(torrent)

    def extend(self, info_hash: str, addition: AddTorrent) -> None:
        """Give a torrent the trackers, peers and web seeds of ``addition`` that it lacks; they are kept with it."""
        peers = resolve(addition.peers)
        with self._lock:
            self._merge(self._get(info_hash), addition, (), peers)

    def set_limits(self, upload: int, download: int) -> None:
        """Rate limits of the whole agent, bytes/s, 0 for none; until it is stopped."""
        with self._lock:
            self._apply(replace(self._settings, upload_limit=upload, download_limit=download))

    def apply(self, wanted: EngineSettings) -> None:
        """Go by ``wanted`` from now on, without a torrent noticing. Folders and listen addresses stay as they are."""
        with self._lock:
            old = self._settings
            self._apply(replace(wanted, state_dir=old.state_dir, store_dir=old.store_dir, listen=old.listen))
            for torrent in self._torrents.values():
                torrent.web_seeds.policy = wanted.web_seed
            self._seeding_due = time.monotonic()
        self._bell.ring()  # the alert thread's deadlines may be others now

    def _apply(self, wanted: EngineSettings) -> None:
        if wanted.allowed_peers != self._settings.allowed_peers:
            self._session.set_ip_filter(settings.ip_filter(wanted.allowed_peers))
        before, after = settings.session_settings(self._settings), settings.session_settings(wanted)
        self._session.apply_settings({key: value for key, value in after.items() if value != before[key]})
        self._tuned.clear()
        self._settings = wanted

    def pin(self, info_hash: str, pinned: bool) -> None:
        """Whether nothing but a `remove` may remove it."""
        with self._lock:
            torrent = self._get(info_hash)
            torrent.record.pinned = pinned
            self._write_record(torrent)

    def set_torrent_limits(self, info_hash: str, upload: int, download: int) -> None:
        """Rate limits of one torrent, bytes/s, 0 for none."""
        with self._lock:
            torrent = self._get(info_hash)
            torrent.record.upload_limit = upload
            torrent.record.download_limit = download
            torrent.handle.set_upload_limit(upload)
            torrent.handle.set_download_limit(download)
            self._write_record(torrent)

    def metainfo(self, info_hash: str) -> bytes | None:
        """The .torrent; None while a magnet's metainfo is still unknown."""
        with self._lock:
            torrent = self._get(info_hash)
            if torrent.metainfo:  # a magnet's is written with its resume data
                self._wait_until(lambda: not torrent.saving, time.monotonic() + _SAVING_TIMEOUT)
        try:
            return self._folder.torrent_file(info_hash).read_bytes()
        except FileNotFoundError:
            return None

    def files(self, info_hash: str) -> tuple[PayloadFile, ...]:
        """The torrent's files in its own order, gaps between them (``pad``) included; none while they are unknown."""
        with self._lock:
            known = self._get(info_hash).metainfo
            return tuple(known.files) if known else ()

    def store_path(self, info_hash: str) -> Path:
        """The folder of the store that holds the torrent's payload."""
        return self._settings.store_dir / info_hash

    # --- space ---

    def space_status(self) -> SpaceStatus:
        """The store's file system. OSError."""
        with self._lock:
            found = self._measure()
            running = [torrent.need() for torrent in self._torrents.values() if torrent.hold is None]
            waiting = sum(torrent.hold is not None for torrent in self._torrents.values() if torrent.fills_disk)
            reserved = sum(running) + self._imported()
            return SpaceStatus(found.total, found.free, found.min_free, reserved, waiting)

    def reserve(self, size: int) -> Reservation:
        """Room for ``size`` bytes that somebody else is about to write into the store.

        :raises NoSpace: they do not fit beside what downloads need
        """
        with self._lock:
            found = self._measure()
            reserved = sum(torrent.need() for torrent in self._torrents.values() if torrent.hold is None)
            self._require(size, reserved + self._imported(), found)
            reservation = Reservation(size, self._importing.remove)
            self._importing.append(reservation)
            return reservation

    def _measure(self) -> space.Space:
        return space.measure(self._settings.store_dir, self._settings.min_free)

    def _imported(self) -> int:
        return sum(reservation.left for reservation in self._importing)

    def _refuse_what_does_not_fit(self, request: AddTorrent, parsed: Parsed) -> None:
        if self._settings.refuse_when_full and parsed.metainfo and not request.data_path and not request.paused:
            here = space.allocated(parsed.metainfo.paths(self.store_path(parsed.info_hash) / parsed.metainfo.root))
            reserved = sum(torrent.need() for torrent in self._torrents.values() if torrent.hold is None)
            self._require(parsed.metainfo.size - here, reserved + self._imported(), self._measure())

    @staticmethod
    def _require(size: int, reserved: int, found: space.Space) -> None:
        if reserved + size > found.available:
            raise NoSpace(space.refusal(size, reserved, found).message.replace("waiting for space", "no space", 1))

    def _share_space(self, newcomer: Torrent | None = None) -> None:
        """Hold the downloads that do not fit, let those go on that do.

        :param newcomer: wants to start
        """
        torrents = [torrent for torrent in self._torrents.values() if torrent.fills_disk or _held_for(torrent, "space")]
        self._space_due = time.monotonic() + _SPACE_INTERVAL if torrents else None
        try:
            found = self._measure()
        except OSError as error:
            _log.error("the store's free space cannot be told: %s", error)
            return
        wants = []
        for torrent in torrents:
            running = torrent.hold is None and torrent is not newcomer
            if need := torrent.need():
                wants.append(space.Want(torrent.info_hash, need, running, torrent.record.added_at))
        held, _reserved = space.share_out(wants, found, self._imported())
        for torrent in torrents:
            hold = held.get(torrent.info_hash)
            if hold and torrent.hold is None:
                self._hold(torrent, hold)
            elif hold:
                torrent.hold = hold  # with the numbers as they are now
            elif torrent.hold:
                self._release(torrent)

    def _look_after_seeding(self) -> None:
        policy = self._settings.seeding
        self._seeding_due = time.monotonic() + _SEEDING_INTERVAL if policy.ratio or policy.time else None
        for torrent in self._torrents.values():
            if torrent.state is not State.COMPLETE or (torrent.hold and torrent.hold.reason != "seeding"):
                continue
            torrent.take_counters(torrent.handle.status())
            hold = torrent.seeding_ended(policy, time.time())
            if hold and torrent.hold is None:
                self._hold(torrent, hold)
            elif torrent.hold and not hold:
                self._release(torrent)

    def _ask_for_space(self, torrent: Torrent) -> None:
        if torrent.fills_disk:
            self._share_space(torrent)

    def _hold(self, torrent: Torrent, hold: Hold) -> None:
        torrent.hold = hold
        if torrent.checking:
            torrent.handle.set_flags(lt.torrent_flags.stop_when_ready)
        else:
            torrent.handle.pause()
        kind = EventKind.SEEDING_ENDED if hold.reason == "seeding" else EventKind.HELD
        self._tell(Event(kind, torrent.info_hash, torrent.state, what=hold.reason, message=hold.message))
        self._changed(torrent)

    def _release(self, torrent: Torrent) -> None:
        torrent.hold = None
        self._tell(Event(EventKind.RELEASED, torrent.info_hash, state=torrent.state))
        self._go_on(torrent)

    def _go_on(self, torrent: Torrent) -> None:
        if torrent.hold is None:
            torrent.handle.unset_flags(lt.torrent_flags.stop_when_ready)
            torrent.handle.resume()
        self._changed(torrent)

    # --- adding ---

    def _get(self, info_hash: str) -> Torrent:
        try:
            return self._torrents[info_hash]
        except KeyError:
            raise UnknownTorrent(f"no torrent {info_hash} is here") from None

    def _known(self, parsed: Parsed, request: AddTorrent) -> Torrent | None:
        known = self._torrents.get(parsed.info_hash) or next(
            (t for t in self._torrents.values() if parsed.info_hash_v2 and t.info_hash_v2 == parsed.info_hash_v2), None
        )
        if known:
            wanted = _absolute(request.data_path)
            if wanted is not None and wanted != known.record.data_path:
                where = known.record.data_path or f"the agent's store ({self.store_path(known.info_hash)})"
                raise ConflictingData(
                    f"torrent {known.info_hash} is here already with its payload in {where}, not in {wanted}: "
                    "remove it first"
                )
        return known

    def _create(self, request: AddTorrent, parsed: Parsed, peers: list[Endpoint]) -> tuple[Torrent, Future[None]]:
        assert self._writer is not None
        data_path = _absolute(request.data_path)
        if data_path is not None and parsed.metainfo is None:
            raise BadTorrent("a magnet cannot be seeded from existing data: give the .torrent")
        record = Record(
            info_hash=parsed.info_hash,
            magnet=request.magnet,
            data_path=data_path,
            trackers=[list(tier) for tier in request.trackers][: settings.MAX_TRACKERS],
            web_seeds=list(dict.fromkeys([*parsed.web_seeds, *request.web_seeds]))[: settings.MAX_WEB_SEEDS],
            upload_limit=request.upload_limit,
            download_limit=request.download_limit,
            paused=request.paused,
            app=request.label.app if request.label else "",
            version=request.label.version if request.label else "",
            added_at=time.time(),
        )
        record.wanted_at = record.added_at
        torrent = self._attach(record, parsed)
        self._add_peers(torrent, peers)
        if request.torrent is not None:
            self._writer.submit(write_atomically, self._folder.torrent_file(record.info_hash), request.torrent)
        # under the lock: no alert of the torrent is told before
        self._tell(Event(EventKind.ADDED, torrent.info_hash, state=torrent.state))
        self._ask_for_space(torrent)
        return torrent, self._write_record(torrent)

    def _attach(self, record: Record, parsed: Parsed) -> Torrent:
        """Hand a torrent to libtorrent as its record wants it."""
        params = parsed.params
        store = self.store_path(record.info_hash)
        root = Path(record.data_path).parent if record.data_path else store
        torrent = Torrent(record, parsed, root, self._settings.web_seed)
        torrent.on_disk = space.allocated(torrent.file_paths())
        tiers = [*parsed.trackers, *record.trackers]
        params.trackers = [url for tier in tiers for url in tier]
        params.tracker_tiers = [number for number, tier in enumerate(tiers) for _url in tier]
        params.save_path = str(root)
        params.upload_limit = record.upload_limit
        params.download_limit = record.download_limit
        params.total_uploaded = record.uploaded
        params.url_seeds = []
        if parsed.metainfo is not None and record.completed_at is None and not record.data_path:
            torrent.shares = Shares(parsed.metainfo.pieces, self._settings.agent_name)
            # from the start: blocks are asked for before anything could be changed
            params.piece_priorities = torrent.shares.priorities()
        flags = lt.torrent_flags
        params.flags = flags.duplicate_is_error | flags.override_web_seeds | flags.override_trackers
        params.flags |= flags.apply_ip_filter
        if record.paused or record.data_path:
            # paused as soon as the check is done: a torrent that is added paused would not be checked
            params.flags |= flags.stop_when_ready
        if record.data_path:
            # In place: libtorrent must not write, whatever it finds. In upload mode it asks nobody for anything, and
            # files of priority 0 are not created (it would make missing empty files and links).
            params.flags |= flags.upload_mode
            assert parsed.metainfo is not None
            params.file_priorities = [4 if file.size else 0 for file in parsed.metainfo.files]
            params.renamed_files = parsed.metainfo.renames(Path(record.data_path))
        try:
            if not record.data_path:
                store.mkdir(parents=True, exist_ok=True)
            if torrent.shares:
                # the tracker's first answer may come before it is seen that something is fetched
                self._tune("torrent_connect_boost", settings.FETCH_BOOST)
            torrent.handle = self._session.add_torrent(params)
        except (RuntimeError, OSError) as error:
            raise SwarmError(f"torrent {record.info_hash} cannot be added: {error}") from error
        self._torrents[record.info_hash] = torrent
        self._by_handle[torrent.handle] = torrent
        return torrent

    def _merge(
        self,
        torrent: Torrent,
        request: AddTorrent,
        trackers: tuple[tuple[str, ...], ...],
        peers: list[Endpoint],
        web_seeds: tuple[str, ...] = (),
    ) -> None:
        record = torrent.record
        have = {entry["url"] for entry in torrent.handle.trackers()}
        tier = max((entry["tier"] for entry in torrent.handle.trackers()), default=-1)
        for urls in (*trackers, *request.trackers):
            new = [url for url in dict.fromkeys(urls) if url not in have]
            if not new or len(have) + len(new) > settings.MAX_TRACKERS:
                continue
            tier += 1
            for url in new:
                torrent.handle.add_tracker({"url": url, "tier": tier})
            record.trackers.append(new)
            have.update(new)
        all_seeds = dict.fromkeys([*record.web_seeds, *web_seeds, *request.web_seeds])
        record.web_seeds = list(all_seeds)[: settings.MAX_WEB_SEEDS]
        if record.web_seeds and torrent.fetching_since is not None and torrent.web_seeds.due is None:
            torrent.web_seeds.start(time.monotonic())
            self._bell.ring()  # the alert thread has a deadline more
        self._add_peers(torrent, peers)
        self._write_record(torrent)

    def _add_peers(self, torrent: Torrent, peers: list[Endpoint]) -> None:
        known = dict.fromkeys([*torrent.record.peers, *peers])
        torrent.record.peers = list(known)[-settings.MAX_GIVEN_PEERS :]
        for peer in peers:
            torrent.handle.connect_peer(peer)

    def _load(self, saved: Saved | Quarantined, *, clean: bool) -> None:
        if isinstance(saved, Quarantined):
            self._warn("", saved)
            return
        record = saved.record
        parsed, spoilt = restore(saved, self._folder, self.store_path(record.info_hash), clean=clean)
        for file in spoilt:
            self._warn(record.info_hash, file)
        if parsed is None:
            return
        try:
            torrent = self._attach(record, parsed)
        except SwarmError as error:
            _log.error("%s", error)
            self._early.append(Event(EventKind.ERROR, record.info_hash, message=str(error)))
            return
        torrent.unclean = not clean
        self._ask_for_space(torrent)
        self._add_peers(torrent, record.peers)

    def _warn(self, info_hash: str, spoilt: Quarantined) -> None:
        message = f"a file of the state could not be used and was moved here: {spoilt.reason}"
        _log.warning("%s: %s", spoilt.path, message)
        self._early.append(Event(EventKind.ERROR, info_hash, what=str(spoilt.path), message=message))

    # --- the alert thread ---

    def _run(self) -> None:
        with self._lock:
            for event in self._early:
                self._tell(event)
        while True:
            with self._lock:
                if self._stopping:
                    return
                wait = self._next_deadline() - time.monotonic()
            self._bell.wait(wait)
            if self._may_gather():
                time.sleep(_GATHERING)
            with self._lock:
                for alert in self._session.pop_alerts():
                    self._react_safely(alert)
                now = time.monotonic()
                self._look_after_fetching(now)
                if self._space_due is not None and now >= self._space_due:
                    self._share_space()
                if self._seeding_due is not None and now >= self._seeding_due:
                    self._look_after_seeding()

    def _fetching(self) -> list[Torrent]:
        return [torrent for torrent in self._torrents.values() if torrent.fetching_since is not None]

    def _may_gather(self) -> bool:
        """Whether bytes come and it is known from whom. Nobody tells us of web seeds before their blocks."""
        with self._lock:
            now = time.monotonic()
            fetching = self._fetching()
            flowing = any(now - torrent.last_byte_at < _NEW_SOURCE for torrent in fetching)
            web_seeds = any(torrent.web_seeds.in_use for torrent in fetching)
            return flowing and not web_seeds and now >= self._gather_from

    def _next_deadline(self) -> float:
        due = time.monotonic() + _IDLE_WAIT
        for ours in (self._space_due, self._seeding_due):
            if ours is not None:
                due = min(due, ours)
        for torrent in self._fetching():
            for own in (
                torrent.progress_due,
                torrent.sample_due,
                torrent.resume_due,
                torrent.shares_due,
                torrent.dial_due,
                torrent.web_seeds.due,
            ):
                if own is not None:
                    due = min(due, own)
        return due

    def _react_safely(self, alert: Any) -> None:
        try:
            self._react(alert)
        except Exception:
            # one alert that is not understood must not end the agent's account of all the others
            _log.exception("an alert could not be worked on: %s", type(alert).__name__)

    def _react(self, alert: Any) -> None:
        handle = getattr(alert, "handle", None)
        torrent = self._by_handle.get(handle) if handle is not None else None
        reaction = self._reactions.get(type(alert))
        if reaction and torrent:
            reaction(torrent, alert)
        elif event := alerts.translate(alert, torrent.info_hash if torrent else ""):
            self._tell(event)
        elif isinstance(alert, (lt.torrent_deleted_alert, lt.torrent_delete_failed_alert)):
            self._on_deleted(alert)
        elif isinstance(alert, lt.alerts_dropped_alert):
            _log.warning("libtorrent dropped alerts: the account of who sent what is not exact for a while")

    def _tell(self, event: Event) -> None:
        """Under the lock, from whichever thread made it happen: events come one at a time, and in order."""
        self._on_event(event)

    def _on_block(self, torrent: Torrent, alert: Any) -> None:
        torrent.count_block(alerts.endpoint(alert), alert.piece_index, alert.block_index)

    def _on_request(self, torrent: Torrent, alert: Any) -> None:
        torrent.count_request(alerts.endpoint(alert), alert.piece_index, alert.block_index)

    def _on_peer_connect(self, torrent: Torrent, alert: Any) -> None:
        torrent.sources.pop(alerts.endpoint(alert), None)  # somebody else may have had this address and port
        # also those that are still to connect: peers that start together are told of one another first
        status = torrent.handle.status()
        size = torrent.metainfo.size if torrent.metainfo else 0
        queue = settings.request_queue(self._settings.upload_limit, status.list_peers, size)
        self._tune("max_allowed_in_request_queue", queue)
        torrent.known_peers = status.list_peers
        if torrent.fetching_since is None:
            self._suit_session()
            return
        now = time.monotonic()
        self._gather_from = now + _NEW_SOURCE
        self._look_at_peers(torrent, status.num_peers, now)
        if torrent.shares_due is None:
            torrent.shares_due = now + _SHARES_DELAY

    def _look_at_peers(self, torrent: Torrent, peers: int, now: float) -> None:
        """Dial nobody while all that is fetched has enough peers; whoever dials us is welcome."""
        torrent.dial_due = now + _DIAL_AGAIN if peers >= settings.ENOUGH_PEERS else None
        self._suit_session()

    def _suit_session(self) -> None:
        """Have the session's settings follow what is fetched."""
        fetching = self._fetching()
        enough = fetching and all(torrent.dial_due is not None for torrent in fetching)
        self._tune("connection_speed", 0 if enough else settings.CONNECTION_SPEED)
        self._tune("torrent_connect_boost", settings.FETCH_BOOST if fetching else settings.SEED_BOOST)
        peers = max((torrent.known_peers for torrent in self._torrents.values()), default=0)
        self._tune("unchoke_slots_limit", settings.UNCHOKE_SLOTS if fetching else settings.seed_slots(peers))
        by_totals = fetching and all(torrent.totals for torrent in fetching)
        self._tune("alert_mask", int(settings.ALERT_MASK_FAST if by_totals else settings.ALERT_MASK))
        # whoever has a check made waits for it
        hashing = any(torrent.hashing for torrent in self._torrents.values())
        self._tune("hashing_threads", os.cpu_count() or 1 if hashing else 1)

    def _tune(self, name: str, value: int) -> None:
        if self._tuned.get(name) != value:
            self._tuned[name] = value
            self._session.apply_settings({name: value})

    def _on_change(self, torrent: Torrent, _alert: Any) -> None:
        self._changed(torrent)

    def _on_state_changed(self, torrent: Torrent, alert: Any) -> None:
        states = lt.torrent_status.states
        if alert.state in (states.checking_files, states.checking_resume_data):
            torrent.flushed = False
        if alert.state == states.checking_files:
            torrent.hashing = True
            self._suit_session()
        self._changed(torrent)

    def _on_checked(self, torrent: Torrent, _alert: Any) -> None:
        torrent.checking = False
        status = torrent.handle.status()
        if torrent.hashing:
            torrent.hashing = False
            self._suit_session()
            present = stamp([path for path in torrent.file_paths() if path and path.exists()]) or []
            torrent.rehashed += min(sum(size for size, _t in present), torrent.metainfo.size if torrent.metainfo else 0)
        torrent.account_for_check(status)
        if torrent.in_place:
            self._judge_in_place(torrent, status)
        self._changed(torrent)

    def _judge_in_place(self, torrent: Torrent, status: Any) -> None:
        if status.num_pieces == (torrent.metainfo.pieces if torrent.metainfo else -1):
            if not torrent.record.paused:
                torrent.handle.resume()
            return
        torrent.error = torrent.difference()
        torrent.handle.pause()

    def _on_paused(self, torrent: Torrent, _alert: Any) -> None:
        torrent.halted = True
        self._worked.notify_all()
        self._changed(torrent)

    def _on_resumed(self, torrent: Torrent, _alert: Any) -> None:
        torrent.halted = False
        self._changed(torrent)

    def _on_cache_flushed(self, torrent: Torrent, _alert: Any) -> None:
        states = lt.torrent_status.states
        if torrent.handle.status().state in (states.finished, states.seeding):
            torrent.flushed = True
            self._changed(torrent)

    def _changed(self, torrent: Torrent) -> None:
        """Look at the torrent's state, and do what a new one asks for."""
        status = torrent.handle.status()
        state = torrent.state_in(status)
        now = time.monotonic()
        if self._space_due is None and torrent.fills_disk:
            self._space_due = now
            self._bell.ring()
        still = torrent.record.paused or torrent.hold is not None
        fetching = state in (State.DOWNLOADING, State.METADATA) and not still
        if fetching and torrent.fetching_since is None:
            torrent.fetching_since = torrent.last_byte_at = now
            torrent.sample_due = now if torrent.totals else None
            self._gather_from = now + _NEW_SOURCE
            self._suit_session()
            if state is State.DOWNLOADING and torrent.record.web_seeds:
                torrent.web_seeds.start(now)
        elif not fetching and torrent.fetching_since is not None:
            torrent.take_seconds(now)
            torrent.fetching_since = torrent.progress_due = torrent.resume_due = torrent.shares_due = None
            torrent.dial_due = torrent.sample_due = None
            self._suit_session()
            self._take_web_seeds(torrent)
            torrent.web_seeds.stop()
            torrent.take_counters(status)
            torrent.count_uncounted()
        if state is torrent.state:
            return
        before, torrent.state = torrent.state, state
        self._tell(Event(EventKind.STATE, torrent.info_hash, state=state))
        if state is State.COMPLETE:
            self._completed(torrent, before, status)
        elif state is State.ERROR:
            error = torrent.status().error or TorrentError("unknown error")
            self._tell(Event(EventKind.ERROR, torrent.info_hash, state=state, what=error.what, message=error.message))
            self._write_record(torrent)

    def _completed(self, torrent: Torrent, before: State, status: Any) -> None:
        record = torrent.record
        torrent.take_counters(status)
        torrent.count_rest()
        torrent.shares = None  # a number for each piece, of use to nobody any more
        if record.completed_at is None or before is State.DOWNLOADING:
            record.completed_at = time.time()
            self._tell(Event(EventKind.COMPLETE, torrent.info_hash, state=State.COMPLETE))
        if self._settings.seeding != SeedingPolicy():
            self._seeding_due = time.monotonic()
        if record.files is None:
            self._save_resume_data(torrent)
            self._seal(torrent)

    def _seal(self, torrent: Torrent) -> None:
        """Note how the complete files look, once their content is safe on disk: after a crash they need no check."""
        assert self._writer is not None
        paths = torrent.file_paths()

        def work() -> None:
            files = stamp(paths, sync=not torrent.in_place)
            with self._lock:
                if torrent.state is not State.COMPLETE:
                    return  # checked or removed meanwhile
                torrent.record.files = files
            self._write_record_now(torrent)

        self._writer.submit(work).add_done_callback(self._log_failure)

    def _on_metadata(self, torrent: Torrent, _alert: Any) -> None:
        torrent.metainfo = Metainfo(torrent.handle.torrent_file())
        torrent.info_hash_v2 = metainfo.key_v2(torrent.handle.info_hashes())
        torrent.shares = Shares(torrent.metainfo.pieces, self._settings.agent_name)
        self._tell(Event(EventKind.METADATA, torrent.info_hash))
        self._changed(torrent)
        self._ask_for_space(torrent)
        if torrent.record.web_seeds and torrent.fetching_since is not None:
            torrent.web_seeds.start(time.monotonic())
        self._save_resume_data(torrent)

    def _on_deleted(self, alert: Any) -> None:
        deleted = self._deleting.pop(metainfo.key(alert.info_hashes), None)
        if deleted:
            deleted.set_result(None)

    # --- while fetching ---

    def _look_after_fetching(self, now: float) -> None:
        for torrent in self._torrents.values():
            if torrent.fetching_since is None:
                torrent.swarm_delivered = torrent.web_delivered = False
                continue
            self._look_at_totals(torrent, now)
            if torrent.swarm_delivered or torrent.web_delivered:
                self._delivered(torrent, now)
            if torrent.progress_due is not None and now >= torrent.progress_due:
                torrent.progress_due = None
                torrent.progressed_at = now
                self._tell(Event(EventKind.PROGRESS, torrent.info_hash, state=torrent.state))
                status = torrent.handle.status()
                torrent.take_counters(status)
                torrent.take_seconds(now)
                self._tune("request_queue_time", torrent.look_at_rate(status, now))
                self._look_at_peers(torrent, status.num_peers, now)
                # Survives a kill of this process, and of more only the resume data is to be trusted: no sync.
                if torrent.record_write is None or torrent.record_write.done():
                    self._write_record(torrent, sync=False)
            if torrent.dial_due is not None and now >= torrent.dial_due:
                torrent.dial_due = None
                self._suit_session()
            if torrent.shares_due is not None and now >= torrent.shares_due:
                torrent.shares_due = None
                torrent.share_out()
            if torrent.resume_due is not None and now >= torrent.resume_due:
                self._save_resume_data(torrent)
            if torrent.web_seeds.due is not None and now >= torrent.web_seeds.due:
                self._give_web_seeds(torrent, now)

    def _look_at_totals(self, torrent: Torrent, now: float) -> None:
        if torrent.totals is None:
            large = torrent.metainfo is not None and torrent.metainfo.size >= totals.LARGE
            if not large or not torrent.pace.fast(now):
                return
            torrent.begin_totals()
            self._suit_session()
        elif torrent.sample_due is None or now >= torrent.sample_due:
            torrent.count_totals()
        else:
            return
        torrent.sample_due = now + totals.INTERVAL

    def _delivered(self, torrent: Torrent, now: float) -> None:
        if torrent.swarm_delivered:
            self._take_web_seeds(torrent)
            torrent.web_seeds.swarm_delivered(now)
        else:
            torrent.web_seeds.delivered(now)
        torrent.swarm_delivered = torrent.web_delivered = False
        torrent.last_byte_at = now
        if torrent.progress_due is None:
            torrent.progress_due = max(now, torrent.progressed_at + _PROGRESS_INTERVAL)
        if torrent.resume_due is None:
            torrent.resume_due = now + self._settings.resume_interval

    def _give_web_seeds(self, torrent: Torrent, now: float) -> None:
        self._take_web_seeds(torrent)  # if they were given and do not help: libtorrent may have turned its back on them
        torrent.web_seeds.use(now)
        for url in torrent.record.web_seeds:
            torrent.handle.add_url_seed(url)
        stalled = f"no byte came for {now - torrent.last_byte_at:.0f} s"
        what = " ".join(torrent.record.web_seeds)
        self._tell(Event(EventKind.WEB_SEEDS_USED, torrent.info_hash, what=what, message=stalled))

    def _take_web_seeds(self, torrent: Torrent) -> None:
        if torrent.web_seeds.in_use:
            # as libtorrent calls them: it adds a slash where the torrent is a folder
            for url in torrent.handle.url_seeds():
                torrent.handle.remove_url_seed(url)

    # --- the state folder ---

    def _write_record(self, torrent: Torrent, *, sync: bool = True) -> Future[None]:
        """Have the record written as it is when its turn comes."""
        assert self._writer is not None
        torrent.record_write = self._writer.submit(self._write_record_now, torrent, sync=sync)
        torrent.record_write.add_done_callback(self._log_failure)
        return torrent.record_write

    def _write_record_now(self, torrent: Torrent, *, sync: bool = True) -> None:
        with self._lock:
            if self._torrents.get(torrent.info_hash) is not torrent:
                return  # removed; what forgets its files comes later in this thread
            data = msgspec.json.encode(torrent.record)
        write_atomically(self._folder.record_file(torrent.info_hash), data, sync=sync)

    def _save_resume_data(self, torrent: Torrent) -> None:
        torrent.resume_due = None
        torrent.saving += 1
        flags = lt.save_resume_flags_t.flush_disk_cache
        if torrent.record.magnet:
            flags |= lt.save_resume_flags_t.save_info_dict  # the .torrent is made of it
        torrent.handle.save_resume_data(flags)

    def _on_resume_data(self, torrent: Torrent, alert: Any) -> None:
        assert self._writer is not None
        data = bytes(lt.write_resume_data_buf(alert.params))
        metainfo_file = self._folder.torrent_file(torrent.info_hash)
        status = torrent.handle.status()
        torrent.take_counters(status)
        torrent_data = None
        if torrent.record.magnet and torrent.metainfo and not metainfo_file.exists():
            torrent_data = self._make_torrent_file(torrent, alert.params)

        def work() -> None:
            if self._torrents.get(torrent.info_hash) is not torrent:
                return
            if torrent_data is not None:
                write_atomically(metainfo_file, torrent_data)
            write_atomically(self._folder.resume_file(torrent.info_hash), data)
            self._write_record_now(torrent)

        self._writer.submit(work).add_done_callback(lambda done: self._resume_data_written(torrent, done))

    def _make_torrent_file(self, torrent: Torrent, params: Any) -> bytes | None:
        params.url_seeds = torrent.record.web_seeds
        try:
            return bytes(lt.bencode(lt.write_torrent_file(params)))  # type: ignore[arg-type]
        except RuntimeError as error:
            # of a v2 magnet, the hashes of the pieces come with the pieces; written when complete
            _log.info("%s: its .torrent cannot be written yet: %s", torrent.info_hash, error)
            return None

    def _resume_data_written(self, torrent: Torrent, done: Future[None]) -> None:
        self._log_failure(done)
        with self._worked:
            torrent.saving -= 1
            if done.exception():
                self._unsaved = True
            else:
                self._tell(Event(EventKind.RESUME_SAVED, torrent.info_hash))
            self._worked.notify_all()

    def _on_resume_data_failed(self, torrent: Torrent, alert: Any) -> None:
        _log.warning("%s: resume data cannot be saved: %s", torrent.info_hash, alert.error.message())
        torrent.saving -= 1
        self._unsaved = True
        self._worked.notify_all()

    def _log_failure(self, done: Future[None]) -> None:
        error = done.exception()
        if error:
            _log.error("the state folder %s cannot be written: %s", self._settings.state_dir, error)


def _held_for(torrent: Torrent, reason: str) -> bool:
    return torrent.hold is not None and torrent.hold.reason == reason


def _absolute(path: Path | None) -> str | None:
    return str(path.absolute()) if path is not None else None
