#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: text_files
short_description: Write several small text files in one run
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Writes files as M(ansible.builtin.copy) does with C(content), all of them in one run of a module. A loop takes two
    to five runs a file, each of which costs a host about half a second of processor time.
  - All contents are written beside their files first and put in place, each at once, when that has worked for all.
    When it has not, no file was changed.
options:
  files:
    description:
      - The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description:
          - Where it is. Its folder has to be there.
        type: path
        required: true
      content:
        description:
          - All that is in it. Not for secrets, since differences are shown.
        type: str
        required: true
      mode:
        description:
          - Its permissions, in octal or symbolic.
        type: raw
        default: "0644"
  owner:
    description:
      - Whose the files are. Without it that is left as it is.
    type: str
  group:
    description:
      - Of which group the files are. Without it that is left as it is.
    type: str
attributes:
  check_mode:
    description: Can run in check mode and tell what would change, without changing it.
    support: full
  diff_mode:
    description: Tells what differs, with C(--diff).
    support: full
seealso:
  - module: ansible.builtin.copy
"""

EXAMPLES = r"""
- name: Write a service and what it runs
  shoal.deploy.text_files:
    owner: root
    group: root
    files:
      - path: /etc/systemd/system/greeter.service
        content: |
          [Service]
          ExecStart=/usr/local/bin/greet
      - path: /usr/local/bin/greet
        content: |
          #!/bin/sh
          echo hello
        mode: "0755"
"""

RETURN = r"""
written:
  description: Paths of the files whose content changed, or would in check mode.
  type: list
  elements: str
  returned: success
"""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule


def read(module, path):
    """The file's text, None if there is none."""
    if os.path.isdir(path):
        module.fail_json(msg=f"{path}: found a folder; expected a file, or nothing. Nothing was changed")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        module.fail_json(msg=f"{path}: cannot be read: {error.strerror}. Nothing was changed")


def write(module, files):
    """Put all contents in place, after all of them were written to new files in the same folders."""
    beside = []
    try:
        for file in files:
            handle, path = tempfile.mkstemp(prefix=".ansible_tmp", dir=os.path.dirname(file["path"]))
            beside.append(path)
            with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as new:
                new.write(file["content"])
        for number, file in enumerate(files):
            module.atomic_move(beside[number], file["path"])
    except OSError as error:
        module.fail_json(msg=f"{file['path']}: cannot be written: {error.strerror}. Nothing was changed")
    finally:
        for path in beside:
            if os.path.exists(path):
                os.unlink(path)


def main():
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "raw", "default": "0644"},
                },
            },
            "owner": {"type": "str"},
            "group": {"type": "str"},
        },
        supports_check_mode=True,
    )
    files = module.params["files"]
    before = {file["path"]: read(module, file["path"]) for file in files}
    written = [file for file in files if before[file["path"]] != file["content"]]
    if not module.check_mode:
        write(module, written)
    changed = bool(written)
    diffs = []
    for file in files:
        path = file["path"]
        if file in written:
            headers = {"before_header": path, "after_header": path}
            diffs.append(dict(headers, before=before[path] or "", after=file["content"]))
        if os.path.exists(path):
            wanted = {"mode": file["mode"], "owner": module.params["owner"], "group": module.params["group"]}
            attributes = module.load_file_common_arguments(wanted, path)
            of_attributes = {}
            if module.set_fs_attributes_if_different(attributes, False, of_attributes):
                changed = True
                diffs.append(of_attributes)
    module.exit_json(changed=changed, written=[file["path"] for file in written], diff=diffs)


if __name__ == "__main__":
    main()
