"""Where options come from, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.cli.options import collect, flag_of, from_environment, from_toml, parse, variable_of
from sadik.config import SETTINGS, NodeConfig, RespConfig, StorageConfig, build
from sadik.errors import InvalidRequest
from sadik.settings import Address


def test_flag_beats_variable_beats_file_beats_default(tmp_path):
    """One option, four sources: the nearer one to the operator's hand wins."""
    file = tmp_path / "sadik.toml"
    file.write_text('sync = "never"\nsync_interval_ms = 30\nresp = "127.0.0.1:1"\n')
    environment = {"SADIK_SYNC": "always", "SADIK_SYNC_INTERVAL_MS": "20"}
    config = build(collect({"sync_interval_ms": "10"}, environment, str(file)))
    assert config.storage.sync_interval_ms == 10
    assert config.storage.sync == "always"
    assert config.resp.listen == Address("127.0.0.1", 1)
    assert config.http.listen == Address("127.0.0.1", 7380)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_option_is_read_from_each_source(name, tmp_path):
    """One set of names: what one source can set, each can, and to the same value."""
    option = SETTINGS[name]
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef\n")
    text = {
        "address": "[::1]:5",
        "addresses": "a:1,[::1]:2",
        "choice": option.choices[-1] if option.choices else "",
        "flag": "true",
        "path": "/somewhere",
        "secret": str(secret),
        "text": "name.1",
    }.get(option.kind) or str(option.high // 2)
    file = tmp_path / "sadik.toml"
    file.write_text(f"{name} = '{text}'\n")
    expected = parse(option, text)
    option.check(expected)
    assert expected != option.default
    assert from_toml(str(file)) == {name: expected}
    assert from_environment({variable_of(name): text}) == {name: expected}
    assert collect({name: text}, {}, None) == {name: expected}
    part = NodeConfig() if not option.component else getattr(NodeConfig(), option.component)
    assert option.field in {field.name for field in dataclasses.fields(part)}


def test_toml_takes_native_types_and_hyphens(tmp_path):
    """A file may say 16 without quotes, true, and lists; hyphens read as in the flag."""
    file = tmp_path / "sadik.toml"
    file.write_text('sync-interval-ms = 16\ninsecure = true\nseed-node = ["a:1", "b:2"]\n')
    assert from_toml(str(file)) == {
        "sync_interval_ms": 16,
        "insecure": True,
        "seed_node": (Address("a", 1), Address("b", 2)),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('rsep = "127.0.0.1:1"\n', "unknown key 'rsep' in FILE; did you mean resp?"),
        ('sync_interval_ms = "soon"\n', "sync_interval_ms in FILE must be 1 to 1h"),
        ("sync_interval_ms = 1.5\n", "sync_interval_ms in FILE must be 1 to 1h"),
        ("sync_interval_ms = true\n", "sync_interval_ms in FILE must be 1 to 1h"),
        ("node_id = 7\n", "node_id in FILE must be text"),
        ("resp = 7379\n", "resp in FILE must be HOST:PORT, not 7379"),
        ("insecure = 1\n", "insecure in FILE must be true or false"),
        ("[storage]\nsync = 'never'\n", "unknown key 'storage' in FILE"),
        ("sync_interval_ms = 1\nsync-interval-ms = 2\n", "key 'sync-interval-ms' stands twice in FILE"),
        ("sync = \n", "--config: FILE is not TOML"),
        ("seed_node = [7]\n", "seed_node in FILE must be HOST:PORT, not '7'"),
    ],
)
def test_toml_refuses_with_the_place(tmp_path, text, message):
    """The line tells which file and key, so it can be mended without a search."""
    file = tmp_path / "sadik.toml"
    file.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        from_toml(str(file))
    assert str(caught.value).startswith(message.replace("FILE", str(file)))
    assert "\n" not in str(caught.value)


