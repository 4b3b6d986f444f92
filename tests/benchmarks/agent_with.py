"""``shoal`` with some libtorrent settings, or constants of shoal.swarm, replaced, to measure what each is worth.

    python tests/benchmarks/agent_with.py '{"unchoke_slots_limit": 3}' agent --config agent.yml
    python tests/benchmarks/agent_with.py '{"settings._QUEUED_BLOCKS": 160}' agent --config agent.yml

A benchmark's tool only: an agent has no such option, since there is one set of defaults for everybody.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from shoal.swarm import engine, settings

session = {}
for key, value in json.loads(sys.argv[1]).items():
    module, dot, name = key.partition(".")
    if not dot:
        session[key] = value
        continue
    place = importlib.import_module(f"shoal.swarm.{module}")
    if not hasattr(place, name):
        raise SystemExit(f"shoal.swarm.{module} has no {name}")
    setattr(place, name, value)
ours = settings.session_settings
tune = engine.Engine._tune


def session_settings(*arguments: Any) -> dict[str, Any]:
    return {**ours(*arguments), **session}


def replaced_stays(self: engine.Engine, name: str, value: int) -> None:
    if name not in session:
        tune(self, name, value)


settings.session_settings = session_settings
engine.Engine._tune = replaced_stays  # type: ignore[method-assign]
sys.argv = ["shoal", *sys.argv[2:]]

from shoal.cli import main  # noqa: E402

sys.exit(main())
