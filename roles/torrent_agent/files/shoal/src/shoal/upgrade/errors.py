"""What this room raises beside what `endpoint` and `release` do: each with a word for machines and a next step."""

from __future__ import annotations


class UpgradeError(Exception):
    """``code`` is a stable word for programs (docs/upgrade.md lists them); ``hint`` says what to do now."""

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint

    def as_dict(self) -> dict[str, str]:
        """The ``error`` object of a result."""
        return {"code": self.code, "message": str(self), "hint": self.hint}
