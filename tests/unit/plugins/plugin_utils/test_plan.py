# Copyright: The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the playbooks' variables may be: each wrong one is named, and its valid neighbour passes."""

from __future__ import annotations

import copy
import fnmatch

import pytest
from ansible_collections.shoal.deploy.plugins.plugin_utils._plan import (
    InvalidVariablesError,
    Inventory,
    batch_sizes,
    make_plan,
)

HOSTS = ["web1", "web2", "web3"]
GROUPS = {"shop_servers": HOSTS, "shoal_publishers": ["pub1", "pub2"], "nobody": []}


@pytest.fixture
def archive(tmp_path):
    file = tmp_path / "shop-1.4.2.tar.zst"
    file.write_bytes(b"an archive")
    (tmp_path / "tasks.yml").write_text("[]")
    return file


def plan(tmp_path, action, extra=None, app=None, host=None, selected=None):
    """A plan for the smallest set-up of the README, changed by ``extra`` vars, the ``app``'s and one ``host``'s."""
    settings = {"hosts": "shop_servers", "root": "/srv/shop", "restart": "shop.service"}
    settings["health"] = {"url": "http://127.0.0.1:8080/health", "timeout": 30}
    settings.update(app or {})
    shared = {"shoal_apps": {"shop": settings}, "shoal_trackers": ["http://tracker:6969/announce"]}
    run = {"shoal_app": "shop", "shoal_version": "1.4.2", "shoal_archive": "shop-1.4.2.tar.zst", **(extra or {})}

    def variables(name):
        result = {**copy.deepcopy(shared), **run}
        if host and host[0] == name:
            result.update(host[1])
        return result

    def matching(pattern):
        patterns = [pattern] if isinstance(pattern, str) else pattern
        every = [*GROUPS["shoal_publishers"], *HOSTS]
        return [name for part in patterns for name in GROUPS.get(part) or fnmatch.filter(every, part)]

    return make_plan(
        action,
        Inventory(
            run={**shared, **run},
            variables=variables,
            every_host=[*GROUPS["shoal_publishers"], *HOSTS],
            selected=[*GROUPS["shoal_publishers"], *HOSTS] if selected is None else selected,
            matching=matching,
            working_directory=tmp_path,
        ),
    )


