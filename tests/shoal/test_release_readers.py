"""What a reader sees through `current` while it is switched a thousand times, and what is on the disk when it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from release_helpers import App, spec, wait_until

from shoal.release import staging, switch, verbs
from shoal.release.layout import Layout
from shoal.release.request import parse

SWITCHES = 1000
KEEP = 10
FILES = 5
GRACE = 0.1  # seconds; with 10 releases kept, one is pruned about 10 switches after it was left

# A reader opens the directory `current` once: that is its release, whatever `current` becomes meanwhile. Its promise:
# everything it finds in there is of one version and complete, as long as it is done within the time that pruning
# leaves it (the previous release is never pruned, older ones not for PRUNE_GRACE after they were left).
READER = r"""
import json, os, sys, time
root, files, grace, stop = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
def read(name, at):
    fd = os.open(name, os.O_RDONLY, dir_fd=at)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)
def look():
    by_path = open(root + "/current/VERSION", "rb").read()  # one open by path: `current` is never missing
    at = os.open(root + "/current", os.O_RDONLY | os.O_DIRECTORY)
    try:
        version = read("VERSION", at)
        assert read("a", at) == version, "mixed"
        names = sorted(os.listdir(at))
        assert len(names) == files + 3, ("half", names)
        sub = os.open("lib", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        try:
            inner = os.listdir(sub)
            assert len(inner) == files, ("half", inner)
            for name in inner:
                assert read(name, sub) == version, "mixed"
        finally:
            os.close(sub)
        for name in names:
            if name != "lib":
                assert read(name, at) == version, "mixed"
        return by_path, version
    finally:
        os.close(at)
seen, looks, slow, failures = set(), 0, 0, []
while not os.path.exists(stop):
    begun = time.monotonic()
    try:
        seen.update(look())
        looks += 1
    except (OSError, AssertionError) as error:
        if time.monotonic() - begun < grace:
            failures.append(repr(error))
        else:
            slow += 1
    time.sleep(0.002)
print(json.dumps({"looks": looks, "versions": len(seen), "slow": slow, "failures": failures[:10]}))
"""


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """Memory where there is some: this is about what is seen, and a thousand switches wait 20,000 times for a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="shoal-", dir=memory) as folder:
        yield Path(folder)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("no_waiting_for_the_disk")
def test_readers_never_see_a_missing_mixed_or_half_release(
    fast_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "PRUNE_GRACE", GRACE)
    app = App(fast_folder)

    def files(version: str) -> dict[str, bytes | str]:
        return {f"{folder}{number}": version for number in range(FILES) for folder in ("lib/", "f")}

    layout = Layout(app.root)
    layout.prepare()

    def stage_and_switch(version: str) -> None:
        archive = app.archive(version, files(version))
        asked = parse(app.asked(version=version, archive=spec(archive), keep_releases=KEEP))
        staging.stage(asked, layout, lambda _: None)
        archive.unlink()
        one = verbs._switch_for(layout, asked, verbs._target(layout, asked), version, lambda _: None)
        one.run("check")
        assert one.journal.outcome == "activated"
        assert one.journal.warnings == []

    stage_and_switch("0")
    stop = tmp_path / "stop"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(app.root), str(FILES), str(GRACE), str(stop)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for number in range(1, SWITCHES + 1):
            stage_and_switch(str(number))
            assert len(list(layout.releases.iterdir())) <= KEEP
    finally:
        stop.touch()
    found = [json.loads(reader.communicate(timeout=120)[0]) for reader in readers]
    assert [one["failures"] for one in found] == [[], []]
    for one in found:
        assert one["looks"] > SWITCHES / 2, found
        assert one["versions"] > SWITCHES / 10, "they looked while it was switched"
        assert one["slow"] < one["looks"] / 20, found
    kept = {str(number) for number in range(SWITCHES - KEEP + 1, SWITCHES + 1)}
    assert {release.name for release in layout.releases.iterdir()} == kept


# -- what is on the disk -----------------------------------------------------------------------------------------

SHOAL = (sys.executable, "-m", "shoal", "release")
CALLS = "syncfs,fsync,fdatasync,rename,renameat,renameat2,write,pwrite64,symlink,symlinkat,unlink,unlinkat"


