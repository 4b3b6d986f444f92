#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: torrent_create
short_description: Make a torrent of a file or directory
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Makes a C(.torrent) file (BitTorrent v1) of a file or a directory on the host.
  - The same content and options give the same file, byte for byte, so that a second run changes nothing.
  - The payload is read through once at every run, since only its bytes tell whether they are the same.
extends_documentation_fragment:
  - ansible.builtin.files
  - shoal.deploy.agent.attributes
options:
  path:
    description:
      - The file or directory to make a torrent of.
      - Symbolic links and special files in a directory are refused, since a torrent cannot carry them. Empty
        directories are left out.
    type: path
    required: true
  dest:
    description:
      - Where the torrent is written. In an existing directory it is called after the payload, with C(.torrent) added.
    type: path
    required: true
  trackers:
    description:
      - Announce URLs, C(http), C(https) or C(udp).
      - Each item is one tier. A list of URLs is a tier of several trackers, of which clients pick one by chance; a URL
        alone is a tier of its own. Later tiers are for when earlier ones do not answer (BEP 12).
    type: list
    elements: raw
    default: []
  web_seeds:
    description:
      - URLs of web servers that hold the payload (BEP 19).
    type: list
    elements: str
    default: []
  private:
    description:
      - Whether clients are to find peers from the trackers only (BEP 27).
    type: bool
    default: false
  piece_length:
    description:
      - Bytes in a piece, a power of two from 16384 to 67108864.
      - By default it is chosen by the payload's size for 2,500 to 5,000 pieces, within 16 KiB and 1 MiB. It is larger
        only where the torrent would have more than 4 MB otherwise.
    type: int
  name:
    description:
      - What the payload is called in the torrent, and so on the hosts that fetch it.
      - By default the name of O(path).
    type: str
  include:
    description:
      - Shell patterns. If given, only files of the directory that one of them matches become part of the torrent.
      - A pattern is matched with the file's name and with its path below O(path), in which C(*) matches C(/) too.
    type: list
    elements: str
    default: []
  exclude:
    description:
      - Shell patterns of files and directories to leave out. They win over O(include).
    type: list
    elements: str
    default: []
  comment:
    description:
      - A comment for people.
    type: str
  source:
    description:
      - A word that becomes part of the info hash, so that the same payload can be in two swarms.
    type: str
  creation_date:
    description:
      - Whether the time of creation is written into the torrent. It stays as it is while nothing else changes.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  async:
    support: full
requirements:
  - torf >= 4.2 (Python package). Where the interpreter of the module lacks it, those of the agent's virtual environment
    (C(/opt/shoal/current)) and of the system are tried.
seealso:
  - module: shoal.deploy.torrent_info
  - module: shoal.deploy.torrent_seed
  - module: shoal.deploy.release_publish
"""

EXAMPLES = r"""
- name: Make a torrent of an archive
  shoal.deploy.torrent_create:
    path: /srv/build/shop-1.4.2.tar.zst
    dest: /srv/torrents/shop-1.4.2.torrent
    trackers:
      - http://tracker.example.com:6969/announce
    web_seeds:
      - https://files.example.com/shop-1.4.2.tar.zst
  register: shop

- name: Show its magnet link
  ansible.builtin.debug:
    msg: "{{ shop.metainfo.magnet }}"

