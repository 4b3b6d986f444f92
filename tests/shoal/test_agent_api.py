"""The agent's API, route by route, against a real agent; docs/agent.md says the same in words."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torf
from agent_helpers import UnixConnection, ask
from swarm_helpers import SEES_NAMES

from shoal import __version__
from shoal.agent.client import Client
from shoal.agent.errors import AnswerError, UnreachableError
from shoal.agent.events import EventLog, GoneError
from shoal.swarm import Event, EventKind, PeerStatus, TorrentStatus

UNKNOWN = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def agent(agent_factory):
    return agent_factory("host1")


@pytest.fixture
def torrent(make_payload, make_torrent):
    return make_torrent(make_payload("shop-1.0.tar", 1_000_000), trackers=["http://127.0.0.1:1/announce"])


def added(agent, torrent, **fields):
    """The status of ``torrent``, added to ``agent`` with nobody to fetch it from."""
    return agent.client.add(torrent=torrent.read_bytes(), **fields)["torrent"]


def field_names(kind):
    return {field.name for field in dataclasses.fields(kind)}


# --- the agent ---


def test_the_agent_describes_itself(agent, torrent):
    answer = ask(agent.socket, "GET", "/v1/agent")
    assert (answer.status, answer.headers["Shoal-Api"]) == (200, "1")
    told = answer.json["agent"]
    assert (told["version"], told["api"], told["name"], told["pid"]) == (__version__, 1, "host1", agent.pid)
    assert told["libtorrent"].startswith("2.")
    assert [port > 1024 for port in told["listen"]] == [True]
    assert (told["state_dir"], told["store_dir"]) == (str(agent.state_dir), str(agent.state_dir / "store"))
    assert abs(told["started_at"] - time.time()) < 60
    assert (told["torrents"], told["upload_limit"], told["download_limit"]) == (0, 0, 0)
    added(agent, torrent)
    assert agent.client.agent()["torrents"] == 1


def test_limits_of_the_agent_change_one_by_one_until_it_is_restarted(agent):
    assert agent.client.set_limits(upload_limit=1_000_000)["upload_limit"] == 1_000_000
    told = agent.client.set_limits(download_limit=2_000_000)
    assert (told["upload_limit"], told["download_limit"]) == (1_000_000, 2_000_000)
    agent.stop()
    agent.start()
    assert agent.client.agent()["upload_limit"] == 0


# --- torrents ---


def test_a_torrent_is_added_once(agent, torrent):
    body = {"torrent": base64.b64encode(torrent.read_bytes()).decode()}

    planned = ask(agent.socket, "POST", "/v1/torrents?dry_run=true", body)
    assert (planned.status, planned.json) == (200, {"changed": True, "torrent": None})
    assert agent.client.torrents() == []

    first = ask(agent.socket, "POST", "/v1/torrents", body).json
    assert first["changed"] is True
    status = first["torrent"]
    assert set(status) == field_names(TorrentStatus)
    assert (status["name"], status["size"], status["in_store"]) == ("shop-1.0.tar", 1_000_000, True)
    assert [tracker["url"] for tracker in status["trackers"]] == ["http://127.0.0.1:1/announce"]

    planned = ask(agent.socket, "POST", "/v1/torrents?dry_run=true", body).json
    assert (planned["changed"], planned["torrent"]["info_hash"]) == (False, status["info_hash"])
    again = ask(agent.socket, "POST", "/v1/torrents", body).json
    assert (again["changed"], again["torrent"]["added_at"]) == (False, status["added_at"])
    assert [one["info_hash"] for one in agent.client.torrents()] == [status["info_hash"]]
    assert agent.client.torrent(status["info_hash"].upper())["info_hash"] == status["info_hash"]


def test_what_a_known_torrent_lacks_is_added_and_dry_runs_predict_it(agent, torrent):
    added(agent, torrent)
    more = {"trackers": [["http://127.0.0.1:2/announce"]], "web_seeds": ["http://127.0.0.1:3/shop-1.0.tar"]}
    for changed in (True, False):
        predicted = agent.client.add(torrent=torrent.read_bytes(), dry_run=True, **more)
        done = agent.client.add(torrent=torrent.read_bytes(), **more)
        assert (predicted["changed"], done["changed"]) == (changed, changed)
    assert {tracker["url"] for tracker in done["torrent"]["trackers"]} == {
        "http://127.0.0.1:1/announce",
        "http://127.0.0.1:2/announce",
    }
    assert done["torrent"]["web_seeds"] == more["web_seeds"]


def test_what_the_torrent_itself_names_counts_too(agent, torrent):
    plain = torf.Torrent.read(torrent)
    plain.trackers = []
    agent.client.add(torrent=plain.dump())
    for changed in (True, False):
        assert agent.client.add(torrent=torrent.read_bytes(), dry_run=True)["changed"] is changed
        done = agent.client.add(torrent=torrent.read_bytes())
        assert done["changed"] is changed
    assert [tracker["url"] for tracker in done["torrent"]["trackers"]] == ["http://127.0.0.1:1/announce"]


def test_peers_may_be_given_by_name(agent_factory, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 200_000)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher"), agent_factory("host")
    publisher.seed(payload, torrent)
    peers = [f"localhost:{publisher.port}"]
    host.client.add(torrent=torrent.read_bytes(), peers=peers, download_limit=SEES_NAMES)
    assert host.await_end(torf.Torrent.read(torrent).infohash)["from_peers"] == {"publisher": 200_000}


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"paused": True}, lambda status: status["paused"]),
        ({"upload_limit": 5000}, lambda status: (status["upload_limit"], status["download_limit"]) == (5000, 0)),
        ({"download_limit": 6000}, lambda status: (status["upload_limit"], status["download_limit"]) == (0, 6000)),
        ({"web_seeds": ["http://127.0.0.1:3/x"]}, lambda status: status["web_seeds"] == ["http://127.0.0.1:3/x"]),
        ({"trackers": [["udp://127.0.0.1:4"]]}, lambda status: len(status["trackers"]) == 2),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_torrent_is_changed_as_predicted_and_only_once(agent, torrent, change, seen):
    info_hash = added(agent, torrent)["info_hash"]
    assert not seen(agent.client.torrent(info_hash))
    for changed in (True, False):
        assert agent.client.change(info_hash, dry_run=True, **change)["changed"] is changed
        assert bool(seen(agent.client.torrent(info_hash))) is not changed
        answer = agent.client.change(info_hash, **change)
        assert (answer["changed"], bool(seen(answer["torrent"]))) == (changed, True)


def test_a_torrent_is_removed_and_its_data_only_when_asked(agent_factory, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 500_000)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher"), agent_factory("host")
    publisher.seed(payload, torrent)
    status = host.fetch(torrent, publisher)
    info_hash, copy = status["info_hash"], host.state_dir / "store" / status["info_hash"] / "shop-1.0.tar"

    assert host.client.remove(info_hash, data=True, dry_run=True) is True
    assert (copy.exists(), len(host.client.torrents())) == (True, 1)
    assert host.client.remove(info_hash) is True
    assert (copy.exists(), host.client.torrents()) == (True, [])
    assert host.client.remove(info_hash) is False
    assert host.client.remove(info_hash, dry_run=True) is False

    # what lies in the store is taken up again, nothing fetched twice
    status = host.fetch(torrent)
    assert (status["downloaded"], status["done"]) == (0, 500_000)
    assert host.client.remove(info_hash, data=True) is True
    assert not copy.parent.exists()

    assert publisher.client.remove(info_hash, data=True) is True
    assert payload.exists(), "a payload that is seeded in place is the user's"


def test_metainfo_peers_and_recheck(agent_factory, make_payload, make_torrent, wait_until):
    payload = make_payload("shop-1.0.tar", 500_000)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher", limits={"upload": "20kB"}), agent_factory("host")
    info_hash = publisher.seed(payload, torrent)["info_hash"]
    answer = ask(publisher.socket, "GET", f"/v1/torrents/{info_hash}/metainfo")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-bittorrent")
    assert answer.body == torrent.read_bytes()

    host.client.add(torrent=torrent.read_bytes(), peers=[publisher.peer])
    peer = wait_until(lambda: [peer for peer in host.client.peers(info_hash) if peer["agent_name"]])[0]
    assert set(peer) == field_names(PeerStatus)
    assert (peer["agent_name"], peer["port"], peer["seed"]) == ("publisher", publisher.port, True)

    before = publisher.client.torrent(info_hash)["rehashed"]
    assert publisher.client.recheck(info_hash)["info_hash"] == info_hash
    checked = lambda: publisher.client.torrent(info_hash)["rehashed"] == before + 500_000  # noqa: E731
    wait_until(checked, what="the recheck reads the payload once")
    assert publisher.await_end(info_hash)["done"] == 500_000


def test_known_data_elsewhere_is_a_conflict(agent, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 100_000)
    torrent = make_torrent(payload)
    agent.seed(payload, torrent)
    with pytest.raises(AnswerError) as refused:
        agent.client.add(torrent=torrent.read_bytes(), data_path=payload.with_name("elsewhere"))
    assert (refused.value.status, refused.value.code) == (409, "conflict")
    assert str(payload) in refused.value.message
    assert refused.value.hint == "remove the torrent first"


def test_what_is_repaired_is_tried_again_when_told_to_go_on(agent, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 100_000)
    torrent = make_torrent(payload)
    right = payload.read_bytes()
    payload.write_bytes(bytes(100_000))
    info_hash = agent.client.add(torrent=torrent.read_bytes(), data_path=payload)["torrent"]["info_hash"]
    assert agent.client.torrent(info_hash, wait=60)["state"] == "error"
    payload.write_bytes(right)
    assert agent.client.change(info_hash, paused=False, dry_run=True)["changed"] is True
    assert agent.client.change(info_hash, paused=False)["changed"] is True
    assert agent.await_end(info_hash)["error"] is None
    assert agent.client.change(info_hash, paused=False)["changed"] is False


# --- what is refused ---

TORRENT = f"/v1/torrents/{UNKNOWN}"
SHOP = {"torrent": base64.b64encode(b"shop").decode()}
MAGNET = f"magnet:?xt=urn:btih:{UNKNOWN}"
REFUSED = {
    # method, path, body -> status, code, part of the message
    "no such path": ("GET", "/v1/torrent", None, 404, "not_found", "/v1/torrent"),
    "no prefix": ("GET", "/", None, 404, "not_found", "no such path: /"),
    "wrong method": ("PUT", "/v1/torrents", None, 405, "bad_request", "PUT /v1/torrents: Method Not Allowed"),
    "newer version": ("GET", "/v2/torrents", None, 404, "unsupported_version", "this agent speaks /v1, asked was /v2"),
    "older version": ("GET", "/v0/agent", None, 404, "unsupported_version", "this agent speaks /v1, asked was /v0"),
    "unknown parameter": ("GET", "/v1/torrents?x=1", None, 400, "bad_request", "unknown field `x`"),
    "parameter twice": ("GET", f"{TORRENT}?wait=1&wait=2", None, 400, "bad_request", "wait is there twice"),
    "wait too long": ("GET", f"{TORRENT}?wait=61", None, 400, "bad_request", "<= 60.0 - at `$.wait`"),
    "wait for ever": ("GET", f"{TORRENT}?wait=inf", None, 400, "bad_request", "`$.wait`"),
    "progress over 1": ("GET", f"{TORRENT}?wait=1&progress=2", None, 400, "bad_request", "`$.progress`"),
    "no info hash": ("GET", "/v1/torrents/shop", None, 400, "bad_request", "found 'shop', expected an info hash"),
    "unknown torrent": ("GET", TORRENT, None, 404, "not_found", UNKNOWN),
    "unknown to change": ("PATCH", TORRENT, {}, 404, "not_found", UNKNOWN),
    "unknown to recheck": ("POST", f"{TORRENT}/recheck", None, 404, "not_found", UNKNOWN),
    "unknown's metainfo": ("GET", f"{TORRENT}/metainfo", None, 404, "not_found", UNKNOWN),
    "unknown's peers": ("GET", f"{TORRENT}/peers", None, 404, "not_found", UNKNOWN),
    "unknown to import": ("PUT", f"{TORRENT}/files/0", b"", 404, "not_found", UNKNOWN),
    "no body": ("POST", "/v1/torrents", None, 400, "bad_request", "the request's body: Input data was truncated"),
    "no JSON": ("POST", "/v1/torrents", b"torrent=x", 400, "bad_request", "the request's body: JSON is malformed"),
    "no object": ("POST", "/v1/torrents", [], 400, "bad_request", "Expected `object`, got `array`"),
    "too deep": ("POST", "/v1/torrents", b"[" * 100_000, 400, "bad_request", "the request's body"),
    "unknown field": ("POST", "/v1/torrents", {"torent": ""}, 400, "bad_request", "unknown field `torent`"),
    "neither": ("POST", "/v1/torrents", {}, 400, "bad_request", "exactly one of torrent"),
    "both": ("POST", "/v1/torrents", {"torrent": "", "magnet": MAGNET}, 400, "bad_request", "exactly one of torrent"),
    "no base64": ("POST", "/v1/torrents", {"torrent": "*"}, 400, "bad_request", "Invalid base64 encoded string"),
    "no torrent": ("POST", "/v1/torrents", SHOP, 400, "bad_request", "the .torrent cannot be read"),
    "no magnet": ("POST", "/v1/torrents", {"magnet": "http://x"}, 400, "bad_request", "magnet: found 'http://x'"),
    "empty magnet": ("POST", "/v1/torrents", {"magnet": "magnet:?dn=x"}, 400, "bad_request", "cannot be read"),
    "dry run of bad": ("POST", "/v1/torrents?dry_run=true", SHOP, 400, "bad_request", "cannot be read"),
    "relative data": (
        "POST", "/v1/torrents", {"magnet": MAGNET, "data_path": "x"}, 400, "bad_request", "data_path: found 'x'",
    ),
    "peer without port": (
        "POST", "/v1/torrents", {"magnet": MAGNET, "peers": ["host1"]}, 400, "bad_request", "peers: found 'host1'",
    ),
    "unresolvable peer": (
        "POST", "/v1/torrents", {"magnet": MAGNET, "peers": ["host.invalid:1"]}, 400, "bad_request",
        "cannot resolve 'host.invalid:1'",
    ),
    "peer's port 0": (
        "POST", "/v1/torrents", {"magnet": MAGNET, "peers": ["127.0.0.1:0"]}, 400, "bad_request", "a port of 1 to",
    ),
    "too many peers": (
        "POST", "/v1/torrents", {"magnet": MAGNET, "peers": ["127.0.0.1:1"] * 1001}, 400, "bad_request", "`$.peers`",
    ),
    "no web seed": (
        "POST", "/v1/torrents", {"magnet": MAGNET, "web_seeds": ["ftp://x/"]}, 400, "bad_request", "web_seeds: found",
    ),
    "no tracker": (
        "POST", "/v1/torrents", {"magnet": MAGNET, "trackers": [["http://"]]}, 400, "bad_request", "trackers: found",
    ),
    "negative limit": (
        "POST", "/v1/torrents", {"magnet": MAGNET, "upload_limit": -1}, 400, "bad_request", "`$.upload_limit`",
    ),
    "limit of 33 bits": ("PATCH", "/v1/agent", {"upload_limit": 1 << 32}, 400, "bad_request", "`$.upload_limit`"),
    "limit of text": ("PATCH", "/v1/agent", {"upload_limit": "2MB"}, 400, "bad_request", "got `str`"),
    "text for truth": ("DELETE", f"{TORRENT}?data=perhaps", None, 400, "bad_request", "`$.data`"),
    "future events": ("GET", "/v1/events?after=99", None, 410, "gone", "events after 99 are not kept"),
    "negative event": ("GET", "/v1/events?after=-1", None, 400, "bad_request", "`$.after`"),
}  # fmt: skip


def test_wrong_requests_are_refused_by_name_and_change_nothing(agent, subtests):
    for name, (method, path, body, status, code, message) in REFUSED.items():
        with subtests.test(name):
            answer = ask(agent.socket, method, path, body)
            assert (answer.status, answer.error["code"]) == (status, code), answer.body
            assert message in answer.error["message"]
            assert answer.headers["Shoal-Api"] == "1"
    assert agent.client.torrents() == []


def test_a_wrong_version_names_the_side_to_update(agent):
    assert ask(agent.socket, "GET", "/v2/torrents").error["hint"] == "update the agent"
    assert ask(agent.socket, "GET", "/v0/torrents").error["hint"] == "update the caller"


def test_a_body_beyond_the_limit_is_refused_before_it_is_kept(agent):
    answer = ask(agent.socket, "POST", "/v1/torrents", b" " * (23 << 20))
    assert (answer.status, answer.error["code"]) == (413, "limit")
    assert ask(agent.socket, "POST", "/v1/torrents", b" " * (21 << 20)).status == 400


def test_broken_http_and_idle_connections_do_no_harm(agent):
    connection = UnixConnection(agent.socket)
    connection.connect()
    connection.sock.sendall(b"BREW /coffee\r\n\r\n")
    assert b" 400 " in connection.sock.recv(4096)
    connection.close()
    idle = UnixConnection(agent.socket)
    idle.connect()
    assert agent.client.agent()["torrents"] == 0
    idle.close()


# --- waits ---


def test_a_wait_ends_when_the_torrent_is_complete(agent_factory, make_payload, make_torrent, wait_until):
    payload = make_payload("shop-1.0.tar", 1_000_000)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher"), agent_factory("host")
    publisher.seed(payload, torrent)
    info_hash = added(host, torrent)["info_hash"]
    wait_until(lambda: host.client.torrent(info_hash)["state"] == "downloading")
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(host.client.torrent, info_hash, wait=60)
        host.client.change(info_hash, peers=[publisher.peer])
        assert waiting.result(60)["state"] == "complete"


def test_a_wait_ends_at_the_progress_asked_for(agent_factory, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 1_200_000)
    torrent = make_torrent(payload, piece_size=16384)
    publisher, host = agent_factory("publisher", limits={"upload": "100kB"}), agent_factory("host")
    publisher.seed(payload, torrent)
    info_hash = added(host, torrent, peers=[publisher.peer])["info_hash"]
    status = host.client.torrent(info_hash, wait=60, progress=0.1)
    assert status["state"] == "downloading"
    assert 0.1 <= status["progress"] < 1


def test_a_wait_ends_with_the_check_that_was_running(agent, make_payload, make_torrent, wait_until):
    payload = make_payload("shop-1.0.tar", 20_000_000)
    info_hash = added(agent, make_torrent(payload, piece_size=1 << 20), paused=True)["info_hash"]
    with payload.open("r+b") as file:
        file.write(b"wrong")
        file.seek(0)
        agent.client.put_file(info_hash, 0, file, 20_000_000)
    assert agent.client.recheck(info_hash)["state"] == "checking"
    status = agent.client.torrent(info_hash, wait=60)
    assert (status["state"], status["done"]) == ("downloading", 20_000_000 - (1 << 20))


def test_a_wait_ends_in_time_with_the_state_as_it_is(agent, torrent, wait_until):
    info_hash = added(agent, torrent)["info_hash"]
    wait_until(lambda: agent.client.torrent(info_hash)["state"] == "downloading")
    started = time.monotonic()
    status = agent.client.torrent(info_hash, wait=0.5)
    assert status["state"] == "downloading"
    assert 0.5 <= time.monotonic() - started < 30


def test_a_wait_ends_with_an_error_and_with_removal(agent, torrent, make_payload, make_torrent):
    other = make_payload("other.tar", 500_000)
    damaged = make_torrent(other)
    other.write_bytes(bytes(500_000))
    status = agent.client.add(torrent=damaged.read_bytes(), data_path=other)["torrent"]
    status = agent.client.torrent(status["info_hash"], wait=60)
    assert status["state"] == "error"
    assert status["error"]["what"] == str(other)

    info_hash = added(agent, torrent)["info_hash"]
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(agent.client.torrent, info_hash, wait=60)
        agent.client.remove(info_hash)
        with pytest.raises(AnswerError) as gone:
            waiting.result(60)
    assert gone.value.code == "not_found"


def test_waits_are_limited_in_number_and_end_with_their_client(agent, torrent, wait_until):
    info_hash = added(agent, torrent)["info_hash"]
    url = f"/v1/torrents/{info_hash}?wait=60"

    def is_full():
        answer = ask(agent.socket, "GET", f"/v1/torrents/{info_hash}?wait=0.001")
        assert answer.status == 200 or (answer.status, answer.error["code"]) == (429, "limit")
        return answer.status == 429

    connections = [UnixConnection(agent.socket) for _ in range(64)]
    for connection in connections:
        connection.request("GET", url)
    wait_until(is_full, what="64 waits are too many for a 65th")
    assert ask(agent.socket, "GET", f"/v1/torrents/{info_hash}").status == 200, "who does not wait is served"
    for connection in connections:
        connection.close()
    wait_until(lambda: not is_full(), what="the slots of clients that went away are free again")


# --- events ---


def test_events_tell_what_happened_in_order_and_waits_wake(agent_factory, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 500_000)
    torrent = make_torrent(payload)
    publisher, host = agent_factory("publisher"), agent_factory("host")
    publisher.seed(payload, torrent)
    assert host.client.events() == {"events": [], "last": 0}

    kinds: list[str] = []
    got_complete = threading.Event()

    def follow():
        last = 0
        while not got_complete.is_set():
            answer = host.client.events(last, wait=60)
            assert [event["id"] for event in answer["events"]] == list(range(last + 1, answer["last"] + 1))
            last = answer["last"]
            kinds.extend(event["kind"] for event in answer["events"])
            if "complete" in kinds:
                got_complete.set()

    follower = threading.Thread(target=follow)
    follower.start()
    info_hash = host.fetch(torrent, publisher)["info_hash"]
    follower.join(60)
    assert got_complete.is_set()
    assert kinds.index("added") < kinds.index("state") < kinds.index("complete")
    every = host.client.events()["events"]
    assert set(every[0]) == {"id", "time", "kind", "info_hash", "state", "piece", "what", "message"}
    assert {event["info_hash"] for event in every} == {info_hash}


def test_too_old_events_are_gone():
    async def story():
        log = EventLog()
        for number in range(1002):  # the ring holds 1000
            log.publish(Event(EventKind.ADDED, str(number)))
        with pytest.raises(GoneError, match="events after 1 are not kept; the agent has 1000 up to 1002"):
            log.after(1)
        kept = log.after(2)
        assert (len(kept), kept[0].id, kept[-1].id, kept[-1].info_hash) == (1000, 3, 1002, "1001")

    asyncio.run(story())


def test_events_that_are_gone_are_an_error_of_their_own(agent):
    with pytest.raises(AnswerError) as gone:
        agent.client.events(1)  # before a restart, perhaps: this one has none yet
    assert (gone.value.status, gone.value.code) == (410, "gone")


# --- the client ---


def test_the_client_says_why_nobody_answers(short_dir):
    with pytest.raises(UnreachableError, match=r"at .*/none.sock: no such socket; is the agent running"):
        Client(short_dir / "none.sock").agent()
    (short_dir / "file.sock").touch()
    with pytest.raises(UnreachableError, match="nobody listens; the agent is not running"):
        Client(short_dir / "file.sock").agent()
