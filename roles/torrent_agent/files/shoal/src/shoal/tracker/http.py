"""The tracker's HTTP front: one request a connection, every answer to a tracker's path bencoded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from shoal.tracker.bencode import Value, bencode
from shoal.tracker.queries import MAX_QUERY, AnnounceQuery, parse_address, parse_announce, parse_scrape
from shoal.tracker.swarms import Address, Counts, Peer, Swarms, TrackerError

# Clients come once in an interval, so a connection is for one request, and nobody can hold one open for longer.
CONNECTION_SECONDS = 15

log = logging.getLogger(__name__)
# aiohttp logs a traceback for each line that is no HTTP; only errors of ours are worth one.
log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


@dataclass(frozen=True)
class TrackerSettings:
    """What a tracker is told; times in seconds, the defaults right for roll-outs: hosts that appear together, want
    each other at once, and are gone after some minutes."""

    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 6969),)  # port 0: the kernel chooses
    interval: int = 60  # clients are asked to come again after this
    min_interval: int = 30  # and not sooner than this
    lifetime: int = 180  # a peer that was not heard of for so long is forgotten
    believe_ip: bool = False  # take the address a client gives of itself for the one it comes from

    def __post_init__(self) -> None:
        if not 1 <= self.min_interval <= self.interval < self.lifetime:
            raise TrackerError(
                f"interval {self.interval}, min interval {self.min_interval}, lifetime {self.lifetime}: expected "
                "1 <= min interval <= interval < lifetime, or peers would be forgotten between two announces"
            )


class Tracker:
    """A running tracker: ``start()`` binds, ``stop()`` ends it. ``urls``: where it announces, one a socket."""

    def __init__(self, settings: TrackerSettings, swarms: Swarms | None = None) -> None:
        self.urls: list[str] = []
        self._settings = settings
        self._swarms = swarms or Swarms(settings.lifetime)
        self._servers: list[asyncio.Server] = []
        self._http: web.Server | None = None

    async def start(self) -> None:
        """Listen everywhere or nowhere; raises TrackerError naming the address that cannot be had."""
        loop = asyncio.get_running_loop()
        # Room in the request line beyond MAX_QUERY, so that we are asked and can say what is wrong.
        http = self._http = web.Server(self._answer, logger=log, access_log=None, max_line_size=2 * MAX_QUERY)

        def connection() -> asyncio.Protocol:
            protocol = http()
            loop.call_later(CONNECTION_SECONDS, protocol.force_close)
            return protocol

        for host, port in self._settings.listen:
            try:
                server = await loop.create_server(connection, host, port)
            except OSError as error:
                await self.stop()
                raise TrackerError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
            self._servers.append(server)
            self.urls += [_url(*sock.getsockname()[:2]) for sock in server.sockets]

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        if self._http:
            await self._http.shutdown(timeout=0.1)  # what is asked whole is answered at once

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path, query = request.rel_url.raw_path, request.rel_url.raw_query_string.encode("utf-8", "surrogateescape")
        status = 200  # of refusals too: clients do not look at the body of others
        answer: Value
        try:
            if path not in ("/announce", "/scrape"):
                status = 404
                raise TrackerError("nothing is here: this tracker knows /announce and /scrape")
            if request.method != "GET":
                status = 405
                raise TrackerError(f"{path} takes GET requests only")
            answer = self._scrape(query) if path == "/scrape" else self._announce(query, _address(request))
        except TrackerError as error:
            answer = {b"failure reason": str(error)}
        response = web.Response(status=status, body=bencode(answer), content_type="text/plain")
        response.force_close()
        return response

    def _announce(self, query: bytes, seen_from: Address) -> Value:
        asked = parse_announce(query, seen_from, self._settings.believe_ip)
        counts, peers = self._swarms.announce(asked.announce)
        return {
            b"complete": counts.complete,
            b"incomplete": counts.incomplete,
            b"interval": self._settings.interval,
            b"min interval": self._settings.min_interval,
            **(_compact(peers) if asked.compact else {b"peers": _long(peers, asked)}),
        }

    def _scrape(self, query: bytes) -> Value:
        return {b"files": {info_hash: _figures(self._swarms.scrape(info_hash)) for info_hash in parse_scrape(query)}}


def _figures(counts: Counts) -> Value:
    return {b"complete": counts.complete, b"downloaded": counts.downloaded, b"incomplete": counts.incomplete}


def _compact(peers: Sequence[Peer]) -> dict[bytes, Value]:
    """BEP 23 and BEP 7. Both families are told to everyone: only a client itself knows what it can reach."""
    packed: dict[int, bytes] = {4: b"", 6: b""}
    for peer in peers:
        packed[peer.address.version] += peer.address.packed + peer.port.to_bytes(2, "big")
    return {b"peers": packed[4], **({b"peers6": packed[6]} if packed[6] else {})}


def _long(peers: Sequence[Peer], asked: AnnounceQuery) -> list[Value]:
    return [
        {
            b"ip": str(peer.address),
            b"port": peer.port,
            **({} if asked.no_peer_id else {b"peer id": peer.peer_id}),
        }
        for peer in peers
    ]


def _address(request: web.BaseRequest) -> Address:
    if not request.remote:
        raise TrackerError("the address this announce came from is not known any more")
    return parse_address(request.remote)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/announce" if ":" in host else f"http://{host}:{port}/announce"
