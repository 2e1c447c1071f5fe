"""re6st.registry.links: join links and registry URLs."""

import pytest

from re6st.errors import ConfigError
from re6st.registry.links import JoinLink, RegistryUrl, parse_registry_url

CA = "0123456789abcdef" * 4
TOKEN = "abcdefghijklmnop-_QRSTUVWXYZ0123"
LINK = f"https://192.0.2.1:8443/#ca={CA}&token={TOKEN}"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (LINK, RegistryUrl("https://192.0.2.1:8443")),
        (LINK + "&tls=public", RegistryUrl("https://192.0.2.1:8443", public=True)),
        (LINK.replace("192.0.2.1", "[2001:db8::1]"), RegistryUrl("https://[2001:db8::1]:8443")),
        (LINK.replace("192.0.2.1:8443", "registry.example"), RegistryUrl("https://registry.example")),
    ],
)
def test_a_link_is_read_and_written(text, url):
    link = JoinLink.parse(f" {text}\n")
    assert link == JoinLink(url, CA, TOKEN)
    assert str(link) == text


def test_a_link_for_those_who_ask():
    link = JoinLink.parse(LINK.partition("&")[0])
    assert (link.token, str(link)) == ("", LINK.partition("&")[0])
    assert JoinLink.parse(str(link) + "&tls=public").url.public


def test_a_link_names_all_registries():
    others = (
        RegistryUrl("https://two.example:8443"),
        RegistryUrl("https://three.example", public=True),
        RegistryUrl("https://[2001:db8::1]:8443"),
    )
    link = JoinLink(RegistryUrl("https://192.0.2.1:8443"), CA, TOKEN, others)
    text = f"{LINK}&also=two.example:8443&also-public=three.example&also=%5B2001:db8::1%5D:8443"
    assert str(link) == text
    assert JoinLink.parse(text) == link
    assert JoinLink.parse(text + "&also=192.0.2.1:8443&also=two.example:8443") == link
    assert JoinLink.parse(text + "&new=x") == link
    assert link.urls == (link.url, *others)


def test_the_token_is_not_shown():
    assert TOKEN not in repr(JoinLink.parse(LINK))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with https://"),
        (LINK.replace("https", "http"), "does not begin with https://"),
        (LINK.partition("#")[0], "put the link in quotes"),
        (LINK.replace(CA, CA[:-1]), "64 hexadecimal digits"),
        (LINK.replace(CA, CA + "0"), "64 hexadecimal digits"),
        (LINK.replace(TOKEN, "short"), "its token is malformed"),
        (LINK.replace(TOKEN, "x y" * 10), "its token is malformed"),
        (LINK + "&also=", "names no host"),
        (LINK + "&also=two.example%23tls=public", "HOST:PORT only"),
        (LINK + "&also=two.example/x", "only https://HOST:PORT/"),
        (LINK + "&also=two.example" * 8, "more than 7"),
        (LINK + "&tls=none", "only tls=public is known"),
        (LINK.replace("192.0.2.1", ""), "names no host"),
        (LINK.replace(":8443", ":84433"), "not a valid join link"),
        (LINK.replace("192.0.2.1", "user@192.0.2.1"), "only https://HOST:PORT/"),
        (LINK.replace("/#", "/v1?x=1#"), "only https://HOST:PORT/"),
        (LINK.replace("192.0.2.1", "a b"), "names no host"),
        (LINK.replace("192.0.2.1", "[::1"), "not a valid join link"),
    ],
)
def test_what_is_wrong_with_a_link(text, message):
    with pytest.raises(ConfigError, match="not a valid join link") as caught:
        JoinLink.parse(text)
    assert message in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_registry_urls():
    assert parse_registry_url("https://r.example:1/") == RegistryUrl("https://r.example:1")
    public = parse_registry_url("https://r.example#tls=public")
    assert public.public
    assert parse_registry_url(str(public)) == public
    with pytest.raises(ConfigError, match="only fragment"):
        parse_registry_url(LINK)
