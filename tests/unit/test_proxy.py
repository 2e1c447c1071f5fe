"""The HTTP proxy of a node: its URL and its credentials."""

import pytest

from re6st.errors import ConfigError
from re6st.proxy import Proxy, load_proxy, parse_url


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://proxy.example:3128", ("proxy.example", 3128)),
        ("http://10.0.0.1:8080/", ("10.0.0.1", 8080)),
        ("http://[fd00::1]:1", ("fd00::1", 1)),
    ],
)
def test_url(url, place):
    assert parse_url(url) == place
    assert Proxy(*place).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["https://a:1", "http://a", "http://a:0", "http://a:65536", "http://user:word@a:1", "http://a:1/x", "-x"],
)
def test_bad_url(url):
    with pytest.raises(ConfigError, match="is no proxy"):
        parse_url(url)


def test_none():
    assert load_proxy("", None) is None
    assert load_proxy("http://a:1", None).headers() == {}


def test_credentials_are_read_and_not_shown(tmp_path):
    path = tmp_path / "proxy"
    path.write_text("anna\nsecret:word\n")
    path.chmod(0o600)
    proxy = load_proxy("http://a:1", path)
    # RFC 7617: the first colon ends the user.
    assert proxy.headers() == {"Proxy-Authorization": "Basic YW5uYTpzZWNyZXQ6d29yZA=="}
    assert "secret" not in repr(proxy)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_proxy("http://a:1", path)


@pytest.mark.parametrize("text", ["", "anna", "\nword", "an:na\nword"])
def test_incomplete_credentials(tmp_path, text):
    path = tmp_path / "proxy"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="user in line 1"):
        load_proxy("http://a:1", path)


def test_missing_credentials(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_proxy("http://a:1", tmp_path / "none")
