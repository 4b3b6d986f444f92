"""Pictures of results as SVG, written by hand: lines, axes and a legend need no library. Pure but for the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from results import Case, Trial, summarise, title

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 40, 50
# Told apart by the colour-blind, too (Okabe and Ito)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


@dataclass(frozen=True)
class Line:
    label: str  # empty: not in the legend
    points: Sequence[tuple[float, float]]
    colour: str
    faint: bool = False


def draw(folder: Path, case: Case, trials: Sequence[Trial]) -> None:
    """Two pictures of a case: progress of each host in each client's first trial, and what the publisher sent."""
    good = [trial for trial in trials if not trial.error]
    if not good:
        return
    lines: list[Line] = []
    for number, client in enumerate(dict.fromkeys(trial.client for trial in good)):
        colour = COLOURS[number % len(COLOURS)]
        trial = next(trial for trial in good if trial.client == client)
        for host, end in enumerate(trial.seconds):
            points = [(at, 100 * min(1, count[host] / trial.received[host])) for at, count in trial.curve if at <= end]
            lines.append(Line("" if host else client, [*points, (end, 100)], colour, faint=True))
    picture = chart(title(case), "seconds", "% received, one line a host", lines)
    (folder / f"{case.name}-progress.svg").write_text(picture)
    sent = [(line.client, line.sent) for line in summarise(case, good)]
    (folder / f"{case.name}-sent.svg").write_text(
        bars(f"{case.name}: sizes of the payload sent by the publisher", sent)
    )


def over_hosts(folder: Path, cases: Sequence[tuple[Case, Sequence[Trial]]]) -> None:
    """The ratio over the number of hosts, one line a client."""
    points: dict[str, list[tuple[float, float]]] = {}
    for case, trials in sorted(cases, key=lambda pair: pair[0].hosts):
        for line in summarise(case, trials):
            if line.ratio:
                points.setdefault(line.client, []).append((case.hosts, line.ratio[1]))
    lines = [
        Line(client, found, COLOURS[number % len(COLOURS)]) for number, (client, found) in enumerate(points.items())
    ]
    (folder / "ratio-over-hosts.svg").write_text(chart("Last host ÷ ideal", "hosts", "÷ ideal", lines, bottom=1))


def chart(heading: str, across: str, up: str, lines: Sequence[Line], bottom: float = 0) -> str:
    most_x = max(x for line in lines for x, _y in line.points) or 1
    most_y = max(y for line in lines for _x, y in line.points) or 1

    def place(x: float, y: float) -> str:
        inside = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
        at_y = (y - bottom) / (most_y - bottom or 1)
        return f"{LEFT + x / most_x * inside[0]:.1f},{HEIGHT - BOTTOM - at_y * inside[1]:.1f}"

    parts = _frame(heading)
    parts.append(_text(WIDTH / 2 - 60, HEIGHT - 10, across))
    parts.append(_text(6, TOP - 8, up))
    for step in range(5):
        x, y = most_x * step / 4, bottom + (most_y - bottom) * step / 4
        at = place(x, y).split(",")
        parts.append(_text(float(at[0]) - 8, HEIGHT - BOTTOM + 18, f"{x:.3g}"))
        parts.append(_text(18, float(at[1]) + 4, f"{y:.3g}"))
    legend = 0
    for line in lines:
        style = 'stroke-width="1" opacity="0.6"' if line.faint else 'stroke-width="2"'
        points = " ".join(place(x, y) for x, y in line.points)
        parts.append(f'<polyline fill="none" stroke="{line.colour}" {style} points="{points}"/>')
        if line.label:
            parts.append(_text(WIDTH - RIGHT + 12, TOP + 14 + 18 * legend, line.label[:24], line.colour))
            legend += 1
    return "\n".join([*parts, "</svg>\n"])


def bars(heading: str, values: Sequence[tuple[str, float]]) -> str:
    most = max(value for _label, value in values)
    parts = _frame(heading, axes=False)
    step = min(44, (HEIGHT - TOP - 20) / len(values))
    for number, (label, value) in enumerate(values):
        y = TOP + 10 + number * step
        length = value / most * (WIDTH - 320)
        colour = COLOURS[number % len(COLOURS)]
        parts.append(_text(10, y + step / 2, label[:24]))
        parts.append(f'<rect x="190" y="{y:.1f}" width="{length:.1f}" height="{step * 0.7:.1f}" fill="{colour}"/>')
        parts.append(_text(198 + length, y + step / 2, f"{value:.2f}"))
    return "\n".join([*parts, "</svg>\n"])


def _frame(heading: str, *, axes: bool = True) -> list[str]:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="18" font-weight="bold">{escape(heading)}</text>',
    ]
    if axes:
        parts.append(f'<path fill="none" stroke="#888" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return parts


def _text(x: float, y: float, text: str, colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{escape(text)}</text>'
