"""``shoal status``, ``fetch`` and ``seed`` as people and scripts call them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest


@pytest.fixture
def shoal():
    """Run ``shoal ARGUMENTS`` to its end."""

    def run(*arguments, **env):
        command = [sys.executable, "-m", "shoal", *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "200", **env}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)

    return run


@pytest.fixture
def terminal():
    """Run ``shoal ARGUMENTS`` on a terminal; what it wrote there and its exit status. ``until``: then Ctrl-C."""

    def run(*arguments, until=None):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "shoal", *map(str, arguments)]
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        seen = b""
        try:
            while True:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # EIO: the other end is closed
                    break
                seen += data
                if until and until in seen:
                    process.send_signal(signal.SIGINT)
                    until = None
            return seen.decode(), process.wait(60)
        finally:
            os.close(ours)
            process.kill()
            process.wait()

    return run


def test_seed_here_and_fetch_there(agent_factory, make_payload, make_torrent, shoal):
    payload = make_payload("shop-1.0.tar", 1_000_000)
    torrent = make_torrent(payload)
    # Unlimited, it is over in 10 ms, which a busy machine may let pass before the host looks whom it fetches from.
    publisher, host = agent_factory("publisher", limits={"upload": "2MB"}), agent_factory("host")

    seeded = shoal("seed", payload, "--torrent", torrent, "--socket", publisher.socket)
    assert (seeded.returncode, seeded.stdout) == (0, f"complete: {payload}\n")

    fetched = shoal("fetch", torrent, "--peer", publisher.peer, "--socket", host.socket)
    assert fetched.returncode == 0
    status = host.client.torrents()[0]
    first, second = fetched.stdout.splitlines()
    assert first == f"complete: {status['payload_path']}"
    assert second.startswith("1.0 MB from publisher, in ")
    progress = fetched.stderr.splitlines()
    assert progress[-1] == "shop-1.0.tar: complete 100%"
    assert len(progress) <= 13, "at most a line a tenth"

    again = shoal("fetch", torrent, "--socket", host.socket, "--json")
    assert (again.returncode, again.stderr) == (0, "")
    answer = json.loads(again.stdout)
    assert (answer["changed"], answer["torrent"]["from_peers"]) == (False, {"publisher": 1_000_000})


def test_a_fetch_shows_a_bar_on_a_terminal(agent_factory, make_payload, make_torrent, terminal):
    payload = make_payload("shop-1.0.tar", 1_000_000)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher", limits={"upload": "700kB"}), agent_factory("host")
    publisher.seed(payload, torrent)
    seen, status = terminal("fetch", torrent, "--peer", publisher.peer, "--socket", host.socket)
    assert status == 0
    assert "━" in seen
    assert "1.0/1.0 MB" in seen
    assert "complete: " in seen


def test_a_fetch_that_cannot_end_says_why(agent_factory, make_payload, make_torrent, shoal):
    host = agent_factory("host")
    torrent = make_torrent(make_payload("shop-1.0.tar", 100_000))
    late = shoal("fetch", torrent, "--timeout", "0.5", "--socket", host.socket)
    assert late.returncode == 1
    assert "shop-1.0.tar: not complete after 0.5 s: downloading" in late.stderr
    started = shoal("fetch", torrent, "--no-wait", "--socket", host.socket)
    assert started.returncode == 0
    assert "cannot read the torrent" in shoal("fetch", "absent.torrent", "--socket", host.socket).stderr
    bad = shoal("fetch", "magnet:?xt=nothing", "--socket", host.socket, "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["error"]["code"] == "bad_request"


def test_seeding_other_data_names_the_file(agent_factory, make_payload, make_torrent, shoal):
    agent = agent_factory()
    payload = make_payload("shop-1.0.tar", 100_000)
    torrent = make_torrent(payload)
    payload.write_bytes(bytes(100_000))
    result = shoal("seed", payload, "--torrent", torrent, "--socket", agent.socket)
    assert result.returncode == 1
    assert "shop-1.0.tar: error: " in result.stderr
    assert str(payload) in result.stderr


def test_status_for_people_and_for_machines(agent_factory, make_payload, make_torrent, shoal):
    agent = agent_factory("host1")
    assert "no torrents" in shoal("status", "--socket", agent.socket).stdout
    payload = make_payload("shop[bold]\x1b[31m.tar", 100_000)
    info_hash = agent.seed(payload, make_torrent(payload))["info_hash"]

    told = shoal("status", SHOAL_SOCKET=str(agent.socket))
    assert told.returncode == 0
    head, _, line = told.stdout.splitlines()
    assert head.startswith("host1  shoal ")
    assert "shop[bold]" in line
    assert "\x1b" not in line
    assert line.split()[-1] == info_hash
    assert "complete" in line

    every = json.loads(shoal("status", "--json", "--socket", agent.socket).stdout)
    assert (every["agent"]["name"], every["torrents"]) == ("host1", agent.client.torrents())
    one = json.loads(shoal("status", info_hash, "--json", "--socket", agent.socket).stdout)
    assert (one["torrent"]["info_hash"], one["peers"]) == (info_hash, [])
    assert str(payload.parent) in shoal("status", info_hash, "--socket", agent.socket).stdout


def test_watching_goes_on_until_interrupted(agent_factory, make_payload, make_torrent, terminal):
    agent = agent_factory("host1")
    payload = make_payload("shop-1.0.tar", 100_000)
    agent.seed(payload, make_torrent(payload))
    seen, status = terminal("status", "--watch", "--socket", agent.socket, until=b"shop-1.0.tar")
    assert status == 130
    assert "Traceback" not in seen


def test_without_an_agent_the_message_says_so(short_dir, shoal):
    result = shoal("status", "--json", "--socket", short_dir / "none.sock")
    assert result.returncode == 1
    assert json.loads(result.stdout)["error"]["code"] == "unreachable"
    assert "no such socket; is the agent running" in result.stderr


def test_the_status_command_stays_small(agent_factory):
    agent = agent_factory()
    code = (
        "import sys, shoal.cli\n"
        f"status = shoal.cli.main(['status', '--json', '--socket', {str(agent.socket)!r}])\n"
        "print(sorted({'libtorrent', 'aiohttp', 'msgspec', 'asyncio', 'rich'} & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stderr == "[]\n"
