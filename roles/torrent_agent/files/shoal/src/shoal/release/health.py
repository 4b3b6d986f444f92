"""Is it healthy, and is it the new one that says so?

A check is healthy when its attempt succeeds; it is *proven* when the answer came from the new release: from the new
version (the answer tells it) or from a new process (nobody who listened before the switch listens now).
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shoal.release import commands, listeners
from shoal.release.errors import ReleaseError, StepError
from shoal.release.listeners import Process
from shoal.release.request import HealthCheck, SwitchSpec, VersionProof

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPMessage

ATTEMPT_LIMIT = 10.0  # seconds for one attempt; a server that hangs must not use up the whole time limit
ATTEMPT_LEAST = 1.0  # seconds; the last attempt before the time limit is a fair one too
BODY_LIMIT = 1 << 20  # bytes of an answer that are looked at


@dataclass(frozen=True)
class Expectation:
    """Whose answers count."""

    version: str | None  # None: the release's version is not known, so no answer can be asked for it
    old: frozenset[Process]  # processes whose answers do not count


@dataclass(frozen=True)
class Surroundings:
    """What a command check runs in."""

    cwd: Path
    env: Mapping[str, str]
    run_as: str | None = None


def proofs(switch: SwitchSpec) -> list[str]:
    """How each check of ``switch`` can be proven: version, process or none.

    Raises ReleaseError if what is wanted cannot be proven, before anything is switched.
    """
    found = [_proof(check, switch) for check in switch.health]
    if switch.proof == "none" or not switch.health or any(proof != "none" for proof in found):
        for check, proof in zip(switch.health, found, strict=True):
            if proof == "process":
                _check_visible(check)
        return found
    restarted = switch.restart is not None or switch.script is not None
    if switch.proof == "auto" and (not restarted or any(check.command for check in switch.health)):
        return found  # nothing new is to answer, or a command is told SHOAL_VERSION and judges by itself
    raise ReleaseError(
        f"no health check can prove that the new release answers: {_why_not(switch)}",
        hint="let a url check read the version from the answer (version: {json: KEY}), or set proof: none",
        code="no_proof",
    )


def _proof(check: HealthCheck, switch: SwitchSpec) -> str:
    if switch.proof == "none" or check.command:
        return "none"
    if check.version is not None and switch.proof in ("auto", "version"):
        return "version"
    restarted = switch.restart is not None or switch.script is not None
    if switch.proof == "process" or (switch.proof == "auto" and restarted):
        return "process" if listeners.is_local(_address(check)[0]) else "none"
    return "none"


def _why_not(switch: SwitchSpec) -> str:
    if switch.proof == "version":
        return "none of them has `version`"
    return ", ".join(f"{check.label} is not on this machine" for check in switch.health if not check.command) or (
        "a command has no listening process"
    )


def _check_visible(check: HealthCheck) -> None:
    host, port = _address(check)
    found = listeners.on(host, port)
    hidden = ""
    if not found.processes and not found.hidden:
        with suppress(OSError), socket.create_connection((host, port), timeout=1):
            found = listeners.on(host, port)  # once more: it may have begun to listen in between
            if not found.processes:
                hidden = "it is in another network namespace (a container?)"
    if found.hidden:
        hidden = "it belongs to another user"
    if hidden:
        raise ReleaseError(
            f"cannot see which process listens on {host}:{port}: {hidden}",
            hint="run as root, let the check read the version (version: {json: KEY}), or set proof: none",
            code="no_proof",
        )


def listening(switch: SwitchSpec) -> set[Process]:
    """The processes that listen where the checks of ``switch`` ask, as far as they can be seen."""
    found: set[Process] = set()
    for check in switch.health:
        if not check.command:
            found |= listeners.on(*_address(check)).processes
    return found


def wait_until_healthy(
    switch: SwitchSpec,
    expectation: Expectation,
    surroundings: Surroundings,
    tell: Callable[[str, str], None] = lambda _label, _found: None,
) -> None:
    """Wait until every check is healthy and proven, then watch them for their soak time.

    ``tell`` hears what a check found whenever that changes. Raises StepError: not healthy in time, or not for long.
    """
    probes = [
        _Probe(check, proof, expectation, surroundings)
        for check, proof in zip(switch.health, proofs(switch), strict=True)
    ]
    for probe in probes:
        _wait(probe, tell)
    _soak(probes)


def _wait(probe: _Probe, tell: Callable[[str, str], None]) -> None:
    check = probe.check
    deadline = time.monotonic() + check.timeout
    told = ""
    while True:
        found = probe.attempt(max(ATTEMPT_LEAST, min(ATTEMPT_LIMIT, deadline - time.monotonic())))
        if not found:
            probe.remember()
        if found != told:
            tell(check.label, found or "healthy")
            told = found
        if not found:
            break
        left = deadline - time.monotonic()
        if left <= 0:
            raise StepError(f"{check.label} {found} for {check.timeout:g} s", code="not_healthy")
        time.sleep(min(check.interval, left))


def _soak(probes: list[_Probe]) -> None:
    """Ask each check at its interval until its soak time is over; the last question is asked at the very end."""
    begun = time.monotonic()
    due = {id(probe): (probe, begun + min(probe.check.interval, probe.check.soak)) for probe in probes}
    due = {key: value for key, value in due.items() if value[0].check.soak}
    while due:
        probe, at = min(due.values(), key=lambda item: item[1])
        time.sleep(max(0.0, at - time.monotonic()))
        found = probe.attempt(ATTEMPT_LIMIT) or probe.replaced()
        if found:
            after = time.monotonic() - begun
            raise StepError(
                f"{probe.check.label} was healthy, but {found} after {after:.1f} s of {probe.check.soak:g} s soak time",
                code="not_healthy",
            )
        end = begun + probe.check.soak
        if at >= end:
            del due[id(probe)]
        else:
            due[id(probe)] = (probe, min(at + probe.check.interval, end))


@dataclass
class _Probe:
    """One check being asked."""

    check: HealthCheck
    proof: str
    expectation: Expectation
    surroundings: Surroundings
    answered: set[Process] = field(default_factory=set)  # who listened when it was healthy first

    def attempt(self, limit: float) -> str:
        """Ask once, for at most ``limit`` seconds; empty if healthy and proven, else what was found."""
        try:
            if self.check.command:
                return self._run(self.check.command, limit)
            found = self._get(self.check.url, limit) if self.check.url else self._connect(limit)
        except OSError as error:
            return f"could not be reached ({_words(error)})"
        return found or (self._check_process() if self.proof == "process" else "")

    def remember(self) -> None:
        """Note who answers now, to see in the soak time whether it is still there."""
        if not self.check.command and self.check.soak:
            self.answered = listeners.on(*_address(self.check)).processes

    def replaced(self) -> str:
        """Empty while a process that answered first still listens; what a crash loop's restarts would hide."""
        if not self.answered:
            return ""
        now = listeners.on(*_address(self.check)).processes
        if self.answered & now:
            return ""
        return f"process {min(self.answered).pid}, which answered, died"

    def _run(self, command: list[str], limit: float) -> str:
        place = self.surroundings
        try:
            outcome = commands.run(command, cwd=place.cwd, env=place.env, timeout=limit, run_as=place.run_as)
        except ReleaseError as error:
            return f"could not be run ({error})"
        return "" if outcome.ok else outcome.reason()

    def _connect(self, limit: float) -> str:
        with socket.create_connection(_address(self.check), timeout=limit):
            return ""

    def _get(self, url: str, limit: float) -> str:
        status, headers, body = _get(url, limit)
        if status != self.check.status:
            return f"answered {status}"
        if self.check.contains is not None and self.check.contains not in body:
            return f"answered without {self.check.contains!r}"
        if self.proof == "version" and self.check.version and self.expectation.version is not None:
            return _check_version(self.check.version, self.expectation.version, headers, body)
        return ""

    def _check_process(self) -> str:
        host, port = _address(self.check)
        now = listeners.on(host, port)
        # Process 1 holds the sockets of socket-activated services for good; it never answers.
        old = {process for process in now.processes & self.expectation.old if process.pid != 1}
        if old:
            return f"is still answered by the old process {min(old).pid}"
        if now.processes - self.expectation.old:
            return ""
        if now.hidden:
            return "is answered by a process that this user may not see"
        return "is answered by no process of this machine's network"


