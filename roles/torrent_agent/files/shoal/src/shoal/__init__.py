"""The agent and command of the shoal.deploy collection.

Each folder is a room that knows only the rooms it may import (see pyproject.toml, import-linter):
``swarm`` (libtorrent), ``tracker``, ``release``, ``agent`` (uses ``swarm``) and ``cli`` (uses all).
"""

__version__ = "0.1.0"
