"""The switch with a real HTTP server: restart, health, proof, rollback, hooks, script, lock."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest
from release_helpers import App, Result, Service, call, service, wait_until

from shoal.release import health, listeners
from shoal.release.errors import ReleaseError
from shoal.release.request import HealthCheck, SwitchSpec, VersionProof

pytestmark = pytest.mark.usefixtures("patient_checks")

LONG = 60.0  # seconds: a time limit that is not meant to be reached


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


@pytest.fixture
def shop(app: App) -> Iterator[Service]:
    with service(app) as one:
        app.request["switch"] = switch(one)
        yield one


def check(shop: Service, **more: Any) -> Result:
    return {"url": shop.url(), "interval": 0.05, "timeout": LONG, **more}


def switch(shop: Service, *checks: Result, **more: Any) -> Result:
    return {"restart": shop.restart, "health": list(checks) or [check(shop)], **more}


def answer(shop: Service) -> Result:
    with urllib.request.urlopen(shop.url(), timeout=10) as response:
        found: Result = json.load(response)
        return found


def hook(app: App, name: str, text: str) -> list[str]:
    path = app.base / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


# -- health and proof --------------------------------------------------------------------------------------------


def test_a_new_process_is_proven_and_an_ill_release_goes_back(app: App, shop: Service) -> None:
    app.stage("1.0")
    app.stage("1.1")
    app.stage("1.2", {"mode": "ill"})
    assert app.activate("1.0")["ok"]
    assert app.activate("1.1")["ok"]
    assert answer(shop)["version"] == "1.1"

    quick = switch(shop, check(shop, timeout=5))  # the old one must be up again within that, on a busy machine
    result = app.activate("1.2", switch=quick)

    assert (result["ok"], result["outcome"], result["from"], result["to"]) == (False, "rolled_back", "1.1", "1.2")
    assert "answered 500 for 5 s" in result["reason"]
    assert "1.1 is active and healthy again" in result["error"]["message"]
    assert (app.current(), answer(shop)["version"]) == ("1.1", "1.1")
    assert result["release"]["previous"] == "1.0", "a release that never was healthy is nothing to go back to"
    assert app.ask("info")["release"]["log"][0]["outcome"] == "rolled_back"
    app.assert_settled()


def test_health_answered_by_the_old_process_does_not_count(app: App, shop: Service) -> None:
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0")["ok"]
    old = answer(shop)["pid"]
    (shop.state / "stuck").touch()  # the restart command does nothing, and says nothing of it
    result = app.activate("1.1", switch=switch(shop, check(shop, timeout=0.5)))
    assert result["outcome"] == "rolled_back"
    assert f"is still answered by the old process {old}" in result["reason"]
    assert (app.current(), answer(shop)["pid"]) == ("1.0", old)


@pytest.mark.parametrize("body", ["", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "[]", "3", '{"version": {}}'])
def test_an_answer_without_a_version_is_not_healthy_and_nothing_worse(body: str) -> None:
    """What a new release answers is anybody's guess; an error that no step expects would leave it active."""
    found = health._check_version(VersionProof(json="version.of.it"), "1.0", HTTPMessage(), body)
    assert found == "answered without a version in version.of.it"


@pytest.mark.parametrize("proof", [{"json": "version"}, {"header": "X-Version"}, {"body": True}])
def test_health_answered_by_the_old_version_does_not_count(app: App, shop: Service, proof: Result) -> None:
    spec = switch(shop, check(shop, version=proof))
    app.stage("1.0")
    app.stage("1.0.1")
    assert app.activate("1.0", switch=spec)["ok"]
    (shop.state / "stuck").touch()
    result = app.activate("1.0.1", switch=switch(shop, check(shop, timeout=0.5, version=proof)))
    assert result["outcome"] == "rolled_back"
    assert "1.0" in result["reason"]
    (shop.state / "stuck").unlink()
    assert app.activate("1.0.1", switch=spec)["ok"]


def test_the_old_answer_counts_only_when_no_proof_is_asked(app: App, shop: Service) -> None:
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0")["ok"]
    (shop.state / "stuck").touch()
    assert app.activate("1.1", switch=switch(shop, proof="none"))["ok"]


