"""Files handed over to the agent's store: whole or not at all, and nothing outside of it is ever written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from agent_helpers import UnixConnection, ask
from swarm_helpers import SEES_NAMES

from shoal.agent.errors import AnswerError
from shoal.agent.imports import IncomingFile, remove_leftovers


@pytest.fixture
def agent(agent_factory):
    return agent_factory("host1")


def paused(agent, torrent):
    """The info hash of ``torrent``, added to be imported into."""
    return agent.client.add(torrent=torrent.read_bytes(), paused=True)["torrent"]["info_hash"]


def put(agent, info_hash, index, path):
    with path.open("rb") as file:
        return agent.client.put_file(info_hash, index, file, path.stat().st_size)["file"]


def finish(agent, info_hash):
    agent.client.recheck(info_hash)
    agent.client.change(info_hash, paused=False)
    return agent.await_end(info_hash)


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_imported_file_is_seeded_without_a_byte_fetched(agent_factory, make_payload, make_torrent):
    agent, host = agent_factory("publisher"), agent_factory("host")
    payload = make_payload("shop-1.0.tar", 3_000_000)
    torrent = make_torrent(payload)
    info_hash = paused(agent, torrent)
    stored = agent.state_dir / "store" / info_hash / "shop-1.0.tar"
    assert put(agent, info_hash, 0, payload) == {"index": 0, "path": str(stored), "size": 3_000_000}
    assert stored.read_bytes() == payload.read_bytes()
    status = finish(agent, info_hash)
    assert (status["done"], status["downloaded"], status["in_store"]) == (3_000_000, 0, True)

    payload.unlink()  # the copy is the agent's own
    fetched = host.fetch(torrent, agent, download_limit=SEES_NAMES)
    assert fetched["from_peers"] == {"publisher": 3_000_000}


def test_a_directory_is_imported_file_by_file(agent, make_payload, make_torrent):
    contents = {"a/b/deep.bin": 100_000, "a/other.bin": 70_000, "empty": 0, "top.bin": 1}
    payload = make_payload("site", contents)
    torrent = make_torrent(payload)
    info_hash = paused(agent, torrent)
    store = agent.state_dir / "store" / info_hash
    for index, name in enumerate(sorted(contents)):  # torf sorts them, so this is the torrent's order
        assert put(agent, info_hash, index, payload / name)["path"] == str(store / "site" / name)
    assert finish(agent, info_hash)["done"] == 170_001
    assert files_below(store) == {f"site/{name}" for name in contents}


def test_wrong_bytes_are_found_by_the_check_and_never_seeded(agent, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 500_000)
    torrent = make_torrent(payload)
    info_hash = paused(agent, torrent)
    payload.write_bytes(bytes(500_000))
    put(agent, info_hash, 0, payload)
    agent.client.recheck(info_hash)
    agent.client.change(info_hash, paused=False)
    status = agent.client.torrent(info_hash, wait=10, progress=0)
    assert (status["state"], status["done"]) == ("downloading", 0)


def test_files_that_do_not_fit_the_torrent_are_refused_and_leave_nothing(agent, make_payload, make_torrent):
    info_hash = paused(agent, make_torrent(make_payload("shop-1.0.tar", 500_000)))
    url = f"/v1/torrents/{info_hash}/files/0"
    chunked = {"Transfer-Encoding": "chunked"}

    def chunk(size):
        return b"%x\r\n%s\r\n" % (size, bytes(size)) if size else b"0\r\n\r\n"

    for body, headers, found in (
        (bytes(499_999), {}, "found 499999 bytes, expected 500000"),
        (bytes(500_001), {}, "found 500001 bytes, expected 500000"),
        (chunk(499_999) + chunk(0), chunked, "found 499999 bytes, expected 500000"),
        (chunk(300_000) + chunk(200_001) + chunk(0), chunked, "found more than the expected 500000 bytes"),
    ):
        answer = ask(agent.socket, "PUT", url, body, headers)
        assert (answer.status, answer.error["code"]) == (400, "bad_request")
        assert found in answer.error["message"]
        assert "shop-1.0.tar" in answer.error["message"]
    for index in ("1", "-1", "x", "9" * 20):
        answer = ask(agent.socket, "PUT", f"/v1/torrents/{info_hash}/files/{index}", bytes(500_000))
        assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert files_below(agent.state_dir / "store") == set()


def test_only_a_paused_incomplete_torrent_of_the_store_takes_files(agent, make_payload, make_torrent, wait_until):
    def refusal(info_hash, size):
        with pytest.raises(AnswerError) as refused:
            agent.client.put_file(info_hash, 0, io.BytesIO(bytes(size)), size)
        assert (refused.value.status, refused.value.code) == (409, "conflict")
        return refused.value.message

    payload = make_payload("in-place.tar", 100_000)
    in_place = agent.seed(payload, make_torrent(payload))["info_hash"]
    agent.client.change(in_place, paused=True)
    assert "complete" in refusal(in_place, 100_000)

    active = agent.client.add(torrent=make_torrent(make_payload("active.tar", 200_000)).read_bytes())["torrent"]
    assert "it is active" in refusal(active["info_hash"], 200_000)

    payload = make_payload("done.tar", 300_000)
    done = paused(agent, make_torrent(payload))
    put(agent, done, 0, payload)
    finish(agent, done)
    agent.client.change(done, paused=True)
    assert "it is complete" in refusal(done, 300_000)

    magnet = agent.client.add(magnet="magnet:?xt=urn:btih:" + 40 * "a", paused=True)["torrent"]["info_hash"]
    assert "the metainfo of aaaa" in refusal(magnet, 1)


def test_a_big_file_is_refused_by_reason_not_by_a_broken_pipe(agent, make_payload, make_torrent):
    payload = make_payload("shop-1.0.tar", 100_000)
    info_hash = agent.seed(payload, make_torrent(payload))["info_hash"]
    with pytest.raises(AnswerError, match="it is complete"):
        agent.client.put_file(info_hash, 0, io.BytesIO(bytes(50_000_000)), 50_000_000)


def test_a_client_that_goes_away_halfway_leaves_nothing(agent, make_payload, make_torrent, wait_until):
    payload = make_payload("shop-1.0.tar", 3_000_000)
    info_hash = paused(agent, make_torrent(payload))
    store = agent.state_dir / "store"
    connection = UnixConnection(agent.socket)
    connection.putrequest("PUT", f"/v1/torrents/{info_hash}/files/0")
    connection.putheader("Content-Length", "3000000")
    connection.endheaders()
    connection.send(bytes(2_000_000))
    wait_until(lambda: files_below(store), what="the file is being received")
    connection.close()
    wait_until(lambda: not files_below(store), what="what was received by half is gone")
    put(agent, info_hash, 0, payload)
    assert finish(agent, info_hash)["downloaded"] == 0


def test_no_link_in_the_store_leads_an_import_out_of_it(agent, make_payload, make_torrent, tmp_path):
    payload = make_payload("site", {"sub/file": 50_000})
    info_hash = paused(agent, make_torrent(payload))
    outside = tmp_path / "outside"
    outside.mkdir()
    site = agent.state_dir / "store" / info_hash / "site"
    site.mkdir(parents=True)
    (site / "sub").symlink_to(outside)
    with pytest.raises(AnswerError) as refused:
        put(agent, info_hash, 0, payload / "sub" / "file")
    assert refused.value.status == 500
    assert files_below(outside) == set()

    (site / "sub").unlink()
    (site / "sub").mkdir()
    (outside / "target").write_bytes(b"precious")
    (site / "sub" / "file").symlink_to(outside / "target")  # the last part: replaced, not followed
    put(agent, info_hash, 0, payload / "sub" / "file")
    assert (outside / "target").read_bytes() == b"precious"
    assert (site / "sub" / "file").read_bytes() == (payload / "sub" / "file").read_bytes()


def test_an_import_stays_below_the_store_and_leftovers_go(tmp_path):
    for path in ("/etc/passwd", "../outside", "a/../../outside", ""):
        with pytest.raises(ValueError, match="is not a file below"):
            IncomingFile(tmp_path / "store", Path(path))
    cut_short = IncomingFile(tmp_path / "store", Path("a/file"))
    cut_short.write(b"half")
    assert len(files_below(tmp_path / "store")) == 1
    remove_leftovers(tmp_path / "store")  # as at the start after a kill
    assert files_below(tmp_path / "store") == set()
    cut_short.close()
    remove_leftovers(tmp_path / "never-made")