# For each variable: wrong values, each with words of its message, and valid neighbours.
APP = [
    ("hosts", ["nobody", "", 5, []], ["web1", ["web1", "web2"]]),
    ("root", ["srv/shop", "/", "/srv/../etc", 7, "/srv/shop/"], ["/srv/shop.d", "/srv"]),
    ("restart", ["", 5, [], [True]], ["shop", ["systemctl", "reload", "shop"], ["restart-shop", 8080]]),
    ("restart_timeout", [0, "soon", True], [1, 90, "90"]),
    ("health", ["http://x/", 5, []], [{"tcp": "127.0.0.1:80"}, [{"command": ["true"]}, {"tcp": "[::1]:80"}]]),
    ("health.url", [{"url": "127.0.0.1:8080/health"}, {"url": 8080}], [{"url": "https://shop.example/"}]),
    ("health.tcp", [{"tcp": "127.0.0.1"}, {"tcp": 80}], [{"tcp": "localhost:80"}]),
    ("health.command", [{"command": "true"}], [{"command": ["true"]}]),
    ("health.status", [{"url": "http://x/", "status": 20}], [{"url": "http://x/", "status": 204}]),
    ("health.status", [{"tcp": "a:1", "status": 200}], []),
    (
        "health.timeout",
        [{"tcp": "a:1", "timeout": "30s"}, {"tcp": "a:1", "timeout": 0}],
        [{"tcp": "a:1", "timeout": 2}],
    ),
    ("health.soak", [{"tcp": "a:1", "soak": -1}], [{"tcp": "a:1", "soak": 0}, {"tcp": "a:1", "soak": 0.5}]),
    ("health.timout", [{"tcp": "a:1", "timout": 3}], []),
    ("health.version", [{"url": "http://x/", "version": {"json": "v", "header": "V"}}], []),
    (
        "health.version.jsn",
        [{"url": "http://x/", "version": {"jsn": "v"}}],
        [{"url": "http://x/", "version": {"json": "v"}}],
    ),
    ("health", [{"url": "http://x/", "tcp": "a:1"}, {"timeout": 3}], []),
    ("proof", ["maybe", True], ["none", "version"]),
    ("hooks", [["true"], "true"], [{"pre_activate": ["./migrate"]}]),
    ("hooks.post_activat", [{"post_activat": ["true"]}], [{"post_activate": ["true"]}]),
    ("script", ["deploy.sh", []], []),
    ("shared", ["uploads", ["/var/uploads"], ["../uploads"], ["a/../../b"]], [["uploads", "var/log"]]),
    ("umask", [22, "rwx", "0999"], ["022", "0027"]),
    ("strip_components", [-1, "one"], [0, 1]),
    ("keep_releases", [0, "all"], [1, 10]),
    ("ramp", [[], "10%", ["10%"], [0, "100%"], ["50%", "10%", "100%"], [5, 5, "100%"], ["150%", "100%"]], []),
    ("ramp", [], [["100%"], [1, 5, "100%"], [1, "50%", "100%"]]),
    ("quorum", [0, 101, "most"], [1, 100, "80"]),
    ("on_failure", ["rollback", True], ["rollback_batch", "rollback_all"]),
    ("pause", [-1, "a while"], [0, 2.5, "5"]),
    ("drain", [5], []),
    ("restrat", ["shop.service"], []),
    ("pull", ["stable", []], [{}, {"channel": "canary", "auto": "stage", "hold": True}]),
    ("pull.channel", [{"channel": "Stable"}, {"channel": 5}], [{"channel": "a-1.b_c"}]),
    ("pull.auto", [{"auto": "on"}, {"auto": True}], [{"auto": False}, {"auto": "off"}]),
    ("pull.rollout", [{"rollout": []}, {"rollout": [0]}], [{"rollout": [10, "50@+2h"]}]),
    ("pull.windows[0]", [{"windows": [{"cron": "0 2 * * *"}]}], [{"windows": [{"cron": "0 2 * * *", "duration": 60}]}]),
    (
        "pull.pin",
        [{"pin": {"version": 1.4}}, {"pin": {"version": "1", "until": "soon"}}],
        [{"pin": {"version": "1.4"}}],
    ),
    ("pull.interval", [{"interval": 0}, {"interval": "1m"}], [{"interval": 5}]),
    ("pull.urls", [{"urls": []}, {"urls": ["pub1/shop"]}], [{"urls": ["https://pub1/shop/"]}]),
    ("pull.clock", [{"clock": "none"}], [{"clock": "any"}]),
    ("pull.writable", [{"writable": ["var"]}], [{"writable": ["/var/lib/shop"]}]),
    ("pull.chanel", [{"chanel": "stable"}], []),
]
EXTRA = [
    ("shoal_app", ["shopp", "", 5, "../shop", None], ["shop"]),
    (
        "shoal_version",
        [1.10, 1, "", "../1.4", "1.4/2", "-1", "1..2", "previous", None],
        ["1.10", "2026-11-22_1~rc1+b7"],
    ),
    ("shoal_verson", ["1.4.2"], []),
    ("shoal_tracker", ["http://tracker/"], []),
    ("shoal_trackers", ["http://tracker/", ["tracker:6969"], [["udp://a:1/x", "a"]], []], [["udp://t:6969/announce"]]),
    ("shoal_peers", [["pub1"], "pub1:6891"], [["pub1:6891", "[::1]:6891"]]),
    ("shoal_socket", ["agent.sock", 5], ["/run/other.sock"]),
    ("shoal_become", ["perhaps", 3], [True, "false"]),
    ("shoal_publishers", ["nobody", 5], ["pub1", ["pub2"]]),
    ("shoal_fetch_timeout", ["1h", 0, 90.5], [60, "60"]),
    ("shoal_stall_timeout", ["-5"], ["600"]),
]
PUBLISH = [
    (
        "shoal_archive",
        [None, "missing.tar.gz", ".", "ftp://x/shop.tar", "s3://b/shop.tar"],
        ["https://x/shop-1.tar.gz?a=b"],
    ),
    ("shoal_archive_remote_src", ["perhaps"], ["false"]),
    ("shoal_archive_checksum", ["abc", "md5:" + "0" * 32], ["sha256:" + "A0" * 32]),
    ("shoal_irreversible", ["perhaps"], ["true"]),
    ("shoal_publish_dir", ["srv", "/"], ["/var/www/shoal"]),
    ("shoal_web_seeds", ["http://x/", ["x"]], [["https://x/files/"]]),
    ("shoal_notes", [5], ["two\nlines"]),
    ("shoal_channel", ["Stable", "", 5], []),
    ("shoal_again", ["perhaps"], ["true"]),
    ("shoal_endpoint_dir", ["endpoint"], ["/srv/endpoint"]),
    *[entry for entry in EXTRA if entry[0] not in ("shoal_app",)],
]


