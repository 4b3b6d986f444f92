# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import json

import pytest
from ansible_collections.shoal.deploy.plugins.modules import release_publish

DATA = b"an archive"


@pytest.fixture
def published(tmp_path):
    """Arguments that publish again what is published as shop 1.0."""
    folder = tmp_path / "shop" / "1.0"
    folder.mkdir(parents=True)
    (folder / "shop.tar").write_bytes(DATA)
    (folder / "shop.tar.torrent").write_bytes(b"a torrent")
    manifest = {
        "archive": {"name": "shop.tar", "size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()},
        "irreversible": False,
        "published_at": "2026-11-22T17:00:00Z",
        "published_by": "alice@controller",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return {"app": "shop", "version": "1.0", "dest": str(tmp_path), "archive": str(folder / "shop.tar")}


def test_the_same_again_changes_nothing(run_module, published):
    assert run_module(release_publish, published)["changed"] is False


def test_a_version_does_not_become_irreversible_afterwards(run_module, published):
    result = run_module(release_publish, dict(published, irreversible=True))
    assert "as one that hosts can go back from" in result["msg"]
    assert "another version" in result["msg"]
