"""The agent's figures in Prometheus' text format; docs/agent.md lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from shoal import __version__
from shoal.agent.watch import Watcher, Watchers
from shoal.swarm import Engine, TorrentStatus

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_APP = ("app", "channel")


def render(engine: Engine, watchers: Watchers, started_at: float) -> bytes:
    """All figures as they are now. Call it from a thread: the engine may wait for its disk."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(engine.statuses(), watchers.watchers, started_at))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, torrents: list[TorrentStatus], watchers: list[Watcher], started_at: float) -> None:
        self._torrents = torrents
        self._watchers = watchers
        self._started_at = started_at

    def collect(self) -> Iterator[Metric]:
        yield _gauge("shoal_agent", "The agent's version", {(__version__,): 1}, ("version",))
        yield _gauge("shoal_agent_start_time_seconds", "When the agent started", {(): self._started_at})
        yield from self._of_torrents()
        yield from self._of_apps()

    def _of_torrents(self) -> Iterator[Metric]:
        torrents = self._torrents
        states = Counter((torrent.state.value,) for torrent in torrents)
        yield _gauge("shoal_torrents", "Torrents by state", states, ("state",))
        held = Counter((torrent.held.reason,) for torrent in torrents if torrent.held)
        yield _gauge("shoal_torrents_held", "Torrents that the agent keeps still, by reason", held, ("reason",))
        for direction in ("download", "upload"):
            rate = sum(getattr(torrent, f"{direction}_rate") for torrent in torrents)
            words = f"Payload bytes {direction}ed a second"
            yield _gauge(f"shoal_{direction}_rate_bytes", words, {(): rate})
            payload = {(torrent.info_hash, torrent.name): getattr(torrent, f"{direction}ed") for torrent in torrents}
            yield _counter(
                f"shoal_torrent_{direction}ed_bytes", f"Payload bytes {direction}ed", payload, ("info_hash", "name")
            )

    def _of_apps(self) -> Iterator[Metric]:
        apps = {(watcher.app.name, watcher.app.channel): watcher for watcher in self._watchers}
        yield _counter("shoal_app_polls", "Polls of the end point", {key: one.polls for key, one in apps.items()}, _APP)
        refused = {(*key, reason): count for key, one in apps.items() for reason, count in one.refused.items()}
        yield _counter("shoal_app_polls_refused", "Polls that were not believed", refused, (*_APP, "reason"))
        outcomes = {(*key, *words): count for key, one in apps.items() for words, count in one.outcomes.items()}
        yield _counter(
            "shoal_app_outcomes", "What the privileged side answered", outcomes, (*_APP, "outcome", "reason")
        )
        views = {key: one.view for key, one in apps.items() if one.view}
        seen = {key: view.sequence for key, view in views.items()}
        yield _gauge("shoal_app_sequence_seen", "The sequence that the channel is at", seen, _APP)
        active = {key: one.past.sequence for key, one in apps.items()}
        yield _gauge("shoal_app_sequence_active", "The highest sequence that was active here", active, _APP)
        expires = {key: view.expires.timestamp() for key, view in views.items()}
        yield _gauge("shoal_app_expires_time_seconds", "Until when the end point is believed", expires, _APP)


def _gauge(name: str, words: str, values: Mapping[Any, float], labels: tuple[str, ...] = ()) -> Metric:
    """``values`` by the labels' values, a tuple."""
    return _filled(GaugeMetricFamily(name, words, labels=labels), values)


def _counter(name: str, words: str, values: Mapping[Any, float], labels: tuple[str, ...]) -> Metric:
    return _filled(CounterMetricFamily(name, words, labels=labels), values)


def _filled(family: Any, values: Mapping[Any, float]) -> Metric:
    for key, value in values.items():
        family.add_metric(key, value)
    found: Metric = family
    return found
