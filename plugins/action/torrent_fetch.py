# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of torrent_fetch: hands the torrent to the host, and shows how far the hosts are together."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os

from ansible import constants as C  # noqa: N812 - as all of Ansible calls it
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

PAUSE = 5  # s between a host's reports: each is a run of the module there, and what is done by then is not worth a word


class ActionModule(ActionBase):
    """Transfers the .torrent, then runs the module again and again, each run to the next tenth."""

    TRANSFERS_FILES = True
    _supports_async = True
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Run the module; its result."""
        task_vars = task_vars or {}
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            self._hand_over_torrent(arguments)
            waits = boolean(arguments.get("wait", True), strict=False)
            if self._task.async_val or self._task.check_mode or not waits:
                return self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=self._task.async_val)
            return self._follow(arguments, task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _hand_over_torrent(self, arguments):
        """Have a path on the controller be one on the host."""
        torrent = arguments.get("torrent")
        if (
            not isinstance(torrent, str)
            or torrent.lower().startswith(("magnet:", "http://", "https://"))
            or boolean(arguments.get("remote_src", False), strict=False)
        ):
            return
        try:
            path = self._loader.get_real_file(self._find_needle("files", os.path.expanduser(torrent)))
        except AnsibleError as error:
            raise AnsibleActionFail(
                f"cannot fetch by the torrent {torrent}: the controller has no such file. "
                f"If it is on the host, set remote_src: true. ({error})"
            ) from None
        if self._connection._shell.tmpdir is None:
            self._make_tmp_path()
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "source.torrent")
        self._transfer_file(path, remote)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        arguments.update(torrent=remote, remote_src=True)

    def _follow(self, arguments, task_vars):
        fleet = Fleet(
            folder=C.DEFAULT_LOCAL_TMP,
            key=[self._task._uuid, self._task.args.get("torrent"), task_vars.get("ansible_play_batch")],
            size=len(task_vars.get("ansible_play_batch") or [1]),
            show=functools.partial(Display().display, stderr=True, screen_only=True),
        )
        host = task_vars.get("inventory_hostname", "")
        following = {"until": 0.1}
        while True:
            following["at_least"] = PAUSE
            result = self._execute_module(module_args=dict(arguments, _following=following), task_vars=task_vars)
            following = result.pop("_following", None)
            if following or result.get("complete"):
                name = result["torrent"]["name"] or "torrent"
                fleet.tell(host, name, following["progress"] if following else 1.0, under_way=bool(following))
            if not following:
                return result


class Fleet:
    """How far the hosts of a task are together, in a file that all worker processes share.

    It is in the folder that Ansible makes for one run and removes at its end. Whoever brings the whole over another
    tenth shows the line that says so: ten lines at most, however many hosts there are.
    """

    def __init__(self, folder, key, size, show):
        name = hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:32]
        self.path = os.path.join(folder, f"shoal-progress-{name}")
        self.size = size
        self.show = show

    def tell(self, host, name, progress, under_way):
        """Note how far a host is, 0 to 1, and show a line if it is time for one.

        As long as no host was met `under_way`, all were done before there was anything to watch: nothing is shown.
        """
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            known = json.loads(file.read() or '{"tenth": 0, "watched": false, "hosts": {}}')
            known["watched"] = known["watched"] or under_way
            known["hosts"][host] = progress
            shares = known["hosts"].values()
            # A host that has not told anything yet has nothing. Rounded, since a sum of tenths is not quite a tenth.
            size = max(self.size, len(shares))
            tenth = int(round(10 * sum(shares) / size, 6))
            if known["watched"] and tenth > known["tenth"]:
                known["tenth"] = tenth
                hosts = "1 host" if size == 1 else f"{size} hosts"
                complete = sum(share >= 1 for share in shares)
                # Under the lock: a worker that decided later must not be heard earlier
                self.show(f"{name}: {10 * tenth} % of {hosts}, {complete} of {size} complete")
            file.seek(0)
            file.truncate()
            json.dump(known, file)
