"""The request: what `shoal endpoint VERB --json` reads on stdin, validated (docs/endpoint.md is the reference)."""

from __future__ import annotations

import difflib
import re
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from shoal.common.texts import is_usable
from shoal.endpoint.errors import RequestError

PROTOCOL = 1


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a verb is told; which keys matter to which is in docs/endpoint.md."""

    folder: str = ""
    protocol: int = PROTOCOL
    who: Annotated[str, Meta(max_length=256)] = ""
    lock_timeout: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    # keys: files, folders of *.pem files, or the PEM texts themselves (from a vault)
    keys: list[str] = []
    pems: list[str] = []
    passphrase: str | None = None
    # init
    app: str = ""
    operator_keys: str = ""
    publisher_keys: str = ""
    root_keys: Annotated[int, Meta(ge=1, le=10)] = 1
    root_threshold: Annotated[int, Meta(ge=1, le=10)] = 1
    # channels
    channel: str = ""
    source: str = ""  # promote: the channel whose version it is
    version: str = ""
    versions: list[str] = []  # withdraw
    published: str = ""  # publish: the folder that release_publish made
    rollout: list[str] = []
    sequence: Annotated[int, Meta(ge=0, le=2**53)] = 0  # 0: the next one
    again: bool = False
    reason: Annotated[str, Meta(max_length=4096)] = ""
    # refresh, rotate
    force: bool = False
    role: str = ""
    new_keys: str = ""
    # verify
    url: str = ""
    root: str = ""


def parse(document: object) -> Request:
    """A checked request from decoded JSON. Raises RequestError, naming the key."""
    if not isinstance(document, dict):
        raise RequestError("the request must be a JSON object")
    if not is_usable(document):
        raise RequestError("the request has text with NUL or lone surrogates, which no path can have")
    protocol = document.get("protocol", PROTOCOL)
    if protocol != PROTOCOL:
        newer = isinstance(protocol, int) and protocol > PROTOCOL
        raise RequestError(
            f"the request speaks protocol {protocol!r}, this shoal speaks {PROTOCOL}",
            hint="update shoal on this host" if newer else "update the collection on the controller",
            code="unsupported_protocol",
        )
    try:
        request = msgspec.convert(document, Request)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    if not request.folder and not request.url:
        raise RequestError("folder is missing", hint="give the end point's folder, as in /srv/shoal/endpoint/shop")
    return request


def _explain(message: str) -> RequestError:
    found = re.fullmatch(r"Object contains unknown field `(.*?)`.*", message)
    if found is None:
        hint = "put it in quotes: YAML and JSON read 1.10 as the number 1.1" if "$.version" in message else ""
        return RequestError(f"the request is wrong: {message}", hint=hint)
    known = Request.__struct_fields__
    near = difflib.get_close_matches(found[1], known, 1)
    return RequestError(
        f"the request has the unknown key {found[1]!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}",
    )