- name: Make a torrent of a directory without its logs, with two trackers in one tier and one to fall back to
  shoal.deploy.torrent_create:
    path: /srv/models/bert
    dest: /srv/torrents/
    exclude:
      - "*.log"
      - .git
    trackers:
      - [http://tracker1.example.com:6969/announce, http://tracker2.example.com:6969/announce]
      - udp://tracker.example.org:6969/announce
"""

RETURN = r"""
dest:
  description: Where the torrent is.
  type: str
  returned: success
  sample: /srv/torrents/shop-1.4.2.torrent
sha256:
  description: The SHA-256 of the payload. V(none) for a directory.
  type: str
  returned: success
metainfo:
  description: The torrent, as M(shoal.deploy.torrent_info) returns it.
  type: dict
  returned: success
  contains:
    info_hash:
      description: The info hash, 40 hexadecimal digits.
      type: str
    magnet:
      description: The magnet link.
      type: str
    name:
      description: The name of the payload.
      type: str
    size:
      description: Bytes of the payload.
      type: int
    piece_length:
      description: Bytes in a piece.
      type: int
    pieces:
      description: Number of pieces.
      type: int
    files:
      description: Path and length of every file.
      type: list
      elements: dict
"""

import os
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _metainfo
from ..module_utils._torf import require_torf


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "trackers": {"type": "list", "elements": "raw", "default": []},
            "web_seeds": {"type": "list", "elements": "str", "default": []},
            "private": {"type": "bool", "default": False},
            "piece_length": {"type": "int"},
            "name": {"type": "str"},
            "include": {"type": "list", "elements": "str", "default": []},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "comment": {"type": "str"},
            "source": {"type": "str"},
            "creation_date": {"type": "bool", "default": False},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    require_torf(module)
    try:
        module.exit_json(**create(module))
    except _metainfo.MetainfoError as error:
        module.fail_json(msg=str(error))


def create(module):
    """Make the torrent and put it at `dest` if it is not there yet; the module's result."""
    params = module.params
    check_name(params["name"])
    tiers = _metainfo.announce_tiers(params["trackers"])
    payload = _metainfo.select_payload(params["path"], params["include"], params["exclude"])
    dest = params["dest"]
    if os.path.isdir(dest) or dest.endswith("/"):
        dest = os.path.join(dest, (params["name"] or payload.name) + ".torrent")
    check_dest(dest, payload, params["include"], params["exclude"])
    piece_length = check_piece_length(params["piece_length"]) or _metainfo.choose_piece_length(
        payload.size, _metainfo.file_list_overhead(payload)
    )
    before_data, before = existing_torrent(dest)

    piece_hashes, sha256 = _metainfo.hash_payload(payload, piece_length)

    def torrent(creation_date):
        return _metainfo.make_torrent(
            payload,
            piece_length,
            piece_hashes,
            name=params["name"],
            trackers=tiers,
            web_seeds=params["web_seeds"],
            private=params["private"],
            comment=params["comment"],
            source=params["source"],
            creation_date=creation_date if params["creation_date"] else None,
        )

    now = int(time.time())
    data = torrent((before and before.creation_date) or now)
    changed = data != before_data
    if changed and params["creation_date"]:
        data = torrent(now)
    after = _metainfo.read_metainfo(data)
    if changed and not module.check_mode:
        write(module, dest, data)

    diff = {
        "before_header": dest,
        "after_header": dest,
        "before": summary(before) if before_data is not None else {},
        "after": summary(after),
    }
    file_arguments = module.load_file_common_arguments(params, path=dest)
    # Of a file that is new they are no difference of its own, which check mode could not tell
    changed = module.set_fs_attributes_if_different(file_arguments, changed, None if before_data is None else diff)
    return {"changed": changed, "dest": dest, "sha256": sha256, "metainfo": after.facts(), "diff": diff}


def check_name(name):
    if name is not None and (name in ("", ".", "..") or "/" in name or "\0" in name):
        raise _metainfo.MetainfoError("name must be the plain name of a file, and is %r." % name)


def check_piece_length(length):
    """The length, if it is one that clients take."""
    smallest, largest = _metainfo.MIN_PIECE_LENGTH, _metainfo.MAX_PIECE_LENGTH
    if length is not None and (not smallest <= length <= largest or length & (length - 1)):
        raise _metainfo.MetainfoError(
            "piece_length must be a power of two from %d to %d, and is %d. Leave it out to have one chosen."
            % (smallest, largest, length)
        )
    return length


def check_dest(dest, payload, include, exclude):
    """A torrent inside its own payload would change the payload, and so itself."""
    inside = os.path.relpath(os.path.realpath(dest), os.path.realpath(payload.location))
    if inside == "." or (
        not payload.is_file
        and inside.split("/")[0] != ".."
        and _metainfo.is_selected(tuple(inside.split("/")), include, exclude)
    ):
        raise _metainfo.MetainfoError(
            "dest %s lies in the payload %s, which the torrent would change. Write it elsewhere, or exclude it."
            % (dest, payload.location)
        )
    if not os.path.isdir(os.path.dirname(dest) or "."):
        raise _metainfo.MetainfoError(
            "cannot write the torrent %s: there is no directory %s. Create it first." % (dest, os.path.dirname(dest))
        )


def existing_torrent(dest):
    """The bytes at `dest`, and what they say; None for what is not there or no torrent."""
    try:
        metainfo, data = _metainfo.parse_torrent_file(dest)
        return data, metainfo
    except _metainfo.MetainfoError:
        return (b"", None) if os.path.lexists(dest) else (None, None)


def summary(metainfo):
    """What a diff shows: everything but the list of the files, which may be long."""
    if metainfo is None:
        return {"error": "not a torrent"}
    facts = metainfo.facts()
    facts["files"] = len(facts["files"])
    facts["creation_date"] = facts["creation_date"] is not None
    return facts


def write(module, dest, data):
    """Put the bytes at `dest`, whole or not at all."""
    try:
        handle, path = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        raise _metainfo.MetainfoError("cannot write to %s: %s" % (module.tmpdir, error.strerror)) from None
    module.atomic_move(path, dest, unsafe_writes=module.params["unsafe_writes"])


if __name__ == "__main__":
    main()
