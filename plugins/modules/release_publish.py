#!/usr/bin/python
# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_publish
short_description: Publish a version of an application
version_added: 0.1.0
author:
  - The shoal.deploy authors (@shoal-deploy)
description:
  - Puts an archive, its torrent and a manifest that describes both into C(DEST/APP/VERSION), all of it or nothing.
  - The archive is read through first, so that what hosts would refuse to unpack is refused here.
  - What is published never changes. The same version with other bytes is refused, with the same bytes it is unchanged.
  - Hosts can fetch it once it is seeded, see M(shoal.deploy.torrent_seed).
extends_documentation_fragment:
  - shoal.deploy.release
  - shoal.deploy.agent.actiongroup
  - shoal.deploy.agent.attributes
options:
  app:
    description:
      - The name of the application.
    type: str
    required: true
  version:
    description:
      - The version. Put it in quotes, since YAML reads V(1.10) as the number 1.1.
    type: str
    required: true
  archive:
    description:
      - The archive on the host, a tar (also compressed with gzip, xz, bzip2 or zstd) or a zip.
    type: path
    required: true
  move:
    description:
      - Whether the archive is moved to its place, and not copied.
    type: bool
    default: false
  checksum:
    description:
      - What the archive's SHA-256 has to be, as C(sha256:DIGITS).
      - With it, a version that is published already needs no archive to be compared with.
    type: str
  dest:
    description:
      - The directory of everything that is published.
    type: path
    default: /srv/shoal
  trackers:
    description:
      - Announce URLs, or lists of them, as M(shoal.deploy.torrent_create) takes them.
    type: list
    elements: raw
    default: []
  web_seeds:
    description:
      - URLs of web servers that hold the archive.
    type: list
    elements: str
    default: []
  irreversible:
    description:
      - Whether there is no way back from this release, because of what it does to its data.
    type: bool
    default: false
  notes:
    description:
      - Words for people.
    type: str
    default: ""
  who:
    description:
      - Who publishes. By default the user that the connection logged in as.
    type: str
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
  - module: shoal.deploy.torrent_create
  - module: shoal.deploy.torrent_seed
"""

EXAMPLES = r"""
- name: Publish a version
  shoal.deploy.release_publish:
    app: shop
    version: "1.4.2"
    archive: /srv/build/shop-1.4.2.tar.zst
    trackers:
      - http://tracker.example.com:6969/announce
  register: published

- name: Seed it
  shoal.deploy.torrent_seed:
    torrent: "{{ published.torrent }}"
    path: "{{ published.archive }}"
"""

RETURN = r"""
path:
  description: The directory of the published version.
  returned: success
  type: str
  sample: /srv/shoal/shop/1.4.2
archive:
  description: The published archive.
  returned: success
  type: str
  sample: /srv/shoal/shop/1.4.2/shop-1.4.2.tar.zst
torrent:
  description: Its torrent.
  returned: success
  type: str
  sample: /srv/shoal/shop/1.4.2/shop-1.4.2.tar.zst.torrent
manifest:
  description:
    - The content of C(manifest.json). In check mode without C(info_hash) and C(piece_length), and V(none) where the
      archive is not there yet.
  returned: success
  type: dict
  sample:
    format: 1
    app: shop
    version: 1.4.2
    archive: {name: shop-1.4.2.tar.zst, size: 44355584, sha256: 0f343b0931126a20f133d67c2b018a3b1e6f1f8b}
    unpacked_bytes: 104857600
    entries: 812
    info_hash: 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12
    piece_length: 32768
    irreversible: false
    notes: ""
    published_by: alice@controller
    published_at: "2026-11-22T17:00:00Z"
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _metainfo
from ..module_utils._shoal_cli import ShoalCliError, caller, find_executable, run_release
from ..module_utils._torf import require_torf

FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VERSION = re.compile(r"(?!.*\.\.)(?!previous$)[A-Za-z0-9_][A-Za-z0-9._+~-]{0,127}")
CHECKSUM = re.compile(r"sha256:[0-9a-fA-F]{64}")
BLOCK = 1 << 20


