"""What the API takes: request bodies and query strings, checked while they are decoded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from shoal.agent.addresses import is_ip, parse_endpoint
from shoal.agent.client import MAX_TORRENT_BYTES
from shoal.agent.config import MAX_RATE
from shoal.agent.errors import BadRequestError
from shoal.swarm import AddTorrent, Endpoint, Label

MAX_BODY_BYTES = MAX_TORRENT_BYTES * 4 // 3 + 64 * 1024  # the same in base64, and the rest of the request
MAX_WAIT = 60.0
MAX_PEERS = 1000
RESOLVE_SECONDS = 20.0
# Not the threads that the engine is called in: a name server that is away must not hold up the whole API.
_RESOLVERS = ThreadPoolExecutor(8, thread_name_prefix="resolver")

Struct = TypeVar("Struct", bound=msgspec.Struct)
Limit = Annotated[int, msgspec.Meta(ge=0, le=MAX_RATE)]  # bytes per second; 0: no limit
Texts = Annotated[tuple[str, ...], msgspec.Meta(max_length=100)]
Peers = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_PEERS)]
Tiers = Annotated[tuple[Texts, ...], msgspec.Meta(max_length=100)]


class LabelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a payload is a version of."""

    app: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class AddBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/torrents"""

    torrent: bytes | None = None  # base64 in JSON
    magnet: str | None = None
    data_path: str | None = None
    trackers: Tiers = ()
    peers: Peers = ()
    web_seeds: Texts = ()
    upload_limit: Limit = 0
    download_limit: Limit = 0
    paused: bool = False
    label: LabelBody | None = None


class ChangeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /v1/torrents/{info_hash}; what is None or empty stays as it is."""

    paused: bool | None = None
    pinned: bool | None = None
    upload_limit: Limit | None = None
    download_limit: Limit | None = None
    peers: Peers = ()
    web_seeds: Texts = ()
    trackers: Tiers = ()


class LimitsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /v1/agent"""

    upload_limit: Limit | None = None
    download_limit: Limit | None = None


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters are known here."""


class DryRunQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dry_run: bool = False


class WaitQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT)] = 0
    progress: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class DeleteQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: bool = False
    dry_run: bool = False


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    after: Annotated[int, msgspec.Meta(ge=0)] | None = None
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT)] = 0


def decode_body(data: bytes, kind: type[Struct]) -> Struct:
    """A request's JSON as ``kind``; BadRequestError names the field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the request's body: {error}") from None


def decode_query(query: Iterable[tuple[str, str]], kind: type[Struct]) -> Struct:
    """A query string's parameters as ``kind``; BadRequestError names the parameter."""
    values: dict[str, Any] = {}
    for key, value in query:
        if key in values:
            raise BadRequestError(f"the query: {key} is there twice")
        values[key] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"the query: {error}") from None


async def add_request(body: AddBody) -> AddTorrent:
    """The engine's form of ``body``: URLs and paths checked, peers' names resolved."""
    if (body.torrent is None) == (body.magnet is None):
        raise BadRequestError("expected exactly one of torrent (the .torrent file in base64) and magnet")
    if body.torrent is not None and len(body.torrent) > MAX_TORRENT_BYTES:
        raise BadRequestError(f"torrent: found {len(body.torrent)} bytes, expected at most {MAX_TORRENT_BYTES}")
    if body.magnet is not None and not body.magnet.startswith("magnet:?"):
        raise BadRequestError(f"magnet: found {body.magnet[:100]!r}, expected magnet:?xt=urn:btih:…")
    if body.data_path is not None and (not body.data_path.startswith("/") or "\0" in body.data_path):
        raise BadRequestError(f"data_path: found {body.data_path!r}, expected an absolute path")
    return AddTorrent(
        torrent=body.torrent,
        magnet=body.magnet,
        data_path=None if body.data_path is None else Path(body.data_path),
        trackers=check_trackers(body.trackers),
        peers=await resolve_peers(body.peers),
        web_seeds=check_web_seeds(body.web_seeds),
        upload_limit=body.upload_limit,
        download_limit=body.download_limit,
        paused=body.paused,
        label=Label(body.label.app, body.label.version) if body.label else None,
    )


def check_trackers(tiers: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """``tiers`` if all are announce URLs."""
    for url in (url for tier in tiers for url in tier):
        _check_url("trackers", url, ("http", "https", "udp"))
    return tiers


def check_web_seeds(urls: tuple[str, ...]) -> tuple[str, ...]:
    """``urls`` if all can be web seeds (BEP 19)."""
    for url in urls:
        _check_url("web_seeds", url, ("http", "https"))
    return urls


async def resolve_peers(peers: tuple[str, ...]) -> tuple[Endpoint, ...]:
    """Endpoints with IP addresses; a name may stand for several. Names are looked up side by side."""
    try:
        return await asyncio.wait_for(_resolve_peers(peers), RESOLVE_SECONDS)
    except asyncio.TimeoutError:
        raise BadRequestError(
            f"peers: cannot resolve the names of {len(peers)} peers within {RESOLVE_SECONDS:g} s; give addresses"
        ) from None


async def _resolve_peers(peers: tuple[str, ...]) -> tuple[Endpoint, ...]:
    loop = asyncio.get_running_loop()

    async def resolve(peer: str) -> list[Endpoint]:
        try:
            host, port = parse_endpoint(peer)
            if port == 0:
                raise ValueError(f"found {peer!r}, expected a port of 1 to 65535")
            if is_ip(host):
                return [(host, port)]
            found = await loop.run_in_executor(_RESOLVERS, socket.getaddrinfo, host, port, 0, socket.SOCK_STREAM)
        except ValueError as error:
            raise BadRequestError(f"peers: {error}") from None
        except OSError as error:
            raise BadRequestError(f"peers: cannot resolve {peer!r}: {error.strerror or error}") from None
        return [(str(address[0]), port) for *_kind, address in found]

    resolved = await asyncio.gather(*map(resolve, peers))
    return tuple(dict.fromkeys(endpoint for endpoints in resolved for endpoint in endpoints))


def _check_url(field: str, url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        usable = False
    if not usable or " " in url:
        raise BadRequestError(f"{field}: found {url[:200]!r}, expected a URL of {', '.join(schemes)}")
