"""Tables for people: each row stays one whole line, however narrow the terminal is."""

from msgspec import structs
from test_doctor import STATUS

from re6st.node import tables
from re6st.status import Reachability, TunnelStatus


def test_nothing_is_cut_off(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    tunnel = TunnelStatus(
        tunnel=1,
        peer="registry",
        prefix="2001:db8:42::/64",
        direction="out",
        state="up",
        interface="re6st0",
        driver="openvpn",
        remote="udp:[2a00:1:1::2]:33050",
        established="direct",
        age=47,
        received=17_900,
        sent=18_000,
        cost=96,
        mtu=1448,
        mtu_origin="underlay",
    )
    tables.print_tunnels([tunnel])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "PEER"
    words = "registry out up direct re6st0 udp:[2a00:1:1::2]:33050 1448 underlay 47 s 17.9 kB 18.0 kB"
    assert row.split() == words.split()


def test_a_value_of_the_status_stays_one_line_for_programs(capsys):
    reason = "the search for a home router that maps ports is under way, " * 4
    status = structs.replace(STATUS, reachability=Reachability.NONE, reachability_reason=reason)
    tables.print_status(status)
    lines = capsys.readouterr().out.splitlines()
    assert f"reachable   outgoing only: {reason.strip()}" in lines
