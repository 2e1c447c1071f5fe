"""What the doctor makes of what it sees."""

from ipaddress import ip_address

import msgspec
import pytest

from re6st.node import doctor
from re6st.node.doctor import Verdict
from re6st.status import (
    MappingStatus,
    NodeStatus,
    OutsideStatus,
    PeerStatus,
    Reachability,
    RouteStatus,
    TunnelStatus,
)

STATUS = NodeStatus(
    name="anna",
    network="2001:db8:42::/48",
    prefix="2001:db8:42:1::/64",
    address="2001:db8:42:1::1",
    software="re6st",
    pid=1,
    uptime=60,
    reachability=Reachability.PUBLIC,
    reachability_reason="20.1.1.2 of eth0 is a public address",
    endpoints=["tcp:20.1.1.2:4226"],
    tunnels_out=1,
    tunnels_in=0,
    routes=1,
    peers=1,
    mappings=[],
    registry="reachable",
    registry_reachable=True,
    parameters_version=1,
    revocations_version=1,
    certificate_expires=0,
    routing="running",
)
PEER = PeerStatus(
    name="hub",
    prefix="2001:db8:42:2::/64",
    address="2001:db8:42:2::1",
    endpoints=["tcp:20.1.9.9:4226", "tcp:[2a00:1::9]:4226"],
    connected=True,
    failures=0,
    certificate_expires=0,
    software="re6st",
)
ROUTE = RouteStatus(
    prefix=PEER.prefix,
    peer="hub",
    metric=96,
    interface="re6st0",
    via="fe80::1",
    next_hop="hub",
    installed=True,
)


def tunnel(
    established: str = "direct", state: str = "up", age: float = 1, mtu: int = 1280, origin: str = "underlay"
) -> TunnelStatus:
    return TunnelStatus(
        tunnel=1,
        peer="hub",
        prefix=PEER.prefix,
        direction="out",
        state=state,
        interface="re6st0",
        driver="openvpn",
        remote="",
        established=established,
        age=age,
        received=0,
        sent=0,
        cost=96,
        mtu=mtu,
        mtu_origin=origin,
    )


def changed(**values):
    return msgspec.structs.replace(STATUS, **values)


@pytest.mark.parametrize(
    ("finding", "verdict", "words"),
    [
        (doctor.clock(2.0), Verdict.OK, "agrees"),
        (doctor.clock(-45.0), Verdict.WARNING, "45 s behind"),
        (doctor.clock(7200.0), Verdict.FAILED, "7200 s ahead of"),
        (doctor.certificate(100 * 86_400, 0), Verdict.OK, "100 days"),
        (doctor.certificate(86_400, 0), Verdict.WARNING, "1.0 days"),
        (doctor.reachability(STATUS), Verdict.OK, "20.1.1.2"),
        (doctor.reachability(changed(reachability=Reachability.NONE)), Verdict.WARNING, "cannot dial"),
        (doctor.outside(OutsideStatus(reason="nobody")), Verdict.OK, "not tested: nobody"),
        (doctor.outside(OutsideStatus(tester="b", reached=["x"])), Verdict.OK, "b reaches x"),
        (doctor.outside(OutsideStatus(tester="b", reached=["x"], unreached=["y"])), Verdict.WARNING, "not y"),
        (doctor.outside(OutsideStatus(tester="b", unreached=["y"])), Verdict.FAILED, "none of y"),
        (doctor.forwarding({"all/forwarding": "1"}), Verdict.OK, ""),
        (doctor.forwarding({"all/forwarding": "0"}), Verdict.FAILED, "does not forward"),
        (doctor.tunnels([]), Verdict.FAILED, "no tunnel"),
        (doctor.tunnels([tunnel(state="opening")]), Verdict.FAILED, "no tunnel"),
        (doctor.tunnels([tunnel("tcp"), tunnel("tcp")]), Verdict.WARNING, "UDP does not get through"),
        (doctor.tunnels([tunnel("tcp"), tunnel()]), Verdict.OK, "2 up, 1 of them over TCP"),
        (doctor.packet_size([]), Verdict.OK, "not measured yet"),
        (doctor.packet_size([tunnel(origin="start")]), Verdict.OK, "not measured yet"),
        (doctor.packet_size([tunnel()]), Verdict.WARNING, "1280 octets, the least"),
        (
            doctor.packet_size([tunnel(), tunnel(mtu=1448)]),
            Verdict.OK,
            "1280 to 1448 octets",
        ),
        (
            doctor.packet_size([tunnel(origin="pieces"), tunnel(mtu=1448)]),
            Verdict.OK,
            "cut, lead to hub",
        ),
        (doctor.packet_size([tunnel(origin="fragments")]), Verdict.WARNING, "cut, lead to hub"),
        (
            doctor.packet_size([tunnel(origin="narrow"), tunnel(mtu=1448)]),
            Verdict.WARNING,
            "1280 octets do not pass to hub",
        ),
        (doctor.routing(STATUS, [ROUTE]), Verdict.OK, "1 neighbours, 1 routes"),
        (doctor.routing(changed(routing="babeld died"), [ROUTE]), Verdict.FAILED, "babeld died"),
        (doctor.routing(changed(routes=0), []), Verdict.FAILED, "no route"),
        (doctor.registry_node({"20.1.1.2"}, STATUS, [PEER], []), Verdict.OK, "this is it"),
        (doctor.registry_node({"20.7.7.7"}, STATUS, [PEER], []), Verdict.OK, "none is known"),
        (doctor.registry_node({"2a00:1::9"}, STATUS, [PEER], [ROUTE]), Verdict.OK, "hub is reached by hub"),
        (doctor.registry_node({"20.1.9.9"}, STATUS, [PEER], []), Verdict.FAILED, "no route to hub"),
    ],
)
def test_verdicts(finding, verdict, words):
    assert finding.verdict is verdict
    assert words in finding.detail
    assert bool(finding.remedy) is (verdict is not Verdict.OK)


def test_the_mapping_of_the_control_port_counts():
    def mapping(port, external, reason="", remedy=""):
        return MappingStatus(
            protocol="tcp",
            internal_port=port,
            external_port=external,
            state="",
            reason=reason,
            remedy=remedy,
        )

    assert doctor.mapping([], 4226).verdict is Verdict.OK
    assert "TCP port 5000" in doctor.mapping([mapping(4226, 5000)], 4226).detail
    refused = doctor.mapping([mapping(4227, 4227), mapping(4226, 0, "no router answers")], 4226)
    assert refused.verdict is Verdict.WARNING
    assert "no router answers" in refused.detail
    useless = [mapping(4226, 0, "its address is not public", "ask the provider")]
    assert doctor.mapping(useless, 4226).remedy == "ask the provider"
    lonely = changed(reachability=Reachability.NONE, mappings=useless)
    assert doctor.reachability(lonely).remedy.endswith("better: ask the provider")


def test_an_interface_that_ignores_its_router_is_named():
    dynamic = [("eth0", ip_address("2a00:1::5"), 0), ("eth1", ip_address("2a00:2::5"), doctor.PERMANENT)]
    settings = {"eth0/accept_ra": "1", "eth1/accept_ra": "1"}
    finding = doctor.advertisements(settings, dynamic)
    assert finding.verdict is Verdict.WARNING
    assert finding.remedy == "sysctl -w net.ipv6.conf.eth0.accept_ra=2"
    assert doctor.advertisements({"eth0/accept_ra": "2"}, dynamic).verdict is Verdict.OK
