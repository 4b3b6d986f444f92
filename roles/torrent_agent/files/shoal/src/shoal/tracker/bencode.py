"""Bencoding (BEP 3): the form of a tracker's answers. Only writing; a tracker never reads any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Value = int | bytes | str | Sequence["Value"] | Mapping[bytes, "Value"]


def bencode(value: Value) -> bytes:
    """The one bencoded form of ``value``: dictionaries sorted by their raw keys, text as UTF-8."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, Mapping):
        return b"d%se" % b"".join(bencode(key) + bencode(value[key]) for key in sorted(value))
    return b"l%se" % b"".join(map(bencode, value))
