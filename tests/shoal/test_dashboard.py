"""The dashboard of docs/grafana draws figures that the agent gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.registry import CollectorRegistry

from shoal.agent.metrics import _Figures

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "shoal.json"


def test_every_figure_of_the_dashboard_is_one_of_the_agents() -> None:
    registry = CollectorRegistry()
    registry.register(_Figures([], [], 0.0))
    given = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    drawn = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\bshoal_[a-z_]+", target["expr"])
    }
    assert drawn == given
