"""Claims on tunnel interfaces, in a directory of the test."""

import pytest

from re6st.errors import ConfigError
from re6st.node.interface_claim import claim_interfaces, collide


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("re6st", "re6st", True),
        ("vpn", "vpn1", True),
        ("vpn12", "vpn", True),
        ("vpn", "vpn123", False),
        ("vpn1", "vpn2", False),
        ("home", "home-", False),
    ],
)
def test_collisions(first, second, expected):
    assert collide(first, second) is expected
    assert collide(second, first) is expected


def test_colliding_claims_are_refused_until_the_first_ends(tmp_path):
    def claim(prefix, namespace="here"):
        return claim_interfaces(prefix, directory=tmp_path, namespace=namespace)

    with claim("vpn"):
        for prefix in ("vpn", "vpn1"):
            with pytest.raises(ConfigError, match="uses interfaces called vpn0"), claim(prefix):
                pass
        with claim("home"), claim("vpn", "elsewhere"):
            pass
    with claim("vpn1"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_daemon_that_was_killed_does_not_count(tmp_path):
    (tmp_path / "interfaces-here-vpn.lock").touch()
    with claim_interfaces("vpn1", directory=tmp_path, namespace="here"):
        assert [path.name for path in tmp_path.iterdir()] == ["interfaces-here-vpn1.lock"]
