"""What verbs tell while they work, and in the end: JSON objects (docs/release.md lists them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Result = dict[str, Any]
Emit = Callable[[Event], None]
