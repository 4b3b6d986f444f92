"""Typed settings from YAML files: read strictly, and everything wrong with a file is told at once."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

MAX_BYTES = 64 * 1024  # a real one has a few hundred bytes: more is the wrong file
MAX_PROBLEMS = 20  # told at once; a file with more of them is another program's
MAX_SECONDS = 10**9  # some 30 years: for ever is said otherwise

Parser = Callable[[object], object]
Hook = Callable[[type, object], object]
_S = TypeVar("_S", bound=msgspec.Struct)


class SettingsError(Exception):
    """The file was refused; the message names it and every key that is wrong."""


class Duration(float):
    """Seconds; in YAML a number or text such as ``7d``, ``12h``, ``30m``, ``90s``."""


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?([smhd])", re.ASCII)


def parse_duration(value: object) -> Duration:
    """Raises ValueError, as all parsers: what was found and what was expected."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return Duration(float(match[1]) * _SECONDS[match[2]])
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_SECONDS:
        return Duration(value)
    raise ValueError(f"found {found(value)}, expected seconds, or text such as 90s, 30m, 12h, 7d")


def parse_path(value: object) -> Path:
    """An absolute path."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"found {found(value)}, expected an absolute path")
    return Path(value)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, where YAML libraries silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _value in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} is there twice; keep one", problem_mark=key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that ``path`` holds. Raises SettingsError."""
    text = _read_text(path)
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SettingsError(f"{path}: not valid YAML{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # PyYAML's own, for `!!bool maybe`
        raise SettingsError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{path}: nested too deeply; expected a mapping of keys to values") from None
    if tree is None:
        raise SettingsError(f"{path}: empty; write {{}} to take every default")
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: found {found(tree)}, expected a mapping of keys to values, such as `name: host1`")
    return tree


def _read_text(path: Path) -> str:
    data = read_trusted(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_trusted(path: Path) -> bytes:
    """What the file ``path`` holds. Raises SettingsError, for root also if others could have written it."""
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            if stat.S_ISREG(info.st_mode):
                require_trusted(path, info)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{path}: more than {MAX_BYTES} bytes; this is another program's file")
    return data


def require_trusted(path: Path, info: os.stat_result) -> None:
    """What root obeys only root may have written. Raises SettingsError."""
    others = info.st_mode & stat.S_IWOTH or (info.st_mode & stat.S_IWGRP and info.st_gid != 0)
    if os.geteuid() == 0 and (info.st_uid != 0 or others):
        raise SettingsError(
            f"{path}: others than root can write it (owner {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o}) "
            f"and root obeys it: chown it to root, and take the right to write from others"
        )


def build(
    kind: type[_S],
    tree: Mapping[str, Any],
    source: str,
    parsers: Mapping[type, Parser],
    contradictions: Callable[[_S], Iterable[str]] = lambda _: (),
) -> _S:
    """``tree`` as ``kind``. Raises SettingsError that tells for each problem the key and what was expected.

    ``parsers``: how values of types that msgspec does not know are read. ``contradictions``: what is wrong though each
    value is right by itself.
    """

    def parse(wanted: type, value: object) -> object:
        return parsers[wanted](value)

    problems: list[str] = []
    _check(kind, tree, "", problems, parse)
    if not problems:
        built = msgspec.convert(dict(tree), kind, dec_hook=parse)
        problems = list(contradictions(built))
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise SettingsError(f"{source}: " + "\n  ".join([*problems[:MAX_PROBLEMS], *more]))
    return built


def _check(kind: type[msgspec.Struct], tree: object, where: str, problems: list[str], parse: Hook) -> None:
    """Try key after key, so that one run tells all that is wrong. ``where``: the keys that lead to ``tree``."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if not isinstance(tree, Mapping):
        problems.append(f"{where}: found {found(tree)}, expected a mapping with keys of: {', '.join(fields)}")
        return
    prefix = f"{where}." if where else ""
    for key, value in tree.items():
        if key in fields:
            _check_value(fields[key].type, value, f"{prefix}{key}", problems, parse)
        else:
            problems.append(f"{prefix}{key}: unknown key{_nearest(key, list(fields))}")
    for key, field in fields.items():
        if field.required and key not in tree:
            problems.append(f"{prefix}{key}: missing")


def _check_value(wanted: Any, value: object, where: str, problems: list[str], parse: Hook) -> None:
    if _is_struct(wanted):
        _check(wanted, value, where, problems, parse)
        return
    element = get_args(get_args(wanted)[0])[:1] if get_origin(wanted) is Annotated else ()
    if element and _is_struct(element[0]) and isinstance(value, list):
        before = len(problems)
        for number, item in enumerate(value):
            _check(element[0], item, f"{where}[{number}]", problems, parse)
        if len(problems) > before:
            return
    try:
        msgspec.convert(value, wanted, dec_hook=parse)
    except msgspec.ValidationError as error:
        problems.append(f"{where}{_explain(error, value, wanted)}")
    except UnicodeEncodeError:
        problems.append(f"{where}: found text with lone surrogates, which no file can have")


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


# msgspec's words for types, and ours
_WORDS = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "datetime": "a time such as 2026-12-01T00:00:00Z",
    "array": "a list",
    "object": "a mapping",
}


def _explain(error: msgspec.ValidationError, value: object, wanted: object) -> str:
    """``[1]: found …, expected …``, from what a parser above said or from msgspec's ``Expected `int`, got `str```."""
    text, _at, where = str(error).partition(" - at `$")
    if error.__cause__ is None:
        if get_origin(wanted) is Literal:
            expected = "one of " + ", ".join(map(str, get_args(wanted)))
        else:
            expected = re.sub(r"Expected `(\w+)`", lambda match: _WORDS.get(match[1], match[1]), text.split(", got")[0])
        text = f"found {found(value)}, expected {expected}"
    return f"{where.rstrip('`')}: {text}"


def _nearest(key: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}"


def found(value: object) -> str:
    """``value`` for messages."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
