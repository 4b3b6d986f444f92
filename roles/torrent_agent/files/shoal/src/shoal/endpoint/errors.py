"""What can go wrong in this room, each with a word for machines and a next step for people."""

from __future__ import annotations

import enum


class EndpointError(Exception):
    """Root of this room's errors.

    ``code`` is a stable word for programs (docs/endpoint.md lists them), ``str(error)`` says what was being done,
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


class RequestError(EndpointError):
    """The request itself is wrong; nothing was looked at."""

    code = "bad_request"


class DocumentError(EndpointError):
    """A document of the end point, or one that is to be published, does not say what it must."""

    code = "bad_document"


class SigningKeyError(EndpointError):
    """A key is missing, cannot be read, or is of no use here."""

    code = "no_key"


class Reason(str, enum.Enum):
    """Why an answer of an end point is not believed. The values are words for logs, metrics and programs."""

    EXPIRED = "expired"  # signed too long ago: a publisher that is gone, or an old state kept alive by somebody
    OLDER = "older"  # a state from before the one that was seen already
    WRONGLY_SIGNED = "wrongly_signed"  # by none of the keys that may
    THRESHOLD = "threshold"  # by some of the keys that may, but too few
    OVERSIZED = "oversized"  # more bytes than were announced, or than any such file has
    TRUNCATED = "truncated"  # fewer bytes than were announced
    SLOW = "slow"  # not there when the time was over
    CHANGED = "changed"  # other bytes than were signed
    MIX_AND_MATCH = "mix_and_match"  # files that never were published together
    OTHER_APP = "other_app"  # another application's repository
    NONSENSE = "nonsense"  # not a document of the kind it should be
    NO_CHANNEL = "no_channel"  # properly signed, and without this channel
    UNREACHABLE = "unreachable"  # no answer, or an HTTP error


class RefusedError(EndpointError):
    """What the end point serves is not believed; the last state that was believed stays in force.

    ``reason`` says why; ``url`` is the mirror that served it, without user and password.
    """

    def __init__(self, reason: Reason, message: str, *, url: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint, code=reason.value)
        self.reason = reason
        self.url = url
        self.attempts: tuple[RefusedError, ...] = (self,)  # one per mirror, in the order they were asked
