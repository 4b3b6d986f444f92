"""The agent's configuration: wrong ones are refused with the key named, their valid neighbours are taken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shoal.agent.config import Config, load
from shoal.agent.errors import ConfigError
from shoal.common.settings import MAX_BYTES
from shoal.swarm import Reserve


@pytest.fixture
def config_file(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "agent.yml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o644)
        return path

    return write


# A rule a paragraph: what is in the file; what the message must say of it; a valid neighbour.
REFUSED = """
lisen: []
lisen: unknown key; did you mean 'listen'?
listen: ["127.0.0.1:1"]

limits: {uplaod: 1}
limits.uplaod: unknown key; did you mean 'upload'?
limits: {upload: 1}

zzz: 1
zzz: unknown key; known keys: announce_ip, apps_dir, discovery
name: zzz

1: x
1: unknown key
name: '1'

limits: {upload: 10Mbit}
limits.upload: found '10Mbit', expected bytes per second
limits: {upload: 2MB}

limits: {upload: -1}
limits.upload: found -1, expected bytes
limits: {upload: 0}

limits: {download: 3GB}
limits.download: found '3GB', expected at most
limits: {download: 2GB}

limits: {upload: true}
limits.upload: found True, expected bytes
limits: {upload: 1}

limits: 2MB
limits: found '2MB', expected a mapping with keys of: upload, download
limits: {}

limits: {schedule: {from: "08:00"}}
limits.schedule: found a mapping, expected a list
limits: {schedule: []}

limits: {schedule: [{from: "08:00"}]}
limits.schedule[0].to: missing
limits: {schedule: [{from: "08:00", to: "18:00"}]}

limits: {schedule: [{from: "08:00", to: "18:00"}, nights]}
limits.schedule[1]: found 'nights', expected a mapping with keys of: from, to, days
limits: {schedule: [{from: "08:00", to: "18:00"}, {from: "22:00", to: "06:00"}]}

limits: {schedule: [{form: "08:00", from: "08:00", to: "18:00"}]}
limits.schedule[0].form: unknown key; did you mean 'from'?
limits: {schedule: [{days: daily, from: "08:00", to: "18:00"}]}

limits: {schedule: [{from: 18:00, to: "24:00"}]}
limits.schedule[0].from: found 1080, expected a time in quotes
limits: {schedule: [{from: "18:00", to: "24:00"}]}

limits: {schedule: [{from: "08:00", to: "24:01"}]}
limits.schedule[0].to: found '24:01', expected a time
limits: {schedule: [{from: "08:00", to: "23:59"}]}

limits: {schedule: [{from: "08:00", to: "08:00"}]}
limits.schedule[0]: found daily 08:00-08:00, expected two times; a whole day is "00:00" to "24:00"
limits: {schedule: [{from: "00:00", to: "24:00"}]}

limits: {schedule: [{days: mon-freitag, from: "08:00", to: "18:00"}]}
limits.schedule[0].days: found 'mon-freitag', expected days such as mon-fri
limits: {schedule: [{days: "fri-mon, wed", from: "08:00", to: "18:00"}]}

limits: {schedule: [{from: "08:00", to: "18:00", upload: fast}]}
limits.schedule[0].upload: found 'fast', expected bytes per second
limits: {schedule: [{from: "08:00", to: "18:00", upload: 0, download: 1MB}]}

limits: {time_zone: Mars/Olympus}
limits.time_zone: found 'Mars/Olympus', expected a time zone that this host knows
limits: {time_zone: Europe/Berlin}

limits: {time_zone: ../../etc/passwd}
limits.time_zone: found '../../etc/passwd', expected a time zone
limits: {time_zone: UTC}

socket_mode: 0660
socket_mode: found 432, expected quoted octal
socket_mode: "0660"

socket_mode: rw-rw
socket_mode: found 'rw-rw', expected quoted octal
socket_mode: "600"

socket_mode: "4755"
socket_mode: found '4755', expected quoted octal
socket_mode: "0755"

