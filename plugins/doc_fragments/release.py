# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # What every module that runs the shoal command has
    DOCUMENTATION = r"""
options:
  executable:
    description:
      - The C(shoal) command on the host.
      - By default C(/opt/shoal/current/bin/shoal), where the role P(shoal.deploy.torrent_agent#role) puts it, and
        else the one on E(PATH).
    type: path
requirements:
  - the C(shoal) command on the host
"""
