"""``shoal`` with some libtorrent settings replaced, to measure what each is worth.

    python tests/benchmarks/agent_with.py '{"unchoke_slots_limit": 3}' agent --config agent.yml

A benchmark's tool only: an agent has no such option, since there is one set of defaults for everybody.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from shoal.swarm import settings

overrides = json.loads(sys.argv[1])
session = {key: value for key, value in overrides.items() if not key.startswith("_")}
for name in overrides.keys() - session.keys():  # of the module itself, such as _UNCHOKE_SLOTS
    if not hasattr(settings, name):
        raise SystemExit(f"shoal.swarm.settings has no {name}")
    setattr(settings, name, overrides[name])
ours = settings.session_settings


def session_settings(*arguments: Any) -> dict[str, Any]:
    return {**ours(*arguments), **session}


settings.session_settings = session_settings
sys.argv = ["shoal", *sys.argv[2:]]

from shoal.cli import main  # noqa: E402

sys.exit(main())
