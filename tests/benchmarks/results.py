"""What a benchmark's trials amount to: ratios, tables, JSON. Pure: nothing here runs anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Case:
    """So many hosts fetch a payload of ``size`` bytes over links of ``rate`` bits per second (0: not shaped)."""

    name: str
    hosts: int
    rate: float
    size: int
    slow: float = 0.0  # this share of the hosts has a quarter of the link
    goal: float | None = None
    late: bool = False  # the hosts wait already, the publisher joins: time counts from then

    @property
    def ideal(self) -> float | None:
        """Seconds that one host alone would need if the link carried nothing but the payload."""
        return self.size * 8 / self.rate if self.rate else None

    @property
    def rates(self) -> list[float]:
        """Of each host's link, the publisher's first."""
        slow = round(self.hosts * self.slow)
        return [self.rate] * (1 + self.hosts - slow) + [self.rate / 4] * slow

    def fast(self, seconds: Sequence[float]) -> list[float]:
        """The times of those hosts that have the whole link."""
        return list(seconds[: self.hosts - round(self.hosts * self.slow)])


@dataclass(frozen=True)
class Trial:
    """One transfer to all hosts by one client."""

    client: str
    run: int
    seconds: list[float]  # until each host had everything, verified where the client does that
    sent: int  # bytes that left the publisher, headers included
    received: list[int] = field(default_factory=list)  # bytes that reached each host, headers included
    curve: list[tuple[float, list[int]]] = field(default_factory=list)  # (seconds, bytes received by each host)
    cpu: float = 0.0  # seconds of processor time that all processes of the trial took, their starts included
    error: str = ""  # why it did not come to an end


@dataclass(frozen=True)
class Summary:
    """All trials of one client in one case; triples are minimum, median, maximum."""

    client: str
    trials: int
    failed: int
    last: tuple[float, float, float]  # seconds of the last host
    ratio: tuple[float, float, float] | None
    spread: float  # the last host's time over the median host's; median of the trials
    first: float  # seconds of the first host; median of the trials
    sent: float  # sizes of the payload that left the publisher; median of the trials
    received: float  # and that reached a host, headers included; mean over hosts, median of the trials
    cpu: float  # seconds of processor time, of all hosts and the publisher; median of the trials


def ratio(case: Case, seconds: Sequence[float]) -> float | None:
    """The last host's time over the ideal one; None where the link is not shaped."""
    return max(case.fast(seconds)) / case.ideal if case.ideal else None


def spread_of(values: Iterable[float]) -> tuple[float, float, float]:
    values = sorted(values)
    return values[0], median(values), values[-1]


def summarise(case: Case, trials: Iterable[Trial]) -> list[Summary]:
    """One line a client, in the order of their first trials; clients without a trial that ended are left out."""
    by_client: dict[str, list[Trial]] = {}
    for trial in trials:
        by_client.setdefault(trial.client, []).append(trial)
    summaries = []
    for client, all_of_it in by_client.items():
        good = [trial for trial in all_of_it if not trial.error]
        if not good:
            continue
        times = [case.fast(trial.seconds) for trial in good]
        ratios = [found for trial in good if (found := ratio(case, trial.seconds)) is not None]
        summaries.append(
            Summary(
                client=client,
                trials=len(good),
                failed=len(all_of_it) - len(good),
                last=spread_of(max(seconds) for seconds in times),
                ratio=spread_of(ratios) if ratios else None,
                spread=median(max(seconds) / median(seconds) for seconds in times),
                first=median(min(seconds) for seconds in times),
                sent=median(trial.sent / case.size for trial in good),
                received=median(sum(trial.received) / max(1, len(trial.received)) / case.size for trial in good),
                cpu=median(trial.cpu for trial in good),
            )
        )
    return summaries


COLUMNS = (
    "client",
    "runs",
    "last host, s",
    "÷ ideal",
    "last ÷ median host",
    "publisher sent",
    "a host received",
    "CPU, s",
)


def triple(values: tuple[float, float, float] | None, form: str) -> str:
    """Minimum / median / maximum, or once what all of them are."""
    if values is None:
        return "–"
    shown = [format(value, form) for value in values]
    return shown[0] if len(set(shown)) == 1 else " / ".join(shown)


def table(case: Case, trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    """Rows under COLUMNS; minimum / median / maximum where there are several runs."""

    return [
        (
            line.client,
            str(line.trials) + (f" ({line.failed} failed)" if line.failed else ""),
            triple(line.last, ".1f"),
            triple(line.ratio, ".3f"),
            f"{line.spread:.2f}",
            f"{line.sent:.2f} ×",
            f"{line.received:.2f} ×",
            f"{line.cpu:.0f}",
        )
        for line in summarise(case, trials)
    ]


def markdown(case: Case, trials: Sequence[Trial]) -> str:
    """The table for the docs."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table(case, trials)]
    return "\n".join(lines) + "\n"


def title(case: Case) -> str:
    link = f"{case.rate / 1e6:g} Mbit/s" if case.rate else "links not shaped"
    slow = f", {case.slow:.0%} of them with a quarter of the link" if case.slow else ""
    goal = f"; goal {case.goal:.2f}" if case.goal else ""
    return f"{case.name}: {case.size / 1e6:g} MB to {case.hosts} hosts{slow}, {link}{goal}"


def save(path: Path, machine: dict[str, Any], case: Case, trials: Sequence[Trial]) -> None:
    data = {"format": 1, "machine": machine, "case": asdict(case), "trials": [asdict(trial) for trial in trials]}
    path.write_text(json.dumps(data) + "\n")


def load(path: Path) -> tuple[Case, list[Trial]]:
    data = json.loads(path.read_text())
    return Case(**data["case"]), [Trial(**trial) for trial in data["trials"]]
