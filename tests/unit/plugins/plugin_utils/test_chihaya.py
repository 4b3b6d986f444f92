# Copyright (c) 2026, The shoal.deploy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every rule of the role chihaya, broken once in each version it applies to, beside a neighbour that is accepted."""

from __future__ import annotations

import functools
import json
import os
import re

import pytest
import yaml
from ansible_collections.shoal.deploy.plugins.plugin_utils._chihaya import make_plan, parse_listen, seconds

COLLECTION = os.path.join(os.path.dirname(__file__), "..", "..", "..", "..")
VERSIONS = ["main", "v2.0.0-rc.2", "v1.0.2"]
YAML = VERSIONS[:2]
KEY = "planted-private-key"
OPTIONS = {"network": "host", "ipv6": True, "private_key": KEY}


@functools.lru_cache(maxsize=None)
def generation(version):
    with open(os.path.join(COLLECTION, "roles", "chihaya", "files", "generations", version + ".yml")) as stream:
        return yaml.safe_load(stream)


def plan(version, settings, **options):
    return make_plan(settings, generation(version), {**OPTIONS, **options})


def nested(dotted):
    """Settings as a user writes them, of {"http.addr": ":6969"}."""
    settings = {}
    for key, value in dotted.items():
        folder = settings
        *sections, last = key.split(".")
        for section in sections:
            folder = folder.setdefault(section, {})
        folder[last] = value
    return settings


def hook(version, name, **options):
    return {"prehooks": [{"name": name, generation(version)["hook_options"]: options}]}


TLS = {"http.https_addr": ":6970", "http.tls_cert_path": "/etc/ssl/t.pem", "http.tls_key_path": "/etc/ssl/t.key"}
JWT = {
    "issuer": "https://issuer.example",
    "audience": "tracker",
    "jwk_set_url": "https://issuer.example/keys",
    "jwk_set_update_interval": "5m",
}


def rules():
    """Those of chihaya/rules.yml, which the molecule scenario chihaya reads too."""
    with open(os.path.join(os.path.dirname(__file__), "chihaya", "rules.yml")) as stream:
        return [
            tuple(rule[name] for name in ("version", "broken", "key", "said", "neighbour"))
            for rule in yaml.safe_load(stream)
        ]


@pytest.mark.parametrize(("version", "broken", "key", "said", "neighbour"), rules())
def test_rule(version, broken, key, said, neighbour):
    [problem] = plan(version, broken)["problems"]
    assert problem.startswith(key + ": ")
    assert said in problem
    assert "s3cret" not in problem
    assert plan(version, neighbour)["problems"] == []


HOOKS = [
    (
        "client approvel",
        {"whitelist": ["LT2110"]},
        ".name",
        "client approval",
        ("client approval", {"whitelist": ["LT2110"]}),
    ),
    (
        "client approval",
        {"whitelst": ["LT2110"]},
        ".whitelst",
        "whitelist",
        ("client approval", {"blacklist": ["LT2110"]}),
    ),
    (
        "client approval",
        {"whitelist": ["LT"]},
        ".whitelist",
        "6 characters",
        ("client approval", {"whitelist": ["TR4040"]}),
    ),
    ("client approval", {}, "", "whitelist or blacklist", ("client approval", {"whitelist": ["TR4040"]})),
    ("jwt", {**JWT, "issuer": ""}, ".issuer", "found nothing", ("jwt", JWT)),
    ("jwt", {**JWT, "jwk_set_url": "issuer"}, ".jwk_set_url", "URL", ("jwt", JWT)),
    (
        "interval variation",
        {"modify_response_probability": 2, "max_increase_delta": 60},
        ".modify_response_probability",
        "at most 1",
        ("interval variation", {"modify_response_probability": 1, "max_increase_delta": 60}),
    ),
    (
        "interval variation",
        {"modify_response_probability": 0.5, "max_increase_delta": 120},
        ".max_increase_delta",
        "peer_lifetime",
        ("interval variation", {"modify_response_probability": 0.5, "max_increase_delta": 119}),
    ),
]


