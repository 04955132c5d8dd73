"""Configuration as data: ranges, relations, addresses."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadik.config import SETTINGS, HttpConfig, LimitsConfig, NodeConfig, RespConfig, StorageConfig, build
from sadik.errors import InvalidRequest
from sadik.settings import Address, Component

MIB = 1 << 20
COMPONENTS = [NodeConfig, *(type(getattr(NodeConfig(), f.name)) for f in dataclasses.fields(NodeConfig))]


def test_defaults_build_and_are_frozen():
    """The defaults fit together, and nobody can change them under a running node."""
    config = build({})
    assert config == NodeConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.resp.connections_max = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", [n for n, option in SETTINGS.items() if type(option.default) is int])
def test_numbers_are_checked_at_both_ends(name):
    """One more than the greatest and one less than the least are refused by name; a bool is no number."""
    option = SETTINGS[name]
    owner = NodeConfig if not option.component else type(getattr(NodeConfig(), option.component))
    for wrong in (option.low - 1, option.high + 1, True, "1", 1.0, None):
        with pytest.raises(InvalidRequest, match=rf"^{name} must be "):
            owner(**{option.field: wrong})
    assert option.low <= option.default <= option.high


@pytest.mark.parametrize("component", [c for c in COMPONENTS if issubclass(c, Component)])
def test_every_number_has_a_unit_or_is_a_count(component):
    """A limit whose unit is guessed is guessed wrongly."""
    for option in (o for o in SETTINGS.values() if o.field in component.__dataclass_fields__):
        if option.kind == "bytes":
            assert "bytes" in option.name
        if option.kind == "milliseconds":
            assert option.name.endswith("_ms")


def test_every_option_says_what_it_does():
    """Help is complete: a sentence each, and names that are unique when spelled as flags."""
    for option in SETTINGS.values():
        assert option.help.endswith("."), option.name
        assert option.group
    assert len({name.replace("_", "-") for name in SETTINGS}) == len(SETTINGS)


def test_limits_rise_with_the_value_limit():
    """One flag makes larger values possible; an explicit smaller limit beside it is an error."""
    config = build({"value_bytes_max": 100 * MIB})
    assert config.resp.bulk_bytes_max == 100 * MIB
    assert config.resp.request_bytes_max == 101 * MIB
    assert config.limits.set_bytes_max == 101 * MIB
    with pytest.raises(InvalidRequest, match=r"value_bytes_max .* resp_bulk_bytes_max"):
        build({"value_bytes_max": 100 * MIB, "resp_bulk_bytes_max": MIB})
    with pytest.raises(InvalidRequest, match=r"set_bytes_max .* segment_bytes_max"):
        build({"segment_bytes_max": 32 * MIB})
    with pytest.raises(InvalidRequest, match=r"^value_bytes_max must be 1 to 256MiB"):
        build({"value_bytes_max": 300 * MIB})


def test_argument_limit_keeps_within_the_request_limit():
    """One flag makes requests smaller; arguments are never limited to less than a value."""
    assert build({}).resp.bulk_bytes_max > build({}).limits.value_bytes_max
    assert build({"resp_request_bytes_max": 20 * MIB}).resp.bulk_bytes_max == 20 * MIB
    with pytest.raises(InvalidRequest, match=r"resp_bulk_bytes_max .* resp_request_bytes_max"):
        build({"resp_request_bytes_max": 8 * MIB})
    with pytest.raises(InvalidRequest, match=r"^resp_request_bytes_max must be"):
        build({"resp_request_bytes_max": "20MiB"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partitions": 1000}, "partitions must be a power of two, not 1000"),
        ({"partitions": 32768}, "partitions must be 1 to 16384, not 32768"),
        ({"node_id": "a b"}, "node_id must be text"),
        ({"node_id": ""}, "node_id must be text"),
        ({"node_id": "n" * 65}, "node_id must be text"),
        ({"node_id": "n\n"}, "node_id must be text"),
        ({"engine": "rocks"}, "engine must be one of log, memory, lmdb, not 'rocks'"),
        ({"data": ""}, "data must be a path"),
        ({"resp_output_soft_bytes_max": 65 * MIB}, "resp_output_soft_bytes_max (68157440) must not be more"),
        ({"http": Address("127.0.0.1", 7379)}, "resp and http are both 127.0.0.1:7379"),
        ({"nonsense": 1}, "there is no option 'nonsense'"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values, message):
    """Before any side effect, with the option's name first."""
    with pytest.raises(InvalidRequest) as caught:
        build(values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org", "::ffff:10.0.0.1"]
)
@pytest.mark.parametrize("listener", ["resp", "http", "peer"])
def test_open_address_needs_a_secret_or_insecure(host, listener):
    """Nothing but loopback is bound without credentials, by accident least of all."""
    address = {listener: Address(host, 0)}
    with pytest.raises(InvalidRequest, match=rf"^{listener} .*there is no secret"):
        build(address)
    assert build({**address, "insecure": True}).insecure
    assert build({**address, "secret_file": b"0123456789abcdef"}).secret


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"]
)
def test_loopback_needs_nothing(host):
    assert build({"resp": Address(host, 0)}).resp.listen.is_loopback


def test_several_port_zeros_are_not_the_same_address():
    """Port 0 asks the system for a free port each time."""
    zero = Address("127.0.0.1", 0)
    assert build({"resp": zero, "http": zero, "peer": zero}).http == HttpConfig(listen=zero)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7379", "127.0.0.1", 7379),
        ("[::1]:7379", "::1", 7379),
        ("[fe80::1%eth0]:0", "fe80::1%eth0", 0),
        ("node-1.example.org:65535", "node-1.example.org", 65535),
    ],
)
def test_addresses_read_and_print_alike(text, host, port):
    assert Address.parse(text) == (host, port)
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            ":7379",
            "7379",
            "host",
            "host:",
            "host:65536",
            "host:-1",
            "host:+1",
            "host: 1",
            "host:1 ",
            "host:1\n",
        ),
        *(
            "::1:7379",
            "[::1]",
            "[::1]7379",
            "[host]:1",
            "[127.0.0.1]:1",
            "[::1:7379",
            "ho st:1",
            "host:١",
            "http://host:1",
        ),
        *("host:00000000001", "host:1:2"),
    ],
)
def test_what_is_not_an_address_is_refused(text):
    with pytest.raises(InvalidRequest):
        Address.parse(text)


@given(st.text(max_size=40))
def test_parsed_addresses_read_back(text):
    """Whatever is accepted prints as something that means the same."""
    try:
        address = Address.parse(text)
    except InvalidRequest:
        return
    assert Address.parse(str(address)) == address


def test_components_stand_alone():
    """Tests and studies build one component without the rest."""
    assert StorageConfig(sync="never").sync == "never"
    assert LimitsConfig(value_bytes_max=1).value_bytes_max == 1
    with pytest.raises(InvalidRequest, match=r"^resp must be HOST:PORT"):
        RespConfig(listen="127.0.0.1:1")  # type: ignore[arg-type]
