# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest
from ansible_collections.shoal.deploy.plugins.modules import text_files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


@pytest.fixture
def write(run_module, folder):
    """``write({name: content}, check=False, mode="0644")``"""

    def run(contents, check=False, mode="0644"):
        files = [{"path": str(folder / name), "content": content, "mode": mode} for name, content in contents.items()]
        return run_module(text_files, {"files": files}, check)

    return run


def mode(path):
    return oct(os.stat(path).st_mode & 0o7777)


def test_check_mode_tells_what_the_run_does_and_the_second_run_does_nothing(write, folder):
    contents = {"unit": "[Service]\nExecStart=/bin/true\n", "script": "#!/bin/sh\n"}
    predicted = write(contents, check=True)
    assert list(folder.iterdir()) == []
    made = write(contents)
    assert predicted["changed"] is made["changed"] is True
    assert predicted["written"] == made["written"] == [str(folder / name) for name in contents]
    assert {path.name: path.read_text() for path in folder.iterdir()} == contents
    assert mode(folder / "unit") == "0o644"
    for check in (True, False):
        again = write(contents, check=check)
        assert (again["changed"], again["written"]) == (False, [])


def test_only_what_differs_is_written_and_shown(write, folder):
    write({"a": "one\n", "b": "two\n"})
    before = os.stat(folder / "a")
    result = write({"a": "one\n", "b": "three\n"})
    assert result["written"] == [str(folder / "b")]
    assert [(diff["before"], diff["after"]) for diff in result["diff"] if "after" in diff] == [("two\n", "three\n")]
    assert os.stat(folder / "a").st_ino == before.st_ino


def test_permissions_alone_are_a_change(write, folder):
    write({"script": "#!/bin/sh\n"})
    assert write({"script": "#!/bin/sh\n"}, check=True, mode="0755")["changed"]
    assert mode(folder / "script") == "0o644"
    assert write({"script": "#!/bin/sh\n"}, mode="0755")["changed"]
    assert mode(folder / "script") == "0o755"
    assert not write({"script": "#!/bin/sh\n"}, mode="0755")["changed"]


def test_bytes_that_are_no_text_are_replaced(write, folder):
    (folder / "unit").write_bytes(b"\xff\r\n")
    assert write({"unit": "text\n"})["changed"]
    assert (folder / "unit").read_bytes() == b"text\n"


def test_one_that_cannot_be_written_leaves_all_as_they_were(write, folder):
    (folder / "first").write_text("before")
    result = write({"first": "after", "no/folder": "x"})
    assert result["failed"]
    assert result["msg"] == f"{folder}/no/folder: cannot be written: No such file or directory. Nothing was changed"
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("first", "before")]
    assert write({"first": "after", "no/folder": "x"}, check=True)["changed"]


def test_a_folder_in_the_way_is_named(write, folder):
    (folder / "unit").mkdir()
    assert f"{folder}/unit: found a folder" in write({"unit": "x"})["msg"]
