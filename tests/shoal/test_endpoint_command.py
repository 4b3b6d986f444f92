"""`shoal endpoint` as people and programs call it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torf
from endpoint_helpers import served

from shoal.cli import main

Shoal = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def shoal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shoal:
    """``shoal("init", "ep", ...)`` in tmp_path: exit status, stdout, stderr. A dict goes to stdin, with --json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(verb: str, *words: str | dict[str, Any]) -> tuple[int, str, str]:
        arguments = [word for word in words if isinstance(word, str)]
        for request in words:
            if isinstance(request, dict):
                stdin = io.TextIOWrapper(io.BytesIO(json.dumps(request).encode()))
                monkeypatch.setattr(sys, "stdin", stdin)
                arguments.append("--json")
        status = main(["endpoint", verb, *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def published(make_payload: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """``published("1.0")``: a folder as release_publish makes it."""

    def make(version: str) -> Path:
        archive = make_payload(f"shop-{version}.tar", 100_000, into=tmp_path / "srv" / "shop" / version)
        torrent = torf.Torrent(archive, piece_size=16384, source=f"shop {version}")
        torrent.generate()
        torrent.write(archive.with_name(f"{archive.name}.torrent"))
        manifest = {
            "format": 1,
            "app": "shop",
            "version": version,
            "archive": {"name": archive.name, "size": 100_000, "sha256": "0" * 64},
            "unpacked_bytes": 90_000,
            "entries": 3,
            "irreversible": False,
            "notes": "",
            "published_by": "alice@controller",
            "published_at": "2026-11-22T17:00:00Z",
            "info_hash": torrent.infohash,
            "piece_length": 16384,
        }
        (archive.parent / "manifest.json").write_text(json.dumps(manifest, indent=2))
        return archive.parent

    return make


KEYS = ("--keys", "operator", "publisher")


def test_the_story_of_a_rollout(shoal: Shoal, published: Callable[[str], Path], tmp_path: Path) -> None:
    status, out, _ = shoal(
        "init", "ep", "--app", "shop", "--operator-keys", "operator", "--publisher-keys", "publisher"
    )
    assert (status, "metadata/1.root.json" in out) == (0, True)
    one = str(published("1.0"))
    status, out, _ = shoal("publish", "ep", "stable", "--from", one, "--rollout", "10", "100@+2h", *KEYS, "--check")
    assert (status, "nothing was written" in out) == (0, True)
    status, out, _ = shoal("publish", "ep", "stable", "--from", one, "--rollout", "10", "100@+2h", *KEYS)
    assert (status, "✓ published" in out, "10 %" in out) == (0, True, True)
    assert "✓ unchanged" in shoal("publish", "ep", "stable", "--from", one, *KEYS)[1]
    assert "30 %" in shoal("percent", "ep", "stable", "30", *KEYS)[1]
    assert "✓ promoted" in shoal("promote", "ep", "stable", "slow", *KEYS)[1]
    assert "looks bad" in shoal("halt", "ep", "slow", "--reason", "looks bad", *KEYS)[1]
    assert "✓ resumed" in shoal("resume", "ep", "slow", *KEYS)[1]
    assert "✓ refreshed" in shoal("refresh", "ep", "--force", "--keys", "publisher")[1]
    assert "✓ rotated" in shoal("rotate", "ep", "root", "--new-keys", "operator2", *KEYS)[1]
    assert "revoked" in shoal("revoke", "ep", "1.0", "--reason", "leaks", "--keys", "operator", "publisher")[1]
    status, out, _ = shoal("verify", "ep")
    assert (status, "stable: 1.0 (sequence 1), 30 %" in out, "slow: 1.0" in out) == (0, True, True)
    with served(tmp_path / "ep") as server:
        status, out, _ = shoal("verify", "--url", server.url, "--root", "ep/metadata/1.root.json")
        assert (status, "stable: 1.0 (sequence 1), 30 %" in out) == (0, True)
        server.lie["metadata/timestamp.json"] = b"<html>"
        status, _, err = shoal("verify", "--url", server.url, "--root", "ep/metadata/1.root.json")
        assert (status, "✗" in err) == (1, True)


def test_programs_get_one_line_of_json(shoal: Shoal, published: Callable[[str], Path], tmp_path: Path) -> None:
    def result(verb: str, *words: str, **fields: Any) -> dict[str, Any]:
        status, out, _ = shoal(verb, *words, {"folder": str(tmp_path / "ep"), **fields})
        line: dict[str, Any] = json.loads(out)
        assert (line["event"], line["protocol"]) == ("result", 1)
        assert (status == 0) is line["ok"]
        return line

    keys = [str(tmp_path / "operator"), str(tmp_path / "publisher")]
    assert result("list")["error"]["code"] == "no_endpoint"
    made = result("init", app="shop", operator_keys=keys[0], publisher_keys=keys[1])
    assert made["endpoint"]["signed"]["root"]["threshold"] == 1
    one = published("1.0")
    predicted = result("publish", "--check", channel="stable", published=str(one), keys=keys)
    done = result("publish", channel="stable", published=str(one), keys=keys, who="ci@build")
    assert (predicted["changed"], done["changed"], done["outcome"]) == (True, True, "published")
    assert done["diff"]["before"]["channels"] == []
    assert done["diff"]["after"]["channels"] == done["endpoint"]["channels"]
    assert done["endpoint"]["channels"][0]["version"] == "1.0"
    assert done["endpoint"]["versions"][0]["published_by"] == "alice@controller"
    assert result("verify")["channels"][0] | {"expires": "", "requests": 0, "received": 0} == {
        "channel": "stable",
        "sequence": 1,
        "version": "1.0",
        "percent": 100,
        "halted": False,
        "revoked": False,
        "info_hash": done["endpoint"]["versions"][0]["info_hash"],
        "expires": "",
        "requests": 0,
        "received": 0,
    }
    refused = result("verify", url="http://127.0.0.1:1", root=str(tmp_path / "ep/metadata/1.root.json"))
    assert refused["error"]["code"] == "unreachable"
    assert refused["attempts"][0]["url"] == "http://127.0.0.1:1/"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"folder": "x", "chanel": "stable"}, "did you mean 'channel'"),
        ({"folder": "x", "protocol": 2}, "update shoal on this host"),
        ({"folder": "x", "version": 1.1}, "put it in quotes"),
        ({}, "folder is missing"),
        ({"folder": "x\0"}, "NUL or lone surrogates"),
        ({"folder": "x", "keys": ["\ud800"]}, "NUL or lone surrogates"),
    ],
)
def test_a_wrong_request_is_told_with_what_is_right(request_: dict[str, Any], words: str, shoal: Shoal) -> None:
    status, out, _ = shoal("publish", request_)
    error = json.loads(out)["error"]
    assert words in f"{error['message']} {error['hint']}"
    assert status == (2 if error["code"] == "bad_request" else 1)