def cases(table, column):
    return [pytest.param(row[0], value, id=f"{row[0]}={value!r}") for row in table for value in row[column]]


@pytest.mark.parametrize(("name", "value"), cases(APP, 1))
def test_a_wrong_setting_of_an_app_is_named(tmp_path, archive, name, value):
    key = name.split(".")[0]
    with pytest.raises(InvalidVariablesError) as error:
        plan(tmp_path, "rollout", app={key: value})
    assert f"shoal_apps.shop.{name}" in str(error.value)


@pytest.mark.parametrize(("name", "value"), cases(APP, 2))
def test_its_valid_neighbours_pass(tmp_path, archive, name, value):
    plan(tmp_path, "rollout", app={name.split(".")[0]: value})


@pytest.mark.parametrize(("name", "value"), cases(EXTRA, 1))
def test_a_wrong_variable_of_a_rollout_is_named(tmp_path, archive, name, value):
    with pytest.raises(InvalidVariablesError, match=rf"(?m)^{name}[:\[]"):
        plan(tmp_path, "rollout", extra={name: value})


@pytest.mark.parametrize(("name", "value"), cases(PUBLISH, 1))
def test_a_wrong_variable_of_a_publication_is_named(tmp_path, archive, name, value):
    with pytest.raises(InvalidVariablesError, match=rf"(?m)^{name}[:\[]"):
        plan(tmp_path, "publish", extra={name: value})


@pytest.mark.parametrize(("name", "value"), cases(EXTRA, 2))
def test_valid_variables_of_a_rollout_pass(tmp_path, archive, name, value):
    plan(tmp_path, "rollout", extra={name: value})


@pytest.mark.parametrize(("name", "value"), cases(PUBLISH, 2))
def test_valid_variables_of_a_publication_pass(tmp_path, archive, name, value):
    plan(tmp_path, "publish", extra={name: value})


def test_the_tables_hold_what_was_promised():
    wrong = [row for table in (APP, EXTRA, PUBLISH) for row in table for _value in row[1]]
    assert len({row[0] for row in wrong}) >= 30


def test_every_wrong_variable_is_told_at_once_with_its_hosts(tmp_path):
    with pytest.raises(InvalidVariablesError) as error:
        plan(tmp_path, "rollout", app={"root": "srv", "keep_releases": 0}, host=("web2", {"shoal_socket": "x"}))
    everywhere = " (on web1, web2 and 1 more)"
    assert str(error.value).splitlines() == [
        f"shoal_apps.shop.root: expected an absolute path, such as /srv/shop, found the text 'srv'{everywhere}",
        f"shoal_apps.shop.keep_releases: expected a whole number from 1 to 1000, found the number 0{everywhere}",
        "shoal_socket: expected an absolute path, such as /srv/shop, found the text 'x' (on web2)",
    ]


def test_a_number_as_version_is_told_how_to_write_it(tmp_path):
    with pytest.raises(InvalidVariablesError, match=r"shoal_version: is the number 1\.1, .*in quotes"):
        plan(tmp_path, "rollout", extra={"shoal_version": 1.10})


def test_a_misspelt_setting_is_told_its_name(tmp_path):
    with pytest.raises(InvalidVariablesError, match="restrat: is not a setting of an app; did you mean 'restart'"):
        plan(tmp_path, "rollout", app={"restrat": "shop.service"})


def test_a_variable_of_ones_own_may_begin_with_shoal(tmp_path):
    plan(tmp_path, "rollout", extra={"shoal_dashboard": "x", "shoal_ports": 5, "shoal_rollout": {}})


def test_what_an_earlier_playbook_of_the_run_registered_is_no_misspelt_variable(tmp_path):
    plan(tmp_path, "rollout", extra={"shoal_published": {"changed": True}, "shoal_channeled": {"changed": False}})


def test_an_app_that_no_host_has_is_told_the_apps_there_are(tmp_path):
    with pytest.raises(InvalidVariablesError, match="no app 'shp' in shoal_apps; did you mean 'shop'"):
        plan(tmp_path, "status", extra={"shoal_app": "shp"})


