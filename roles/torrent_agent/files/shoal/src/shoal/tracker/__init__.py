"""A small HTTP tracker for trials, tests and one-box use; production uses chihaya.

``swarms`` knows who is in which swarm (no network in it), ``queries`` reads what clients send, ``bencode``
writes what they get back, ``http`` serves it.
"""

from shoal.tracker.http import Tracker, TrackerSettings
from shoal.tracker.swarms import Swarms, TrackerError

__all__ = ["Swarms", "Tracker", "TrackerError", "TrackerSettings"]
