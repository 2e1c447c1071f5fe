"""re6st.node.registry_order: the owner's order, then any, and where it was answered last."""

from random import Random

from re6st.node.registry_order import RegistryOrder

OWN = ("https://own:1", "https://own:2")
NETWORK = tuple(f"https://registry{number}:8443" for number in range(4))


def test_the_owners_urls_come_first_and_in_his_order():
    order = RegistryOrder(Random(1).random)
    arranged = order.arrange(OWN, NETWORK)
    assert arranged[:2] == list(OWN)
    assert sorted(arranged[2:]) == sorted(NETWORK)
    # What the network knows, too, is nothing special: joining wrote it there.
    arranged = order.arrange((NETWORK[3], OWN[1]), NETWORK)
    assert arranged[0] == OWN[1]
    assert sorted(arranged[1:]) == sorted(NETWORK)


def test_nodes_begin_anywhere_but_each_always_at_the_same_place():
    orders = [RegistryOrder(Random(seed).random) for seed in range(40)]
    firsts = [order.arrange(NETWORK[:1], NETWORK)[0] for order in orders]
    assert set(firsts) == set(NETWORK)
    assert [order.arrange((), NETWORK)[0] for order in orders] == firsts


def test_where_it_was_answered_is_asked_next():
    order = RegistryOrder(Random(1).random)
    order.arrange(OWN, NETWORK)
    order.note(NETWORK[3])
    arranged = order.arrange(OWN, NETWORK)
    assert arranged[:3] == [NETWORK[3], *OWN]
    assert len(arranged) == 6
    # A URL that is not the registry's any more is not asked.
    assert NETWORK[3] not in order.arrange(OWN, NETWORK[:3])
