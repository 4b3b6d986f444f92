"""What clients send in the query of an announce or scrape (BEP 3, 7, 23, 48), checked."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote_to_bytes

from shoal.tracker.swarms import Address, Announce, Event, TrackerError

MAX_QUERY = 8192  # bytes; room for MAX_SCRAPE info hashes with every byte escaped
MAX_SCRAPE = 100  # info hashes
MAX_TEXT = 64  # bytes of any value that is no hash or peer_id; the longest sensible one is an IPv6 address
HASH_SIZE = 20  # bytes of SHA-1, or of a v2 torrent's SHA-256 cut short (BEP 52)


@dataclass(frozen=True)
class AnnounceQuery:
    """An announce and the form its sender wants the answer in."""

    announce: Announce
    compact: bool  # BEP 23: the short form unless it is declined
    no_peer_id: bool  # in the long form


def parse_announce(query: bytes, seen_from: Address, believe_address: bool = False) -> AnnounceQuery:
    """Read an announce that came from ``seen_from``; raises TrackerError naming the wrong parameter.

    An address that the client gives of itself (``ip``) could send a whole swarm at a stranger: it is not looked at
    unless ``believe_address``. BEP 7's ``ipv4`` and ``ipv6`` never are, as its revision of 2020 has it: a client
    announces itself once from each of its addresses. Other parameters we do not know are ignored.
    """
    fields = _Fields(query)
    event = fields.text("event", "")
    if event not in set(Event):
        raise TrackerError(f"event is {event!r}: expected started, completed, stopped or paused")
    numwant = fields.number("numwant", -1, 2**31 - 1, default=-1)
    announce = Announce(
        info_hash=fields.hashes()[0],
        peer_id=fields.exactly("peer_id", HASH_SIZE),
        address=(fields.address() if believe_address else None) or seen_from,
        port=fields.number("port", 1, 2**16 - 1),
        left=fields.number("left", 0, 2**64 - 1),
        event=Event(event),
        numwant=None if numwant < 0 else numwant,
    )
    return AnnounceQuery(
        announce,
        compact=fields.text("compact", "1") != "0",
        no_peer_id=fields.text("no_peer_id", "0") == "1",
    )


def parse_address(text: str) -> Address:
    """An address as other hosts can use it: no zone, and no IPv4 written as IPv6. Raises ValueError."""
    address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def parse_scrape(query: bytes) -> list[bytes]:
    """The info hashes a scrape asks for, at least one: we do not tell everything we know."""
    return _Fields(query).hashes(MAX_SCRAPE)


class _Fields:
    """A query's parameters. Values are bytes, not text: an info hash is no UTF-8, and a ``+`` in it no space."""

    def __init__(self, query: bytes) -> None:
        if len(query) > MAX_QUERY:
            raise TrackerError(f"the query has {len(query)} bytes: at most {MAX_QUERY} are read")
        self._values: dict[bytes, list[bytes]] = {}
        for part in query.split(b"&"):
            name, _equals, value = part.partition(b"=")
            self._values.setdefault(name, []).append(unquote_to_bytes(value))

    def one(self, name: str) -> bytes | None:
        values = self._values.get(name.encode(), [])
        if len(values) > 1:
            raise TrackerError(f"{name} is given {len(values)} times: once is enough")
        return values[0] if values else None

    def text(self, name: str, default: str) -> str:
        value = self.one(name)
        if value is None:
            return default
        if len(value) > MAX_TEXT:
            raise TrackerError(f"{name} has {len(value)} bytes: at most {MAX_TEXT} are read")
        return value.decode("ascii", "backslashreplace")

    def number(self, name: str, least: int, most: int, default: int | None = None) -> int:
        text = self.text(name, "" if default is None else str(default))
        if not text:
            raise TrackerError(f"{name} is missing: expected a number from {least} to {most}")
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and least <= int(text) <= most):
            raise TrackerError(f"{name} is {text!r}: expected a number from {least} to {most}")
        return int(text)

    def exactly(self, name: str, size: int) -> bytes:
        value = self.one(name)
        if value is None:
            raise TrackerError(f"{name} is missing: expected {size} bytes, percent-encoded")
        if len(value) != size:
            raise TrackerError(f"{name} has {len(value)} bytes: expected {size}, percent-encoded")
        return value

    def hashes(self, most: int = 1) -> list[bytes]:
        values = self._values.get(b"info_hash", [])
        if not values:
            raise TrackerError(f"info_hash is missing: expected {HASH_SIZE} bytes, percent-encoded")
        if len(values) > most:
            raise TrackerError(f"info_hash is given {len(values)} times: at most {most} here")
        wrong = next((len(value) for value in values if len(value) != HASH_SIZE), None)
        if wrong is not None:
            raise TrackerError(f"info_hash has {wrong} bytes: expected {HASH_SIZE}, percent-encoded")
        return values

    def address(self) -> Address | None:
        text = self.text("ip", "")
        try:
            address = parse_address(text) if text else None
        except ValueError:
            raise TrackerError(f"ip is {text!r}: expected an IP address, no host name") from None
        if address and (address.is_multicast or address.is_unspecified):
            raise TrackerError(f"ip is {text}: no peer can be reached there")
        return address
