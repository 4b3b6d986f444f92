"""How a reader gets bytes over HTTP: bounded in size and in time, whatever the other side does."""

from __future__ import annotations

import asyncio
import hashlib
import io
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import aiohttp
import yarl
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError, SlowRetrievalError
from tuf.ngclient import FetcherInterface

from shoal.endpoint.fetcher import IncompleteError

OK, NOT_MODIFIED = 200, 304
ERROR_BODY = 4096  # bytes of an error's body that are read, so that the connection can be used again
MAX_ETAG = 256  # bytes


class HttpFetcher(FetcherInterface):
    """Fetches for one poll. All of it together may take ``seconds``: a server that drips does not hold a host.

    ``requests`` and ``received`` (bytes of answers, headers included, as HTTP/1.1 has them) are counted. ``etags``:
    what the last believed answers were called, with the SHA-256 of their bytes; they are in the folder ``cache``.
    """

    def __init__(self, seconds: float, etags: dict[str, list[str]], cache: Path, cafile: Path | None = None) -> None:
        self.requests = 0
        self.received = 0
        self.last_url = ""
        self.last = b""  # what came last, for the diagnosis of a refusal
        self.etags = etags
        self._cache = cache
        self._deadline = time.monotonic() + seconds
        self._cafile = cafile
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._loop is not None and self._session is not None:
            self._loop.run_until_complete(self._session.close())
            self._loop.close()
        self._loop = self._session = None

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """As in FetcherInterface."""
        yield io.BytesIO(self.download_bytes(url, max_length))

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """As in FetcherInterface; raises SlowRetrievalError when the poll's time is over."""
        self.last_url, self.last = url, b""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                raise asyncio.TimeoutError
            self.last = self._loop.run_until_complete(asyncio.wait_for(self._get(url, max_length), left))
        except asyncio.TimeoutError:
            raise SlowRetrievalError("it was not there when the time for it was over") from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError) as error:
            raise IncompleteError(f"the connection ended too early: {error}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DownloadError(str(error) or type(error).__name__) from None
        return self.last

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError("download_bytes knows the limit, and this does not")

    async def _get(self, url: str, limit: int) -> bytes:
        session = self._session = self._session or await self._open()
        kept = self._kept(url)
        headers = {"If-None-Match": self.etags[url][0]} if kept is not None else {}
        self.requests += 1
        async with session.get(yarl.URL(url, encoded=True), headers=headers, allow_redirects=False) as answer:
            self.received += 17 + sum(len(name) + len(value) + 4 for name, value in answer.raw_headers)
            if answer.status == NOT_MODIFIED and kept is not None:
                return kept
            if answer.status != OK:
                with suppress(aiohttp.ClientError):
                    self.received += len(await answer.content.read(ERROR_BODY))
                where = f", to {answer.headers['Location']}" if "Location" in answer.headers else ""
                raise DownloadHTTPError(f"HTTP {answer.status} {answer.reason}{where}", answer.status)
            data = await self._read(answer, limit)
        etag = answer.headers.get("ETag", "")
        self.etags.pop(url, None)
        if etag and len(etag) <= MAX_ETAG and etag.isprintable():
            self.etags[url] = [etag, hashlib.sha256(data).hexdigest()]
        return data

    async def _read(self, answer: aiohttp.ClientResponse, limit: int) -> bytes:
        announced = answer.content_length or 0
        data = bytearray()
        if announced <= limit:
            async for chunk in answer.content.iter_any():
                self.received += len(chunk)
                data += chunk
                if len(data) > limit:
                    break
            else:
                return bytes(data)
        raise DownloadLengthMismatchError(f"{max(announced, len(data))} bytes or more, where {limit} are allowed")

    async def _open(self) -> aiohttp.ClientSession:
        tls: Any = True
        if self._cafile is not None:
            tls = ssl.create_default_context(cafile=str(self._cafile))
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=1),
            # the poll's own time limit is above all of them
            timeout=aiohttp.ClientTimeout(total=None),
            # no compression: a few bytes on the wire must not become many in memory
            headers={"Accept-Encoding": "identity", "User-Agent": "shoal"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _kept(self, url: str) -> bytes | None:
        """The bytes that were believed last time, if they are still there."""
        if url not in self.etags:
            return None
        try:
            data = (self._cache / url.rpartition("/")[2]).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == self.etags[url][1] else None
