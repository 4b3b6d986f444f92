"""What this room raises."""

from __future__ import annotations


class AgentError(Exception):
    """What was being done, to what, what was found and what to do now."""


class ConfigError(AgentError):
    """The configuration was refused; the message names every key that is wrong."""


class StartError(AgentError):
    """The daemon cannot start here: state folder or socket in use, or not to be made."""


class UnreachableError(AgentError):
    """No agent answers at the socket."""


class BadRequestError(AgentError):
    """What a request said, and what was expected instead."""


class AnswerError(AgentError):
    """The agent refused a request."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.status = status  # HTTP status
        self.code = code  # see docs/agent.md
        self.message = message
        self.hint = hint
