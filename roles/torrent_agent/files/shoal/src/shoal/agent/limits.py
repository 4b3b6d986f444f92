"""The agent's rate limits: those of the configuration, or those that somebody set by hand since."""

from __future__ import annotations

from shoal.agent.config import Limits
from shoal.swarm import Engine


class RateLimits:
    """Of the whole agent, bytes per second, 0 for none. What is set by hand holds until a reload or a restart."""

    def __init__(self, engine: Engine, configured: Limits) -> None:
        self._engine = engine
        self._configured = configured
        self._upload: int | None = None  # set by hand
        self._download: int | None = None

    @property
    def upload(self) -> int:
        return int(self._configured.upload if self._upload is None else self._upload)

    @property
    def download(self) -> int:
        return int(self._configured.download if self._download is None else self._download)

    def configure(self, limits: Limits) -> None:
        """Go by ``limits`` from now on."""
        self._configured = limits
        self._upload = self._download = None
        self.apply()

    def set(self, upload: int | None, download: int | None) -> None:
        """Override what is configured; None leaves a limit as it is."""
        self._upload = self._upload if upload is None else upload
        self._download = self._download if download is None else download
        self.apply()

    def apply(self) -> None:
        """Have the engine keep to them."""
        self._engine.set_limits(self.upload, self.download)