def test_missing_file_is_refused():
    """A configuration that is not there is not the default configuration."""
    with pytest.raises(InvalidRequest, match=r"--config: cannot read /nowhere/sadik\.toml: No such file"):
        from_toml("/nowhere/sadik.toml")


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("SADIK_RSEP", "; did you mean SADIK_RESP?"),
        ("SADIK_RESP_PORT", "; did you mean SADIK_RESP?"),
        ("SADIK_CONNECTIONS_MAX", "; did you mean SADIK_RESP_CONNECTIONS_MAX?"),
        ("SADIK_HOURGLASS", ""),
    ],
)
def test_unknown_variable_is_refused_with_the_nearest_name(variable, hint):
    """A misspelt limit must not be a limit that is silently absent."""
    with pytest.raises(InvalidRequest) as caught:
        from_environment({variable: "7000"})
    assert str(caught.value) == f"unknown environment variable {variable}{hint}"


def test_variables_of_others_are_passed_over():
    """The build's own variables, and those Kubernetes sets for services called sadik and sadik-resp."""
    environment = {
        "PATH": "/bin",
        "SADIK_KERNELS": "reference",
        "SADIK_DEBUG": "1",
        "SADIK_CONFIG": "x.toml",
        "SADIK_SERVICE_HOST": "10.0.0.1",
        "SADIK_SERVICE_PORT": "7379",
        "SADIK_SERVICE_PORT_RESP": "7379",
        "SADIK_PORT": "tcp://10.0.0.1:7379",
        "SADIK_RESP_PORT": "tcp://10.0.0.1:7379",
        "SADIK_PORT_7379_TCP": "tcp://10.0.0.1:7379",
        "SADIK_PORT_7379_TCP_ADDR": "10.0.0.1",
        "SADIK_RESP_PORT_7379_TCP_PROTO": "tcp",
    }
    assert from_environment(environment) == {}


def test_empty_variable_is_not_set():
    """Shells and compose files pass unset variables on as empty ones."""
    assert from_environment({"SADIK_SYNC": ""}) == {}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("value_bytes_max", "4096", 4096),
        ("value_bytes_max", "64KiB", 65536),
        ("value_bytes_max", "1mib", 1 << 20),
        ("horizon_ms", "10d", 864_000_000),
        ("sync_interval_ms", "250ms", 250),
        ("sync_interval_ms", "2s", 2000),
        ("insecure", "no", False),
        ("insecure", "TRUE", True),
    ],
)
def test_text_is_read_with_units(name, text, value):
    """What people write for sizes and times, exactly."""
    assert parse(SETTINGS[name], text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("value_bytes_max", "1MB"),
        ("value_bytes_max", "-1"),
        ("value_bytes_max", "1.5MiB"),
        ("value_bytes_max", ""),
        ("value_bytes_max", "9" * 5000),
        ("value_bytes_max", "0x10"),
        ("value_bytes_max", "10s"),
        ("resp_connections_max", "10KiB"),
        ("insecure", "maybe"),
        ("resp", "7379"),
    ],
)
def test_text_that_is_not_a_value_is_refused(name, text):
    """MB is refused because it could mean two sizes."""
    with pytest.raises(InvalidRequest):
        parse(SETTINGS[name], text)


@given(st.sampled_from(sorted(SETTINGS)), st.data())
def test_spelled_numbers_read_back(name, data):
    """The defaults in --help are what one may type."""
    option = SETTINGS[name]
    if option.kind in ("bytes", "milliseconds", "count"):
        value = data.draw(st.integers(option.low, option.high))
        assert parse(option, option.spell(value)) == value


def test_secret_loses_one_line_end_and_never_shows(tmp_path):
    """Editors add a line end; a secret in a log or an error would be one no more."""
    file = tmp_path / "secret"
    file.write_bytes(b"correct horse battery\r\n")
    config = build(collect({"secret_file": str(file)}, {}, None))
    assert config.secret == b"correct horse battery"
    assert "horse" not in repr(config)
    file.write_bytes(b"horse")
    with pytest.raises(InvalidRequest, match="--secret-file must be a secret of 16 to 1024 bytes") as caught:
        collect({"secret_file": str(file)}, {}, None)
    assert "horse" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="--secret-file names a file that cannot be read: /nowhere"):
        collect({"secret_file": "/nowhere"}, {}, None)


def test_flag_names_follow_from_option_names():
    assert flag_of("resp_connections_max") == "--resp-connections-max"
    assert variable_of("resp_connections_max") == "SADIK_RESP_CONNECTIONS_MAX"
    assert RespConfig().connections_max == SETTINGS["resp_connections_max"].default
    assert StorageConfig().sync == SETTINGS["sync"].default
