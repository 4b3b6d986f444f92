"""What can go wrong in this room, each with a word for machines and a next step for people."""

from __future__ import annotations


class ReleaseError(Exception):
    """Root of this room's errors.

    ``code`` is a stable word for programs (docs/release.md lists them), ``str(error)`` says what was being done,
    to what, and what was found; ``hint`` says what to do now.
    """

    code = "failed"

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code or self.code

    def as_dict(self) -> dict[str, str]:
        """The ``error`` object of a result."""
        return {"code": self.code, "message": str(self), "hint": self.hint}


class RequestError(ReleaseError):
    """The request itself is wrong; nothing was looked at."""

    code = "bad_request"


class ArchiveError(ReleaseError):
    """The archive holds something that is never unpacked, or is not the archive that was promised."""

    code = "refused_archive"


class SpaceError(ReleaseError):
    """The file system has too few bytes or inodes left."""

    code = "no_space"


class LockedError(ReleaseError):
    """Another operation works on this application."""

    code = "locked"


class StepError(ReleaseError):
    """A step of a switch did not do its work; the transition table says what follows."""

    code = "step_failed"
