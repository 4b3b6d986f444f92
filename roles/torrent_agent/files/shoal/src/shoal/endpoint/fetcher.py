"""How a reader gets bytes that are on this host, and what is common with how it gets others (`http`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface

from shoal.common.beneath import open_beneath

NOT_FOUND = 404
BLOCK = 64 << 10  # bytes
KEPT = "kept:/"


class IncompleteError(DownloadError):
    """The connection ended before the announced bytes were there."""


def shown(url: str) -> str:
    """``url`` for messages: without user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half a bracket: nobody knows what in it is a password
        return "(no URL)"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class FolderFetcher(FetcherInterface):
    """Reads ``file:///...``: a publisher looks at its own end point as a reader would."""

    requests = 0
    received = 0

    def __init__(self) -> None:
        self.last_url = ""
        self.last = b""
        self.etags: dict[str, list[str]] = {}

    def close(self) -> None:
        """Nothing to close."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.last_url, self.last = url, b""
        try:
            with os.fdopen(self._open(url), "rb") as file:
                while data := file.read(BLOCK):  # whoever asked stops at the size that is allowed
                    self.last += data
                    yield data
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"{error.filename} is not there", NOT_FOUND) from None
        except OSError as error:
            raise DownloadError(f"{error.filename or url}: {error.strerror}") from None

    def _open(self, url: str) -> int:
        return os.open(url2pathname(urlsplit(url).path), os.O_RDONLY | os.O_CLOEXEC)


class KeptFetcher(FolderFetcher):
    """Reads what another `Client` keeps in its folder ``path``, as if that were an end point: its URL is ``KEPT``.

    The folder is below ``above`` and may belong to somebody who cannot be trusted: no link below ``above`` is followed,
    and only regular files are read.
    """

    def __init__(self, above: Path, path: str) -> None:
        super().__init__()
        self._above = above
        self._path = PurePosixPath(path)

    def _open(self, url: str) -> int:
        kind, _slash, name = url.removeprefix(KEPT).partition("/")
        name = name.rpartition("/")[2]
        if kind == "targets":
            kept = f"targets/{name}"
        elif name.endswith(".root.json"):
            kept = f"root_history/{name}"
        else:
            kept = name[name.rfind(".", 0, -len(".json")) + 1 :]  # they are kept without their number
        return open_beneath(self._above, self._path / kept)


def read_etags(path: Path) -> dict[str, list[str]]:
    """What `write_etags` wrote; nothing if that is not there or damaged: it only saves bytes."""
    try:
        found = json.loads(path.read_bytes())
        return {str(url): [str(etag), str(digest)] for url, (etag, digest) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
