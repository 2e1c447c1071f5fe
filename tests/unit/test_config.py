"""re6st.config: the configuration of a node, and how its mistakes are told."""

import re
from pathlib import Path

import pytest

from re6st.config import default_locations, from_values, load, render
from re6st.errors import ConfigError

BASE = {"state-directory": "/var/lib/re6st/x", "runtime-directory": "/run/re6st/x"}


def test_the_defaults_are_complete():
    config = from_values(BASE, "x.toml")
    assert config.control_port == 4226
    assert list(config.tunnel_port_range) == list(range(4227, 4243))
    assert config.interface(31) == "re6st31"


def test_all_mistakes_are_reported_at_once_with_file_and_key():
    values = BASE | {
        "control-port": "many",
        "tunnel-ports": "9-3",
        "outgoing-tunels": 3,
        "interface-prefix": "much-too-long-a-name",
        "advertise": ["example.org"],
        "registry": ["http://registry"],
        "runtime-directory": "run",
    }
    with pytest.raises(ConfigError) as caught:
        from_values(values, "x.toml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("x.toml: ") for line in lines)
    for key in (
        "control-port",
        "tunnel-ports",
        "interface-prefix",
        "advertise",
        "registry",
        "runtime-directory",
    ):
        assert any(line.startswith(f"x.toml: {key}") for line in lines), key
    assert any("did you mean outgoing-tunnels?" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("control-port", "4226", '"4226": must be a whole number'),
        ("log-level", "verbose", 'must be "error", "warning", "info" or "debug"'),
        ("advertise", ["192.0.2.1", 5], "entry 2 must be a text in quotes"),
        ("upnp", "yes", "must be true or false"),
        ("tunnel-mtu", 100, "must be a whole number >= 1280"),
        ("lan-interfaces", ["eth0 "], "entry 1 must be the name of an interface"),
        ("lan-key-file", 5, "must be a text in quotes"),
    ],
)
def test_mistakes_are_told_to_people_who_know_no_python(key, value, words):
    with pytest.raises(ConfigError) as caught:
        from_values(BASE | {key: value}, "x.toml")
    assert words in str(caught.value)


def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file():
    values = BASE | {"tunnel-ports": "9-3", "upnp": 1}
    with pytest.raises(ConfigError) as caught:
        from_values(values, "x.toml", ["tunnel-ports"])
    blamed = [line.split()[0] for line in str(caught.value).splitlines()]
    assert sorted(blamed) == ["--tunnel-ports:", "x.toml:"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_is_no_text_is_named(tmp_path, content):
    path = tmp_path / "x.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        load(path, default_locations("x"))
    assert "Errno" not in str(caught.value)


def test_a_control_port_among_the_tunnel_ports_is_a_mistake():
    with pytest.raises(ConfigError, match="lies within tunnel-ports"):
        from_values(BASE | {"control-port": 4230}, "x.toml")


def test_what_is_rendered_can_be_loaded(tmp_path):
    values = BASE | {"registry": ["https://[2a00::1]:8443"], "upnp": False, "tunnel-refresh": 60.5}
    path = tmp_path / "x.toml"
    path.write_text(render(values))
    config = load(path, default_locations("x"))
    assert config.registry == ("https://[2a00::1]:8443",)
    assert config.upnp is False
    assert config.tunnel_refresh == 60.5


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="join a network first"):
        load(tmp_path / "none.toml", default_locations("x"))


def test_broken_toml_is_reported_with_its_place(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("control-port = = 3")
    with pytest.raises(ConfigError, match=r"x\.toml: not valid TOML.*line 1"):
        load(path, default_locations("x"))


@pytest.mark.parametrize("name", ["../x", "", "a/b", "x" * 40, "-x"])
def test_network_names_cannot_leave_their_directory(name):
    with pytest.raises(ConfigError):
        default_locations(name)


def test_each_network_has_places_of_its_own():
    one, two = default_locations("home"), default_locations("work")
    assert one.state != two.state
    assert one.runtime != two.runtime
    assert one.config == Path("/etc/re6st/home.toml")


def test_uplinks_must_be_different_and_lead_out():
    places = {"state-directory": "/state", "runtime-directory": "/run"}
    assert from_values({**places, "uplinks": ["eth0", "eth1"]}, "x").uplinks == ("eth0", "eth1")
    with pytest.raises(ConfigError) as caught:
        from_values({**places, "uplinks": ["eth0", "eth0", "lo", "re6st3"]}, "x")
    assert str(caught.value).count("uplinks: ") == 3