@pytest.mark.parametrize("version", YAML)
@pytest.mark.parametrize(("name", "options", "key", "said", "neighbour"), HOOKS)
def test_hook(version, name, options, key, said, neighbour):
    [problem] = plan(version, hook(version, name, **options))["problems"]
    place = "prehooks[0]"
    if key != ".name":
        place += "." + generation(version)["hook_options"]
    assert problem.startswith(place + key + ": ")
    assert said in problem
    assert plan(version, hook(version, neighbour[0], **neighbour[1]))["problems"] == []


def test_torrent_approval_is_of_main_only():
    admitted = {"whitelist": ["1e" * 20]}
    assert plan("main", hook("main", "torrent approval", **admitted))["problems"] == []
    [problem] = plan("main", hook("main", "torrent approval", whitelist=["1e" * 20], blacklist=["1e" * 20]))["problems"]
    assert "both lists" in problem
    # v2.0.0-rc.2 would pass over a hook that it does not know, without a word.
    [problem] = plan("v2.0.0-rc.2", hook("v2.0.0-rc.2", "torrent approval", **admitted))["problems"]
    assert problem.startswith("prehooks[0].name: ")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("settings", [None, [], "announce: 60s", 5])
def test_settings_that_are_none(version, settings):
    assert plan(version, settings)["problems"][0].startswith("chihaya_config: found ")