listen: ["0.0.0.0:1", "0.0.0.0:65536"]
listen[1]: found '0.0.0.0:65536', expected a port
listen: ["0.0.0.0:65535"]

listen: ["0.0.0.0"]
listen[0]: found '0.0.0.0', expected HOST:PORT
listen: ["0.0.0.0:0"]

listen: ["::1:6891"]
listen[0]: found '::1:6891', expected HOST:PORT
listen: ["[::1]:6891"]

listen: ["host1:6891"]
listen[0]: found 'host1', expected an IPv4 or IPv6 address
listen: ["127.0.0.1:6891"]

listen: []
listen: found a list, expected a list of length >= 1
listen: ["127.0.0.1:0"]

listen: 127.0.0.1:6891
listen: found '127.0.0.1:6891', expected a list
listen: [127.0.0.1:6891]

announce_ip: host1
announce_ip: found 'host1', expected an IPv4 or IPv6 address
announce_ip: 192.0.2.1

state_dir: var/lib
state_dir: found 'var/lib', expected an absolute path
state_dir: /var/lib

socket: null
socket: found nothing (null), expected an absolute path
store_dir: null

socket: /{107}
expected at most 107 bytes (unix(7))
socket: /{106}

name: 1.10
name: found 1.1, expected text
name: "1.10"

name: my host
name: found 'my host', expected text
name: my-host

discovery: {dht: 'on please'}
discovery.dht: found 'on please', expected true or false
discovery: {dht: on}

resume_interval: 0.5
resume_interval: found 0.5, expected a number >= 1
resume_interval: 1

resume_interval: .inf
resume_interval: found inf, expected a number <=
resume_interval: 60

web_seeds: {jitter: .nan}
web_seeds.jitter: found nan, expected a number >= 0
web_seeds: {jitter: 0}

web_seeds: {max_connections: 2.5}
web_seeds.max_connections: found 2.5, expected a whole number
web_seeds: {max_connections: 64}

peers: {allow: [10.0.0.0/8, fleet]}
peers.allow[1]: found 'fleet', expected an address or a network such as 10.0.0.0/8
peers: {allow: [10.0.0.0/8, "2001:db8::/32", 192.0.2.7]}

peers: {allow: [10.0.0.1/8]}
peers.allow[0]: found '10.0.0.1/8', expected an address or a network such as 10.0.0.0/8 (10.0.0.1/8 has host bits set)
peers: {allow: [10.0.0.1/32]}

peers: {allow: 10.0.0.0/8}
peers.allow: found '10.0.0.0/8', expected a list
peers: {allow: []}

seeding: {ratio: -1}
seeding.ratio: found -1, expected a number >= 0
seeding: {ratio: 2.5}

seeding: {time: a week}
seeding.time: found 'a week', expected seconds, or text such as 90s, 30m, 12h, 7d
seeding: {time: 7d}

storage: {min_free: 100%}
storage.min_free: found '100%', expected bytes such as 10GB, or a share of the file system below 100
storage: {min_free: 99.5 %}

storage: {min_free: plenty}
storage.min_free: found 'plenty', expected bytes such as 10GB
storage: {min_free: 1.5TB}

storage: {when_full: panic}
storage.when_full: found 'panic', expected one of wait, refuse
storage: {when_full: refuse}

retention: {keep: -1}
retention.keep: found -1, expected a whole number >= 0
retention: {keep: 5}

retention: {keep: all}
retention.keep: found 'all', expected a whole number
retention: {keep: 0}

retention: {min_age: -1}
retention.min_age: found -1, expected seconds
retention: {min_age: 0}

retention: {min_age: 2 weeks}
retention.min_age: found '2 weeks', expected seconds, or text such as 90s
retention: {min_age: 14d}

apps_dir: apps.d
apps_dir: found 'apps.d', expected an absolute path
apps_dir: /etc/shoal/apps.d

upgrade: {by: magic}
upgrade.by: found 'magic', expected one of socket, child
upgrade: {by: child}