def test_without_any_app_the_user_is_told_where_to_write_them(tmp_path):
    with pytest.raises(InvalidVariablesError, match=r"group_vars/all.yml beside the inventory"):
        plan(tmp_path, "status", extra={"shoal_apps": None})


def test_two_apps_cannot_have_one_root(tmp_path):
    apps = {"shop": {"hosts": "shop_servers", "root": "/srv/app"}, "blog": {"hosts": "web1", "root": "/srv/app"}}
    with pytest.raises(InvalidVariablesError, match=r"shop.root: /srv/app is the root of 'blog' too"):
        plan(tmp_path, "rollout", extra={"shoal_apps": apps})


def test_a_script_does_the_whole_switch(tmp_path):
    with pytest.raises(InvalidVariablesError, match=r"shop.script: does the whole switch"):
        plan(tmp_path, "rollout", app={"script": ["./deploy"]})
    plan(tmp_path, "rollout", app={"script": ["./deploy"], "restart": None})


def test_drain_and_undrain_belong_together_and_are_files(tmp_path, archive):
    with pytest.raises(InvalidVariablesError, match=r"shop.undrain: is missing"):
        plan(tmp_path, "rollout", app={"drain": "tasks.yml"})
    with pytest.raises(InvalidVariablesError, match=r"shop.undrain: expected a file of tasks at .*nothing.yml"):
        plan(tmp_path, "rollout", app={"drain": "tasks.yml", "undrain": "nothing.yml"})
    made = plan(tmp_path, "rollout", app={"drain": "tasks.yml", "undrain": "tasks.yml"})
    assert made["drain"] == made["undrain"] == str(tmp_path / "tasks.yml")


def test_a_host_may_have_its_own_paths_but_not_its_own_ramp(tmp_path):
    own = {"shoal_apps": {"shop": {"hosts": "shop_servers", "root": "/opt/shop"}}, "shoal_socket": "/run/two.sock"}
    made = plan(tmp_path, "rollout", host=("web2", own))
    assert made["settings"]["web2"]["root"] == "/opt/shop"
    assert made["settings"]["web2"]["socket"] == "/run/two.sock"
    assert made["settings"]["web1"]["root"] == "/srv/shop"
    own["shoal_apps"]["shop"]["ramp"] = ["100%"]
    with pytest.raises(InvalidVariablesError, match=r"shop.ramp: differs from that of web1.*\(on web2\)"):
        plan(tmp_path, "rollout", host=("web2", own))


def test_limit_narrows_the_fleet_and_may_not_empty_it(tmp_path):
    assert plan(tmp_path, "rollout", selected=["web3", "web1"])["hosts"] == ["web1", "web3"]
    with pytest.raises(InvalidVariablesError, match=r"shop.hosts: --limit leaves none of its 3 hosts"):
        plan(tmp_path, "rollout", selected=["pub1"])
    with pytest.raises(InvalidVariablesError, match="shoal_publishers: pub2 is outside of --limit"):
        plan(tmp_path, "publish", selected=["pub1", "web1"], extra={"shoal_archive": "https://x/a.tar"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"shoal_archive": "shop-1.4.2.tar.zst"}, ("controller", "shop-1.4.2.tar.zst")),
        ({"shoal_archive": "/srv/a.tar", "shoal_archive_remote_src": "yes"}, ("publisher", "/srv/a.tar")),
        ({"shoal_archive": "https://x/a.tar"}, ("url", "https://x/a.tar")),
        ({"shoal_archive": "https://x/a.tar", "shoal_archive_remote_src": True}, ("url", "https://x/a.tar")),
    ],
)
def test_an_archive_lies_on_the_controller_the_publisher_or_behind_a_url(tmp_path, archive, given, expected):
    found = plan(tmp_path, "publish", extra=given)["archive"]
    path = str(tmp_path / expected[1]) if expected[0] == "controller" else expected[1]
    assert (found["at"], found["path"]) == (expected[0], path)


