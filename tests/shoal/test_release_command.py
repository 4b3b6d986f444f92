"""The command itself: JSON for machines, flags and words for people, wrong requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from release_helpers import App, digest, run, spec

from shoal.cli import main
from shoal.release.errors import RequestError
from shoal.release.request import check_version, parse


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


def test_the_real_command_speaks_json(app: App) -> None:
    request = app.asked(version="1.0", archive=spec(app.archive("1.0")))
    staged = run("stage", request)
    assert (staged["protocol"], staged["outcome"]) == (1, "staged")
    assert {"progress", "step"} <= {event["event"] for event in staged["events"]}
    activated = run("activate", app.asked(version="1.0"))
    assert activated["outcome"] == "activated"
    done = [event["step"] for event in activated["events"] if event.get("state") == "done"]
    assert (done[0], done[-1]) == ("check", "prune")
    assert all(isinstance(event["time"], float) for event in activated["events"])
    assert run("info", app.asked())["release"]["current"] == "1.0"
    assert run("activate", app.asked(version="2.0"))["error"]["code"] == "not_staged"
    assert run("info", app.asked(verion="1.0"))["error"]["code"] == "bad_request"


def test_it_starts_without_the_daemon_s_libraries() -> None:
    """It runs at every switch, and as root: nothing of the network side is loaded."""
    code = (
        "import sys, shoal.cli.release; "
        "print([name for name in ('aiohttp', 'libtorrent', 'asyncio', 'rich', 'yaml', 'ssl') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"verison": "1.0"}, "unknown key 'verison' in its top level | did you mean 'version'?"),
    "unknown key inside": ({"switch": {"restrat": "x"}}, "unknown key 'restrat' in $.switch | did you mean 'restart'?"),
    "unknown key in a check": (
        {"switch": {"health": [{"url": "http://x/", "timout": 3}]}},
        "unknown key 'timout' | did you mean 'timeout'?",
    ),
    "unknown key in hooks": ({"switch": {"hooks": {"pre-activate": ["x"]}}}, "did you mean 'pre_activate'?"),
    "unlike any key": ({"zzz": 1}, "known keys: root, protocol"),
    "number as version": ({"version": 1.10}, "got `float` - at `$.version` | put it in quotes"),
    "newer protocol": ({"protocol": 2}, "speaks protocol 2 | update shoal on this host"),
    "older protocol": ({"protocol": 0}, "speaks protocol 0 | update the collection on the controller"),
    "relative root": ({"root": "srv/shop"}, "root must be an absolute path"),
    "root of all": ({"root": "/"}, "root must be an absolute path other than /"),
    "root of all, in other words": ({"root": "/tmp/.."}, "root must be an absolute path other than /"),
    "version with a slash": ({"version": "a/b"}, "'a/b' cannot be a release's name"),
    "version dots": ({"version": "1..2"}, "cannot be a release's name"),
    "version up": ({"version": ".."}, "cannot be a release's name"),
    "version hidden": ({"version": ".1"}, "cannot be a release's name"),
    "version option": ({"version": "-rf"}, "cannot be a release's name"),
    "version newline": ({"version": "1.0\n"}, "cannot be a release's name"),
    "version long": ({"version": "1" * 129}, "cannot be a release's name"),
    "version empty": ({"version": ""}, "cannot be a release's name"),
    "sha256": ({"archive": {"path": "/x", "sha256": "abc"}}, "$.archive.sha256"),
    "no path": ({"archive": {}}, "missing required field `path`"),
    "umask": ({"umask": "999"}, "$.umask"),
    "keep none": ({"keep_releases": 0}, "$.keep_releases"),
    "negative strip": ({"strip_components": -1}, "$.strip_components"),
    "shared up": ({"shared": ["../x"]}, "shared: '../x' must be a path inside the release"),
    "shared absolute": ({"shared": ["/x"]}, "shared: '/x' must be a path inside the release"),
    "shared empty": ({"shared": [""]}, "shared: '' must be"),
    "empty command": ({"switch": {"restart": []}}, "$.switch.restart"),
    "empty health": ({"switch": {"health": [{}]}}, "exactly one of url, tcp, command"),
    "two checks in one": ({"switch": {"health": [{"url": "http://x/", "tcp": "x:1"}]}}, "exactly one of url, tcp"),
    "url": ({"switch": {"health": [{"url": "ftp://x/"}]}}, "must start with http:// or https://"),
    "url with no port": ({"switch": {"health": [{"url": "http://x:99999/"}]}}, "'http://x:99999/' names no address"),
    "url with half a bracket": ({"switch": {"health": [{"url": "http://[::1/"}]}}, "'http://[::1/' names no address"),
    "url of no host": ({"switch": {"health": [{"url": "http://:80/"}]}}, "names no host"),
    "url of no name": ({"switch": {"health": [{"url": "http://a..b/"}]}}, "'http://a..b/' names no address"),
    "url not in ASCII": ({"switch": {"health": [{"url": "http://x/ä"}]}}, "printable ASCII | write others as %XX"),
    "url with a space": ({"switch": {"health": [{"url": "http://x/a b"}]}}, "printable ASCII"),
    "tcp with no port": ({"switch": {"health": [{"tcp": "x:99999"}]}}, "'x:99999' names no address"),
    "tcp": ({"switch": {"health": [{"tcp": "localhost"}]}}, "must be host:port"),
    "tcp IPv6": ({"switch": {"health": [{"tcp": "::1:80"}]}}, "must be host:port, an IPv6 address in brackets"),
    "version of tcp": ({"switch": {"health": [{"tcp": "x:1", "version": {"body": True}}]}}, "an answer to a url"),
    "NUL": ({"app": "a\0b"}, "NUL or lone surrogates"),
    "NUL inside": ({"switch": {"restart": ["a", "b\0"]}}, "NUL or lone surrogates"),
    "lone surrogate": ({"archive": {"path": "/x\ud800"}}, "NUL or lone surrogates"),
    "two proofs": (
        {"switch": {"health": [{"url": "http://x/", "version": {"json": "a", "body": True}}]}},
        "exactly one of json, header, body",
    ),
    "proof": ({"switch": {"proof": "yes"}}, "$.switch.proof"),
    "negative timeout": ({"switch": {"health": [{"url": "http://x/", "timeout": -1}]}}, "timeout"),
    "script and hooks": (
        {"switch": {"script": ["x"], "hooks": {"pre_activate": ["y"]}}},
        "script does the whole switch itself, but pre_activate is given too",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_names_what_is_wrong(app: App, name: str) -> None:
    wrong, words = WRONG[name]
    before = digest(app.base)
    for verb in ("stage", "activate", "info"):
        error = app.ask(verb, **wrong)["error"]
        assert error["code"] in ("bad_request", "unsupported_protocol")
        for part in words.split(" | "):
            assert part in f"{error['message']} {error['hint']}"
    assert digest(app.base) == before


@pytest.mark.parametrize("version", ["1.0", "1", "v2026-03-01", "1.0+build.5", "1.0~rc1", "_x", "A" * 128])
def test_good_versions(version: str) -> None:
    assert check_version(version) == version


def test_a_document_that_is_no_object() -> None:
    for document in ([], "x", None, 3):
        with pytest.raises(RequestError, match="must be a JSON object"):
            parse(document)


def test_activate_needs_exactly_one_target(app: App) -> None:
    for request in ({}, {"version": "1.0", "previous": True}):
        assert "exactly one of version and previous" in app.ask("activate", **request)["error"]["message"]


def test_bad_bytes_on_stdin(tmp_path: Path) -> None:
    deep = b"[" * 100_000
    for data, words in (
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (deep, "is not JSON"),
        (b" " * (5 << 20), "more than"),
    ):
        process = subprocess.run(
            [sys.executable, "-m", "shoal", "release", "info", "--json"], input=data, capture_output=True, check=False
        )
        result = json.loads(process.stdout)
        assert (process.returncode, result["error"]["code"]) == (2, "bad_request")
        assert words in result["error"]["message"]


# -- for people --------------------------------------------------------------------------------------------------


def people(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["release", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_person_stages_activates_and_goes_back(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(app.root)]
    told = app.base / "told"
    for version in ("1.0", "1.1"):
        archive = spec(app.archive(version))
        status, out, _ = people(capsys, "stage", *root, version, archive["path"], "--sha256", archive["sha256"])
        assert (status, "staged" in out) == (0, True)
    # As a playbook did it the first time: with a hook.
    hook = ["sh", "-c", f'echo "$SHOAL_VERSION" >> {told}']
    assert app.activate("1.0", switch={"hooks": {"post_activate": hook}})["ok"]

    status, out, err = people(capsys, "activate", *root, "1.1")
    assert (status, "✓ 1.1 activated" in out) == (0, True), err
    status, out, _ = people(capsys, "activate", *root, "--previous")
    assert (status, app.current()) == (0, "1.0")
    assert told.read_text().split() == ["1.0", "1.1", "1.0"], "a person's switch is done as the last one was"

    status, out, _ = people(capsys, "info", *root)
    assert (status, "current" in out, "1.1 → 1.0" in out) == (0, True, True)
    status, _, err = people(capsys, "remove", *root, "1.0")
    assert (status, "is the current release" in err) == (1, True)
    status, out, _ = people(capsys, "inspect", archive["path"])
    assert (status, archive["sha256"] in out) == (0, True)
    status, out, _ = people(capsys, "recover", *root)
    assert (status, "nothing" in out) == (0, True)
    status, _, err = people(capsys, "info")
    assert (status, "--root is missing" in err) == (2, True)


def test_a_failure_tells_a_person_why(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    root = app.base / "[bold]shop"  # what looks like markup is none
    status, _, err = people(capsys, "activate", "--root", str(root), "--previous")
    assert status == 1
    assert f"✗ {root} has no previous release" in err
    assert "`shoal release info` lists" in err
