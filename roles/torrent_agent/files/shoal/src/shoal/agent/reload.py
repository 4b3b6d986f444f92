"""The configuration in force, and how another takes its place while the agent runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from shoal.agent.config import Config
from shoal.agent.errors import ConfigError
from shoal.agent.log import log

RESTART_KEYS = ("socket", "socket_mode", "state_dir", "store_dir", "listen", "metrics")
"""What an agent holds on to from its start to its end: its files, its locks and its ports."""


class Configuration:
    """``current`` is what the agent works by. A file that is refused leaves it as it is.

    :param read: reads the configuration's file anew; raises ConfigError
    :param apply: makes a new one work; called before it becomes ``current``
    """

    def __init__(self, started: Config, read: Callable[[], Config], apply: Callable[[Config], None]) -> None:
        self._started = started
        self._read = read
        self._apply = apply
        self.current = started
        self.loaded_at = time.time()
        self.error = ""  # why the last reload was refused
        self.restart_needed: tuple[str, ...] = ()  # keys of the file that only a restart brings into force

    def reload(self) -> bool:
        """Take over what the file says now; False if it is refused. All of it is applied, or nothing."""
        try:
            found = self._read()
        except ConfigError as error:
            self.error = str(error)
            log.error("the new configuration is refused, the old one stays in force: %s", error)
            return False
        wanted = msgspec.structs.replace(found, **{key: getattr(self._started, key) for key in RESTART_KEYS})
        changed = list(_differences(self.current, wanted))
        self._apply(wanted)
        self.current = wanted
        self.loaded_at = time.time()
        self.error = ""
        self.restart_needed = tuple(key for key in RESTART_KEYS if getattr(found, key) != getattr(self._started, key))
        log.info("configuration reloaded", extra={"fields": {"changed": changed}})
        if self.restart_needed:
            log.warning("in force only after a restart: %s", ", ".join(self.restart_needed))
        return True

    def describe(self) -> dict[str, Any]:
        """As the API tells it."""
        return {"loaded_at": self.loaded_at, "error": self.error or None, "restart_needed": self.restart_needed}


def _differences(old: msgspec.Struct, new: msgspec.Struct, prefix: str = "") -> Iterator[str]:
    """The keys, as the file has them, whose values differ."""
    for name in old.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            yield from _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}"
