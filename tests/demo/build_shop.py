"""Build the archives of the demo's web shop: ``shop-VERSION.tar.zst``, the same bytes every time.

A release as a team would ship it: the application, its pinned libraries (vendored, byte-compiled), its data and its
pictures; about 31 MB packed, 50 MB unpacked. 1.1 and 1.3 sell one thing more than 1.0; 1.2 and 1.4 forget a price, so
they are never healthy.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import zstandard

SHOP = Path(__file__).resolve().parent / "shop"
MTIME = 1767225600  # of every member, 2026-01-01: the same bytes each time
BROKEN = ("1.2", "1.4")
THINGS = (SHOP / "things.txt").read_text().split()  # that the shop sells


def archives(versions: list[str], cache: Path) -> dict[str, Path]:
    """The archive of each version, from below `cache`, or built where what it is made of has changed."""
    folder = cache / f"shop-{recipe()}"
    found = {version: folder / f"shop-{version}.tar.zst" for version in versions}
    missing = [version for version, path in found.items() if not path.exists()]
    if missing:
        for outdated in cache.glob("shop-*"):
            shutil.rmtree(outdated)
        tree = folder / "tree"
        tree.mkdir(parents=True)
        vendor(tree)
        for version in versions:
            write_version(tree, version)
            pack(tree, found[version])
        shutil.rmtree(tree)
    return found


def recipe() -> str:
    """A short digest of all that goes into an archive: the sources here, and the Python its libraries are for."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted([Path(__file__), *SHOP.iterdir()]):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def vendor(tree: Path) -> None:
    """The parts that all versions share: the program, its libraries and all pictures."""
    libraries = tree / "vendor"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    pinned = ["--requirement", str(SHOP / "requirements.txt"), "--no-deps", "--only-binary=:all:", "--no-compile"]
    subprocess.run([*pip, "install", *pinned, "--target", str(libraries)], check=True)
    shutil.rmtree(libraries / "bin", ignore_errors=True)  # commands with this machine's paths in them
    compile_all = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(tree), str(libraries)]
    subprocess.run([sys.executable, *compile_all], check=True)
    shutil.copy(SHOP / "shop.py", tree)

    (tree / "pictures").mkdir()
    subprocess.run(
        [sys.executable, str(SHOP / "draw_pictures.py"), str(tree / "pictures"), *map(picture, THINGS)],
        check=True,
        env={"PYTHONPATH": str(libraries)},
    )


def picture(thing: str) -> str:
    return f"{thing}.jpg"


def write_version(tree: Path, version: str) -> None:
    """The parts in which versions differ."""
    chance = random.Random(2026)
    catalogue = [
        {"name": name, "price": chance.randrange(500, 50_000) / 100, "picture": picture(name)} for name in THINGS
    ]
    if version == "1.0":
        del catalogue[-1]
    if version in BROKEN:
        del catalogue[7]["price"]
    (tree / "catalogue.json").write_text(json.dumps(catalogue, indent=1))
    (tree / "VERSION").write_text(f"{version}\n")


def pack(tree: Path, archive: Path) -> None:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = MTIME
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    partial = archive.with_suffix(".partial")
    with (
        partial.open("wb") as file,
        zstandard.ZstdCompressor(level=3, threads=2).stream_writer(file) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(tree.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(tree)), recursive=False, filter=plain)
    partial.rename(archive)