@pytest.mark.parametrize(
    ("ramp", "hosts", "sizes"),
    [
        ([1, "10%", "50%", "100%"], 1, [1]),
        ([1, "10%", "50%", "100%"], 5, [1, 2, 2]),
        ([1, "10%", "50%", "100%"], 100, [1, 9, 40, 50]),
        ([1, "10%", "50%", "100%"], 800, [1, 79, 320, 400]),
        (["100%"], 7, [7]),
        ([5, "100%"], 3, [3]),
        ([1, 2, 3, "100%"], 10, [1, 1, 1, 7]),
    ],
)
def test_batches_follow_the_ramp(ramp, hosts, sizes):
    assert batch_sizes(ramp, hosts) == sizes
    assert sum(sizes) == hosts


PULL = {"hosts": "shop_servers", "root": "/srv/shop", "pull": {"channel": "canary", "rollout": [10, "100@+1d"]}}


def test_what_hosts_follow_goes_on_to_a_channel(tmp_path, archive):
    made = plan(tmp_path, "publish")
    assert (made["channel"], made["operator_keys_dir"]) == (None, None)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "targets.pem").touch()
    made = plan(tmp_path, "publish", extra={"shoal_operator_keys": "keys"}, app={"pull": PULL["pull"]})
    assert (made["channel"], made["rollout"]) == ("canary", ["10", "100@+1d"])
    assert made["operator_keys_dir"] == str(tmp_path / "keys")
    made = plan(
        tmp_path, "publish", extra={"shoal_channel": "edge", "shoal_operator_keys": {"root": "R", "targets": "T"}}
    )
    assert (made["channel"], made["rollout"], made["operator_keys_dir"]) == ("edge", [], None)
    assert "'T'" not in str(made)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [(None, "is missing"), ("keys", "expected a key at .*targets.pem"), ({"root": "R"}, r"\.targets")],
)
def test_a_channel_needs_keys_to_sign_with(tmp_path, archive, keys, problem):
    with pytest.raises(InvalidVariablesError, match=f"shoal_operator_keys.*{problem}"):
        plan(tmp_path, "publish", extra={"shoal_channel": "stable", "shoal_operator_keys": keys})


def test_an_installation_says_what_each_host_follows(tmp_path):
    assert plan(tmp_path, "install")["apps"] == []
    own = {"shoal_apps": {"shop": {**PULL, "pull": {"auto": False, "hold": True, "writable": ["/var/lib/shop"]}}}}
    made = plan(
        tmp_path,
        "install",
        extra={"shoal_operator_keys": "keys", "publisher_port": 80},
        app={"pull": PULL["pull"], "keep_releases": 3},
        host=("web2", own),
        selected=["web1", "web2"],
    )
    assert (made["apps"], made["publisher"], sorted(made["follow"])) == (["shop"], "pub1", ["web1", "web2"])
    assert made["follow"]["web1"]["shop"] == {
        "endpoint": {"urls": ["http://pub1:80/shop/"], "channel": "canary"},
        "policy": {"auto": "activate"},
        "release": {
            "root": "/srv/shop",
            "strip_components": 0,
            "keep_releases": 3,
            "switch": {"restart": "shop.service", "health": [{"url": "http://127.0.0.1:8080/health", "timeout": 30}]},
        },
    }
    assert made["follow"]["web2"]["shop"]["policy"] == {"auto": "off", "hold": True}
    assert made["follow"]["web2"]["shop"]["writable"] == ["/var/lib/shop"]


def test_each_host_is_what_its_own_variables_name(tmp_path):
    made = plan(
        tmp_path, "uninstall", host=("web3", {"shoal_tracker_hosts": ["nobody", "web3"], "shoal_fleet": "web1"})
    )
    assert made == {
        "action": "uninstall",
        "parts": {
            "pub1": ["publisher", "agent"],
            "pub2": ["publisher", "agent"],
            "web1": ["agent"],
            "web2": ["agent"],
            "web3": ["tracker"],
        },
    }
    assert plan(tmp_path, "install", selected=["web2", "pub1"])["parts"] == {
        "pub1": ["publisher", "agent"],
        "web2": ["agent"],
    }


def test_a_pattern_is_looked_for_once_however_many_hosts_have_it(tmp_path):
    asked = []
    everybody = [f"web{number}" for number in range(800)]
    inventory = Inventory(
        run={},
        variables=lambda host: {"shoal_fleet": "web*"},
        every_host=everybody,
        selected=everybody,
        matching=lambda pattern: asked.append(pattern) or (everybody if pattern == ["web*"] else []),
        working_directory=tmp_path,
    )
    assert len(make_plan("uninstall", inventory)["parts"]) == 800
    assert len(asked) == 3
