# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # The parts of the playbooks: all on the controller, none changes anything
    ATTRIBUTES = r"""
options: {}
attributes:
  action:
    description: Has an action plugin, which runs on the controller.
    support: full
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
    support: full
    details:
      - Never changes anything.
  diff_mode:
    description: Will return details on what has changed, when in diff mode.
    support: N/A
    details:
      - Never changes anything.
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: posix
"""
