# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role torrent_agent brings to a host: the package, the list of its libraries, and wheels of them, as one tar.

The same content is the same bytes, whoever makes it and when, so that its digest can name the version.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

try:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
    from packaging.version import Version
except ImportError:
    pass  # ansible-core brings it wherever this runs; the sanity tests import without

LOCK = "requirements.lock"
# Not a library of the agent's, but what installs the others where the host's Python brings no pip.
INSTALLER = "pip"


class BundleError(Exception):
    """What was to be brought is not there, or not whole."""


@dataclass(frozen=True)
class Pin:
    """One entry of the lock: a version of a library, by its hashes."""

    requirement: Requirement
    hashes: frozenset[str]

    @property
    def text(self) -> str:
        """The entry for a host that needs it: pip asks markers of itself, and not of the Python it downloads for."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash={digest}" for digest in sorted(self.hashes))])

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> Version:
        return Version(next(iter(self.requirement.specifier)).version)

    def is_for(self, python: str) -> bool:
        """Whether hosts with this Python, such as ``3.11``, need it."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"})


def read_pins(text: str) -> list[Pin]:
    """The entries of a requirements file with hashes, as ``uv pip compile --generate-hashes`` writes it."""
    pins = []
    for entry in re.sub(r"\\\n", " ", text).splitlines():
        entry = entry.partition("#")[0].strip()
        if not entry:
            continue
        words, *hashes = re.split(r"\s+--hash=", entry)
        try:
            requirement = Requirement(words)
        except InvalidRequirement as error:
            raise BundleError(f"{LOCK}: {words!r} is no requirement: {error}") from None
        pins.append(Pin(requirement, frozenset(hash_.strip() for hash_ in hashes)))
    return pins


def make_wheel(source: Path) -> tuple[str, str, bytes]:
    """Version, file name and bytes of the wheel of a package of pure Python with a ``src`` folder.

    Made without setuptools or a network, which a controller need not have (PEP 427).
    """
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    name = project["name"]
    initial = (source / "src" / name / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"$', initial, re.MULTILINE)
    if not found:
        raise BundleError(f"{source}: src/{name}/__init__.py tells no __version__")
    version = found[1]
    files = dict(_package_files(source / "src", name))
    info = f"{name}-{version}.dist-info"
    files[f"{info}/METADATA"] = _metadata(project, version).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: shoal.deploy\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    scripts = [f"{command} = {target}" for command, target in sorted(project.get("scripts", {}).items())]
    files[f"{info}/entry_points.txt"] = "\n".join(["[console_scripts]", *scripts, ""]).encode()
    record = [f"{path},sha256={_record_digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    packed = io.BytesIO()
    # Not compressed: compressors differ from one controller to the next, and so would the digest.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path, content in files.items():
            member = zipfile.ZipInfo(path)
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)
    return version, f"{name}-{version}-py3-none-any.whl", packed.getvalue()


def find_wheels(pins: Iterable[Pin], folder: Path, python: str, machine: str) -> tuple[list[Path], list[str]]:
    """The wheel of each pin for a host, and what is wrong where there is none.

    :param python: of the host, such as ``3.11``; CPython.
    :param machine: of the host, as ``uname -m`` tells it.
    """
    candidates = [path for path in sorted(folder.glob("*.whl")) if _fits(path, python, machine)]
    found = []
    problems = []
    for pin in pins:
        named = [path for path in candidates if _wheel_of(path) == (pin.name, pin.version)]
        good = [path for path in named if f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" in pin.hashes]
        if good:
            found.append(good[0])
        elif named:
            problems.append(f"{named[0].name}: its SHA-256 is none of those in {LOCK}")
        else:
            problems.append(f"{pin.name} {pin.version}: no wheel for CPython {python} on {machine}")
    return found, problems


def make_bundle(
    files: Path,
    *,
    python: str,
    machine: str,
    source: str,
    wheelhouse: Path | None = None,
    without: Collection[str] = (),
) -> tuple[dict[str, Any], bytes]:
    """What is in the bundle, and its bytes.

    :param files: the role's folder of files, with the lock and the package.
    :param wheelhouse: a folder of wheels; those that this host needs go along.
    :param without: libraries that the host has of its distribution.
    :return: ``version`` and ``name`` (with a digest) of what is installed, ``downloads`` (what a wheelhouse must hold,
      as a requirements file), ``wheel`` (the package's file name), ``wheels`` (of libraries) and ``problems``, texts:
      if there are any, what is needed is not there.
    """
    absent = {canonicalize_name(name) for name in without}
    pins = [pin for pin in read_pins((files / LOCK).read_text()) if pin.is_for(python) and pin.name not in absent]
    version, wheel_name, wheel = make_wheel(files / "shoal")
    lock = _lines(pin.text for pin in pins if pin.name != INSTALLER)
    wheels: list[Path] = []
    problems: list[str] = []
    if wheelhouse is not None:
        wheels, problems = find_wheels(pins, wheelhouse, python, machine)
    # The wheelhouse is no part of it: the lock says which bytes may come, from wherever.
    kind = "distro" if source == "distro" else "pinned"
    digest = hashlib.sha256("\0".join([kind, python, lock, hashlib.sha256(wheel).hexdigest()]).encode()).hexdigest()
    members = {LOCK: lock.encode(), wheel_name: wheel}
    members.update({f"wheels/{path.name}": path.read_bytes() for path in wheels})
    told = {
        "version": version,
        "name": f"{version}-{digest[:12]}",
        "downloads": _lines(pin.text for pin in pins),
        "wheel": wheel_name,
        "wheels": [path.name for path in wheels],
        "problems": problems,
    }
    return told, _tar(members)


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _tar(members: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in sorted(members.items()):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _package_files(folder: Path, name: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted((folder / name).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _metadata(project: Mapping[str, Any], version: str) -> str:
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {project['name']}",
        f"Version: {version}",
        f"Summary: {project['description']}",
        f"License-Expression: {project['license']}",
        f"Requires-Python: {project['requires-python']}",
    ]
    return "\n".join([*lines, *(f"Requires-Dist: {needed}" for needed in project["dependencies"]), ""])


def _record_digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _wheel_of(path: Path) -> tuple[str, Version]:
    name, version, _build, _tags = parse_wheel_filename(path.name)
    return name, version


def _fits(path: Path, python: str, machine: str) -> bool:
    """Whether a host could take this wheel. Which C library it has, pip decides there."""
    try:
        tags = parse_wheel_filename(path.name)[3]
    except InvalidWheelFilename:
        return False
    minor = int(python.split(".")[1])
    for tag in tags:
        stable = re.fullmatch(r"cp3(\d+)", tag.interpreter)
        by_python = (
            tag.interpreter == "py3"
            or (tag.abi == f"cp3{minor}" and tag.interpreter == tag.abi)
            or (tag.abi == "abi3" and stable is not None and int(stable[1]) <= minor)
        )
        if by_python and (tag.platform == "any" or re.fullmatch(rf"(many)?linux.*_{machine}", tag.platform)):
            return True
    return False


def keep(folder: Path, name: str, content: bytes) -> Path:
    """Write a file once, also when several processes come to do it at once."""
    path = folder / name
    if not path.exists():
        partial = folder / f".{name}.{os.getpid()}"
        partial.write_bytes(content)
        partial.replace(path)
    return path