def test_a_process_that_dies_in_its_soak_time_goes_back(app: App, shop: Service) -> None:
    app.stage("1.0")
    app.stage("1.1", {"mode": "dies"})
    spec = switch(shop, check(shop, soak=0.2))
    assert app.activate("1.0", switch=spec)["ok"]
    result = app.activate("1.1", switch=spec)
    assert result["outcome"] == "rolled_back"
    assert "was healthy, but" in result["reason"]
    assert answer(shop)["version"] == "1.0"


def test_a_crash_loop_between_two_polls_is_seen(app: App, shop: Service) -> None:
    """The server dies and another takes its place before the next question: both answers are good."""
    app.stage("1.0")
    # The second check replaces the server: after it was healthy first, and before its soak time begins.
    ask = f"{sys.executable} -c 'import urllib.request as r; r.urlopen(\"{shop.url()}\")' 2>/dev/null"
    replace = hook(
        app, "replace", f"cat {shop.state}/pid > {shop.state}/first; {shop.restart[0]}; until {ask}; do :; done"
    )
    checks = [check(shop, interval=0.2, soak=0.2), {"command": replace, "timeout": LONG}]

    result = app.activate("1.0", switch={"restart": shop.restart, "health": checks})

    assert result["outcome"] == "rolled_back"
    first = int((shop.state / "first").read_text())
    assert f"was healthy, but process {first}, which answered, died after " in result["reason"]
    assert answer(shop)["pid"] != first, "the question itself was answered well"
    assert not (app.root / "current").exists()
    assert "there was no release before it: current is removed again" in result["error"]["message"]


def test_tcp_and_command_checks(app: App, shop: Service) -> None:
    told = app.base / "told"
    judge = hook(app, "judge", f'echo "$SHOAL_VERSION $SHOAL_STEP" > {told}; test "$SHOAL_VERSION" = 1.0')
    spec = switch(
        shop,
        {"tcp": f"127.0.0.1:{shop.port}", "interval": 0.05, "timeout": LONG},
        {"command": judge, "interval": 0.05, "timeout": 0.3},
    )
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0", switch=spec)["ok"]
    assert told.read_text() == "1.0 health\n"
    result = app.activate("1.1", switch=spec)
    assert result["outcome"] == "rolled_back"
    assert "exited with 1" in result["reason"]


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_a_server_that_drips_or_hangs_does_not_stop_the_clock(drip: bytes) -> None:
    """A byte now and then, in its headers or its body, or nothing at all."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                peer, _ = server.accept()
                peer.sendall(drip)
                while not over.wait(0.05):
                    peer.sendall(b"x" if drip else b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            health._get(f"http://127.0.0.1:{server.getsockname()[1]}/", 0.5)
        assert time.monotonic() - begun < 5
        over.set()
        thread.join(10)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"health": [{"url": "http://192.0.2.1/"}]}, "http://192.0.2.1/ is not on this machine"),
        ({"health": [{"tcp": "192.0.2.1:80"}], "proof": "process"}, "192.0.2.1:80 is not on this machine"),
        ({"health": [{"url": "http://127.0.0.1:1/"}], "proof": "version"}, "none of them has `version`"),
    ],
)
def test_what_cannot_be_proven_is_said_before_the_switch(app: App, shop: Service, spec: Result, words: str) -> None:
    app.stage("1.0")
    for flags in ((), ("--check",)):
        result = app.activate("1.0", *flags, switch={"restart": shop.restart, **spec})
        assert result["error"]["code"] == "no_proof"
        assert words in result["error"]["message"]
        assert "proof: none" in result["error"]["hint"]
    assert app.current() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_listener_that_may_not_be_seen_is_said_before_the_switch(app: App, shop: Service) -> None:
    app.stage("1.0")
    assert app.activate("1.0")["ok"]
    spec = SwitchSpec(restart=["x"], health=[HealthCheck(url=shop.url())])
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            health.proofs(spec)
        except ReleaseError as error:
            os.write(writing, f"{error.code} {error}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    said = os.read(reading, 1000).decode()
    os.close(reading)
    os.close(writing)
    assert said.startswith(f"no_proof cannot see which process listens on 127.0.0.1:{shop.port}")
    assert "it belongs to another user" in said


def test_a_listener_elsewhere_is_said_before_the_switch(
    app: App, shop: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody answers, and no process of this network namespace listens: a container with its own."""
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0")["ok"]
    monkeypatch.setattr(listeners, "_inodes", lambda *_: set())
    result = app.activate("1.1", "--check")
    assert (result["error"]["code"], "network namespace" in result["error"]["message"]) == ("no_proof", True)


