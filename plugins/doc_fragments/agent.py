# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # What every module that talks to the agent has
    DOCUMENTATION = r"""
options:
  socket:
    description:
      - The unix socket of the host's agent.
    type: path
    default: /run/shoal/agent.sock
requirements:
  - a running shoal agent on the host
"""

    # What both fetching and seeding tell the agent of a torrent
    TORRENT = r"""
options:
  trackers:
    description:
      - Announce URLs beside those in the torrent. Each item is a tier, a URL or a list of URLs.
    type: list
    elements: raw
    default: []
  upload_limit:
    description:
      - Bytes per second that the agent sends of this torrent at most. V(0) is no limit.
    type: int
  download_limit:
    description:
      - Bytes per second that the agent receives of this torrent at most. V(0) is no limit.
    type: int
  timeout:
    description:
      - Seconds to wait at most.
    type: int
    default: 3600
"""

    ACTIONGROUP = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/shoal.deploy.shoal) in C(module_defaults) to set defaults for all modules of the group.
    support: full
    membership:
      - shoal.deploy.shoal
"""

    # The transport of a module is a socket of the host, so it runs where the host runs
    ATTRIBUTES = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
  diff_mode:
    description: Returns details on what has changed, or would change in C(check_mode), when in diff mode.
  async:
    description: Supports being used with the C(async) keyword.
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: linux
"""

    # For modules that only look
    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
    support: full
    details:
      - This module never changes anything.
  diff_mode:
    description: Returns details on what has changed, or would change in C(check_mode), when in diff mode.
    support: N/A
    details:
      - This module never changes anything.
  async:
    description: Supports being used with the C(async) keyword.
    support: full
  platform:
    description: Target OS or families that can be operated against.
    support: full
    platforms: linux
"""
