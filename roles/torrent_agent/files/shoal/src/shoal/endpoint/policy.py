"""What a host does about what its channel says: pure functions of what was read, its policy, its past and the time."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from msgspec import Meta, Struct

from shoal.endpoint.documents import Channel, Time, Version

Auto = Literal["off", "fetch", "stage", "activate"]
Action = Literal["none", "fetch", "stage", "activate"]


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """A maintenance window: it opens when ``cron`` says, in ``timezone``, and stays open for ``duration`` seconds.

    ``cron`` has five fields, as of Debian's cron (its rules for changes of daylight saving time included).
    """

    cron: str
    duration: Annotated[int, Meta(ge=60, le=7 * 86400)]
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if len(self.cron.split()) != 5:
            raise ValueError(f"cron {self.cron!r} must have five fields: minute, hour, day, month, weekday")
        try:
            self._zone()
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"time zone {self.timezone!r} is not known on this host: use a name such as Europe/Berlin, and see "
                "that tzdata is installed"
            ) from None
        try:
            self.next_opening(datetime.now(timezone.utc))
        except (CronSimError, StopIteration) as error:
            raise ValueError(f"cron {self.cron!r} names no time: {error}") from None

    def is_open(self, now: datetime) -> bool:
        """Whether ``now`` is within the window."""
        # Forwards: CronSim's way back misses an opening in the hour that is there twice. And in UTC, as an hour of the
        # wall clock may be none or two.
        return self.next_opening(now - timedelta(seconds=self.duration)) <= now

    def next_opening(self, now: datetime) -> datetime:
        """When it opens the next time after ``now``, UTC."""
        opening: datetime = next(CronSim(self.cron, now.astimezone(self._zone())))
        return opening.astimezone(timezone.utc)

    def _zone(self) -> tzinfo:
        return timezone.utc if self.timezone == "UTC" else ZoneInfo(self.timezone)


class Pin(Struct, frozen=True, forbid_unknown_fields=True):
    """Only this version, whatever the channel says, until the time is over (None: until it is taken back)."""

    version: Version
    until: Time | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it is in force."""
        return self.until is None or now < self.until


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """What a host may do by itself for one application."""

    auto: Auto = "off"
    windows: tuple[Window, ...] = ()  # when it may switch; none: at any time
    hold: bool = False
    pin: Pin | None = None


class Past(Struct, frozen=True):
    """What became of earlier sequences of the channel on this host."""

    sequence: int = 0  # the highest one that was active; 0: none
    failed: frozenset[int] = frozenset()  # tried, and rolled back


class Decision(Struct, frozen=True):
    """What to do now and why; ``until``: when to look again at the latest, if the time alone changes it."""

    action: Action
    reason: str
    until: datetime | None = None


def share(app: str, host: str, sequence: int) -> float:
    """Where a host stands in the order in which a fleet goes to a sequence: from 0 to below 100, per cent.

    The same for the same three, and for another sequence another order, so that not the same hosts go first each time.
    """
    digest = hashlib.sha256(f"{app}\0{sequence}\0{host}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56) * 100  # 56 bits: what a float holds exactly


def decide(channel: Channel, policy: Policy, past: Past, host: str, now: datetime) -> Decision:
    """What ``host`` is to do about ``channel`` now."""
    if policy.auto == "off":
        return Decision("none", "off")
    reason = _refusal(channel, policy, past, now)
    if reason:
        pinned = policy.pin.until if reason == "pinned" and policy.pin else None
        return Decision("none", reason, pinned)
    place = share(channel.app, host, channel.sequence)
    if place >= channel.percent(now):
        turn = next((step.at for step in channel.rollout if step.percent > place), None)
        return Decision("none", "not_its_turn", turn)
    if policy.auto == "activate" and policy.windows and not any(window.is_open(now) for window in policy.windows):
        # Everything but the switch can be done before, and then the window is only used for that.
        return Decision("stage", "outside_window", min(window.next_opening(now) for window in policy.windows))
    return Decision(policy.auto, "due")


def _refusal(channel: Channel, policy: Policy, past: Past, now: datetime) -> str:
    """Why nothing is to be done whoever's turn it is; empty if nothing is against it."""
    first = min((one.sequence for one in channel.history if one.version == channel.version), default=channel.sequence)
    no_way_back = first < channel.no_way_back_before <= past.sequence
    pinned = policy.pin is not None and policy.pin.holds(now) and policy.pin.version != channel.version
    reasons = {
        "up_to_date": channel.sequence <= past.sequence,
        "held": policy.hold,
        "pinned": pinned,
        "failed_before": channel.sequence in past.failed,
        "halted": channel.halt is not None,
        "revoked": channel.is_revoked(channel.version),
        "no_way_back": no_way_back,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
