"""Kill -9 at every step of an upgrade: the next run ends it, and `current` is always a complete release.

The steps come from the tables themselves, so a new row is tested without anybody thinking of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from release_helpers import App, wait_until
from upgrade_helpers import Result, Shop, make_shop

from shoal.release import verbs
from shoal.release.switch import TABLE as SWITCH
from shoal.upgrade import steps

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

WELL, BROKEN = "the new version is healthy", "the new version is broken"
FORWARD = [name for name in SWITCH if name not in ("keep", "not_healthy_back")]
BACK = ("switch_back", "restart_back", "health_back", "post_rollback", "record")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shop]:
    """1.0 was pulled and runs; 1.1 is published and fetched."""
    shops = {}
    for name, files in {WELL: {}, BROKEN: {"broken": ""}}.items():
        shop = shops[name] = make_shop(tmp_path_factory.mktemp("prepared"))
        shop.relay(shop.publish("1.0"))
        assert shop.run()["ok"]
        shop.relay(shop.publish("1.1", dict(files)))
    return shops


def copy_of(shop: Shop, base: Path) -> Shop:
    shutil.copytree(shop.base, base, symlinks=True, dirs_exist_ok=True)
    copied = Shop(base, App(base), shop.publisher, shop.release)
    copied.follow()
    return copied


def run_in_child(shop: Shop, observe: Callable[[str, str], None] = lambda _when, _step: None) -> int:
    """A run in a process that may be killed; its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        steps.run("shop", shop.places, lambda _: None, observe)
    finally:
        os._exit(0)


def kill_at(when: str, step: str) -> Callable[[str, str], None]:
    def observe(now: str, name: str) -> None:
        if (now, name) == (when, step):
            os.kill(os.getpid(), signal.SIGKILL)

    return observe


def assert_converged(shop: Shop, scenario: str) -> Result:
    """Run until nothing is under way: all is as if nobody had been killed."""
    assert shop.releases.current() in ("1.0", "1.1")
    result: Result = wait_until(lambda: (found := shop.run())["outcome"] != "busy" and found, "the end of the work")
    assert shop.releases.current() == ("1.1" if scenario == WELL else "1.0")
    shop.releases.assert_settled()
    again = shop.run()
    assert (again["changed"], again["reason"]) == (False, "up_to_date" if scenario == WELL else "failed_before")
    assert again["past"] == ({"sequence": 2, "failed": []} if scenario == WELL else {"sequence": 1, "failed": [2]})
    assert shop.ask("status")["upgrade"]["work"] is None
    return result


@pytest.mark.parametrize("scenario", [WELL, BROKEN])
@pytest.mark.parametrize(("when", "step"), [(when, step) for step in steps.TABLE for when in ("before", "after")])
def test_killed_at_a_step_the_next_run_converges(
    prepared: dict[str, Shop], tmp_path: Path, scenario: str, when: str, step: str
) -> None:
    shop = copy_of(prepared[scenario], tmp_path)
    status = run_in_child(shop, kill_at(when, step))
    assert os.WIFSIGNALED(status), f"nothing was killed {when} {step}"
    result = assert_converged(shop, scenario)
    if step in ("settle", "decide", "stage"):
        assert result["outcome"] == ("activated" if scenario == WELL else "rolled_back")


def switch_killed_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The run and the switch that it began die together, as in a power cut."""
    real = verbs._switch_for

    def observed(*args: Any) -> Any:
        switch = real(*args)

        def observe(when: str, step: str) -> None:
            if (when, step) == ("before", name):
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

        switch.observe = observe
        return switch

    monkeypatch.setattr(verbs, "_switch_for", observed)


CUTS = [(WELL, name) for name in FORWARD if name not in BACK] + [(BROKEN, name) for name in BACK]


@pytest.mark.parametrize(("scenario", "name"), CUTS)
def test_a_power_cut_in_the_switch_is_ended_by_the_next_run(
    prepared: dict[str, Shop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, name: str
) -> None:
    shop = copy_of(prepared[scenario], tmp_path)
    with monkeypatch.context() as cut:
        switch_killed_at(cut, name)
        status = run_in_child(shop)
    assert os.WIFSIGNALED(status), f"nothing was killed before {name}"
    result = assert_converged(shop, scenario)
    assert result["outcome"] == ("activated" if scenario == WELL else "rolled_back")


def test_a_switch_that_cannot_be_ended_is_told_until_it_can(
    prepared: dict[str, Shop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the channel is halted: a host that stands between two versions is not one that rightly waits."""
    shop = copy_of(prepared[WELL], tmp_path)
    with monkeypatch.context() as cut:
        switch_killed_at(cut, "health")
        run_in_child(shop)
    shop.follow(hold=True)
    log = shop.releases.home / "log.jsonl"
    kept = log.rename(log.with_name("kept"))
    log.symlink_to("nowhere")
    for _ in range(2):
        result = shop.run()
        assert (result["ok"], result["outcome"], result["reason"]) == (False, "refused", "stuck")
        assert "stands at 'commit'" in result["message"]
    kept.replace(log)
    result = shop.run()
    assert (result["outcome"], result["version"], shop.releases.current()) == ("activated", "1.1", "1.1")
    shop.releases.assert_settled()


def test_a_switch_goes_on_when_the_run_that_began_it_is_killed(prepared: dict[str, Shop], tmp_path: Path) -> None:
    shop = copy_of(prepared[WELL], tmp_path)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    shop.release = {**shop.release, "switch": {"health": [{"command": ["cat", str(gate)], "timeout": 60}]}}
    shop.follow()
    pid = os.fork()
    if not pid:
        try:
            steps.run("shop", shop.places, lambda _: None)
        finally:
            os._exit(0)
    unproven = shop.releases.home / "unproven.json"

    def step() -> str:
        return str(json.loads(unproven.read_text())["step"]) if unproven.exists() else ""

    wait_until(lambda: step() == "health", "the switch waits at its gate")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert shop.run()["outcome"] == "busy"
    gate.write_text("go")
    wait_until(lambda: not unproven.exists(), "the end of the switch")
    result = wait_until(lambda: (found := shop.run())["outcome"] != "busy" and found, "the end of the work")
    assert (result["outcome"], result["version"], shop.releases.current()) == ("activated", "1.1", "1.1")