def test_who_begins_to_listen_just_then_is_not_elsewhere(
    app: App, shop: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is still starting: nobody listens at the first look, and it answers right after."""
    app.stage("1.0")
    assert app.activate("1.0")["ok"]
    look = listeners.on
    looks = iter([listeners.Listeners()])
    monkeypatch.setattr(listeners, "on", lambda host, port: next(looks, None) or look(host, port))
    assert health.proofs(SwitchSpec(restart=["x"], health=[HealthCheck(url=shop.url())])) == ["process"]
    assert next(looks, None) is None, "it was looked at"


def test_without_a_restart_nothing_new_needs_to_answer(app: App) -> None:
    """A static site: the web server goes on, and follows the link."""
    app.stage("1.0")
    assert app.activate("1.0", switch={"health": [{"url": "http://127.0.0.1:1/", "timeout": 0}]})["error"]
    assert app.activate("1.0", switch={"health": [{"command": ["true"]}]})["ok"]


# -- hooks and script --------------------------------------------------------------------------------------------


def test_hooks_run_in_their_place_with_their_environment(app: App) -> None:
    seen = app.base / "seen"
    for version in ("1.0", "1.1"):
        app.stage(version)
    report = (
        f'echo "$SHOAL_STEP $SHOAL_ACTION $SHOAL_APP $SHOAL_VERSION <$SHOAL_PREVIOUS_VERSION> '
        f'$(readlink $SHOAL_ROOT/current) $(basename $SHOAL_RELEASE_PATH) $(basename "$PWD")" >> {seen}'
    )
    hooks = {name: hook(app, name, report) for name in ("pre_activate", "post_activate", "post_rollback")}
    assert app.activate("1.0", switch={"hooks": hooks})["ok"]
    assert app.activate("1.1", switch={"hooks": hooks})["ok"]
    assert seen.read_text().splitlines() == [
        "pre_activate activate shop 1.0 <>  1.0 1.0",
        "post_activate activate shop 1.0 <> releases/1.0 1.0 1.0",
        "pre_activate activate shop 1.1 <1.0> releases/1.0 1.1 1.1",
        "post_activate activate shop 1.1 <1.0> releases/1.1 1.1 1.1",
    ]


def test_a_hook_of_the_release_itself(app: App) -> None:
    archive = app.archive("1.0", {"deploy/migrate": "#!/bin/sh\necho migrated $1\n"}, executable=("deploy/migrate",))
    from release_helpers import spec

    assert app.ask("stage", version="1.0", archive=spec(archive))["ok"]
    result = app.activate("1.0", switch={"hooks": {"pre_activate": ["deploy/migrate", "now"]}})
    assert result["output"]["pre_activate"] == "migrated now\n"
    assert {"event": "output", "step": "pre_activate", "line": "migrated now"}.items() <= next(
        event for event in result["events"] if event["event"] == "output"
    ).items()


def test_a_failing_hook_goes_back(app: App) -> None:
    seen = app.base / "seen"
    undo = hook(app, "undo", f'echo "$SHOAL_ACTION $SHOAL_VERSION $SHOAL_PREVIOUS_VERSION" >> {seen}')
    fail = hook(app, "fail", 'echo "no such table: carts" >&2; exit 3')
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0")["ok"]

    before = app.activate("1.1", switch={"hooks": {"pre_activate": fail, "post_rollback": undo}})
    assert before["outcome"] == "failed"
    assert "exited with 3: no such table: carts" in before["reason"]
    assert "nothing was switched, 1.0 is active" in before["error"]["message"]

    after = app.activate("1.1", switch={"hooks": {"post_activate": fail, "post_rollback": undo}})
    assert after["outcome"] == "rolled_back"
    assert seen.read_text() == "rollback 1.0 1.1\n" * 2
    assert app.current() == "1.0"
    app.assert_settled()


def test_a_hook_out_of_time_is_killed_with_its_grandchildren(app: App) -> None:
    pids = app.base / "pids"
    slow = hook(app, "slow", f"trap '' TERM\n(trap '' TERM; echo begun; sleep 300) &\necho $! $$ > {pids}\nsleep 300")
    app.stage("1.0")
    import shoal.release.commands as commands

    grace, commands.TERM_GRACE = commands.TERM_GRACE, 0.2  # they ignore SIGTERM; there is no need to wait for that
    try:
        result = app.activate("1.0", switch={"hooks": {"pre_activate": slow}, "hook_timeout": 0.5})
    finally:
        commands.TERM_GRACE = grace
    assert "was not done after" in result["reason"]
    assert "begun" in result["output"]["pre_activate"]
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: not alive(int(pid)), f"process {pid} is gone")


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_a_hook_that_writes_without_end_is_killed_in_time(app: App, trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.release.commands.TERM_GRACE", 0.2)
    endless = hook(app, "endless", f"{trap}exec yes again and again")
    app.stage("1.0")
    result = app.activate("1.0", switch={"hooks": {"pre_activate": endless}, "hook_timeout": 0.5})
    assert (result["outcome"], app.current()) == ("failed", None)
    assert "was not done after" in result["reason"]
    assert result["output"]["pre_activate"].endswith("again and again\n")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_hook_may_leave_a_process_behind(app: App) -> None:
    """It holds the output open for ever; nobody may wait for that."""
    pid = app.base / "pid"
    daemon = hook(app, "daemon", f"sleep 300 & echo $! > {pid}; echo started")
    app.stage("1.0")
    result = app.activate("1.0", switch={"hooks": {"post_activate": daemon}})
    assert alive(int(pid.read_text()))
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert (result["ok"], result["output"]["post_activate"]) == (True, "started\n")


def test_much_output_is_kept_bounded(app: App) -> None:
    loud = hook(app, "loud", "seq 100000; echo the end; exit 1")
    app.stage("1.0")
    result = app.activate("1.0", switch={"hooks": {"pre_activate": loud}})
    assert "the end" in result["reason"]
    assert len(result["output"]["pre_activate"]) <= 4000
    assert (app.home / "operations" / f"{result['operation']}.jsonl").stat().st_size < 200_000


def test_a_fault_of_our_own_goes_back_too(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0")["ok"]
    real = health.wait_until_healthy

    def faulty(spec: Any, expectation: health.Expectation, *rest: Any) -> None:
        if expectation.version == "1.1":
            raise RuntimeError("nobody thought of this")
        real(spec, expectation, *rest)

    monkeypatch.setattr(health, "wait_until_healthy", faulty)
    result = app.activate("1.1")
    assert (result["outcome"], app.current()) == ("rolled_back", "1.0")
    assert result["reason"] == "health: RuntimeError: nobody thought of this"
    app.assert_settled()


def test_a_script_does_the_whole_switch(app: App) -> None:
    seen = app.base / "seen"
    script = hook(
        app,
        "script",
        f'echo "$SHOAL_ACTION $SHOAL_VERSION" >> {seen}\n'
        'case "$SHOAL_ACTION $SHOAL_VERSION" in\n'
        "  'activate 2.0') exit 10;;\n"
        "  'activate 3.0') ln -sfn $SHOAL_RELEASE_PATH/ $SHOAL_ROOT/current; exit 1;;\n"
        "esac",
    )
    for version in ("1.0", "2.0", "3.0"):
        app.stage(version)
    spec = {"script": script}
    assert app.activate("1.0", switch=spec)["ok"]
    assert app.current() == "1.0"

    by_itself = app.activate("2.0", switch=spec)
    assert (by_itself["outcome"], app.current()) == ("rolled_back", "1.0")
    assert "went back by itself" in by_itself["reason"]

    failed = app.activate("3.0", switch=spec)
    assert (failed["outcome"], app.current()) == ("rolled_back", "1.0")
    assert seen.read_text().splitlines() == ["activate 1.0", "activate 2.0", "activate 3.0", "rollback 1.0"]
    app.assert_settled()


def test_a_script_and_own_steps_exclude_each_other(app: App) -> None:
    app.stage("1.0")
    result = app.activate("1.0", switch={"script": ["true"], "restart": "shop.service"})
    assert result["error"]["code"] == "bad_request"
    assert "restart is given too" in result["error"]["message"]


def test_missing_commands_are_found_before_the_switch(app: App) -> None:
    app.stage("1.0")
    plain = app.base / "plain"
    plain.write_text("#!/bin/sh\n")
    for command, words in (
        (["/no/such/hook"], "is not an executable file"),
        ([str(plain)], "chmod +x"),
        (["no-such-command"], "not on PATH"),
        (["bin/not-in-the-release"], "is not an executable file"),
    ):
        for name in ("pre_activate", "post_activate", "post_rollback"):
            result = app.activate("1.0", switch={"hooks": {name: command}})
            assert words in result["error"]["message"] + result["error"]["hint"]
    assert app.current() is None
    app.assert_settled()


@pytest.mark.skipif(os.geteuid() != 0, reason="the rule is for root")
def test_root_runs_only_what_root_owns(app: App) -> None:
    app.stage("1.0")
    path = hook(app, "hook", "true")
    for prepare, words in (
        (lambda: Path(path[0]).chmod(0o775), "mode 0775"),
        (lambda: Path(path[0]).chmod(0o757), "mode 0757"),
        (lambda: (Path(path[0]).chmod(0o755), os.chown(path[0], 65534, -1)), "belongs to user 65534"),
        (lambda: (os.chown(path[0], 0, -1), app.base.chmod(0o777)), "others could change what runs"),
    ):
        prepare()
        result = app.activate("1.0", switch={"hooks": {"pre_activate": path}})
        assert result["error"]["code"] == "not_trusted"
        assert words in result["error"]["message"]
    app.base.chmod(0o755)
    assert app.activate("1.0", switch={"hooks": {"pre_activate": path}})["ok"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_hooks_run_as_the_user_that_is_told(app: App) -> None:
    app.stage("1.0")
    told = {"hooks": {"pre_activate": ["sh", "-c", 'echo "$(id -un) $(id -Gn) $HOME"']}, "run_as": "nobody"}
    assert app.activate("1.0", switch=told)["output"]["pre_activate"] == "nobody nogroup /nonexistent\n"


def test_an_unknown_run_as_is_seen_before_the_switch(app: App) -> None:
    app.stage("1.0")
    result = app.activate("1.0", switch={"hooks": {"pre_activate": ["true"]}, "run_as": "no-such-user"})
    assert "there is no user 'no-such-user'" in result["error"]["message"]
    assert app.current() is None


# -- systemd -----------------------------------------------------------------------------------------------------

SYSTEMCTL = r"""#!/bin/sh
# Enough of systemctl: a unit with an invocation that changes at each restart, unless it is told to be lazy.
state="$(dirname "$0")"
echo "$@" >> "$state/calls"
case "$1" in
show) echo "LoadState=$(cat $state/load 2>/dev/null || echo loaded)"
      echo "ActiveState=$(cat $state/active 2>/dev/null || echo active)"
      echo "MainPID=$(cat $state/main 2>/dev/null || echo 7)"
      echo "InvocationID=$(cat $state/invocation 2>/dev/null || echo first)";;
