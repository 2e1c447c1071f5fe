"""re6st.node.environment: what programs say of their versions."""

import pytest

from re6st.node.environment import PROGRAMS, ipv6_problem, parse_version, version_problem

OPENVPN, BABELD, NFT = PROGRAMS


@pytest.mark.parametrize(
    ("name", "output", "version"),
    [
        ("openvpn", "OpenVPN 2.6.14 x86_64-pc-linux-gnu [SSL (OpenSSL)]", (2, 6, 14)),
        ("babeld", "babeld-1.12.1\n", (1, 12, 1)),
        ("babeld", "babeld-babeld-1.13.1\n", (1, 13, 1)),
        ("nft", "nftables v1.0.6 (Lester Gooch #5)", (1, 0, 6)),
        ("openvpn", "command not understood", None),
    ],
)
def test_versions_are_read_as_the_programs_print_them(name, output, version):
    assert parse_version(output, name) == version


def test_an_old_program_is_named_with_what_to_do():
    problem = version_problem(OPENVPN, "OpenVPN 2.5.9 x86_64")
    assert problem is not None
    assert "2.5.9 is too old" in problem
    assert "2.6" in problem


def test_a_new_enough_program_is_fine():
    assert version_problem(BABELD, "babeld-1.12.1") is None
    assert version_problem(NFT, "nftables v1.0.6 (Lester Gooch #5)") is None


def test_an_unreadable_version_is_a_problem():
    assert "cannot tell its version" in (version_problem(BABELD, "") or "")


@pytest.mark.parametrize(
    ("disabled", "forwarding", "words"),
    [("0", "1", None), ("0", "0", None), ("1", "0", "switched off"), (None, None, "no IPv6")],
)
def test_missing_ipv6_is_said_before_anything_is_tried(tmp_path, disabled, forwarding, words):
    settings = tmp_path / "conf"
    if disabled is not None:
        for name in ("all", "default", "lo"):
            (settings / name).mkdir(parents=True)
            (settings / name / "disable_ipv6").write_text(f"{disabled}\n")
        (settings / "all" / "forwarding").write_text(f"{forwarding}\n")
    problem = ipv6_problem(settings)
    assert (problem is None) if words is None else (words in (problem or ""))
