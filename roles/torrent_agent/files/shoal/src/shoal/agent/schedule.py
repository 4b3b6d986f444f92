"""Which limits hold when. Pure: the time comes from outside.

Spans are times of the clock on the wall of a time zone: at 02:30 a span begins when the clock shows 02:30, so in the
night when clocks are set back it may hold twice, and where they skip an hour it may begin with the end of that hour.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from shoal.agent.config import DAY_MINUTES, Span


def zone(name: str) -> tzinfo:
    """The time zone; UTC needs no data of the system."""
    return timezone.utc if name == "UTC" else ZoneInfo(name)


def active(spans: Iterable[Span], local: datetime) -> Span | None:
    """The first of ``spans`` that holds at ``local``, a time in their zone."""
    minute, today = local.hour * 60 + local.minute, local.weekday()
    for span in spans:
        days = span.days.numbers
        if span.start < span.end:
            holds = today in days and span.start <= minute < span.end
        else:  # over midnight: it belongs to the day on which it begins
            holds = (today in days and minute >= span.start) or ((today - 1) % 7 in days and minute < span.end)
        if holds:
            return span
    return None


def next_look(spans: Iterable[Span], local: datetime) -> datetime | None:
    """When, after ``local``, another span may hold: at the next begin or end of any, or when clocks are set."""
    edges = {edge % DAY_MINUTES for span in spans for edge in (span.start, span.end)}
    if not edges:
        return None
    into_day = timedelta(hours=local.hour, minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    day = timedelta(minutes=DAY_MINUTES)
    wait = min((timedelta(minutes=edge) - into_day) % day or day for edge in edges)
    now = local.astimezone(timezone.utc)
    there = now + wait
    if _offset(there, local) != local.utcoffset():
        there = _clock_change(now, there, local)
    return there.astimezone(local.tzinfo)


def _offset(moment: datetime, local: datetime) -> timedelta | None:
    return moment.astimezone(local.tzinfo).utcoffset()


def _clock_change(before: datetime, after: datetime, local: datetime) -> datetime:
    """To the second, when the clocks of ``local`` are set between two moments."""
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        if _offset(middle, local) == local.utcoffset():
            before = middle
        else:
            after = middle
    return after