upgrade: {socket_dir: run}
upgrade.socket_dir: found 'run', expected an absolute path
upgrade: {socket_dir: /run}

metrics: {listen: 9100}
metrics.listen: found 9100, expected ADDRESS:PORT in quotes
metrics: {listen: "127.0.0.1:9100"}

log: {level: verbose}
log.level: found 'verbose', expected one of debug, info, warning, error
log: {level: debug}

log: {format: xml}
log.format: found 'xml', expected one of json, text
log: {format: text}
"""
RULES = [tuple(rule.splitlines()) for rule in REFUSED.strip().split("\n\n")]


def long_path(line: str) -> str:
    """``/{107}`` stands for a slash and so many letters."""
    return re.sub(r"/\{(\d+)\}", lambda match: "/" + "x" * int(match[1]), line)


@pytest.mark.parametrize(("content", "message", "neighbour"), RULES, ids=[rule[0] for rule in RULES])
def test_a_wrong_value_is_refused_by_its_key_and_its_neighbour_taken(config_file, content, message, neighbour):
    path = config_file(long_path(content))
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert load(config_file(long_path(neighbour))) is not None


def test_every_key_has_a_rule_that_was_broken():
    def keys(kind, prefix=""):
        for field in msgspec.structs.fields(kind):
            inner = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
            yield from keys(field.type, f"{prefix}{field.name}.") if inner else [f"{prefix}{field.name}"]

    broken = {re.match(r"[a-z_.]*", rule[1])[0] for rule in RULES}
    # alike: the same type as a key that was broken
    alike = {"store_dir", "discovery.lsd", "discovery.upnp", "discovery.natpmp", "web_seeds.stall_after"}
    assert set(keys(Config)) - broken == alike


UNREADABLE = {
    "twice": ("name: a\nlog: {}\nname: b\n", "not valid YAML in line 3, column 1: the key 'name' is there twice"),
    "twice inside": ("log:\n  level: info\n  level: debug\n", "in line 3, column 3: the key 'level' is there twice"),
    "empty": ("", "empty; write {} to take every default"),
    "only a comment": ("# name: host1\n", "empty; write {} to take every default"),
    "a list": ("- name: host1\n", "found a list, expected a mapping"),
    "a sentence": ("name host1\n", "found 'name host1', expected a mapping"),
    "no YAML": ("name: [host1\n", "not valid YAML in line 2, column 1"),
    "two documents": ("name: a\n---\nname: b\n", "not valid YAML in line 2"),
    "a Python object": ("name: !!python/object/apply:os.system [true]\n", "not valid YAML in line 1"),
    "an impossible date": ("name: 2026-13-45\n", "not valid YAML"),
    "not UTF-8": (b"name: caf\xe9\n", "not UTF-8 (byte 9)"),
    "a NUL": (b"name: a\0b\n", "not valid YAML"),
    "too deep": ("name: " + "[" * 5000, "nested too deeply"),
    "too big": ("#" * (MAX_BYTES + 1), f"more than {MAX_BYTES} bytes"),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_no_configuration_is_refused(config_file, content, message):
    path = config_file(content)
    with pytest.raises(ConfigError, match=r"agent\.yml") as refused:
        load(path)
    assert message in str(refused.value)


def test_all_problems_are_told_at_once(config_file):
    with pytest.raises(ConfigError) as refused:
        load(config_file('nmae: x\nlimits: {upload: fast, down: 1}\nlisten: ["x"]\nname: fine\n'))
    text = str(refused.value)
    assert [key for key in ("nmae:", "limits.upload:", "limits.down:", "listen[0]:") if key not in text] == []
    assert "fine" not in text
    with pytest.raises(ConfigError) as refused:
        load(config_file("\n".join(f"key{number}: 1" for number in range(50))))
    assert str(refused.value).splitlines()[20:] == ["  and 30 more"]


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yml: cannot be read: No such file"):
        load(tmp_path / "absent.yml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root obeys files that others may have written")
@pytest.mark.parametrize(("owner", "group", "mode"), [(0, 0, 0o666), (0, 1, 0o664), (1, 0, 0o644)])
def test_root_refuses_a_file_that_others_can_write(config_file, owner, group, mode):
    path = config_file("name: host1")
    os.chown(path, owner, group)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others than root can write it"):
        load(path)
    os.chown(path, 0, 0)
    path.chmod(0o664)  # root's own group may
    assert load(path).name == "host1"


def test_defaults_and_values_reach_the_engine(config_file):
    defaults = load(None).engine_settings()
    assert defaults.store_dir == Path("/var/lib/shoal/store")
    assert defaults.listen == ("0.0.0.0:6891", "[::]:6891")
    assert defaults.agent_name  # the host's
    assert load(config_file("{}")) == Config()

    told = load(
        config_file("""