def test_only_what_release_publish_made_is_published(
    shoal: Shoal, published: Callable[[str], Path], tmp_path: Path
) -> None:
    shoal("init", "ep", "--app", "shop", "--operator-keys", "operator", "--publisher-keys", "publisher")
    one, two = published("1.0"), published("1.1")
    (one / "shop-1.0.tar.torrent").write_bytes((two / "shop-1.1.tar.torrent").read_bytes())
    status, _, err = shoal("publish", "ep", "stable", "--from", str(one), *KEYS)
    assert (status, "is the torrent of shop-1.1.tar" in err) == (1, True)
    (one / "shop-1.0.tar.torrent").unlink()
    assert "shop-1.0.tar.torrent is not there" in shoal("publish", "ep", "stable", "--from", str(one), *KEYS)[2]
    (two / "manifest.json").write_text('{"format": 1, "app": "shop"}')
    assert "manifest.json is wrong" in shoal("publish", "ep", "stable", "--from", str(two), *KEYS)[2]
    assert "manifest.json is not there" in shoal("publish", "ep", "stable", "--from", "srv", *KEYS)[2]
    assert "cannot be read" in shoal("publish", "ep", "stable", "--version", "1.0", "--keys", "nowhere")[2]


def test_a_passphrase_comes_from_a_file(shoal: Shoal, published: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "words").write_text("open sesame\n")
    secret = ("--passphrase-file", "words")
    keys = ("--operator-keys", "operator", "--publisher-keys", "publisher")
    assert shoal("init", "ep", "--app", "shop", *keys, *secret)[0] == 0
    assert b"ENCRYPTED" in (tmp_path / "operator/targets.pem").read_bytes()
    assert b"ENCRYPTED" not in (tmp_path / "publisher/timestamp.pem").read_bytes()
    one = str(published("1.0"))
    assert "--passphrase-file" in shoal("publish", "ep", "stable", "--from", one, *KEYS)[2]
    assert shoal("publish", "ep", "stable", "--from", one, *KEYS, *secret)[0] == 0


def test_other_commands_do_not_pay_for_tuf() -> None:
    code = (
        "import sys, importlib\n"
        "for name in ('agent', 'release', 'torrents', 'tracker'): importlib.import_module(f'shoal.cli.{name}')\n"
        "print([name for name in ('tuf', 'securesystemslib', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
