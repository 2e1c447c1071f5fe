"""Whether a mapped port is published, by what peers say of it."""

from re6st.messages import Endpoint, Transport
from re6st.node.mapping_trust import DISTRUST, FIRST_TEST, NEXT_TEST, MappingTrust, TrustState

HERE = Endpoint(Transport.TCP, "20.2.1.2", 4226)


def condemned():
    trust = MappingTrust()
    assert trust.consider(HERE, 0.0)
    for tester in ("anna", "boris"):
        trust.tried(tester, reached=False, now=1.0)
    assert not trust.consider(HERE, 2.0)
    return trust


def test_two_peers_that_fail_condemn_it_and_the_reason_names_them():
    trust = condemned()
    assert "anna and boris do not get through" in trust.reason
    assert str(HERE) in trust.reason


def test_one_peer_proves_nothing_however_often_it_fails():
    trust = MappingTrust()
    trust.consider(HERE, 0.0)
    for _ in range(5):
        trust.tried("anna", reached=False, now=1.0)
    assert trust.consider(HERE, 2.0)
    assert trust.reason == ""
    assert trust.delay() == FIRST_TEST


def test_who_gets_through_clears_it():
    trust = MappingTrust()
    trust.consider(HERE, 0.0)
    trust.tried("anna", reached=False, now=1.0)
    trust.tried("boris", reached=True, now=2.0)
    trust.tried("dora", reached=False, now=3.0)
    assert trust.consider(HERE, 4.0)
    assert trust.state is TrustState.TRUSTED
    assert trust.delay() == FIRST_TEST, "the doubt is looked into soon"
    trust.tried("anna", reached=True, now=5.0)
    assert trust.delay() == NEXT_TEST


def test_it_gets_another_chance_later():
    trust = condemned()
    assert not trust.consider(HERE, DISTRUST)
    assert trust.consider(HERE, 1.0 + DISTRUST)
    trust.tried("anna", reached=False, now=2.0 + DISTRUST)
    assert trust.consider(HERE, 2.0 + DISTRUST), "old witnesses do not count"


def test_another_address_or_network_is_judged_anew():
    assert condemned().consider(Endpoint(Transport.TCP, "20.2.1.3", 4226), 2.0)
    trust = condemned()
    assert trust.consider(None, 2.0)
    trust = condemned()
    trust.reset()
    assert trust.consider(HERE, 2.0)
