"""What this side remembers of an application: how far it has seen, what it activated, what failed here."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from shoal.endpoint.documents import Time
from shoal.endpoint.folder import write_whole
from shoal.endpoint.policy import Past
from shoal.release.files import read_trusted
from shoal.upgrade.errors import UpgradeError

MAX_FAILED = 100  # sequences of a channel; an older one is below the floor


class Work(Struct, frozen=True):
    """What is being done, written before it is begun: after a kill, the next run ends it."""

    step: str  # of the table in steps.py
    channel: str
    sequence: int
    version: str
    who: str  # as the release's log names this work
    started_at: float


class Channel(Struct, frozen=True):
    """How far a channel was followed."""

    sequence: int = 0  # the highest one that was believed
    active: int = 0  # the highest one that was active
    failed: tuple[int, ...] = ()

    @property
    def past(self) -> Past:
        """As `decide` takes it."""
        return Past(self.active, frozenset(self.failed))


class State(Struct, frozen=True):
    """Everything; one file."""

    signed_at: Time | None = None  # the newest signature that was believed
    channels: dict[str, Channel] = {}
    known: bool = False  # whether `runs` was ever looked at
    runs: str | None = None  # the version that `current` shows by our doing, or with our knowledge
    work: Work | None = None

    def channel(self, name: str) -> Channel:
        """Of the channel ``name``."""
        return self.channels.get(name, Channel())

    def with_channel(self, name: str, channel: Channel) -> State:
        """The same, but for one channel."""
        return msgspec.structs.replace(self, channels={**self.channels, name: channel})

    def with_active(self, name: str, sequence: int, version: str) -> State:
        """``version`` runs, as ``sequence`` of the channel ``name``."""
        channel = self.channel(name)
        active = msgspec.structs.replace(channel, active=max(channel.active, sequence))
        return msgspec.structs.replace(self.with_channel(name, active), runs=version)

    def with_failed(self, name: str, sequence: int) -> State:
        """``sequence`` was tried, and is not tried again."""
        channel = self.channel(name)
        failed = tuple(sorted({*channel.failed, sequence}))[-MAX_FAILED:]
        return self.with_channel(name, msgspec.structs.replace(channel, failed=failed))

    def with_seen(self, name: str, sequence: int, signed_at: datetime) -> State:
        """The floor, raised to what was believed now."""
        channel = self.channel(name)
        seen = msgspec.structs.replace(channel, sequence=max(channel.sequence, sequence))
        newest = signed_at if self.signed_at is None else max(self.signed_at, signed_at)
        return msgspec.structs.replace(self.with_channel(name, seen), signed_at=newest)


class Store:
    """The folder of one application, and the state in it."""

    def __init__(self, folder: Path) -> None:
        self.trusted = folder / "trusted"
        self.torrent = folder / "release.torrent"
        self._file = folder / "state.json"
        self.state = self._read()

    def save(self, state: State) -> None:
        """Keep ``state``, on the disk when it returns."""
        if state != self.state:
            write_whole(self._file, msgspec.json.encode(state), 0o600)
            self.state = state

    def _read(self) -> State:
        try:
            return msgspec.json.decode(read_trusted(self._file), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.MsgspecError as error:
            raise UpgradeError(
                f"{self._file} cannot be read: {error}",
                code="damaged_state",
                hint="move it away; what was seen and what failed here is then forgotten",
            ) from None
