"""The HTTP+JSON API of the unix socket, version 1; docs/agent.md is its reference.

Handlers are short: decode, one engine call in a thread (it may wait for the disk), encode.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web

from shoal import __version__
from shoal.agent.client import API_VERSION
from shoal.agent.errors import AnswerError, BadRequestError
from shoal.agent.events import EventLog, GoneError
from shoal.agent.imports import IncomingFile
from shoal.agent.limits import RateLimits
from shoal.agent.log import log
from shoal.agent.messages import (
    MAX_BODY_BYTES,
    AddBody,
    ChangeBody,
    DeleteQuery,
    DryRunQuery,
    EventsQuery,
    LimitsBody,
    NoQuery,
    WaitQuery,
    add_request,
    check_trackers,
    check_web_seeds,
    decode_body,
    decode_query,
    resolve_peers,
)
from shoal.agent.reload import Configuration
from shoal.agent.watch import Watchers
from shoal.swarm import (
    AddTorrent,
    BadTorrent,
    ConflictingData,
    Engine,
    NoSpace,
    State,
    SwarmError,
    TorrentStatus,
    UnknownTorrent,
    libtorrent_version,
)
from shoal.swarm.metainfo import load

MAX_WAITS = 64  # long-polls at once: each holds a connection; a host has a handful of followers
IMPORT_CHUNK = 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Result = TypeVar("Result")


@dataclass
class Api:
    """The routes, and what they need: the engine, its events, and what the agent says of itself."""

    engine: Engine
    events: EventLog
    configuration: Configuration
    limits: RateLimits
    watchers: Watchers
    state_dir: Path
    store_dir: Path
    started_at: float = field(default_factory=time.time)
    _waits: int = 0

    def application(self) -> web.Application:
        """The aiohttp application that serves them."""
        app = web.Application(middlewares=[_answer_errors], client_max_size=MAX_BODY_BYTES)
        torrent = "/v1/torrents/{info_hash}"
        app.add_routes(
            [
                web.get("/v1/agent", self.get_agent),
                web.patch("/v1/agent", self.change_agent),
                web.get("/v1/torrents", self.list_torrents),
                web.post("/v1/torrents", self.add_torrent),
                web.get(torrent, self.get_torrent),
                web.patch(torrent, self.change_torrent),
                web.delete(torrent, self.remove_torrent),
                web.post(f"{torrent}/recheck", self.recheck_torrent),
                web.get(f"{torrent}/metainfo", self.get_metainfo),
                web.get(f"{torrent}/peers", self.list_peers),
                web.put(f"{torrent}/files/{{index}}", self.import_file),
                web.get("/v1/events", self.list_events),
                web.get("/v1/metrics", self.get_metrics),
                web.get("/v1/apps", self.list_apps),
                web.get("/v1/apps/{app}", self.get_app),
                web.post("/v1/apps/{app}/poll", self.poll_app),
            ]
        )
        return app

    def metrics_application(self) -> web.Application:
        """What is served to whoever reaches the address for metrics: those, and nothing else."""
        app = web.Application(middlewares=[_answer_errors])
        app.add_routes([web.get("/metrics", self.get_metrics)])
        return app

    # --- the agent ---

    async def get_agent(self, request: web.Request) -> web.Response:
        decode_query(request.query.items(), NoQuery)
        return _json({"agent": await self._describe_agent()})

    async def change_agent(self, request: web.Request) -> web.Response:
        decode_query(request.query.items(), NoQuery)
        body = decode_body(await request.read(), LimitsBody)
        await asyncio.to_thread(self.limits.set, body.upload_limit, body.download_limit)
        return _json({"agent": await self._describe_agent()})

    async def _describe_agent(self) -> dict[str, object]:
        torrents = await asyncio.to_thread(self.engine.statuses)
        try:
            storage = await asyncio.to_thread(self.engine.space_status)
        except OSError as error:  # to say how it is, the agent needs no store
            log.error("the store's free space cannot be told: %s", error)
            storage = None
        return {
            "version": __version__,
            "api": API_VERSION,
            "libtorrent": libtorrent_version,
            "name": self.configuration.current.agent_name,
            "pid": os.getpid(),
            "started_at": self.started_at,
            "listen": self.engine.listen_ports,
            "store_dir": self.store_dir,
            "state_dir": self.state_dir,
            "storage": storage,
            "config": self.configuration.describe(),
            "apps": self.watchers.describe(),
            "schedule": str(self.limits.span) if self.limits.span else None,
            "upload_limit": self.limits.upload,
            "download_limit": self.limits.download,
            "upload_rate": sum(torrent.upload_rate for torrent in torrents),
            "download_rate": sum(torrent.download_rate for torrent in torrents),
            "uploaded": sum(torrent.uploaded for torrent in torrents),
            "downloaded": sum(torrent.downloaded for torrent in torrents),
            "torrents": len(torrents),
        }

    # --- torrents ---

    async def list_torrents(self, request: web.Request) -> web.Response:
        decode_query(request.query.items(), NoQuery)
        return _json({"torrents": await asyncio.to_thread(self.engine.statuses)})

    async def add_torrent(self, request: web.Request) -> web.Response:
        query = decode_query(request.query.items(), DryRunQuery)
        wanted = await add_request(decode_body(await request.read(), AddBody))
        known = await asyncio.to_thread(self.engine.describe, wanted)
        changed = known is None or _lacks(known, await asyncio.to_thread(_with_its_own, wanted))
        if query.dry_run:
            return _json({"changed": changed, "torrent": known})
        status, _new = await asyncio.to_thread(self.engine.add, wanted)
        return _json({"changed": changed, "torrent": status})

    async def get_torrent(self, request: web.Request) -> web.Response:
        info_hash = _info_hash(request)
        query = decode_query(request.query.items(), WaitQuery)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + query.wait
        async with self._waiting(query.wait):
            checking = False
            while True:
                seen = self.events.last  # before the look: what comes while we look wakes us
                status = await asyncio.to_thread(self.engine.status, info_hash)
                checked = checking and status.state is not State.CHECKING
                checking = status.state is State.CHECKING
                over = loop.time() >= deadline or self.events.closed
                if checked or over or _reached(status, query.progress):
                    return _json({"torrent": status})
                await self.events.wait(seen, deadline, info_hash)

    async def change_torrent(self, request: web.Request) -> web.Response:
        info_hash = _info_hash(request)
        query = decode_query(request.query.items(), DryRunQuery)
        body = decode_body(await request.read(), ChangeBody)
        addition = AddTorrent(
            trackers=check_trackers(body.trackers),
            peers=await resolve_peers(body.peers),
            web_seeds=check_web_seeds(body.web_seeds),
        )
        status = await asyncio.to_thread(self.engine.status, info_hash)
        limits = (
            status.upload_limit if body.upload_limit is None else body.upload_limit,
            status.download_limit if body.download_limit is None else body.download_limit,
        )
        new_limits = limits != (status.upload_limit, status.download_limit)
        retry = body.paused is False and status.state is State.ERROR
        new_pause = retry or body.paused not in (None, status.paused)
        new_pin = body.pinned not in (None, status.pinned)
        changed = new_limits or new_pause or new_pin or _lacks(status, addition)
        if not query.dry_run:
            if new_limits:
                await asyncio.to_thread(self.engine.set_torrent_limits, info_hash, *limits)
            if addition.trackers or addition.web_seeds or addition.peers:
                await asyncio.to_thread(self.engine.extend, info_hash, addition)
            if new_pin:
                await asyncio.to_thread(self.engine.pin, info_hash, bool(body.pinned))
            if new_pause:
                await asyncio.to_thread(self.engine.pause if body.paused else self.engine.resume, info_hash)
            status = await asyncio.to_thread(self.engine.status, info_hash)
        return _json({"changed": changed, "torrent": status})

    async def remove_torrent(self, request: web.Request) -> web.Response:
        info_hash = _info_hash(request)
        query = decode_query(request.query.items(), DeleteQuery)
        try:
            if query.dry_run:
                await asyncio.to_thread(self.engine.status, info_hash)
            else:
                await asyncio.to_thread(lambda: self.engine.remove(info_hash, data=query.data))
        except UnknownTorrent:
            return _json({"changed": False})
        return _json({"changed": True})

    async def recheck_torrent(self, request: web.Request) -> web.Response:
        info_hash = _info_hash(request)
        decode_query(request.query.items(), NoQuery)
        await asyncio.to_thread(self.engine.recheck, info_hash)
        return _json({"torrent": await asyncio.to_thread(self.engine.status, info_hash)})

    async def get_metainfo(self, request: web.Request) -> web.Response:
        info_hash = _info_hash(request)
        decode_query(request.query.items(), NoQuery)
        data = await asyncio.to_thread(self.engine.metainfo, info_hash)
        if data is None:
            raise _not_known_yet(info_hash)
        return web.Response(body=data, content_type="application/x-bittorrent")

    async def list_peers(self, request: web.Request) -> web.Response:
        info_hash = _info_hash(request)
        decode_query(request.query.items(), NoQuery)
        return _json({"peers": await asyncio.to_thread(self.engine.peers, info_hash)})

    async def import_file(self, request: web.Request) -> web.Response:
        info_hash = _info_hash(request)
        decode_query(request.query.items(), NoQuery)
        status = await asyncio.to_thread(self.engine.status, info_hash)
        if status.payload_path is None:
            raise _not_known_yet(info_hash)
        if not status.in_store or status.state is State.COMPLETE or not status.paused:
            found = "complete" if status.state is State.COMPLETE else "active" if status.in_store else "seeded in place"
            raise AnswerError(
                409,
                "conflict",
                f"cannot import into torrent {info_hash}: it is {found}",
                "files are taken for a torrent of the store that is paused and not complete",
            )
        files = [file for file in await asyncio.to_thread(self.engine.files, info_hash) if not file.pad]
        index = request.match_info["index"]
        if not index.isascii() or not index.isdigit() or len(index) > 9 or int(index) >= len(files):
            raise AnswerError(404, "not_found", f"torrent {info_hash} has files 0 to {len(files) - 1}, no {index!r}")
        file = files[int(index)]
        if request.content_length not in (None, file.size):
            raise BadRequestError(f"{file.path}: found {request.content_length} bytes, expected {file.size}")
        with contextlib.ExitStack() as opened:
            # not in a thread: were this request cancelled then, nobody would give the space back
            space = opened.enter_context(contextlib.closing(self.engine.reserve(file.size)))
            incoming = opened.enter_context(
                contextlib.closing(IncomingFile(self.store_dir, Path(info_hash, file.path)))
            )
            async for chunk in request.content.iter_chunked(IMPORT_CHUNK):
                if incoming.size + len(chunk) > file.size:
                    raise BadRequestError(f"{file.path}: found more than the expected {file.size} bytes")
                await asyncio.to_thread(incoming.write, chunk)
                space.written(len(chunk))
            if incoming.size != file.size:
                raise BadRequestError(f"{file.path}: found {incoming.size} bytes, expected {file.size}")
            await asyncio.to_thread(incoming.sync)
            incoming.commit()
        path = self.store_dir / info_hash / file.path
        return _json({"file": {"index": int(index), "path": path, "size": file.size}})

    # --- events ---

    async def list_events(self, request: web.Request) -> web.Response:
        query = decode_query(request.query.items(), EventsQuery)
        after = query.after
        if after is None:
            after = self.events.last if query.wait else self.events.first - 1
        async with self._waiting(query.wait):
            if query.wait and not self.events.after(after):
                await self.events.wait(after, asyncio.get_running_loop().time() + query.wait)
            return _json({"events": self.events.after(after), "last": self.events.last})

    async def get_metrics(self, request: web.Request) -> web.Response:
        from shoal.agent import metrics  # only who is scraped pays for the library

        decode_query(request.query.items(), NoQuery)
        body = await asyncio.to_thread(metrics.render, self.engine, self.watchers, self.started_at)
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    # --- applications ---

    async def list_apps(self, request: web.Request) -> web.Response:
        decode_query(request.query.items(), NoQuery)
        return _json({"apps": self.watchers.describe()})

    async def get_app(self, request: web.Request) -> web.Response:
        decode_query(request.query.items(), NoQuery)
        name = request.match_info["app"]
        found = next((app for app in self.watchers.describe() if app["app"] == name), None)
        if found is None:
            raise _not_followed(name)
        return _json({"app": found})

    async def poll_app(self, request: web.Request) -> web.Response:
        decode_query(request.query.items(), NoQuery)
        watcher = self.watchers.get(request.match_info["app"])
        if watcher is None:
            raise _not_followed(request.match_info["app"])
        found = watcher.describe()
        watcher.nudge()
        return _json({"app": found})

    @contextlib.asynccontextmanager
    async def _waiting(self, seconds: float) -> AsyncIterator[None]:
        if not seconds:
            yield
            return
        if self._waits >= MAX_WAITS:
            raise AnswerError(429, "limit", f"{MAX_WAITS} requests wait already", "try again, or ask without wait")
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1


# --- predicates ---------------------------------------------------------------------------------------------


def _reached(status: TorrentStatus, progress: float | None) -> bool:
    """Whether one who waits for ``status`` wants to hear of it now."""
    if status.state in (State.COMPLETE, State.ERROR):
        return True
    return progress is not None and status.state is State.DOWNLOADING and status.progress >= progress


def _lacks(known: TorrentStatus, wanted: AddTorrent) -> bool:
    """Whether ``wanted`` brings a label, tracker or web seed that ``known`` has not. Peers come and go: no change."""
    trackers = {tracker.url for tracker in known.trackers}
    new_tracker = any(url not in trackers for tier in wanted.trackers for url in tier)
    new_label = wanted.label not in (None, known.label)
    return new_label or new_tracker or not set(wanted.web_seeds) <= set(known.web_seeds)


def _with_its_own(wanted: AddTorrent) -> AddTorrent:
    """``wanted`` with the trackers and web seeds that its .torrent or magnet itself names."""
    parsed = load(wanted)
    return replace(
        wanted, trackers=(*parsed.trackers, *wanted.trackers), web_seeds=(*parsed.web_seeds, *wanted.web_seeds)
    )


def _info_hash(request: web.Request) -> str:
    text = request.match_info["info_hash"].lower()
    if len(text) != 40 or not set(text) <= set("0123456789abcdef"):
        raise BadRequestError(f"found {text[:80]!r}, expected an info hash of 40 hex digits")
    return text


def _not_followed(name: str) -> AnswerError:
    return AnswerError(404, "not_found", f"{name[:80]!r} is not followed here", "GET /v1/apps lists what is")


def _not_known_yet(info_hash: str) -> AnswerError:
    return AnswerError(
        409, "conflict", f"the metainfo of {info_hash} is not known yet", "it comes from peers; give some, or wait"
    )


# --- answers ------------------------------------------------------------------------------------------------


def _json(content: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(content, enc_hook=_encode)
    return web.Response(body=body, status=status, content_type="application/json")


def _encode(value: object) -> str:
    if isinstance(value, Path):
        return os.fsencode(value).decode("utf-8", "replace")
    raise NotImplementedError(f"{type(value).__name__} in an answer")


_REFUSALS: dict[type[Exception], tuple[int, str, str]] = {
    BadRequestError: (400, "bad_request", ""),
    BadTorrent: (400, "bad_request", ""),
    UnknownTorrent: (404, "not_found", "GET /v1/torrents lists what the agent has"),
    ConflictingData: (409, "conflict", "remove the torrent first"),
    GoneError: (410, "gone", "look at the torrents, then ask without after"),
    NoSpace: (507, "no_space", "make room, or lower storage.min_free"),
}
"""Status, code and hint of what is refused."""


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure in the one format, and the API's version on every answer."""
    try:
        response = await handler(request)
    except AnswerError as error:
        response = _error(error)
    except (BadRequestError, BadTorrent, UnknownTorrent, ConflictingData, GoneError, NoSpace) as error:
        status, code, hint = _REFUSALS[type(error)]
        response = _error(AnswerError(status, code, str(error), hint))
    except web.HTTPException as error:
        response = _error(_from_http(request, error))
    except SwarmError as error:
        log.error("%s %s failed: %s", request.method, request.path, error)
        response = _error(AnswerError(500, "internal", str(error)))
    except OSError as error:
        log.error("%s %s failed: %s", request.method, request.path, error)
        response = _error(AnswerError(500, "internal", f"{request.method} {request.path}: {error}"))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        response = _error(AnswerError(500, "internal", "a fault of the agent's own", "see its log"))
    response.headers["Shoal-Api"] = str(API_VERSION)
    return response


def _error(error: AnswerError) -> web.Response:
    content = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    return _json(content, error.status)


def _from_http(request: web.Request, error: web.HTTPException) -> AnswerError:
    """aiohttp's own refusals: no such route or method, too big a body."""
    asked = request.path.split("/")[1]
    if error.status == 404 and asked.startswith("v") and asked[1:].isdigit() and int(asked[1:]) != API_VERSION:
        old = "the agent" if int(asked[1:]) > API_VERSION else "the caller"
        return AnswerError(
            404, "unsupported_version", f"this agent speaks /v{API_VERSION}, asked was /{asked}", f"update {old}"
        )
    if error.status == 413:
        return AnswerError(413, "limit", f"the request's body has more than {MAX_BODY_BYTES} bytes")
    if error.status == 404:
        return AnswerError(404, "not_found", f"no such path: {request.path}", "see docs/agent.md")
    hint = f"allowed: {error.headers['Allow']}" if "Allow" in error.headers else ""
    return AnswerError(error.status, "bad_request", f"{request.method} {request.path}: {error.reason}", hint)
