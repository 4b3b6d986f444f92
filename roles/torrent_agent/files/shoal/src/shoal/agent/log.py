"""Structured logs on standard error: one JSON object a line for the journal, or text for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

from shoal.swarm import Event, EventKind

log = logging.getLogger("shoal")

EVENT_LEVELS = {
    EventKind.ADDED: logging.INFO,
    EventKind.REMOVED: logging.INFO,
    EventKind.STATE: logging.INFO,
    EventKind.PROGRESS: None,  # one a second and torrent: for those who wait at the API, not for a log
    EventKind.METADATA: logging.INFO,
    EventKind.COMPLETE: logging.INFO,
    EventKind.ERROR: logging.ERROR,
    EventKind.HASH_FAILED: logging.WARNING,
    EventKind.TRACKER_ERROR: logging.WARNING,
    EventKind.PEER_ERROR: logging.DEBUG,  # peers come and go; on a big fleet thousands a minute
    EventKind.HELD: logging.WARNING,
    EventKind.SEEDING_ENDED: logging.INFO,
    EventKind.RELEASED: logging.INFO,
    EventKind.WEB_SEEDS_USED: logging.INFO,
    EventKind.RESUME_SAVED: logging.DEBUG,
    EventKind.LISTEN_FAILED: logging.ERROR,
}


def configure(level: str, form: str) -> None:
    """Send everything of ``level`` and above to standard error; ``form``: json or text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # their debug lines ("Using selector", a traceback for each broken request) say nothing about the agent
    for library in ("asyncio", "aiohttp"):
        logging.getLogger(library).setLevel(logging.WARNING)


def log_event(event: Event) -> None:
    """One line for an engine's event, with its filled fields; PROGRESS is not logged."""
    level = EVENT_LEVELS[event.kind]
    if level is not None and log.isEnabledFor(level):
        words = {
            "info_hash": event.info_hash,
            "state": event.state.value if event.state else "",
            "piece": event.piece,
            "what": event.what,
            "detail": event.message,
        }
        fields = {key: value for key, value in words.items() if value not in ("", None)}
        log.log(level, "torrent %s", event.kind.value, extra={"event": event.kind.value, "fields": fields})


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "message": …}`` and the record's ``event`` and ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if event := getattr(record, "event", None):
            line["event"] = event
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """``12:00:01 info    torrent complete info_hash=…``"""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={value}" for key, value in getattr(record, "fields", {}).items())
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        # Trackers and peers write part of these texts: no line breaks and no terminal codes of theirs.
        text = "".join(c if c.isprintable() else "�" for c in f"{record.getMessage()}{fields}")
        line = f"{time} {record.levelname.lower():7} {text}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