@pytest.mark.parametrize("version", VERSIONS)
def test_all_problems_are_told_at_once(version):
    keys = {"a": 1, "b": 2, "c": 3}
    assert [re.match("[abc]", problem).group() for problem in plan(version, keys)["problems"]] == ["a", "b", "c"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_key_has_a_default_or_is_refused_and_defaults_are_right(version):
    for key, rule in generation(version)["keys"].items():
        assert ("default" in rule) != ("refused" in rule), key
        if rule.get("default") not in ("", None) and "only" not in rule:
            assert plan(version, nested({key: rule["default"]}))["problems"] == [], key


def test_a_wrong_secret_is_not_shown():
    [problem] = plan("main", {"udp": {"private_key": ["s3cret"]}})["problems"]
    assert problem.startswith("udp.private_key: ")
    assert "s3cret" not in problem


# What is rendered


def expected(version):
    """The stored expectation: a comment above each line tells its reason."""
    path = os.path.join(os.path.dirname(__file__), "chihaya", version)
    with open(path) as stream:
        lines = stream.read().split("\n")
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


@pytest.mark.parametrize(
    ("version", "file"), [("main", "main.yaml"), ("v2.0.0-rc.2", "v2.0.0-rc.2.yaml"), ("v1.0.2", "v1.0.2.json")]
)
def test_rendered_defaults(version, file):
    config = plan(version, {})["config"]
    load = json.loads if version == "v1.0.2" else yaml.safe_load
    assert load(config) == load(expected(file))


def test_a_listener_that_is_off_leaves_nothing_behind():
    config = yaml.safe_load(plan("main", {"udp": {"addr": ""}})["config"])["chihaya"]
    assert "udp" not in config
    assert plan("main", {"udp": {"addr": ""}})["udp"] == []
    # v1.0.2 takes its own default for a key that is missing, which is localhost.
    assert json.loads(plan("v1.0.2", {"udpListenAddr": ""})["config"])["udpListenAddr"] == ""


def test_texts_stay_texts_for_a_yaml_parser_of_go():
    config = plan("main", hook("main", "torrent approval", whitelist=["1" * 30 + "e" + "2" * 9]))["config"]
    assert '"%s"' % ("1" * 30 + "e" + "2" * 9) in config


def test_the_key_for_udp_is_the_users_or_the_hosts():
    assert yaml.safe_load(plan("main", {})["config"])["chihaya"]["udp"]["private_key"] == KEY
    mine = plan("main", {"udp": {"private_key": "mine"}})
    assert yaml.safe_load(mine["config"])["chihaya"]["udp"]["private_key"] == "mine"
    assert KEY not in plan("v2.0.0-rc.2", {})["config"]


# What follows


def test_probes_and_ports_of_a_tracker_everywhere():
    found = plan("v1.0.2", {})
    assert found["probes"] == [
        "http://127.0.0.1:6881/announce",
        "http://[::1]:6881/announce",
        "udp://127.0.0.1:6882",
        "udp://[::1]:6882",
    ]
    assert (found["tcp"], found["udp"], found["ports"]) == ([6881], [6882], [])
    assert found["announce"] == {"scheme": "http", "host": "", "port": 6881, "path": "/announce"}
    assert plan("v1.0.2", {}, ipv6=False)["probes"] == ["http://127.0.0.1:6881/announce", "udp://127.0.0.1:6882"]


def test_probes_of_a_tracker_on_one_address_with_https_and_routes():
    settings = nested({**TLS, "http.addr": "127.0.0.1:6969", "http.https_addr": "10.0.0.5:6970", "udp.addr": ""})
    settings["http"]["announce_routes"] = ["/:passkey/announce"]
    found = plan("main", settings)
    assert found["probes"] == ["http://127.0.0.1:6969/probe/announce", "https://10.0.0.5:6970/probe/announce"]
    assert found["mounts"] == ["/etc/ssl/t.pem", "/etc/ssl/t.key"]
    assert (found["tcp"], found["udp"]) == ([6970], [])
    assert found["announce"] == {"scheme": "https", "host": "10.0.0.5", "port": 6970, "path": "/probe/announce"}


def test_published_ports():
    settings = nested({"http.addr": "10.0.0.5:80", "udp.addr": ":6969"})
    found = plan("v2.0.0-rc.2", settings, network="published", ipv6=False)
    assert found["ports"] == ["10.0.0.5:80:80/tcp", "6969:6969/udp", "127.0.0.1:6880:6880/tcp"]
    config = yaml.safe_load(found["config"])["chihaya"]
    # In its own network loopback would be the container's.
    assert (config["http"]["addr"], config["udp"]["addr"], config["prometheus_addr"]) == (":80", ":6969", ":6880")
    assert found["probes"] == ["http://10.0.0.5:80/announce", "udp://127.0.0.1:6969"]


@pytest.mark.parametrize("version", VERSIONS)
def test_who_is_admitted(version):
    assert (plan(version, {})["client"], plan(version, {})["guarded"]) == ("-SH0100-", False)
    if version == "v1.0.2":
        clients = {"clientWhitelistEnabled": True, "clientWhitelist": ["TR4040"]}
        tokens = {"jwkSetURI": "https://issuer.example/keys"}
    else:
        clients = hook(version, "client approval", whitelist=["TR4040"])
        tokens = hook(version, "jwt", **JWT)
    assert (plan(version, clients)["client"], plan(version, clients)["guarded"]) == ("-TR4040-", False)
    assert plan(version, tokens)["guarded"] is True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60s", 60),
        ("1h30m", 5400),
        ("1.5m", 90),
        ("250ms", 0.25),
        ("60", None),
        ("", None),
        ("s", None),
        ("60s ", None),
        ("-1s", None),
    ],
)
def test_durations_as_go_has_them(text, value):
    assert seconds(text) == value


def test_listen_addresses_that_meet():
    assert parse_listen(":80").overlaps(parse_listen("10.0.0.1:80"))
    assert parse_listen("[::]:80").overlaps(parse_listen("10.0.0.1:80"))
    assert parse_listen("localhost:80").overlaps(parse_listen("127.0.0.1:80"))
    assert not parse_listen("10.0.0.1:80").overlaps(parse_listen("10.0.0.2:80"))
    assert not parse_listen(":80").overlaps(parse_listen(":81"))
