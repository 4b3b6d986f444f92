# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small language for what a variable may be.

A check takes a value and returns it, converted where the command line made a text of it (``-e pause=5``). It raises
Wrong, which carries every problem below it, each with the path that leads there: a user mends them in one go.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean as ansible_boolean

Check = Callable[[Any], Any]


class WrongValueError(Exception):
    """One or more problems: pairs of a path (``.health.url``, empty for the value itself) and what is wrong there."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{path}: {text}" for path, text in problems))
        self.problems = problems

    @classmethod
    def expected(cls, expectation: str, found: object) -> WrongValueError:
        return cls(("", f"expected {expectation}, found {describe(found)}"))

    def below(self, path: str) -> list[tuple[str, str]]:
        """The problems, seen from the value that holds this one under ``path``."""
        return [(path + rest, text) for rest, text in self.problems]


def attempt(check: Check, value: Any, path: str, problems: list[tuple[str, str]]) -> Any:
    """What ``check`` makes of the value; None where it is wrong, and the problems are then added to the list."""
    try:
        return check(value)
    except WrongValueError as wrong:
        problems += wrong.below(path)
        return None


def describe(value: object) -> str:
    """How a value looks to the one who wrote it: ``the number 5``, ``the text 'x'``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 60 else value[:57] + '...'!r}" if value else "an empty text"
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing where nothing known comes near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def text(expectation: str, pattern: str = r"\S(.*\S)?") -> Check:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise WrongValueError.expected(expectation, value)
        return str(value)

    return check


def integer(low: int, high: int, unit: str = "") -> Check:
    expectation = f"a whole number from {low} to {high}{unit}"

    def check(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value):  # from the command line
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise WrongValueError.expected(expectation, value)
        return int(value)

    return check


def seconds(low: float, high: float) -> Check:
    """A duration, whole or with a fraction."""
    expectation = f"a number of seconds from {low:g} to {high:g}"

    def check(value: Any) -> float:
        if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):  # from the command line
            value = float(value) if "." in value else int(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise WrongValueError.expected(expectation, value)
        return value

    return check


def boolean(value: Any) -> bool:
    try:
        return bool(ansible_boolean(value, strict=True))
    except TypeError:
        raise WrongValueError.expected("true or false", value) from None


def choice(*known: str) -> Check:
    def check(value: Any) -> str:
        if value not in known:
            raise WrongValueError.expected(f"one of {', '.join(known)}", value)
        return str(value)

    return check


def listing(item: Check, expectation: str, *, least: int = 0) -> Check:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) < least:
            raise WrongValueError.expected(expectation, value)
        problems: list[tuple[str, str]] = []
        result = [attempt(item, entry, f"[{number}]", problems) for number, entry in enumerate(value)]
        if problems:
            raise WrongValueError(*problems)
        return result

    return check


def mapping(fields: Mapping[str, Check], *, required: Iterable[str] = (), one_of: Iterable[str] = ()) -> Check:
    """Known keys only. A key whose value is null counts as not written, as with ``default(omit)``.

    :param one_of: exactly one of these has to be there.
    """
    wanted = tuple(required)
    alternatives = tuple(one_of)

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise WrongValueError.expected(f"a mapping with keys such as {', '.join(list(fields)[:4])}", value)
        problems: list[tuple[str, str]] = []
        result = {}
        for key, entry in value.items():
            if key not in fields:
                problems.append((f".{key}", f"is not a setting here{nearest(str(key), fields)}"))
            elif entry is not None:
                result[str(key)] = attempt(fields[key], entry, f".{key}", problems)
        tried = {key for key, entry in value.items() if entry is not None}
        problems += [(f".{key}", "is missing") for key in wanted if key not in tried]
        if alternatives and len(tried.intersection(alternatives)) != 1:
            there = ", ".join(key for key in alternatives if key in tried) or "none"
            problems.append(("", f"expected exactly one of {', '.join(alternatives)}, found {there}"))
        if problems:
            raise WrongValueError(*problems)
        return result

    return check


def either(first: Callable[[Any], bool], then: Check, otherwise: Check) -> Check:
    """``then`` for the values that ``first`` is true of, ``otherwise`` for all others."""

    def check(value: Any) -> Any:
        return then(value) if first(value) else otherwise(value)

    return check
