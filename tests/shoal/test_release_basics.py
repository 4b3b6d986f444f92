"""The main line: an archive is staged, activated, replaced by the next one, and gone back to."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from release_helpers import App, call, digest, spec

from shoal.release import layout


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


def test_two_releases_and_back(app: App) -> None:
    first = app.stage("1.0", who="alice@controller")
    assert (first["outcome"], first["changed"], first["release"]["current"]) == ("staged", True, None)
    again = app.stage("1.0")
    assert (again["outcome"], again["changed"]) == ("already_staged", False)

    activated = app.activate("1.0", who="alice@controller")
    assert (activated["outcome"], activated["changed"], app.current()) == ("activated", True, "1.0")
    assert (app.root / "current").readlink() == Path("releases/1.0")
    assert app.activate("1.0")["outcome"] == "already_active"

    app.stage("1.1")
    assert app.activate("1.1", who="bob")["from"] == "1.0"
    back = app.ask("activate", previous=True)
    assert (back["from"], back["to"], app.current()) == ("1.1", "1.0", "1.0")
    assert back["release"]["previous"] == "1.1"

    log = app.ask("info")["release"]["log"]
    assert [(entry["who"], entry["from"], entry["to"], entry["outcome"]) for entry in log[1:]] == [
        ("bob", "1.0", "1.1", "activated"),
        ("alice@controller", None, "1.0", "activated"),
    ]
    app.assert_settled()


def test_check_mode_predicts_and_touches_nothing(app: App) -> None:
    archive = app.archive("1.0")
    asked = {"version": "1.0", "archive": spec(archive)}
    before = digest(app.base)
    predicted = app.ask("stage", "--check", **asked)
    assert digest(app.base) == before, "not even the root may be made"
    real = app.ask("stage", **asked)
    assert (predicted["changed"], predicted["diff"]) == (real["changed"], real["diff"])

    before = digest(app.base)
    predicted = app.activate("1.0", "--check")
    assert digest(app.base) == before
    real = app.activate("1.0")
    assert (predicted["changed"], predicted["diff"]) == (real["changed"], real["diff"])

    before = digest(app.base)
    assert not app.activate("1.0", "--check")["changed"]
    assert not app.ask("stage", "--check", **asked)["changed"]
    assert digest(app.base) == before

    app.stage("1.1")
    before = digest(app.base)
    predicted = app.ask("remove", "--check", version="1.1")
    assert digest(app.base) == before
    real = app.ask("remove", version="1.1")
    assert (predicted["changed"], predicted["diff"]) == (real["changed"], real["diff"]) == (True, real["diff"])


def test_check_mode_fails_as_the_real_run_does(app: App) -> None:
    app.stage("1.0")
    for verb, request in (
        ("activate", {"version": "2.0"}),
        ("activate", {"previous": True}),
        ("stage", {"version": "1.0", "archive": spec(app.archive("1.0", {"b": "other bytes"}))}),
    ):
        checked, real = app.ask(verb, "--check", **request), app.ask(verb, **request)
        assert checked["error"] == real["error"], verb


def test_a_version_s_bytes_never_change(app: App) -> None:
    app.stage("1.0")
    before = digest(app.root / "releases")
    other = app.archive("1.0", {"b": "other"})
    result = app.ask("stage", version="1.0", archive=spec(other))
    assert result["error"]["code"] == "conflict"
    assert digest(app.root / "releases") == before


def test_remove_spares_what_is_in_use(app: App) -> None:
    for version in ("1.0", "1.1", "1.2"):
        app.stage(version)
    app.activate("1.0")
    app.activate("1.1")
    for version in ("1.0", "1.1"):
        assert app.ask("remove", version=version)["error"]["code"] == "in_use"
    assert app.ask("remove", version="1.2")["changed"]
    assert not app.ask("remove", version="1.2")["changed"]
    assert app.ask("info")["release"]["staged"] == ["1.0", "1.1"]


def test_keep_releases(app: App) -> None:
    for version in ("1", "2", "3", "4", "waits"):
        app.stage(version)
    for version in ("1", "2", "3", "4"):
        assert app.activate(version, keep_releases=2)["ok"]
    # `waits` was staged after the current one: it is the next rollout's, not an old release.
    assert app.ask("info")["release"]["staged"] == ["3", "4", "waits"]


@pytest.mark.parametrize("error", [OSError(errno.EBUSY, "Device or resource busy"), RecursionError("too deep")])
def test_an_old_release_that_cannot_be_deleted_holds_up_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Something is mounted in it, or what ran there made folders in one another without end."""
    real = shutil.rmtree

    def rmtree(path: Path, *rest: Any) -> None:
        if Path(path).name.startswith("1."):
            raise error
        real(path, *rest)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    for version in ("1", "2", "3", "4", "5"):
        app.stage(version)
    assert app.activate("1")["ok"]
    assert app.activate("2")["ok"]
    assert app.activate("3")["ok"]
    result = app.activate("4", keep_releases=2)
    assert (result["ok"], result["outcome"], app.current()) == (True, "activated", "4")
    assert "prune: 1 cannot be deleted: " in result["warnings"][0]
    assert result["release"]["staged"] == ["3", "4", "5"]
    result = app.activate("5", keep_releases=2)
    assert (result["ok"], result["warnings"], app.current()) == (True, [], "5")