def _check_version(proof: VersionProof, version: str, headers: HTTPMessage, body: str) -> str:
    if proof.body:
        # As a word of its own: 1.4.2 does not stand in 1.4.20 or 11.4.2.
        word = rf"(?<![0-9A-Za-z_+~-])(?<![0-9A-Za-z]\.){re.escape(version)}(?![0-9A-Za-z_+~-])(?!\.[0-9A-Za-z])"
        return "" if re.search(word, body) else f"answered without the version {version}"
    if proof.header:
        found: object = headers.get(proof.header)
    else:
        found = _json_value(body, proof.json or "")
    if found is None:
        return f"answered without a version in {proof.header or proof.json}"
    return "" if str(found) == version else f"answered as version {found}, not {version}"


def _json_value(body: str, path: str) -> object:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _get(url: str, limit: float) -> tuple[int, HTTPMessage, str]:
    """GET ``url`` without proxies or redirects, all of it within ``limit`` seconds. Raises OSError."""
    # Not at the top: a fifth of the time that every other `shoal release` takes to start.
    import http.client
    import ssl

    deadline = time.monotonic() + limit
    parts = urlsplit(url)
    host, port = _split(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=limit, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=limit)
    # A socket's time limit is for one read: a server that sends a byte now and then would never meet it.
    watchdog = threading.Timer(limit, lambda: _hang_up(connection))
    watchdog.daemon = True
    watchdog.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "shoal"})
        response = connection.getresponse()
        body = b""
        while len(body) < BODY_LIMIT and (part := response.read1(64 << 10)):
            body += part
        if time.monotonic() >= deadline:
            raise TimeoutError("timed out")
        return response.status, response.headers, body.decode("utf-8", "replace")
    except http.client.HTTPException as error:
        timed_out = time.monotonic() >= deadline
        raise OSError("timed out" if timed_out else str(error) or type(error).__name__) from None
    finally:
        watchdog.cancel()
        connection.close()


def _hang_up(connection: HTTPConnection) -> None:
    with suppress(OSError):
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)


def _address(check: HealthCheck) -> tuple[str, int]:
    if check.url is not None:
        return _split(check.url)
    host, _colon, port = (check.tcp or "").rpartition(":")
    return host.strip("[]"), int(port)


def _split(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
