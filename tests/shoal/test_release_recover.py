"""Kill -9 at every step of a switch: `recover` ends it on one complete release, and says whether that is healthy.

The steps come from the transition tables themselves, so a new row is tested without anybody thinking of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from release_helpers import App, Result, call, service, wait_until

from shoal.cli import main
from shoal.release import journal, verbs
from shoal.release.layout import Layout
from shoal.release.lock import Lock, holder_of
from shoal.release.request import parse
from shoal.release.switch import SCRIPT_TABLE, TABLE

pytestmark = pytest.mark.usefixtures("patient_checks")

Point = tuple[str, str]  # ("before" or "after", step)

# What runs is a file that the restart command writes; what is healthy is what the file `healthy` allows.
RESTART = '#!/bin/sh\ncat "$SHOAL_ROOT/current/VERSION" > "$SHOAL_ROOT/shared/running"\n'
HEALTHY = '#!/bin/sh\nread running < "$SHOAL_ROOT/shared/running"\n[ "$running" = "$SHOAL_VERSION" ] && \
grep -qx "$running" "$SHOAL_ROOT/shared/healthy"\n'
NOTE = '#!/bin/sh\necho "$SHOAL_STEP $SHOAL_VERSION" >> "$SHOAL_ROOT/shared/seen"\n'
SCRIPT = f'{NOTE}ln -sfn "releases/$SHOAL_VERSION" "$SHOAL_ROOT/current"\n{RESTART}\n\
[ "$SHOAL_ACTION" = rollback ] || [ ! -e "$SHOAL_ROOT/shared/script-fails" ]\n'


@dataclass(frozen=True)
class Scenario:
    """A switch from 1.0 to 1.1 and what it leads to."""

    name: str
    healthy: tuple[str, ...]  # versions
    script: bool = False
    irreversible: bool = False
    script_fails: bool = False

    @property
    def table(self) -> dict[str, Any]:
        return SCRIPT_TABLE if self.script else TABLE


SCENARIOS = [
    Scenario("the new release is healthy", ("1.0", "1.1")),
    Scenario("the new release is not healthy", ("1.0",)),
    Scenario("neither is healthy", ()),
    Scenario("the new release is irreversible", ("1.0", "1.1"), irreversible=True),
    Scenario("the new release is irreversible and not healthy", ("1.0",), irreversible=True),
    Scenario("script", ("1.0", "1.1"), script=True),
    Scenario("script, not healthy", ("1.0",), script=True),
    Scenario("script, neither is healthy", (), script=True),
    Scenario("script fails", ("1.0", "1.1"), script=True, script_fails=True),
    Scenario("script, irreversible and not healthy", ("1.0",), script=True, irreversible=True),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.0 is active; 1.1 and the irreversible 1.1 of another root are staged."""
    base = tmp_path_factory.mktemp("prepared")
    for irreversible in (False, True):
        app = App(base / str(irreversible))
        app.base.mkdir()
        app.stage("1.0")
        app.stage("1.1", irreversible=irreversible)
        assert app.activate("1.0", shared=["uploads"])["ok"]
        shared = app.root / "shared"
        for name, text in {"restart": RESTART, "healthy?": HEALTHY, "note": NOTE, "script": SCRIPT}.items():
            (shared / name).write_text(text)
            (shared / name).chmod(0o755)
        (shared / "running").write_text("1.0\n")
    return base


def scene(prepared: Path, base: Path, scenario: Scenario) -> tuple[App, Result]:
    """A copy of the prepared host, and the request of the switch."""
    shutil.copytree(prepared / str(scenario.irreversible), base, symlinks=True)
    app = App(base)
    shared = app.root / "shared"
    (shared / "healthy").write_text("".join(f"{version}\n" for version in scenario.healthy))
    if scenario.script_fails:
        (shared / "script-fails").touch()
    health = [{"command": [str(shared / "healthy?")], "timeout": 0.1, "interval": 0.05}]
    note = [str(shared / "note")]
    spec: Result = {"health": health}
    if scenario.script:
        spec["script"] = [str(shared / "script")]
    else:
        spec["restart"] = [str(shared / "restart")]
        spec["hooks"] = {"pre_activate": note, "post_activate": note, "post_rollback": note}
    return app, app.asked(version="1.1", shared=["uploads"], switch=spec, who="test")


