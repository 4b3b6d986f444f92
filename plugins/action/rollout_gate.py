# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from ansible import constants as C  # noqa: N812
from ansible.plugins.action import ActionBase

from ..plugin_utils import _story as story
from ..plugin_utils import _verdict as verdict
from ..plugin_utils._plan import batch_sizes


class ActionModule(ActionBase):
    """Looks at what every host of the rollout recorded, tells it, and says how to go on. Connects to nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        after: dict[str, Callable[[], dict[str, Any]]] = {
            "publish": self._after_publish,
            "prefetch": self._after_prefetch,
            "aim": self._after_aim,
            "batch": self._after_batch,
            "switch": self._after_switch,
            "everything": self._after_everything,
            "look": self._after_look,
        }
        _spec, arguments = self.validate_argument_spec(
            argument_spec={"after": {"type": "str", "required": True, "choices": list(after)}}
        )
        self._vars: dict[str, Any] = task_vars or {}
        self._plan: dict[str, Any] = self._vars["shoal_plan"]
        self._hosts: list[str] = self._plan["hosts"]
        result.update(changed=False, **after[arguments["after"]]())
        return result

    # --- the phases ---

    def _after_publish(self) -> dict[str, Any]:
        published = self._vars["shoal_published"]
        self._tell("published", verdict.tell_publication(published, self._vars["shoal_release"]), good=True)
        channeled = self._vars["shoal_channeled"]
        if "endpoint" in channeled:
            self._tell("channel", verdict.tell_channel(self._plan["channel"], channeled), good=True)
        return {}

    def _after_prefetch(self) -> dict[str, Any]:
        found = self._prefetches()
        ready = [host for host, one in found.items() if one.problem is None]
        missing = {host: one.problem for host, one in found.items() if one.problem is not None}
        go = verdict.has_quorum(len(ready), len(found), self._plan["quorum"])
        size = self._vars["shoal_release"]["manifest"]["archive"]["size"]
        self._tell("prefetch", verdict.tell_prefetch(found, size, check=self._task.check_mode), good=not missing)
        self._tell_missing("prefetch", missing, go)
        return self._aim(dict.fromkeys(ready, self._plan["version"]) if go else {}, missing)

    def _after_aim(self) -> dict[str, Any]:
        found = {host: verdict.aim_of(self._of(host), self._plan["version"]) for host in self._hosts}
        missing = {host: problem for host, (_version, problem) in found.items() if problem is not None}
        go = verdict.has_quorum(len(found) - len(missing), len(found), self._plan["quorum"])
        self._tell_missing("rollback", missing, go)
        return self._aim({host: version for host, (version, _problem) in found.items() if version and go}, missing)

    def _aim(self, targets: dict[str, str], missing: dict[str, Any]) -> dict[str, Any]:
        return {
            "targets": targets,
            "hosts": list(targets),
            "batches": batch_sizes(self._plan["ramp"], len(targets)),
            "missing": missing,
        }

    def _after_batch(self) -> dict[str, Any]:
        aim = self._vars["shoal_aim"]
        waiting = list(aim["hosts"])
        batch: list[str] = []
        for batch in self._batches(aim):
            waiting = waiting[len(batch) :]
            if self._vars["inventory_hostname"] in batch:
                break
        found = {host: verdict.switch_of(self._of(host), aim["targets"][host]) for host in batch}
        go = all(one.arrived for one in found.values())
        phase, text = verdict.tell_batch(found, self._hosts)
        if not go and waiting:
            text += "; " + verdict.tell_waiting(waiting, {host: self._current(host) for host in waiting}, self._hosts)
        versions = ", ".join(dict.fromkeys(aim["targets"][host] for host in batch))
        self._tell(phase, text, good=go, version=versions)
        return {"go": go, "last": not waiting}

    def _after_switch(self) -> dict[str, Any]:
        aim = self._vars["shoal_aim"]
        found: dict[str, verdict.Switch] = {}
        back: dict[str, str] = {}
        for batch in self._batches(aim):
            found.update({host: verdict.switch_of(self._of(host), aim["targets"][host]) for host in batch})
            if not self._of(batch[0])["shoal_gate"]["go"]:
                # what later hosts have registered, if anything, is of an earlier rollout of the same ansible-playbook
                back = verdict.to_take_back(found, batch, self._plan["on_failure"])
                break
        return {
            "switch": {host: verdict.facts(one) for host, one in found.items()},
            "targets": back,
            "hosts": list(back),
            "batches": batch_sizes(self._plan["ramp"], len(back)),
        }

    @staticmethod
    def _batches(aim: dict[str, Any]) -> Iterator[list[str]]:
        """The hosts of each batch, as ``serial`` makes them of the sizes."""
        hosts = iter(aim["hosts"])
        for count in aim["batches"]:
            yield list(itertools.islice(hosts, count))

    def _after_everything(self) -> dict[str, Any]:
        """The report: a table for people, the same as data for ``set_stats``, and whether the fleet is all there."""
        aim = self._vars["shoal_aim"]
        settled = self._vars["shoal_settled"]
        prefetches = self._prefetches() if self._plan["action"] == "rollout" else {}
        switches = {host: verdict.Switch(**found) for host, found in settled["switch"].items()}
        for host, version in settled["targets"].items():
            switches[host] = verdict.taken_back(switches[host], verdict.switch_of(self._of(host), version))
        for host in self._hosts:
            switches.setdefault(host, self._without_a_turn(host, aim["missing"].get(host)))
        complete = all(one.arrived for one in switches.values())
        rows = [verdict.report_row(host, prefetches.get(host), one) for host, one in switches.items()]
        self._table(verdict.HEAD, sorted(rows, key=lambda row: self._hosts.index(row[0])))
        data = {
            "app": self._plan["app"],
            "version": self._plan["version"],
            "complete": complete,
            "check_mode": bool(self._task.check_mode),
            "hosts": {
                host: {
                    **verdict.facts(switches[host]),
                    **({"prefetch": verdict.facts(prefetches[host])} if host in prefetches else {}),
                }
                for host in self._hosts
            },
        }
        failed = {host: one.problem for host, one in switches.items() if not one.arrived}
        message = "; ".join(f"{host}: {problem}" for host, problem in failed.items())
        return {"complete": complete, "data": data, "message": message}

    def _after_look(self) -> dict[str, Any]:
        rows = []
        for host in self._hosts:
            look = verdict.latest(self._of(host), "shoal_look")
            rows.append((host, *verdict.status_row(look)))
        self._table(verdict.STATUS_HEAD, rows)
        failed = [host for host in self._hosts if verdict.problem_of(verdict.latest(self._of(host), "shoal_look"))]
        return {"complete": not failed, "message": f"cannot tell what {story.names(failed, self._hosts)} runs"}

    # --- what hosts recorded ---

    def _of(self, host: str) -> verdict.Variables:
        return self._vars["hostvars"].raw_get(host)

    def _current(self, host: str) -> str | None:
        return (verdict.latest(self._of(host), "shoal_look").get("release") or {}).get("current")

    def _prefetches(self) -> dict[str, verdict.Prefetch]:
        publisher = self._vars["shoal_release"]["publisher"]
        return {host: verdict.prefetch_of(self._of(host), [publisher]) for host in self._hosts}

    def _without_a_turn(self, host: str, problem: str | None) -> verdict.Switch:
        current = self._current(host)
        return verdict.Switch("waiting", current, current, problem or "its turn never came")

    # --- telling ---

    def _tell(self, phase: str, text: str, *, good: bool, version: str | None = None) -> None:
        version = version or self._plan["version"] or self._plan["app"]
        color = C.COLOR_OK if good else C.COLOR_ERROR
        self._display.display(story.line(version, phase, text), color=color, stderr=True)

    def _tell_missing(self, phase: str, missing: dict[str, Any], go: bool) -> None:
        for host, problem in list(missing.items())[:10]:
            self._tell(phase, f"{host} ✗ {problem}", good=False)
        if not go:
            ready = f"{len(self._hosts) - len(missing)} of {len(self._hosts)} hosts are ready"
            needed = f"{self._plan['quorum']} % are needed: nothing is switched"
            way_out = f"Leave the others out with --limit, or lower shoal_apps.{self._plan['app']}.quorum"
            self._tell(phase, f"{ready}, {needed}. {way_out}", good=False)

    def _table(self, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        for text in story.table(head, rows):
            self._display.display(text, stderr=True)