restart) [ -f "$state/lazy" ] && exit 0; [ -f "$state/broken" ] && { echo "Job for $3 failed." >&2; exit 1; }
      date +%s%N > "$state/invocation"; echo $$ > "$state/main";;
esac
"""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "systemd"
    folder.mkdir()
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_unit_is_restarted_and_seen_to_be(app: App, systemd: Path) -> None:
    app.stage("1.0")
    app.stage("1.1")
    spec = {"restart": "shop.service"}
    assert app.activate("1.0", switch=spec)["ok"]
    assert "restart -- shop.service" in (systemd / "calls").read_text()

    (systemd / "lazy").touch()
    lazy = app.activate("1.1", switch=spec)
    assert not lazy["ok"]
    assert "shop.service was not restarted: its InvocationID is still" in lazy["reason"]
    assert "NOT healthy" in lazy["error"]["message"], "going back could not restart it either"
    (systemd / "lazy").unlink()

    (systemd / "broken").touch()
    assert "Job for shop.service failed." in app.activate("1.1", switch=spec)["reason"]
    assert app.current() == "1.0"


def test_an_unknown_unit_is_seen_before_the_switch(app: App, systemd: Path) -> None:
    app.stage("1.0")
    (systemd / "load").write_text("not-found")
    result = app.activate("1.0", switch={"restart": "shpo.service"})
    assert "systemd has no unit 'shpo.service'" in result["error"]["message"]
    assert app.current() is None


def test_the_first_release_is_stopped_when_it_fails(app: App, systemd: Path) -> None:
    app.stage("1.0")
    spec = {"restart": "shop.service", "health": [{"command": ["false"], "timeout": 0}]}
    result = app.activate("1.0", switch=spec)
    assert (result["outcome"], result["from"], result["release"]["current"]) == ("rolled_back", None, None)
    assert (systemd / "calls").read_text().splitlines()[-1] == "stop -- shop.service"
    assert not (app.root / "current").is_symlink()


# -- no way back -------------------------------------------------------------------------------------------------


def test_no_way_back_past_an_irreversible_release(app: App) -> None:
    ill = {"health": [{"command": hook(app, "ill", '[ "$SHOAL_ACTION" = rollback ]'), "timeout": 0}]}
    app.stage("1.0")
    app.stage("1.1")
    assert app.activate("1.0")["ok"]
    app.stage("2.0", irreversible=True)
    app.stage("2.1")

    result = app.activate("2.0", switch=ill)
    assert (result["ok"], result["outcome"], app.current()) == (False, "failed", "2.0")
    assert "it is irreversible, so 2.0 stays active, NOT healthy" in result["error"]["message"]
    assert result["release"]["no_way_back_before"] == "2.0"

    for request in ({"version": "1.0"}, {"version": "1.1"}, {"previous": True}):
        for flags in ((), ("--check",)):
            refused = app.ask("activate", *flags, **request)
            assert refused["error"]["code"] == "no_way_back", request
    assert app.ask("remove", version="1.1")["changed"]
    app.stage("1.1")
    assert app.activate("1.1")["error"]["code"] == "no_way_back", "staging it anew does not make it newer"

    # Within what lies after it, everything goes on as ever.
    assert app.activate("2.1", switch=ill)["outcome"] == "rolled_back"
    assert app.current() == "2.0"
    assert app.activate("2.1")["ok"]
    app.assert_settled()


def test_an_irreversible_release_that_was_not_switched_to_is_none(app: App) -> None:
    app.stage("1.0")
    assert app.activate("1.0")["ok"]
    app.stage("2.0", irreversible=True)
    assert app.activate("2.0", switch={"hooks": {"pre_activate": ["false"]}})["outcome"] == "failed"
    assert app.current() == "1.0"
    assert app.ask("info")["release"]["no_way_back_before"] is None


# -- adoption ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["releases/20240101", "elsewhere/app", "absolute"])
def test_an_existing_current_is_adopted(app: App, where: str) -> None:
    old = app.base / "outside" / "app" if where == "absolute" else app.root / where
    old.mkdir(parents=True)
    (old / "VERSION").write_text("old")
    target = str(old) if where == "absolute" else where
    (app.root).mkdir(exist_ok=True)
    (app.root / "current").symlink_to(target)
    app.stage("1.0")

    only_old = hook(app, "only-old", 'grep -q old "$SHOAL_RELEASE_PATH/VERSION"')
    ill = app.activate("1.0", switch={"health": [{"command": only_old, "timeout": 0}]})
    assert (ill["outcome"], ill["from"], app.current()) == ("rolled_back", old.name, "old")
    assert str((app.root / "current").readlink()) == target

    assert app.activate("1.0", keep_releases=1)["from"] == old.name
    assert app.ask("activate", previous=True)["to"] == old.name
    assert (app.current(), str((app.root / "current").readlink())) == ("old", target)
    assert old.is_dir()


def test_a_current_that_is_a_folder_is_refused_with_what_to_do(app: App) -> None:
    (app.root / "current").mkdir(parents=True)
    (app.root / "current" / "VERSION").write_text("old")
    app.stage("1.0")
    result = app.activate("1.0")
    assert result["error"]["code"] == "current_not_a_link"
    assert "ln -s releases/NAME" in result["error"]["hint"]
    assert app.current() == "old"


# -- shared ------------------------------------------------------------------------------------------------------


def test_shared_folders_are_linked_into_every_release(app: App) -> None:
    shared = ["uploads", "var/log/shop"]
    app.stage("1.0", {"uploads/.gitkeep": ""})
    app.stage("1.1")
    assert app.activate("1.0", shared=shared)["ok"]
    (app.root / "current" / "uploads" / "photo").write_text("kept")
    (app.root / "current" / "var" / "log" / "shop" / "log").write_text("kept")
    assert app.activate("1.1", shared=shared)["ok"]
    for path in ("uploads/photo", "var/log/shop/log"):
        assert (app.root / "current" / path).read_text() == "kept"
        assert (app.root / "shared" / path).read_text() == "kept"
    assert str((app.root / "current" / "var/log/shop").readlink()) == "../../../../shared/var/log/shop"


@pytest.mark.parametrize(("name", "words"), [("uploads", "has contents in the release"), ("a/b", "is not a directory")])
def test_what_the_release_brings_is_not_replaced_by_a_shared_folder(app: App, name: str, words: str) -> None:
    app.stage("1.0", {"uploads/photo": "from the archive"})
    result = app.activate("1.0", shared=[name])
    assert words in result["error"]["message"]
    assert app.current() is None


# -- who works at it ---------------------------------------------------------------------------------------------


def start(verb: str, request: Result) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal", "release", verb, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    process.stdin = None
    return process


def gate(app: App) -> tuple[list[str], Path]:
    """A hook that waits for a file, and that file."""
    path = app.base / "open"
    return hook(app, "gate", f"while [ ! -e {path} ]; do sleep 0.02; done"), path


def test_a_killed_follower_leaves_the_switch_to_its_end(app: App) -> None:
    wait, opened = gate(app)
    app.stage("1.0")
    request = app.asked(version="1.0", switch={"hooks": {"pre_activate": wait}})
    for number in (signal.SIGKILL, signal.SIGHUP, signal.SIGINT):
        follower = start("activate", request)
        wait_until(
            lambda: (app.ask("info")["release"]["unproven"] or {}).get("step") == "pre_activate", "the hook runs"
        )
        assert follower.stdout
        assert follower.stdout.readline()  # while Python starts it may lose a Ctrl-C
        follower.send_signal(number)
        assert follower.wait(60) != 0
        follower.communicate()
    # Three followers asked for the same: one switch, which the fourth follows to its end.
    running = app.ask("info")["release"]["running_operation"]["operation"]
    last = start("activate", {**request, "who": "somebody else"})
    assert last.stdout
    assert json.loads(last.stdout.readline())["event"] == "follow"
    other = app.activate("1.0", switch={"hooks": {"post_activate": ["true"]}}, who="carol")
    assert other["error"]["code"] == "locked"
    assert "activate 1.0" in other["error"]["message"]
    opened.touch()
    result = json.loads(last.communicate(timeout=120)[0].splitlines()[-1])
    assert (result["outcome"], result["operation"], last.returncode) == ("activated", running, 0)
    assert [entry["outcome"] for entry in app.ask("info")["release"]["log"]] == ["activated"]
    app.assert_settled()


def test_a_lock_can_be_waited_for(app: App) -> None:
    wait, opened = gate(app)
    app.stage("1.0")
    app.stage("1.1")
    first = start("activate", app.asked(version="1.0", switch={"hooks": {"pre_activate": wait}}))
    wait_until(lambda: app.ask("info")["release"]["running_operation"], "the lock is held")
    assert app.activate("1.1")["error"]["code"] == "locked"
    assert app.ask("remove", version="1.1")["error"]["code"] == "locked"
    second = start("activate", app.asked(version="1.1", lock_timeout=120))
    # Staging is no switch: it goes on beside one.
    assert app.stage("1.2")["changed"]
    opened.touch()
    assert first.wait(120) == 0
    assert json.loads(second.communicate(timeout=120)[0].splitlines()[-1])["outcome"] == "activated"
    first.communicate()
    assert app.current() == "1.1"


def test_inspect_and_info_need_no_lock(app: App) -> None:
    wait, opened = gate(app)
    app.stage("1.0")
    first = start("activate", app.asked(version="1.0", switch={"hooks": {"pre_activate": wait}}))
    wait_until(lambda: app.ask("info")["release"]["unproven"], "the switch has begun")
    assert call("inspect", {"archive": {"path": str(app.archive("1.0"))}})["ok"]
    opened.touch()
    first.communicate(timeout=120)
