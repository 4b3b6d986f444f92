"""The agent's configuration: wrong ones are refused with the key named, their valid neighbours are taken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.agent.config import MAX_CONFIG_BYTES, Config, load
from shoal.agent.errors import ConfigError


@pytest.fixture
def config_file(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "agent.yml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o644)
        return path

    return write


# what is in the file, what the message must say of it, a valid neighbour
REFUSED = {
    "unknown key": ("lisen: []", "lisen: unknown key; did you mean 'listen'?", 'listen: ["127.0.0.1:1"]'),
    "unknown inner key": ("limits: {uplaod: 1}", "limits.uplaod: unknown key; did you mean 'upload'?", "limits: {}"),
    "nothing near": ("zzz: 1", "zzz: unknown key; known keys: announce_ip, discovery", "name: zzz"),
    "key that is no text": ("1: x", "1: unknown key", "name: '1'"),
    "rate of bits": (
        "limits: {upload: 10Mbit}",
        "limits.upload: found '10Mbit', expected bytes",
        "limits: {upload: 2MB}",
    ),
    "negative rate": ("limits: {upload: -1}", "limits.upload: found -1, expected bytes", "limits: {upload: 0}"),
    "rate too high": (
        "limits: {download: 3GB}",
        "limits.download: found '3GB', expected at most",
        "limits: {upload: 2GB}",
    ),
    "rate of truth": ("limits: {upload: true}", "limits.upload: found True, expected bytes", "limits: {upload: 1}"),
    "limits no mapping": ("limits: 2MB", "limits: found '2MB', expected a mapping with keys of: upload", "limits: {}"),
    "octal number": ("socket_mode: 0660", "socket_mode: found 432, expected quoted octal", 'socket_mode: "0660"'),
    "mode of letters": (
        "socket_mode: rw-rw",
        "socket_mode: found 'rw-rw', expected quoted octal",
        'socket_mode: "600"',
    ),
    "setuid mode": ('socket_mode: "4755"', "socket_mode: found '4755', expected quoted octal", 'socket_mode: "0755"'),
    "port too high": (
        'listen: ["0.0.0.0:1", "0.0.0.0:65536"]',
        "listen[1]: found '0.0.0.0:65536', expected a port",
        'listen: ["0.0.0.0:65535"]',
    ),
    "no port": ('listen: ["0.0.0.0"]', "listen[0]: found '0.0.0.0', expected HOST:PORT", 'listen: ["0.0.0.0:0"]'),
    "bare IPv6": ('listen: ["::1:6891"]', "listen[0]: found '::1:6891', expected HOST:PORT", 'listen: ["[::1]:6891"]'),
    "listen by name": (
        'listen: ["host1:6891"]',
        "listen[0]: found 'host1', expected an IPv4 or IPv6 address",
        'listen: ["127.0.0.1:6891"]',
    ),
    "listen nowhere": ("listen: []", "listen: found a list, expected a list of length >= 1", 'listen: ["127.0.0.1:0"]'),
    "listen no list": (
        "listen: 127.0.0.1:6891",
        "listen: found '127.0.0.1:6891', expected a list",
        "listen: [127.0.0.1:6891]",
    ),
    "announce by name": (
        "announce_ip: host1",
        "announce_ip: found 'host1', expected an IPv4 or IPv6 address",
        "announce_ip: 192.0.2.1",
    ),
    "relative path": (
        "state_dir: var/lib",
        "state_dir: found 'var/lib', expected an absolute path",
        "state_dir: /var/lib",
    ),
    "path of null": ("socket: null", "socket: found nothing (null), expected an absolute path", "store_dir: null"),
    "long socket": (f"socket: /{'x' * 107}", "expected at most 107 bytes", f"socket: /{'x' * 106}"),
    "name of a number": ("name: 1.10", "name: found 1.1, expected text", 'name: "1.10"'),
    "name with spaces": ("name: my host", "name: found 'my host', expected text", "name: my-host"),
    "text for truth": (
        "discovery: {dht: 'on please'}",
        "discovery.dht: found 'on please', expected true or false",
        "discovery: {dht: on}",
    ),
    "interval too short": (
        "resume_interval: 0.5",
        "resume_interval: found 0.5, expected a number >= 1",
        "resume_interval: 1",
    ),
    "endless interval": (
        "resume_interval: .inf",
        "resume_interval: found inf, expected a number <=",
        "resume_interval: 60",
    ),
    "no number": (
        "web_seeds: {jitter: .nan}",
        "web_seeds.jitter: found nan, expected a number >= 0",
        "web_seeds: {jitter: 0}",
    ),
    "log level": (
        "log: {level: verbose}",
        "log.level: found 'verbose', expected one of debug, info, warning, error",
        "log: {level: debug}",
    ),
}


@pytest.mark.parametrize(("content", "message", "neighbour"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_value_is_refused_by_its_key_and_its_neighbour_taken(config_file, content, message, neighbour):
    path = config_file(content)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert load(config_file(neighbour)) is not None


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
    "too big": ("#" * (MAX_CONFIG_BYTES + 1), f"more than {MAX_CONFIG_BYTES} bytes"),
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
""")
    ).engine_settings()
    assert (told.agent_name, told.announce_ip) == ("host1", "10.0.0.1")
    assert (told.state_dir, told.store_dir) == (Path("/srv/state"), Path("/srv/store"))
    assert told.listen == ("10.0.0.1:7000", "[fd00::1]:7000")
    assert (told.upload_limit, told.download_limit) == (2_000_000, 512_000)
    assert (told.dht, told.lsd, told.upnp, told.natpmp) == (True, True, True, True)
    assert (told.web_seed.stall_after, told.web_seed.jitter, told.web_seed.max_connections) == (5, 0.5, 3)
    assert told.resume_interval == 7


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
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    good = check(f"state_dir: {tmp_path}/state\nsocket: {tmp_path}/agent.sock\n")
    assert (good.returncode, good.stdout) == (0, f"{tmp_path}/agent.yml: valid\n")
    bad = check("log: {format: xml}")
    assert bad.returncode == 2
    assert "agent.yml: log.format: found 'xml', expected one of json, text" in bad.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.yml"]