name: host1
state_dir: /srv/state
store_dir: /srv/store
listen: ["10.0.0.1:7000", "[fd00::1]:7000"]
announce_ip: 10.0.0.1
limits: {upload: 2MB, download: 500 KiB}
discovery: {dht: true, lsd: true, upnp: true, natpmp: true}
web_seeds: {stall_after: 5, jitter: 0.5, max_connections: 3}
resume_interval: 7
peers: {allow: [10.0.0.0/8, "::ffff:192.0.2.0/120"]}
seeding: {ratio: 1.5, time: 2h}
storage: {min_free: 2.5%, when_full: refuse}
""")
    ).engine_settings()
    assert (told.agent_name, told.announce_ip) == ("host1", "10.0.0.1")
    assert (told.state_dir, told.store_dir) == (Path("/srv/state"), Path("/srv/store"))
    assert told.listen == ("10.0.0.1:7000", "[fd00::1]:7000")
    assert (told.upload_limit, told.download_limit) == (2_000_000, 512_000)
    assert (told.dht, told.lsd, told.upnp, told.natpmp) == (True, True, True, True)
    assert (told.web_seed.stall_after, told.web_seed.jitter, told.web_seed.max_connections) == (5, 0.5, 3)
    assert told.resume_interval == 7
    assert told.allowed_peers == ("10.0.0.0/8", "192.0.2.0/24")
    assert (told.seeding.ratio, told.seeding.time) == (1.5, 7200)
    assert (told.min_free, told.refuse_when_full) == (Reserve(percent=2.5), True)
    assert load(config_file("storage: {min_free: 1.5 TB}")).engine_settings().min_free == Reserve(
        bytes=1_500_000_000_000
    )


@pytest.mark.parametrize(
    ("text", "rate"),
    [("0", 0), ("1500", 1500), ("1kB", 1000), ("1.5 MB", 1_500_000), ("2MiB", 2 << 20), ("10b", 10), ("1gib", 1 << 30)],
)
def test_rates_are_bytes_in_decimal_and_binary_units(config_file, text, rate):
    assert load(config_file(f"limits: {{upload: {text}}}")).limits.upload == rate


def test_the_command_line_overrides_and_is_named_when_wrong(config_file):
    path = config_file("name: host1\nlisten: ['127.0.0.1:1']")
    config = load(path, {"listen": ["127.0.0.1:2"]})
    assert (config.name, config.listen) == ("host1", ("127.0.0.1:2",))
    with pytest.raises(ConfigError, match=r"^the command line: listen\[0\]: found 'x'"):
        load(path, {"listen": ["x"]})


def test_check_says_so_and_starts_nothing(config_file, tmp_path):
    def check(content: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shoal", "agent", "--check", "--config", str(config_file(content))]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    good = check(f"state_dir: {tmp_path}/state\nsocket: {tmp_path}/agent.sock\n")
    assert (good.returncode, good.stdout) == (0, f"{tmp_path}/agent.yml: valid\n")
    bad = check("log: {format: xml}")
    assert bad.returncode == 2
    assert "agent.yml: log.format: found 'xml', expected one of json, text" in bad.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.yml"]