def switch_in_child(app: App, request: Result, observe: Callable[[str, str], None]) -> int:
    """Run the switch in a child that holds the lock, as the real one does; its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        layout = Layout(app.root)
        lock = Lock.acquire(layout.lock, {"verb": "activate", "operation": "killed"})
        asked = parse(request)
        one = verbs._switch_for(layout, asked, verbs._target(layout, asked), "killed", lambda _: None)
        one.observe = observe
        one.run("check")
        lock.close()
    finally:
        os._exit(0)


def way(prepared: Path, base: Path, scenario: Scenario) -> list[Point]:
    """The points that ``scenario`` passes when nobody kills it, in their order."""
    app, request = scene(prepared, base, scenario)
    path = base / "way"

    def note(when: str, step: str) -> None:
        with path.open("a") as file:
            file.write(json.dumps([when, step]) + "\n")

    switch_in_child(app, request, note)
    return [(when, step) for when, step in map(json.loads, path.read_text().splitlines())]


def kill_at(app: App, request: Result, point: Point) -> None:
    def observe(when: str, step: str) -> None:
        if (when, step) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(switch_in_child(app, request, observe)) == signal.SIGKILL, point


def assert_complete(app: App, point: Point) -> str:
    """`current` is a whole release at any time, and its version is returned."""
    current = app.current()
    assert current in ("1.0", "1.1"), point
    assert (app.root / "current" / "a").read_text() == current
    return current


@pytest.mark.usefixtures("no_waiting_for_the_disk")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_recover_converges_from_a_kill_at_every_step(prepared: Path, tmp_path: Path, scenario: Scenario) -> None:
    points = way(prepared, tmp_path / "way", scenario)
    assert len(points) > 8
    for number, point in enumerate(points):
        app, request = scene(prepared, tmp_path / str(number), scenario)
        kill_at(app, request, point)
        assert_complete(app, point)
        marked = (app.home / "unproven.json").exists()

        result = app.ask("recover")

        current = assert_complete(app, point)
        running = (app.root / "shared" / "running").read_text().strip()
        info = app.ask("info")["release"]
        assert info["unproven"] is None, point
        assert holder_of(app.home / "lock") is None, point
        assert result["changed"] == marked, point
        if scenario.healthy:
            if not (scenario.irreversible and current == "1.1"):
                assert current in scenario.healthy, point
                assert running == current, point
                assert result["ok"], (point, result)
        elif current == "1.0" and running == "1.0" and not result["ok"]:
            assert "NOT healthy" in result["error"]["message"], point
        # Once is enough: the second time there is nothing to do, and the log tells of one switch.
        assert app.ask("recover")["outcome"] == "nothing"
        told = [entry for entry in info["log"] if entry["to"] == "1.1"]
        assert len(told) <= 1, point
        activated = current == "1.1" and "1.1" in scenario.healthy
        assert [entry["outcome"] == "activated" for entry in told] in ([], [activated]), point


def test_the_scenarios_pass_every_row_of_the_tables(prepared: Path, tmp_path: Path) -> None:
    passed: dict[bool, set[str]] = {False: set(), True: set()}
    for number, scenario in enumerate(SCENARIOS):
        passed[scenario.script] |= {step for _, step in way(prepared, tmp_path / str(number), scenario)}
    assert passed == {False: set(TABLE), True: set(SCRIPT_TABLE)}


@pytest.mark.parametrize("table", [TABLE, SCRIPT_TABLE], ids=["own steps", "script"])
def test_the_tables_lead_only_to_their_own_rows(table: dict[str, Any]) -> None:
    for step in table.values():
        ways = {step.then, step.failed, step.no_way_back, step.recover} - {"", "end"}
        assert ways <= set(table), step.name
        assert step.recover or not step.journalled, f"recover must know what to do at {step.name}"


# -- what else happens around a kill -----------------------------------------------------------------------------

KILLED_AT_HEALTH = ("before", "health")


@pytest.fixture
def killed(prepared: Path, tmp_path: Path) -> tuple[App, Result]:
    """A host whose switch to 1.1 was killed before its health was seen."""
    app, request = scene(prepared, tmp_path / "app", SCENARIOS[0])
    kill_at(app, request, KILLED_AT_HEALTH)
    return app, request


def test_info_shows_the_mark(killed: tuple[App, Result]) -> None:
    app, _ = killed
    unproven = app.ask("info")["release"]["unproven"]
    assert (unproven["version"], unproven["previous"], unproven["step"]) == ("1.1", "1.0", "health")
    before = (app.home / "unproven.json").read_bytes()
    assert app.ask("recover", "--check")["changed"]
    assert (app.home / "unproven.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["stage", "activate", "remove"])
def test_every_verb_that_changes_recovers_first(killed: tuple[App, Result], verb: str) -> None:
    app, _ = killed
    if verb == "stage":
        assert app.stage("2.0")["ok"]
    elif verb == "activate":
        assert app.activate("1.0")["outcome"] == "activated"
    else:
        (app.root / "releases" / "left").mkdir()
        assert app.ask("remove", version="left")["changed"]
    outcomes = [(entry["to"], entry["outcome"]) for entry in app.ask("info")["release"]["log"]]
    assert ("1.1", "activated") in outcomes, "1.1 was proven before anything else was done"
    app.assert_settled()


def test_the_killed_request_again_is_done_or_found_done(killed: tuple[App, Result]) -> None:
    app, request = killed
    result = call("activate", request)
    assert (result["ok"], result["outcome"], app.current()) == (True, "already_active", "1.1")


def test_what_is_unproven_is_not_removed(killed: tuple[App, Result]) -> None:
    app, _ = killed
    for version in ("1.0", "1.1"):
        assert app.ask("remove", version=version)["error"]["code"] == "in_use"


def test_a_damaged_mark_is_said_and_left(killed: tuple[App, Result]) -> None:
    app, _ = killed
    (app.home / "unproven.json").write_text("{")
    result = app.ask("recover")
    assert result["error"]["code"] == "damaged_record"
    assert "unproven.json" in result["error"]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only what root switches is ended at boot")
def test_a_boot_finds_what_was_cut_off_and_no_more(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal, "MARKED", tmp_path / "marked")
    journal.MARKED.mkdir()
    killed, request = scene(prepared, tmp_path / "killed", SCENARIOS[0])
    kill_at(killed, request, KILLED_AT_HEALTH)
    assert journal.marked() == [killed.root]
    # A mark that another recovery ended meanwhile leaves a link, and no work.
    (journal.MARKED / "stale").symlink_to(scene(prepared, tmp_path / "whole", SCENARIOS[0])[0].root)

    assert main(["release", "recover", "--all"]) == 0
    assert killed.current() == "1.1"
    killed.assert_settled()
    assert str(killed.root) in capsys.readouterr().out
    assert killed.root not in journal.marked()


def test_a_hook_that_outlived_the_switch_is_ended_before_recovering(app_with_hook: tuple[App, Result]) -> None:
    app, request = app_with_hook
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal", "release", "activate", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    process.stdin = None
    pids = app.base / "pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the hook runs")
    wait_until(lambda: (note := journal.read(Layout(app.root))) and note.running, "the journal knows the hook")
    worker = app.ask("info")["release"]["running_operation"]["pid"]
    assert worker != process.pid

    os.kill(worker, signal.SIGKILL)

    died = json.loads(process.communicate(timeout=120)[0].splitlines()[-1])
    assert died["error"]["code"] == "died"
    assert "shoal release recover" in died["error"]["hint"]
    result = app.ask("recover")
    assert (result["ok"], result["outcome"], app.current()) == (True, "rolled_back", "1.0")
    assert "interrupted at pre_activate" in result["message"]
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"process {pid} of the hook is gone")


@pytest.fixture
def app_with_hook(prepared: Path, tmp_path: Path) -> tuple[App, Result]:
    app, request = scene(prepared, tmp_path / "app", SCENARIOS[0])
    hook = app.base / "hook"
    hook.write_text(f"#!/bin/sh\nsleep 300 &\necho $$ $! > {app.base}/pids\nwait\n")
    hook.chmod(0o755)
    request["switch"]["hooks"] = {"pre_activate": [str(hook)]}
    return app, request


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Any]:
    app = App(tmp_path / "shop")
    app.base.mkdir()
    with service(app) as one:
        check = {"url": one.url(), "interval": 0.05, "timeout": 15}
        app.request["switch"] = {"restart": one.restart, "health": [check]}
        yield one


@pytest.mark.parametrize("point", [("after", "switch"), ("after", "restart"), ("before", "commit")], ids="-".join)
def test_a_real_server_is_proven_after_a_kill(shop: Any, point: Point) -> None:
    app = shop.app
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0")["ok"]
    old = shop.pid()
    kill_at(app, app.asked(version="1.1"), point)
    result = app.ask("recover")
    assert (result["outcome"], app.current()) == ("activated", "1.1")
    assert shop.pid() != old


def test_after_a_reboot_every_process_is_new(shop: Any) -> None:
    """Process numbers and start times of an earlier boot say nothing about those of this one."""
    app = shop.app
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0")["ok"]
    kill_at(app, app.asked(version="1.1"), KILLED_AT_HEALTH)
    note = json.loads((app.home / "unproven.json").read_text())
    listening = shop.pid()
    note["boot_id"] = "another boot"
    note["old"] = [{"pid": listening, "started": 1}]
    (app.home / "unproven.json").write_text(json.dumps(note))
    (shop.state / "stuck").touch()  # the boot started it, so a restart command has nothing to do
    result = app.ask("recover")
    assert result["outcome"] == "activated", result["message"]


# -- staging -----------------------------------------------------------------------------------------------------

STAGE_AND_DIE = """
import os, signal, sys
from shoal.release import archive, files
from shoal.cli.release import perform
import json
where = sys.argv[1]
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "unpacking":
    archive._Writer.finish = die
elif where == "syncing":
    files.sync_tree = die
elif where == "renaming":
    from shoal.release.layout import Layout
    write = Layout.write_record
    def write_and_die(self, record):
        write(self, record)
        die()
    Layout.write_record = write_and_die
perform("stage", lambda: json.loads(sys.argv[2]), False, lambda event: None)
"""


@pytest.mark.parametrize("where", ["unpacking", "syncing", "renaming"])
def test_a_killed_stage_leaves_nothing_that_counts(tmp_path: Path, where: str) -> None:
    from release_helpers import spec

    app = App(tmp_path)
    app.stage("1.0")
    app.activate("1.0")
    request = app.asked(version="1.1", archive=spec(app.archive("1.1")))
    process = subprocess.run([sys.executable, "-c", STAGE_AND_DIE, where, json.dumps(request)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert len(list((app.home / "staging").iterdir())) == 1, "it died in the middle"
    assert app.ask("info")["release"]["staged"] == ["1.0"]
    assert app.activate("1.1")["error"]["code"] == "not_staged"
    assert call("stage", request)["outcome"] == "staged"
    app.assert_settled()
    assert app.activate("1.1")["ok"]
