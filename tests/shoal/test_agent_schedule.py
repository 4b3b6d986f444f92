"""Rate limits by the clock: which span holds, when to look again, and what the engine is told."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
import yaml

from shoal.agent.config import load
from shoal.agent.limits import RateLimits
from shoal.agent.schedule import active, next_look

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: clocks go 02:00 -> 03:00 on 29 March, 03:00 -> 02:00 on 25 October

OFFICE = {"days": "mon-fri", "from": "08:00", "to": "18:00", "upload": "5MB", "download": "4MB"}
NIGHT = {"days": "fri", "from": "22:00", "to": "06:00", "upload": 0}
NOON = {"from": "12:00", "to": "13:00", "upload": "1MB"}
SUNDAY = {"days": "sat,sun", "from": "00:00", "to": "24:00", "upload": 1}
SMALL_HOURS = {"from": "02:30", "to": "03:30", "upload": 1}
LATE = {"from": "01:00", "to": "02:30", "upload": 1}


@pytest.fixture
def limits(tmp_path):
    """``limits(*spans)``: as the configuration has them."""

    def read(*spans, **rest):
        path = tmp_path / "agent.yml"
        path.write_text(yaml.safe_dump({"limits": {"schedule": list(spans), "time_zone": "Europe/Berlin", **rest}}))
        path.chmod(0o600)
        return load(path).limits

    return read


def local(text, fold=0):
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


# 5 January 2026 is a Monday
HOLDS = [
    ([OFFICE], "2026-01-05 08:00", "mon-fri 08:00-18:00"),
    ([OFFICE], "2026-01-05 07:59", None),
    ([OFFICE], "2026-01-05 17:59", "mon-fri 08:00-18:00"),
    ([OFFICE], "2026-01-05 18:00", None),
    ([OFFICE], "2026-01-10 12:00", None),
    ([NIGHT], "2026-01-09 22:00", "fri 22:00-06:00"),
    ([NIGHT], "2026-01-10 05:59", "fri 22:00-06:00"),  # Saturday morning belongs to it
    ([NIGHT], "2026-01-10 06:00", None),
    ([NIGHT], "2026-01-09 05:00", None),  # Friday morning does not
    ([NOON, OFFICE], "2026-01-05 12:30", "daily 12:00-13:00"),  # the first that holds counts
    ([OFFICE, NOON], "2026-01-05 12:30", "mon-fri 08:00-18:00"),
    ([SUNDAY], "2026-01-11 23:59", "sat,sun 00:00-24:00"),
    ([SUNDAY], "2026-01-12 00:00", None),
    ([], "2026-01-05 12:00", None),
]


@pytest.mark.parametrize(("spans", "now", "expected"), HOLDS)
def test_which_span_holds(limits, spans, now, expected):
    span = active(limits(*spans).schedule, local(now))
    assert (span and str(span)) == expected


NEXT = [
    ([OFFICE], "2026-01-05 07:00", "2026-01-05T08:00:00+01:00"),
    ([OFFICE], "2026-01-05 08:00", "2026-01-05T18:00:00+01:00"),
    ([OFFICE], "2026-01-05 18:00", "2026-01-06T08:00:00+01:00"),
    ([OFFICE, NOON], "2026-01-05 11:59:59.5", "2026-01-05T12:00:00+01:00"),
    ([SUNDAY], "2026-01-10 00:00", "2026-01-11T00:00:00+01:00"),
    # The night of 29 March has no 02:30, and no 03:00 that came after 02:59.
    ([SMALL_HOURS], "2026-03-29 01:00", "2026-03-29T03:00:00+02:00"),
    ([SMALL_HOURS], "2026-03-29 03:00", "2026-03-29T03:30:00+02:00"),
    ([OFFICE], "2026-03-28 18:00", "2026-03-29T03:00:00+02:00"),
    # That of 25 October has 02:30 twice, and a change of the clock between them.
    ([LATE], "2026-10-25 01:30", "2026-10-25T02:30:00+02:00"),
    ([LATE], "2026-10-25 02:30", "2026-10-25T02:00:00+01:00"),
    ([], "2026-01-05 07:00", None),
]


@pytest.mark.parametrize(("spans", "now", "expected"), NEXT)
def test_when_to_look_again(limits, spans, now, expected):
    there = next_look(limits(*spans).schedule, local(now))
    assert (there and there.replace(microsecond=0).isoformat()) == expected


def test_where_clocks_are_set_spans_go_by_the_clock_on_the_wall(limits):
    spans = limits(SMALL_HOURS).schedule
    assert not active(spans, local("2026-03-29 01:59"))
    assert active(spans, local("2026-03-29 03:00")), "02:30 was skipped: it has begun"
    late = limits(LATE).schedule
    assert not active(late, local("2026-10-25 02:30", fold=0))
    assert active(late, local("2026-10-25 02:00", fold=1)), "the hour comes again, and so does the span"


def test_the_engine_is_told_once_at_each_change(limits):
    class Told:
        limits: list[tuple[int, int]] = []  # noqa: RUF012 - the test's own

        def set_limits(self, upload, download):
            self.limits.append((upload, download))

    now = local("2026-01-05 07:59:30")
    engine = Told()
    rates = RateLimits(engine, limits(OFFICE, NIGHT, upload="50MB", download="40MB"), clock=lambda: now)
    assert rates.look() == 30
    now = local("2026-01-05 08:00")
    assert rates.look() == 10 * 3600
    assert rates.look() == 10 * 3600
    rates.set(upload=7, download=None)  # by hand: the schedule does not touch it
    now = local("2026-01-05 18:00")
    assert rates.look() == 4 * 3600
    now = local("2026-01-09 22:00")
    rates.look()
    rates.configure(limits(NIGHT, upload="3MB"))
    assert engine.limits == [
        (50_000_000, 40_000_000),
        (5_000_000, 4_000_000),
        (7, 4_000_000),
        (7, 40_000_000),
        (7, 40_000_000),  # Friday night: its upload is overridden, its download as ever
        (0, 0),
    ]


def test_an_agent_starts_with_the_limits_of_the_hour(agent_factory):
    always = {"from": "00:00", "to": "24:00", "upload": "2MB"}
    agent = agent_factory(limits={"upload": "9MB", "download": "8MB", "schedule": [always]}).client.agent()
    assert (agent["upload_limit"], agent["download_limit"], agent["schedule"]) == (
        2_000_000,
        8_000_000,
        "daily 00:00-24:00",
    )