class PublishError(Exception):
    """The version cannot be published; the text says why and what to do."""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "archive": {"type": "path", "required": True},
            "move": {"type": "bool", "default": False},
            "checksum": {"type": "str"},
            "dest": {"type": "path", "default": "/srv/shoal"},
            "trackers": {"type": "list", "elements": "raw", "default": []},
            "web_seeds": {"type": "list", "elements": "str", "default": []},
            "irreversible": {"type": "bool", "default": False},
            "notes": {"type": "str", "default": ""},
            "who": {"type": "str"},
            "executable": {"type": "path"},
        },
        supports_check_mode=True,
    )
    require_torf(module)
    try:
        result = Publication(module).ensure()
    except (PublishError, ShoalCliError, _metainfo.MetainfoError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg="cannot publish %s %s: %s: %s."
            % (module.params["app"], module.params["version"], error.strerror, error.filename)
        )
    module.exit_json(**result)


class Publication:
    """One version of one application, in the directory of everything that is published."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: Dict[str, Any] = module.params
        check("app", self.params["app"], NAME, "a name of letters, digits and . _ -")
        check("version", self.params["version"], VERSION, "letters, digits and . _ + ~ -, without '..', not 'previous'")
        if self.params["checksum"] is not None:
            check("checksum", self.params["checksum"], CHECKSUM, "sha256: and 64 hex digits")
        self.path = os.path.join(self.params["dest"], self.params["app"], self.params["version"])

    def ensure(self) -> Dict[str, Any]:
        """Publish what is not published yet; the module's result."""
        published = self.published()
        if published is not None:
            self.compare(published)
            return self.result(published, changed=False)
        if self.module.check_mode and not os.path.exists(self.params["archive"]):
            return self.result(None, changed=True)  # an earlier task of the same check would have brought it
        manifest = self.inspect()
        if not self.module.check_mode:
            manifest = self.publish(manifest)
        return self.result(manifest, changed=True)

    def published(self) -> Optional[Dict[str, Any]]:
        """The manifest, if this version is published."""
        file = os.path.join(self.path, "manifest.json")
        try:
            with open(file, encoding="utf-8") as stream:
                manifest: Dict[str, Any] = json.load(stream)
        except FileNotFoundError:
            if os.path.isdir(self.path) and os.listdir(self.path):
                raise PublishError(
                    "%s is there, but holds no manifest.json: this module did not make it. Move it away." % self.path
                ) from None
            return None
        except ValueError as error:
            raise PublishError("%s cannot be read: %s. Move %s away." % (file, error, self.path)) from None
        return manifest

    def compare(self, manifest: Dict[str, Any]) -> None:
        """Refuse other bytes for the same version, and a publication that somebody damaged."""
        then = manifest["archive"]
        now = self.checksum()
        if now is not None and now != then["sha256"]:
            raise PublishError(
                "%s %s was published at %s by %s with other bytes (SHA-256 %s, this archive has %s). What is published "
                "never changes: publish these bytes as another version."
                % (
                    self.params["app"],
                    self.params["version"],
                    manifest["published_at"],
                    manifest["published_by"],
                    then["sha256"],
                    now,
                )
            )
        if self.params["irreversible"] and not manifest["irreversible"]:
            raise PublishError(
                "%s %s was published at %s by %s as one that hosts can go back from, and what is published never "
                "changes: publish it as another version that is irreversible."
                % (self.params["app"], self.params["version"], manifest["published_at"], manifest["published_by"])
            )
        archive = os.path.join(self.path, then["name"])
        found = os.path.getsize(archive) if os.path.isfile(archive) else None
        if found != then["size"] or not os.path.isfile(archive + ".torrent"):
            raise PublishError(
                "%s was changed by other hands: %s should have %d bytes, and a torrent beside it. Remove the directory "
                "and publish the version again, from the same archive." % (self.path, archive, then["size"])
            )

    def checksum(self) -> Optional[str]:
        """The archive's SHA-256 as far as it can be told: as given, or of the file, if that is there."""
        if self.params["checksum"]:
            return self.params["checksum"].partition(":")[2].lower()
        if os.path.exists(self.params["archive"]):
            return sha256_of(self.params["archive"])
        if self.module.check_mode:
            return None
        raise PublishError("there is no archive at %s." % self.params["archive"])

    def inspect(self) -> Dict[str, Any]:
        """The manifest as far as the archive tells it: read through by the rules that hosts will go by."""
        given = {"path": self.params["archive"]}
        if self.params["checksum"]:
            given["sha256"] = self.params["checksum"].partition(":")[2].lower()
        executable = find_executable(self.params["executable"])
        found = run_release(self.module.run_command, executable, "inspect", {"archive": given})["archive"]
        return {
            "format": FORMAT,
            "app": self.params["app"],
            "version": self.params["version"],
            "archive": {
                "name": os.path.basename(self.params["archive"]),
                "size": found["size"],
                "sha256": found["sha256"],
            },
            "unpacked_bytes": found["unpacked_bytes"],
            "entries": found["entries"],
            "irreversible": self.params["irreversible"],
            "notes": self.params["notes"],
            "published_by": self.params["who"] or caller(),
            "published_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def publish(self, manifest: Dict[str, Any]) -> Dict[str, Any]:
        """Make everything in a directory beside, and rename it when it is whole."""
        parent = os.path.dirname(self.path)
        made = [self.params["dest"], parent]
        for directory in made:
            if not os.path.isdir(directory):
                os.makedirs(directory)
                os.chmod(directory, 0o755)  # the agent, which is another user, seeds from here
        work = tempfile.mkdtemp(prefix=".%s." % self.params["version"], dir=parent)
        try:
            archive = os.path.join(work, manifest["archive"]["name"])
            self.place(archive)
            torrent = self.torrent(archive, manifest["archive"])
            metainfo = _metainfo.read_metainfo(torrent)
            manifest = dict(manifest, info_hash=metainfo.info_hash, piece_length=metainfo.piece_length)
            write(archive + ".torrent", torrent)
            write(os.path.join(work, "manifest.json"), (json.dumps(manifest, indent=2) + "\n").encode())
            os.chmod(work, 0o755)
            sync(work)
            self.rename(work)
            sync(parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if self.params["move"]:
            os.unlink(self.params["archive"])
        return manifest

    def place(self, archive: str) -> None:
        """The archive in the new directory: a second name for one that is to be moved, else a copy."""
        source = self.params["archive"]
        linked = False
        if self.params["move"]:
            try:
                os.link(source, archive, follow_symlinks=False)
                linked = True
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                    raise
        if not linked:
            shutil.copyfile(source, archive)
        os.chmod(archive, 0o644)
        sync(archive)

    def torrent(self, archive: str, inspected: Dict[str, Any]) -> bytes:
        payload = _metainfo.select_payload(archive)
        piece_length = _metainfo.choose_piece_length(payload.size, _metainfo.file_list_overhead(payload))
        pieces, sha256 = _metainfo.hash_payload(payload, piece_length)
        if sha256 != inspected["sha256"]:
            raise PublishError(
                "%s changed while it was read. Publish it when nothing writes to it any more." % self.params["archive"]
            )
        tiers: List[List[str]] = [[item] if isinstance(item, str) else item for item in self.params["trackers"]]
        made: bytes = _metainfo.make_torrent(
            payload,
            piece_length,
            pieces,
            trackers=tiers,
            web_seeds=self.params["web_seeds"],
            # Part of the info hash: the same file as two versions is two torrents, as an agent has one path for each.
            source="%s %s" % (self.params["app"], self.params["version"]),
        )
        return made

    def rename(self, work: str) -> None:
        try:
            os.rename(work, self.path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise PublishError("another run published %s meanwhile. Run it again to compare." % self.path) from None

    def result(self, manifest: Optional[Dict[str, Any]], changed: bool) -> Dict[str, Any]:
        name = manifest["archive"]["name"] if manifest else os.path.basename(self.params["archive"])
        archive = os.path.join(self.path, name)
        return {
            "changed": changed,
            "path": self.path,
            "archive": archive,
            "torrent": archive + ".torrent",
            "manifest": manifest,
            "diff": {
                "before_header": self.path,
                "after_header": self.path,
                "before": {"published": not changed},
                "after": {"published": True},
            },
        }


def check(option: str, value: str, pattern: "re.Pattern[str]", expected: str) -> None:
    if not pattern.fullmatch(value):
        raise PublishError("%s must be %s, and is %r." % (option, expected, value))


def sha256_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)
    os.chmod(path, 0o644)
    sync(path)


def sync(path: str) -> None:
    """Have a file or directory on the disk, so that a power cut leaves all of a publication or nothing."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    main()