def traced(app: App, verb: str, **request: Any) -> list[str]:
    """The system calls in the root of the process that did the work, in their order, with paths of descriptors."""
    out = app.base / f"trace-{verb}"
    subprocess.run(
        [*("strace", "-ff", "-y", "-o", str(out), "-e", f"trace={CALLS}"), *SHOAL, verb, "--json"],
        input=json.dumps(app.asked(**request)),
        check=True,
        text=True,
        capture_output=True,
        timeout=120,
    )
    processes = [path.read_text().splitlines() for path in app.base.glob(f"{out.name}.*")]
    return max(([line for line in lines if str(app.root) in line] for lines in processes), key=len)


def only(lines: list[str], pattern: str) -> int:
    """The index of the one line that matches."""
    found = [number for number, line in enumerate(lines) if re.search(pattern, line)]
    assert len(found) == 1, (pattern, [lines[number] for number in found])
    return found[0]


def last(lines: list[str], pattern: str) -> int:
    found = [number for number, line in enumerate(lines) if re.search(pattern, line)]
    assert found, pattern
    return found[-1]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_trace_shows_the_syncs_before_the_renames(tmp_path: Path) -> None:
    app = App(tmp_path)
    archive = app.archive("1.0", {"lib/x": b"x" * 100_000})
    root = re.escape(str(app.root))

    lines = traced(app, "stage", version="1.0", archive=spec(archive))
    written = last(lines, rf"^write\(\d+<{root}/\.shoal/staging/1\.0\.")
    synced = only(lines, rf"^syncfs\(\d+<{root}/\.shoal/staging/1\.0\.[^/>]*>\) += 0")
    renamed = only(lines, rf'^rename\("{root}/\.shoal/staging/1\.0\.[^"]*", "{root}/releases/1\.0"\) += 0')
    lasting = only(lines, rf"^fsync\(\d+<{root}/releases>\) += 0")
    record = only(lines, rf'^rename\("[^"]*", "{root}/\.shoal/releases/1\.0\.json"\) += 0')
    assert written < synced < renamed < lasting
    assert synced < record < renamed, "a release without a record would not count, one with counts when it is there"
    assert last(lines[:record], r"^fsync\(\d+<[^>]*/\.shoal/releases/\.1\.0\.json\.new>\) += 0") == record - 1

    lines = traced(app, "activate", version="1.0")
    synced = only(lines, rf"^syncfs\(\d+<{root}/releases/1\.0>\) += 0")
    linked = only(lines, rf'^symlink\("releases/1\.0", "{root}/\.shoal/current\.new"\) += 0')
    switched = only(lines, rf'^rename\("{root}/\.shoal/current\.new", "{root}/current"\) += 0')
    lasting = only(lines, rf"^fsync\(\d+<{root}>\) += 0")
    assert synced < linked < switched < lasting
    assert re.search(r"^fsync\(\d+<[^>]*/\.shoal>\) += 0", lines[switched - 1]), "the new link was on the disk"
    # The journal is on the disk, and so is its name, before each step; and gone only after all else.
    marks = [
        number for number, line in enumerate(lines) if re.search(rf'^rename\(.*"{root}/\.shoal/unproven\.json"', line)
    ]
    assert marks[0] < synced
    for mark in marks:
        assert re.search(r"^fsync\(\d+<[^>]*unproven\.json\.new>\) += 0", lines[mark - 1])
        assert re.search(r"^fsync\(\d+<[^>]*/\.shoal>\) += 0", lines[mark + 1])
    cleared = only(lines, rf'^unlink\("{root}/\.shoal/unproven\.json"\) += 0')
    assert last(lines, rf'^rename\(.*"{root}/\.shoal/state\.json"\) += 0') < cleared
    assert last(lines, rf"^fsync\(\d+<{root}/\.shoal/log\.jsonl>\) += 0") < cleared


def test_a_failed_sync_stops_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.release import files

    app = App(tmp_path)
    app.stage("1.0")
    app.activate("1.0")

    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(files, "sync_tree", fails)
    result = app.ask("stage", version="1.1", archive=spec(app.archive("1.1")))
    assert (result["ok"], result["error"]["code"]) == (False, "io_error")
    assert not (app.root / "releases" / "1.1").exists()
    assert not any((app.home / "staging").iterdir())
    monkeypatch.undo()
    app.stage("1.1")
    monkeypatch.setattr(files, "sync_tree", fails)
    result = app.activate("1.1")
    assert (result["outcome"], app.current()) == ("failed", "1.0")
    assert "Input/output error" in result["reason"]
    wait_until(lambda: app.ask("info")["release"]["running_operation"] is None, "the lock is free")
