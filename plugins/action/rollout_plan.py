# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import functools
import hashlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar
from ansible.utils.hashing import secure_hash

from ..module_utils._shoal_cli import caller
from ..plugin_utils._plan import InvalidVariablesError, Inventory, make_plan


class ActionModule(ActionBase):
    """Checks every variable of every host of a run and says what is to be done. Connects to nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result = super().run(tmp, variables)
        _spec, arguments = self.validate_argument_spec(
            argument_spec={
                "playbook": {
                    "type": "str",
                    "required": True,
                    "choices": ["install", "uninstall", "publish", "rollout", "rollback", "status"],
                }
            }
        )
        try:
            plan = make_plan(arguments["playbook"], self._inventory(variables))
        except InvalidVariablesError as error:
            raise AnsibleActionFail(f"nothing was changed, because of these variables:\n{error}") from None
        archive = plan.get("archive")
        if archive and archive["at"] == "controller":
            archive["checksum"] = self._checksum(archive["path"], archive["checksum"])
        plan["who"] = f"{caller()}@{socket.gethostname()}"
        result.update(changed=False, **plan)
        return result

    @staticmethod
    def _checksum(path: str, given: str | None) -> str:
        """So that the publisher can say whether it has these bytes before they are sent there."""
        found = f"sha256:{secure_hash(path, hashlib.sha256)}"
        if given and given != found:
            raise AnsibleActionFail(
                f"nothing was changed, because shoal_archive_checksum is {given}, but {path} has {found}"
            )
        return found

    def _inventory(self, variables: dict[str, Any]) -> Inventory:
        names_of = lookup_loader.get("ansible.builtin.inventory_hostnames", loader=self._loader, templar=self._templar)

        @functools.cache  # Ansible puts a host's variables together anew at each call
        def of_host(host: str) -> Mapping[str, Any]:
            raw = variables["hostvars"].raw_get(host)
            return _Variables(raw, self._templar.copy_with_new_env(available_variables=raw), f" of {host}")

        return Inventory(
            run=_Variables(variables, self._templar, ""),
            variables=of_host,
            every_host=variables["groups"]["all"],
            selected=variables["ansible_play_hosts_all"],
            matching=lambda pattern: names_of.run([pattern] if isinstance(pattern, str) else pattern, variables),
            # where ansible-playbook was started: only the processes it starts run in the playbook's folder
            working_directory=Path.cwd(),
        )


class _Variables(Mapping[str, Any]):
    """Variables, templated as they are asked for; a template that fails is named by its path.

    Of ``shoal_apps`` each setting is templated by itself: those of an app may be of variables that only its own hosts
    have.
    """

    def __init__(self, raw: Mapping[str, Any], templar: Templar, owner: str, path: tuple[str, ...] = ()) -> None:
        self._raw = raw
        self._templar = templar
        self._owner = owner
        self._path = path

    def __getitem__(self, name: str) -> Any:
        raw = self._raw[name]
        path = (*self._path, name)
        if path[0] == "shoal_apps" and len(path) <= 2 and isinstance(raw, Mapping):
            return _Variables(raw, self._templar, self._owner, path)
        try:
            return self._templar.template(raw)
        except AnsibleError as error:
            culprit, cause = self._culprit(".".join(path), raw, error)
            raise AnsibleActionFail(
                f"nothing was changed, because {culprit}{self._owner} has no value: {cause}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def _culprit(self, path: str, raw: object, error: AnsibleError) -> tuple[str, AnsibleError]:
        """The innermost value whose template fails."""
        for key, value in raw.items() if isinstance(raw, Mapping) else ():
            if inner := self._error_of(value):
                return self._culprit(f"{path}.{key}", value, inner)
        return path, error

    def _error_of(self, raw: object) -> AnsibleError | None:
        try:
            self._templar.template(raw)
        except AnsibleError as error:
            return error
        return None
