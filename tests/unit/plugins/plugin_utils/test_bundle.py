# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role brings to hosts: the same bytes for the same content, and nothing that the lock does not know."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import tomllib
from ansible_collections.shoal.deploy.plugins.plugin_utils._bundle import (
    BundleError,
    find_wheels,
    make_bundle,
    make_wheel,
    read_pins,
)
from packaging import requirements

FILES = Path(__file__).parents[4] / "roles" / "torrent_agent" / "files"
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def bundle(**options):
    given = {"python": "3.11", "machine": "x86_64", "source": "pypi", **options}
    return make_bundle(FILES, **given)


def read_tar(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def pinned(name: str) -> dict[str, requirements.Requirement]:
    lines = [line for line in (FILES / name).read_text().splitlines() if line and not line.startswith("#")]
    found = map(requirements.Requirement, lines)
    return {requirement.name.lower(): requirement for requirement in found}


def locked(python: str) -> dict[str, str]:
    pins = read_pins((FILES / "requirements.lock").read_text())
    return {pin.name: str(pin.version) for pin in pins if pin.is_for(python)}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_is_in_step_with_what_is_asked_for(python: str) -> None:
    """If this fails: tests/lock.sh."""
    lock = locked(python)
    for name, requirement in {**pinned("requirements.txt"), **pinned("requirements-host.txt")}.items():
        assert lock[name] in requirement.specifier, name


def test_what_the_package_needs_is_pinned_within_its_bounds() -> None:
    project = tomllib.loads((FILES / "shoal" / "pyproject.toml").read_text())["project"]
    pins = pinned("requirements.txt")
    needed = {
        requirement.name.lower(): requirement for requirement in map(requirements.Requirement, project["dependencies"])
    }
    assert set(needed) <= set(pins)
    for name, requirement in needed.items():
        assert locked("3.11")[name] in requirement.specifier, name


def test_every_pin_has_hashes() -> None:
    for pin in read_pins((FILES / "requirements.lock").read_text()):
        assert pin.hashes, pin.name
        assert all(digest.startswith("sha256:") for digest in pin.hashes)


def test_the_same_content_is_the_same_bytes_and_name() -> None:
    first, second = bundle(), bundle()
    assert first == second
    assert first[0]["name"].startswith(first[0]["version"] + "-")


def test_python_and_distribution_name_another_version_and_the_wheelhouse_does_not(tmp_path: Path) -> None:
    name = bundle()[0]["name"]
    assert bundle(python="3.13")[0]["name"] != name
    assert bundle(source="distro", without=["libtorrent"])[0]["name"] != name
    assert bundle(source="wheelhouse", wheelhouse=tmp_path)[0]["name"] == name


def test_the_package_is_a_wheel_with_a_true_record() -> None:
    version, name, content = make_wheel(FILES / "shoal")
    assert name == f"shoal-{version}-py3-none-any.whl"
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        names = set(wheel.namelist())
        info = f"shoal-{version}.dist-info"
        recorded = {line.split(",")[0] for line in wheel.read(f"{info}/RECORD").decode().splitlines()}
        assert recorded == names
        assert {"shoal/__init__.py", f"{info}/METADATA", f"{info}/WHEEL"} <= names
        assert b"shoal = shoal.cli:main" in wheel.read(f"{info}/entry_points.txt")
        assert not [name for name in names if "__pycache__" in name]


def test_a_distributions_libraries_are_left_out() -> None:
    lock = read_tar(bundle(source="distro", without=["libtorrent", "PyYAML"])[1])["requirements.lock"].decode()
    assert "libtorrent==" not in lock
    assert "pyyaml==" not in lock
    assert "aiohttp==" in lock


LOCK = "one==1.0 ; python_full_version < '3.11' \\\n    --hash=sha256:{one}\ntwo==2.0 \\\n    --hash=sha256:{two}\n"


def test_pins_are_for_some_pythons() -> None:
    pins = read_pins("# comment\n" + LOCK.format(one="a" * 64, two="b" * 64))
    assert [pin.name for pin in pins if pin.is_for("3.10")] == ["one", "two"]
    assert [pin.text for pin in pins if pin.is_for("3.11")] == [f"two==2.0 --hash=sha256:{'b' * 64}"]
    with pytest.raises(BundleError, match="no requirement"):
        read_pins("one = 1.0\n")


@pytest.mark.parametrize(
    ("file", "python", "machine", "fits"),
    [
        ("two-2.0-py3-none-any.whl", "3.13", "aarch64", True),
        ("two-2.0-py2.py3-none-any.whl", "3.10", "x86_64", True),
        ("two-2.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "3.11", "x86_64", True),
        ("two-2.0-cp39-abi3-manylinux_2_28_aarch64.whl", "3.12", "aarch64", True),
        ("two-2.0-cp312-abi3-manylinux_2_28_aarch64.whl", "3.11", "aarch64", False),
        ("two-2.0-cp311-cp311-manylinux_2_17_x86_64.whl", "3.12", "x86_64", False),
        ("two-2.0-cp311-cp311-manylinux_2_17_x86_64.whl", "3.11", "aarch64", False),
        ("two-2.0-cp311-cp311-musllinux_1_2_x86_64.whl", "3.11", "x86_64", False),
        ("two-2.0-cp311-cp311-win_amd64.whl", "3.11", "x86_64", False),
        ("two-2.1-py3-none-any.whl", "3.11", "x86_64", False),
        ("two.whl", "3.11", "x86_64", False),
    ],
)
def test_wheels_that_fit_a_host(tmp_path: Path, file: str, python: str, machine: str, fits: bool) -> None:
    (tmp_path / file).write_bytes(b"wheel")
    pins = read_pins(LOCK.format(one="a" * 64, two=hashlib.sha256(b"wheel").hexdigest()))[1:]
    found, problems = find_wheels(pins, tmp_path, python, machine)
    assert [path.name for path in found] == ([file] if fits else [])
    assert problems == ([] if fits else [f"two 2.0: no wheel for CPython {python} on {machine}"])


def test_a_wheel_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "two-2.0-py3-none-any.whl").write_bytes(b"tampered")
    found, problems = find_wheels(read_pins(LOCK.format(one="a" * 64, two="b" * 64))[1:], tmp_path, "3.11", "x86_64")
    assert not found
    assert problems == ["two-2.0-py3-none-any.whl: its SHA-256 is none of those in requirements.lock"]
