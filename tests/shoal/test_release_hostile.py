"""Archives that must not be unpacked: each is refused with the member named, and nothing is changed by trying."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from release_helpers import App, call, digest, spec, tar_bytes

Part = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", **fields: Any) -> Part:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def link(name: str, target: str) -> Part:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> Part:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def folder(name: str, mode: int = 0o755) -> Part:
    return member(name, type=tarfile.DIRTYPE, mode=mode)


def tar(*parts: Part, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as archive:
        for info, data in parts:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


GOOD = member("good", b"good")
BLOCK = tarfile.BLOCKSIZE


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One raw header, for sizes that tarfile would not write without the data."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def checksummed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def negative_size() -> bytes:
    block = bytearray(header("evil"))
    block[124:136] = b"\xff" * 12  # base-256, all ones: -1
    return checksummed(block) + bytes(2 * BLOCK)


def damaged_header() -> bytes:
    data = bytearray(tar(GOOD, member("evil", b"x"), member("after", b"y")))
    data[2 * BLOCK + 10] ^= 0xFF
    return bytes(data)


def huge_extension() -> bytes:
    return header("./PaxHeaders/evil", 10 << 20, tarfile.XHDTYPE) + bytes(10 << 20) + tar(GOOD)


def pax_with_nul() -> bytes:
    return tar(member("x", b"", pax_headers={"path": "evil\0name"}))


def pax_sparse(version: str) -> bytes:
    headers = {"GNU.sparse.name": "evil", "GNU.sparse.realsize": str(1 << 50), "GNU.sparse.size": str(1 << 50)}
    if version == "0.1":
        headers |= {"GNU.sparse.map": f"0,1,{1 << 49},1", "GNU.sparse.numblocks": "2"}
    else:
        headers |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    return tar(member("evil", b"1\n0\n0\n".ljust(BLOCK, b"\0"), pax_headers=headers))


def chain_of_long_names() -> bytes:
    """Each long-name header is followed by another: tarfile reads them by recursion."""
    one = header("././@LongLink", 5, tarfile.GNUTYPE_LONGNAME) + b"evil\0".ljust(BLOCK, b"\0")
    return one * 3000 + header("x") + bytes(2 * BLOCK)


def zipped(*names: str | tuple[str, bytes, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of names, or of (name, data, Unix mode)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for one in names:
            name, data, mode = (one, b"data", 0o100644) if isinstance(one, str) else one
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.compress_type = method
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def patched_zip(offset: int, value: bytes, local: int | None = None) -> bytes:
    """A zip of one member `evil` (100 bytes) whose directory entry, and local header if told, says something else."""
    data = bytearray(zipped(("evil", b"x" * 100, 0o100644), method=zipfile.ZIP_STORED))
    at = data.index(b"PK\x01\x02")
    data[at + offset : at + offset + len(value)] = value
    if local is not None:
        data[local : local + len(value)] = value
    return bytes(data)


def encrypted_zip() -> bytes:
    return patched_zip(8, struct.pack("<H", 1), 6)


def overlapping_zip() -> bytes:
    """Two directory entries for the same data, as in a zip bomb."""
    data = zipped(("evil", b"x" * 100, 0o100644), method=zipfile.ZIP_STORED)
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[start:end]
    tail = bytearray(data[end:])
    tail[8:12] = struct.pack("<HH", 2, 2)
    tail[12:16] = struct.pack("<I", 2 * len(entry))
    return data[:start] + entry + entry + bytes(tail)


def name_in_zip(name: str) -> bytes:
    """A name that zipfile would not write: patched over one of the same length."""
    return zipped("n" * len(name)).replace(b"n" * len(name), name.encode())


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


PLAIN = tar(member("a", os.urandom(5000)), member("evil", os.urandom(5000)))

HOSTILE: dict[str, tuple[Callable[[], bytes], str, dict[str, Any]]] = {
    # name: (archive, what the error must say, what the request says beside)
    "dotdot": (lambda: tar(GOOD, member("../evil")), "'../evil' has a name with '..'", {}),
    "dotdot inside": (lambda: tar(GOOD, member("a/../../evil")), "'a/../../evil' has a name with '..'", {}),
    "absolute": (lambda: tar(GOOD, member("/etc/evil")), "'/etc/evil' has an absolute name", {}),
    "absolute after stripping": (lambda: tar(member("//etc/evil")), "absolute name", {"strip_components": 1}),
    "symlink absolute": (lambda: tar(GOOD, link("evil", "/etc/passwd")), "'evil' is a symbolic link to the abs", {}),
    "symlink out": (lambda: tar(folder("a"), link("a/evil", "../../x")), "'a/evil' is a symbolic link out of", {}),
    "symlink out by a link": (
        lambda: tar(folder("a"), folder("a/b"), link("here", "a/b/../.."), link("evil", "here/../x")),
        "'evil' is a symbolic link out of the tree",
        {},
    ),
    "symlink out by a later link": (
        lambda: tar(link("evil", "d/../../x"), folder("sub"), folder("sub/deep"), link("d", "sub/deep/../..")),
        "'evil' is a symbolic link out of the tree",
        {},
    ),
    "symlink loop": (lambda: tar(link("evil", "other"), link("other", "evil")), "'evil' is a symbolic link in a l", {}),
    "symlink empty": (lambda: tar(GOOD, link("evil", "")), "'evil' is a symbolic link with an unusable target", {}),
    "symlink out by stripping": (
        lambda: tar(folder("top"), link("top/evil", "../top/x")),
        "'evil' is a symbolic link out of the tree",
        {"strip_components": 1},
    ),
    "hard link out": (lambda: tar(GOOD, hard("evil", "../../etc/passwd")), "'evil' has a link target with '..'", {}),
    "hard link absolute": (lambda: tar(GOOD, hard("evil", "/etc/passwd")), "'evil' has an absolute link target", {}),
    "hard link to nothing": (lambda: tar(GOOD, hard("evil", "later"), member("later")), "'evil' is a hard link to", {}),
    "hard link to a symlink": (lambda: tar(GOOD, link("l", "good"), hard("evil", "l")), "'evil' is a hard link to", {}),
    "through a symlink": (
        lambda: tar(folder("real"), link("d", "real"), member("d/evil")),
        "'d/evil' would be written through 'd', which is a symlink",
        {},
    ),
    "through a symlink, deep": (
        lambda: tar(folder("real"), link("d", "real"), member("d/x/y/evil")),
        "'d/x/y/evil' would be written through 'd'",
        {},
    ),
    "through a file": (lambda: tar(GOOD, member("good/evil")), "'good/evil' would be written through 'good'", {}),
    "character device": (lambda: tar(GOOD, member("evil", type=tarfile.CHRTYPE)), "'evil' is a character device", {}),
    "block device": (lambda: tar(GOOD, member("evil", type=tarfile.BLKTYPE)), "'evil' is a block device", {}),
    "fifo": (lambda: tar(GOOD, member("evil", type=tarfile.FIFOTYPE)), "'evil' is a FIFO", {}),
    "unknown type": (lambda: tar(GOOD, member("evil", type=b"V")), "'evil' is a member of unknown type", {}),
    "setuid": (lambda: tar(GOOD, member("evil", b"x", mode=0o4755)), "'evil' is setuid or setgid (mode 4755)", {}),
    "setgid": (lambda: tar(GOOD, member("evil", b"x", mode=0o2755)), "'evil' is setuid or setgid", {}),
    "setgid folder": (lambda: tar(GOOD, folder("evil", 0o2775)), "'evil' is setuid or setgid", {}),
    "file becomes folder": (lambda: tar(member("evil", b"x"), folder("evil")), "'evil' is a directory, but", {}),
    "folder becomes symlink": (lambda: tar(folder("evil"), folder("b"), link("evil", "b")), "'evil' is a symlink", {}),
    "implied folder becomes file": (lambda: tar(member("evil/x"), member("evil")), "'evil' is a file, but", {}),
    "newline": (lambda: tar(GOOD, member("ev\nil")), r"'ev\nil' has a name with control characters", {}),
    "escape sequence": (lambda: tar(GOOD, member("ev\x1b[2Jil")), "has a name with control characters", {}),
    "NUL": (pax_with_nul, r"'evil\x00name' has a name with control characters", {}),
    "not UTF-8": (lambda: tar(GOOD, member("evil\udcff"), format=tarfile.GNU_FORMAT), "not UTF-8", {}),
    "newline in a link": (lambda: tar(GOOD, link("evil", "a\nb")), "'evil' is a symbolic link with an unusable", {}),
    "long component": (lambda: tar(GOOD, member("e" * 256)), "has a name that is too long", {}),
    "long path": (lambda: tar(GOOD, member("/".join(["evil"] * 500))), "has a name that is too long", {}),
    "deep": (lambda: tar(GOOD, member("/".join("e" * 101))), "nests deeper than 100 folders", {}),
    "GNU sparse": (lambda: header("evil", 0, b"S") + bytes(1024), "'evil' is a sparse file", {}),
    "PAX sparse 0.1": (lambda: pax_sparse("0.1"), "'evil' is a sparse file", {}),
    "PAX sparse 1.0": (lambda: pax_sparse("1.0"), "'evil' is a sparse file", {}),
    "negative size": (negative_size, "'evil' has a negative size", {}),
    "huge extension header": (huge_extension, "has an extension header of 10485760 bytes", {}),
    "chain of long names": (chain_of_long_names, "the tar archive is damaged", {}),
    "damaged header": (damaged_header, "the tar archive is damaged at header 2", {}),
    "cut in data": (lambda: PLAIN[: 15 * BLOCK], "'evil' is damaged: unexpected end of data", {}),
    "cut in a header": (lambda: tar(GOOD, GOOD)[: 2 * BLOCK + 100], "it is cut short", {}),
    "cut before the end": (lambda: tar(GOOD)[: 2 * BLOCK], "it is cut short", {}),
    "garbage after the end": (lambda: tar(GOOD) + b"evil", "something follows the end", {}),
    "two archives": (lambda: tar(GOOD) + tar(member("evil")), "something follows the end of the tar archive", {}),
    "empty": (lambda: tar(), "has nothing in it to unpack", {}),
    "only the root": (lambda: tar(folder("./")), "has nothing in it to unpack", {}),
    "file lost by stripping": (
        lambda: tar(GOOD),
        "'good' would be lost by strip_components: 1",
        {"strip_components": 1},
    ),
    "more bytes than told": (
        lambda: tar(member("evil", b"x" * 1001)),
        "'evil' with 1001 bytes exceeds the limit of 1000",
        {"limits": {"unpacked_bytes": 1000}},
    ),
    "more bytes in sum": (
        lambda: tar(member("a", b"x" * 600), member("evil", b"x" * 401)),
        "'evil' with 401 bytes exceeds the limit of 1000",
        {"limits": {"unpacked_bytes": 1000}},
    ),
    "petabyte header": (lambda: header("evil", 1 << 50), "'evil' with", {"limits": {"unpacked_bytes": 1 << 30}}),
    "zst bomb": (
        lambda: zst(tar(member("evil", bytes(64 << 20)))),
        "'evil' with 67108864 bytes exceeds",
        {"limits": {"unpacked_bytes": 1 << 20}},
    ),
    "more entries than told": (
        lambda: tar(*(member(f"d/{number}") for number in range(10))),
        "more than 10 entries; 'd/9' is one more",
        {"limits": {"entries": 10}},
    ),
    "implied folders count": (lambda: tar(member("a/b/c/d/evil")), "more than 4 entries", {"limits": {"entries": 4}}),
    "gz cut": (lambda: gzip.compress(PLAIN)[:-5], "cut short: its last gz frame", {}),
    "bz2 cut": (lambda: bz2.compress(PLAIN)[:-5], "cut short: its last bz2 frame", {}),
    "xz cut": (lambda: lzma.compress(PLAIN)[:-5], "cut short: its last xz frame", {}),
    "zst cut": (lambda: zst(PLAIN)[:-2], "cut short: its last zst frame", {}),
    "gz and more": (lambda: gzip.compress(PLAIN) + b"evil", "gz stream is damaged or followed by", {}),
    "bz2 and more": (lambda: bz2.compress(PLAIN) + b"evil", "bz2 stream is damaged or followed by", {}),
    "xz and more": (lambda: lzma.compress(PLAIN) + b"evil" * 10, "xz stream is damaged or followed by", {}),
    "zst and more": (lambda: zst(PLAIN) + b"evil", "zst stream is damaged or followed by", {}),
    "gz damaged": (lambda: flipped(gzip.compress(PLAIN), -6), "gz stream is damaged", {}),
    "zst damaged": (lambda: flipped(zst(PLAIN), -1), "zst stream is damaged", {}),
    "gz of no tar": (lambda: gzip.compress(b"evil" * 1000), "the tar archive is damaged", {}),
    "no archive": (lambda: b"#!/bin/sh\nrm -rf /\n" * 100, "is not an archive that shoal knows", {}),
    "nothing": (lambda: b"", "is not an archive that shoal knows", {}),
    "zip dotdot": (lambda: zipped("good", "../evil"), "'../evil' has a name with '..'", {}),
    "zip absolute": (lambda: zipped("good", "/evil"), "'/evil' has an absolute name", {}),
    "zip NUL": (lambda: name_in_zip("evil\0name"), r"'evil\x00name' has a name with control characters", {}),
    "zip newline": (lambda: zipped("ev\nil"), r"'ev\nil' has a name with control characters", {}),
    "zip symlink out": (
        lambda: zipped(("evil", b"../x", stat.S_IFLNK | 0o777)),
        "'evil' is a symbolic link out of the tree",
        {},
    ),
    "zip symlink huge": (
        lambda: zipped(("evil", b"x" * 5000, stat.S_IFLNK | 0o777)),
        "'evil' is a symbolic link with a target of 5000 bytes",
        {},
    ),
    "zip setuid": (lambda: zipped(("evil", b"x", stat.S_IFREG | 0o4755)), "'evil' is setuid or setgid", {}),
    "zip fifo": (lambda: zipped(("evil", b"", stat.S_IFIFO | 0o644)), "'evil' is a FIFO", {}),
    "zip device": (lambda: zipped(("evil", b"", stat.S_IFCHR | 0o644)), "'evil' is a character device", {}),
    "zip type change": (lambda: zipped("evil", "evil/x"), "would be written through 'evil'", {}),
    "zip encrypted": (encrypted_zip, "'evil' is encrypted", {}),
    "zip unknown method": (lambda: patched_zip(10, struct.pack("<H", 98)), "'evil' is compressed by the unknown", {}),
    "zip says less": (
        lambda: patched_zip(24, struct.pack("<I", 99), 22),
        "'evil' has more than the 99 bytes that it says",
        {},
    ),
    "zip says more": (lambda: patched_zip(24, struct.pack("<I", 1000), 22), "'evil' has 900 bytes fewer than", {}),
    "zip says a petabyte": (
        lambda: patched_zip(24, struct.pack("<I", 0xFFFFFFF0), 22),
        "the archive with 4294967280 bytes in all exceeds the limit",
        {"limits": {"unpacked_bytes": 1 << 20}},
    ),
    "zip wrong CRC": (lambda: patched_zip(16, b"\1\2\3\4", 14), "'evil' is damaged: Bad CRC-32", {}),
    "zip overlap": (overlapping_zip, "'evil' and 'evil' overlap", {}),
    "zip other name inside": (lambda: patched_zip(46, b"live"), "'live' is damaged: File name in directory", {}),
    "zip cut": (lambda: zipped("evil")[:-10], "the zip archive is damaged", {}),
    "zip empty": (lambda: zipped(), "has nothing in it to unpack", {}),
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    """A host with a running release, which no hostile archive may touch."""
    app = App(tmp_path_factory.mktemp("hostile"))
    app.stage("1.0", {"lib/x": "x"})
    assert app.activate("1.0")["ok"]
    return app


def snapshot(app: App) -> dict[str, Any]:
    """Everything below the test's folder but what each attempt writes of itself: who held the lock, and when."""
    found = digest(app.base)
    found.pop("srv/.shoal/stage.lock", None)
    return {
        name: entry
        for name, entry in found.items()
        if not name.startswith("archives/") and name not in ("srv/.shoal", "srv/.shoal/staging", "archives/.")
        if not name.endswith("/.") and name != "."
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused(app: App, name: str) -> None:
    build, words, more = HOSTILE[name]
    archive = app.base / "archives" / "hostile"
    archive.write_bytes(build())
    before = snapshot(app)

    result = app.ask("stage", version="evil", archive=spec(archive), **more)

    assert not result["ok"]
    assert not result["changed"]
    assert result["error"]["code"] == "refused_archive", result["error"]
    assert words in result["error"]["message"]
    assert snapshot(app) == before
    assert app.current() == "1.0"

    # What hosts would refuse is refused at the publisher in the same words.
    inspected = call("inspect", {"archive": spec(archive), **more})
    assert inspected["error"]["message"] == result["error"]["message"]


# -- valid neighbours --------------------------------------------------------------------------------------------

NEIGHBOURS: dict[str, tuple[Callable[[], bytes], dict[str, str], dict[str, Any]]] = {
    # name: (archive, contents of files afterwards, what the request says beside)
    "dots in names": (lambda: tar(member("..a", b"1"), member("b..c", b"2"), member("...", b"3")), {"b..c": "2"}, {}),
    "dot slash": (lambda: tar(folder("./"), folder("./a"), member("./a/./b", b"1")), {"a/b": "1"}, {}),
    "symlink within": (
        lambda: tar(member("a/x", b"1"), folder("b"), link("b/in", "../a/x"), link("current", "b")),
        {"b/in": "1", "current/in": "1"},
        {},
    ),
    "symlink to nothing": (lambda: tar(GOOD, link("gone", "not/there/../here")), {"good": "good"}, {}),
    "symlink by a link": (
        lambda: tar(folder("a"), folder("a/b"), link("l", "a/b"), member("a/x", b"1"), link("in", "l/../x")),
        {"in": "1"},
        {},
    ),
    "hard link": (lambda: tar(member("a/x", b"1"), hard("b", "a/x"), hard("c", "b")), {"b": "1", "c": "1"}, {}),
    "stripped": (
        lambda: tar(folder("shop-1.0"), member("shop-1.0/a", b"1"), hard("shop-1.0/b", "shop-1.0/a")),
        {"a": "1", "b": "1"},
        {"strip_components": 1},
    ),
    "file twice": (lambda: tar(member("a", b"old"), hard("b", "a"), member("a", b"new")), {"a": "new", "b": "old"}, {}),
    "folder twice": (lambda: tar(folder("d"), member("d/x", b"1"), folder("d", 0o700)), {"d/x": "1"}, {}),
    "implied folder told later": (lambda: tar(member("d/x", b"1"), folder("d")), {"d/x": "1"}, {}),
    "folder closed": (lambda: tar(folder("d", 0o500), member("d/x", b"1")), {"d/x": "1"}, {}),
    "longest component": (lambda: tar(member("e" * 255, b"1")), {"e" * 255: "1"}, {}),
    "long path": (lambda: tar(member("/".join(["evil" * 4] * 100), b"1")), {"/".join(["evil" * 4] * 100): "1"}, {}),
    "not ASCII": (lambda: tar(member("Grüße/übung", b"1")), {"Grüße/übung": "1"}, {}),
    "exactly the bytes": (
        lambda: tar(member("a", b"x" * 1000)),
        {"a": "x" * 1000},
        {"limits": {"unpacked_bytes": 1000}},
    ),
    "exactly the entries": (lambda: tar(member("a/b/c")), {"a/b/c": ""}, {"limits": {"entries": 3}}),
    "GNU tar's long names": (
        lambda: tar(member("d/" + "n" * 200, b"1"), format=tarfile.GNU_FORMAT),
        {"d/" + "n" * 200: "1"},
        {},
    ),
    "ustar": (lambda: tar(member("a", b"1"), format=tarfile.USTAR_FORMAT), {"a": "1"}, {}),
    "gz": (lambda: gzip.compress(tar(GOOD)), {"good": "good"}, {}),
    "gz, members": (lambda: gzip.compress(PLAIN[:3000]) + gzip.compress(PLAIN[3000:]) + bytes(100), {}, {}),
    "bz2": (lambda: bz2.compress(tar(GOOD)), {"good": "good"}, {}),
    "bz2, streams": (lambda: bz2.compress(PLAIN[:3000]) + bz2.compress(PLAIN[3000:]), {}, {}),
    "bz2, great ratio": (lambda: bz2.compress(tar(member("a", bytes(4 << 20)))), {}, {}),
    "xz": (lambda: lzma.compress(tar(GOOD)), {"good": "good"}, {}),
    "xz, streams and padding": (lambda: lzma.compress(PLAIN[:3000]) + bytes(8) + lzma.compress(PLAIN[3000:]), {}, {}),
    "zst": (lambda: zst(tar(GOOD)), {"good": "good"}, {}),
    "zst, frames": (lambda: zst(PLAIN[:3000]) + zst(PLAIN[3000:]), {}, {}),
    "zst, skippable frames": (
        lambda: b"\x50\x2a\x4d\x18\4\0\0\0note" + zst(PLAIN) + b"\x53\x2a\x4d\x18\4\0\0\0more",
        {},
        {},
    ),
    "zst, great ratio": (lambda: zst(tar(member("a", bytes(8 << 20)))), {}, {}),
    "zip": (lambda: zipped("a", "d/b", "d/"), {"a": "data", "d/b": "data"}, {}),
    "zip stored": (lambda: zipped("a", method=zipfile.ZIP_STORED), {"a": "data"}, {}),
    "zip bzip2": (lambda: zipped("a", method=zipfile.ZIP_BZIP2), {"a": "data"}, {}),
    "zip lzma": (lambda: zipped("a", method=zipfile.ZIP_LZMA), {"a": "data"}, {}),
    "zip empty file": (lambda: zipped(("a", b"", 0o100644)), {"a": ""}, {}),
    "zip symlink": (lambda: zipped("d/x", ("l", b"d/x", stat.S_IFLNK | 0o777)), {"l": "data"}, {}),
    "zip without a date": (lambda: patched_zip(14, bytes(2), 12), {"evil": "x" * 100}, {}),
    "zip of DOS": (lambda: zipped(("a", b"1", 0)), {"a": "1"}, {}),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_valid_neighbour_passes(app: App, name: str) -> None:
    build, contents, more = NEIGHBOURS[name]
    archive = app.base / "archives" / "valid"
    archive.write_bytes(build())
    result = app.ask("stage", version="neighbour", archive=spec(archive), **more)
    assert result["ok"], result
    release = app.root / "releases" / "neighbour"
    for path, content in contents.items():
        assert (release / path).read_text() == content
    found = [one for one in release.rglob("*") if one.is_symlink() or not one.is_dir()]
    assert result["archive"]["entries"] == len(list(release.rglob("*")))
    seen = {one.lstat().st_ino: one.lstat().st_size for one in found if not one.is_symlink()}
    if name != "file twice":  # both versions of the file were unpacked and counted
        assert result["archive"]["unpacked_bytes"] == sum(seen.values())
    inspected = call("inspect", {"archive": spec(archive), **more})["archive"]
    assert {key: result["archive"][key] for key in inspected} == inspected
    assert app.ask("remove", version="neighbour")["changed"]
    assert not release.exists()


def test_modes_and_times_are_as_told(app: App) -> None:
    archive = app.base / "archives" / "modes"
    archive.write_bytes(
        tar(
            folder("d", 0o777),
            member("d/run", b"#!", mode=0o777, mtime=1_600_000_000),
            member("secret", b"", mode=0o600),
            member("unreadable", b"", mode=0),
            member("future", b"", mtime=1 << 40),
        )
    )
    app.ask("stage", version="modes", archive=spec(archive), umask="027")
    release = app.root / "releases" / "modes"
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in [release, *release.rglob("*")]}
    assert modes == {
        "modes": 0o750,
        "d": 0o750,
        "run": 0o750,
        "secret": 0o600,
        "unreadable": 0o400,
        "future": 0o640,
    }
    assert (release / "d" / "run").stat().st_mtime == 1_600_000_000
    app.ask("remove", version="modes")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owner_and_group_are_as_told(app: App) -> None:
    archive = app.base / "archives" / "owned"
    archive.write_bytes(tar(folder("d"), member("d/x", b"", uid=0, gid=0), link("l", "d/x")))
    assert app.ask("stage", version="owned", archive=spec(archive), owner="nobody", group="daemon")["ok"]
    release = app.root / "releases" / "owned"
    owners = {(one.lstat().st_uid, one.lstat().st_gid) for one in [release, *release.rglob("*")]}
    assert owners == {(65534, 1)}
    app.ask("remove", version="owned")


def test_unknown_owner_is_refused_first(app: App) -> None:
    archive = app.archive("2.0")
    before = snapshot(app)
    for flags in ((), ("--check",)):
        result = app.ask("stage", *flags, version="2.0", archive=spec(archive), owner="no-such-user")
        assert "there is no user 'no-such-user'" in result["error"]["message"]
    assert snapshot(app) == before


def test_no_space_is_seen_before_the_first_byte(app: App) -> None:
    archive = app.archive("2.0")
    free = os.statvfs(app.root)
    room = free.f_bavail * free.f_frsize
    before = snapshot(app)
    for limits in ({"unpacked_bytes": 2 * room}, {"reserve_bytes": 2 * room}, {"entries": 1 << 40}):
        result = app.ask("stage", version="2.0", archive=spec(archive), limits=limits)
        assert result["error"]["code"] == "no_space", limits
    assert snapshot(app) == before


def test_a_file_that_grows_while_it_is_unpacked_meets_the_reserve(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit from a manifest, the free space is looked at again and again."""
    import shoal.release.archive as module

    monkeypatch.setattr(module, "SPACE_CHECK", 1 << 20)
    archive = app.base / "archives" / "bomb"
    archive.write_bytes(zst(tar(member("evil", bytes(32 << 20)))))
    found = os.statvfs(app.root)
    room = found.f_bavail * found.f_frsize
    looks = iter([room] + [1 << 20] * 100)  # enough at the start, nearly nothing later

    class Full:
        f_frsize, f_files, f_favail = 1, 0, 0

        def __init__(self) -> None:
            self.f_bavail = next(looks)

    monkeypatch.setattr(module.os, "statvfs", lambda _: Full())
    result = app.ask("stage", version="2.0", archive=spec(archive))
    assert result["error"]["code"] == "no_space"
    assert "'evil'" in result["error"]["message"]
    assert not (app.root / "releases" / "2.0").exists()


def test_helpers_write_good_archives(tmp_path: Path) -> None:
    """A hostile archive that is refused because the test wrote nonsense would show nothing."""
    for data in (tar_bytes({"a": "1"}), zipped("a"), patched_zip(46, b"evil"), zst(PLAIN)):
        path = tmp_path / "archive"
        path.write_bytes(data)
        assert call("inspect", {"archive": spec(path)})["ok"]