def test_a_current_that_somebody_moved_is_what_it_is(app: App) -> None:
    for version in ("1.0", "1.1", "1.2"):
        app.stage(version)
    app.activate("1.0")
    app.activate("1.1")
    (app.root / "current").unlink()
    (app.root / "current").symlink_to("releases/1.2")
    back = app.activate("1.1")
    assert (back["changed"], back["from"], back["release"]["previous"]) == (True, "1.2", "1.2")


def test_the_log_survives_a_torn_line_and_stays_bounded(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.stage("1.0")
    app.stage("1.1")
    app.activate("1.0")
    log = app.home / "log.jsonl"
    with log.open("ab") as file:
        file.write(b'{"operation": "cut by a power')
    app.activate("1.1")
    assert [entry["to"] for entry in app.ask("info")["release"]["log"]] == ["1.1", "1.0"]
    monkeypatch.setattr(layout, "LOG_LIMIT", 2000)
    for _ in range(8):
        app.activate("1.0")
        app.activate("1.1")
    assert log.stat().st_size < 3000
    kept = app.ask("info")["release"]["log"]
    assert [entry["to"] for entry in kept[:4]] == ["1.1", "1.0", "1.1", "1.0"]
    assert len(list((app.home / "operations").iterdir())) == 18


def test_info_of_an_empty_root_makes_nothing(app: App) -> None:
    info = app.ask("info")["release"]
    assert (info["current"], info["releases"], info["log"]) == (None, [], [])
    assert app.ask("recover")["outcome"] == "nothing"
    assert not app.root.exists()


def test_the_service_gets_in_whatever_the_umask_is(app: App) -> None:
    old = os.umask(0o077)
    try:
        app.stage("1.0", {"lib/x": "x"})
        app.activate("1.0", shared=["var/uploads"])
    finally:
        os.umask(old)
    for path in (
        "",
        "releases",
        "releases/1.0",
        "releases/1.0/lib",
        "releases/1.0/var",
        "shared",
        "shared/var/uploads",
    ):
        assert stat.S_IMODE((app.root / path).stat().st_mode) == 0o755, path
    assert stat.S_IMODE((app.root / "releases/1.0/lib/x").stat().st_mode) == 0o644
    assert stat.S_IMODE(app.home.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="the rule is for root")
def test_root_believes_only_what_root_wrote(app: App) -> None:
    app.stage("1.0")
    app.activate("1.0")
    state = app.home / "state.json"
    for path, spoil, restore in (
        (app.root, lambda: os.chown(app.root, 65534, -1), lambda: os.chown(app.root, 0, -1)),
        (app.root, lambda: app.root.chmod(0o777), lambda: app.root.chmod(0o755)),
        (app.home, lambda: os.chown(app.home, 65534, -1), lambda: os.chown(app.home, 0, -1)),
        (state, lambda: os.chown(state, 65534, -1), lambda: os.chown(state, 0, -1)),
        (state, lambda: state.chmod(0o666), lambda: state.chmod(0o600)),
    ):
        spoil()
        result = app.activate("1.0")
        assert result["error"]["code"] == "not_trusted"
        assert str(path) in result["error"]["message"]
        restore()
    assert app.activate("1.0")["ok"]


def test_inspect_says_what_staging_will_find(app: App) -> None:
    path = app.archive("1.0", {"lib/deep/x": b"x" * 1000})
    found = call("inspect", {"archive": {"path": str(path)}})["archive"]
    staged = app.ask(
        "stage",
        version="1.0",
        archive=spec(path),
        limits={"unpacked_bytes": found["unpacked_bytes"], "entries": found["entries"]},
    )
    assert {key: staged["archive"][key] for key in found} == found
    assert (found["format"], found["unpacked_bytes"], found["entries"]) == ("tar", 1006, 5)
