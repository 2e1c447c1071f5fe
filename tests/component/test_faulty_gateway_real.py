"""Port mappings on home routers with faults, seen through the real miniupnpc.

[router: an IGD as the test tells it to be] lan 192.168.1.1 ---- eth0 192.168.1.2 host
                                                            \\--- eth0 192.168.1.3 other: another IGD
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from faulty_gateway import FaultyGateway, never
from test_upnp_real import Home, Node, until

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp.helper import MEMORY, NOBODY
from re6st.upnp.helper_process import HelperProcess


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    yield home
    home.close()


@pytest.fixture
def gateway(home):
    gateway = FaultyGateway(home.router, "192.168.1.1")
    yield gateway
    gateway.close()


@pytest.fixture
def node(home, gateway):
    node = Node(home)
    yield node
    node.close()


def reason_of(node):
    (one,) = node.mapper.status()
    return one.reason


def test_a_router_that_knows_permanent_leases_only(gateway, node):
    def is_limited(arguments):
        return arguments["NewLeaseDuration"] != "0"

    gateway.refuse("AddPortMapping", 725, "OnlyPermanentLeasesSupported", is_limited)
    assert node.mapped(Transport.TCP, 4226).external_port == 4226
    assert gateway.mappings == {("TCP", "4226"): ("192.168.1.2", "4226", 0)}
    node.call(node.mapper.stop())
    assert not gateway.mappings, "what has no lease must be removed"


def test_a_port_that_somebody_else_has(gateway, node):
    def is_taken(arguments):
        return arguments["NewExternalPort"] == "4226"

    gateway.refuse("AddPortMapping", 718, "ConflictInMappingEntry", is_taken)
    mapping = node.mapped(Transport.TCP, 4226)
    assert mapping.external_port != 4226
    assert gateway.mappings[("TCP", str(mapping.external_port))][:2] == ("192.168.1.2", "4226")


@pytest.mark.parametrize(
    ("code", "text", "advice"),
    [
        (606, "Action not authorized", "UPnP is restricted there"),
        (715, "WildCardNotPermittedInSrcIP", "forward the ports by hand"),
        (716, "WildCardNotPermittedInExtPort", "forward the ports by hand"),
        (728, "NoPortMapsAvailable", "its table of mappings is full"),
    ],
)
def test_a_refusal_is_told_and_overcome(gateway, node, code, text, advice):
    gateway.refuse("AddPortMapping", code, text)
    assert node.map(Transport.TCP, 4226, 30.0) is None
    until(lambda: f"({code})" in reason_of(node))
    assert advice in reason_of(node)
    del gateway.faults["AddPortMapping"]
    until(node.mapping, 30)
    assert reason_of(node) == ""


def test_a_router_that_does_not_finish_its_answer_stops_nothing_else(gateway, node):
    answers = threading.Event()
    gateway.faults["AddPortMapping"] = never(answers)
    try:
        assert node.map(Transport.TCP, 4226, 0.1) is None
        until(lambda: "is being asked" in node.mapper.why_not(Transport.TCP, 4226), 30)
        node.call(asyncio.sleep(0))
        node.call(node.mapper.stop())
    finally:
        answers.set()


@pytest.mark.parametrize("text", ["", "<html>Please log in</html>", "<" * 100_000, "\0\xff" * 1000])
def test_garbage_is_survived(gateway, node, text):
    """The library takes it for a yes; the next look at the router shows that there is no mapping."""
    for action in ("AddPortMapping", "GetSpecificPortMappingEntry"):
        gateway.faults[action] = lambda arguments: text
    node.map(Transport.TCP, 4226, 3.0)
    gateway.faults.clear()
    until(lambda: ("TCP", "4226") in gateway.mappings, 30)
    until(node.mapping, 30)


def test_a_router_that_shows_no_mapping(gateway, node):
    gateway.refuse("GetSpecificPortMappingEntry", 606, "Action not authorized")
    node.mapped(Transport.TCP, 4226)
    until(lambda: node.mapper._plan._wishes[Transport.TCP, 4226].unseen >= 3, 60)
    assert node.mapping(), "it is believed between the times when it is made anew"


def test_the_address_of_this_host_changes(home, gateway, node):
    node.mapped(Transport.TCP, 4226)
    home.ip("host", "address", "add", "192.168.1.77/24", "dev", "eth0")
    home.ip("host", "address", "del", "192.168.1.2/24", "dev", "eth0")
    home.ip("host", "address", "replace", "192.168.1.77/24", "dev", "eth0")
    home.ip("host", "route", "replace", "default", "via", "192.168.1.1")
    node.loop.call_soon_threadsafe(node.mapper.network_changed)
    until(lambda: ("192.168.1.77", "4226", 3600) in gateway.mappings.values(), 60)
    until(node.mapping, 60)


def test_a_router_that_refuses_by_upnp_may_grant_by_pcp(home, gateway, node):
    gateway.refuse("AddPortMapping", 606, "Action not authorized")
    home.switch_on_pcp()
    node.mapped(Transport.TCP, 4226)
    assert node.mapper.status()[0].method == "PCP"
    assert home.forwarded(4226)
    assert not gateway.mappings
    node.call(node.mapper.stop())
    assert not home.forwarded(4226)


def process_state(pid, thread="."):
    """Return what the kernel says of a process, or of one of its threads; nothing when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/{thread}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = {name: text.split() for name, text in (line.split(":", 1) for line in lines)}
    return {} if fields["State"][0] == "Z" else fields


def test_an_answer_without_end_costs_no_memory(gateway, node):
    assert node.mapped(Transport.TCP, 4226)
    helper = node.mapper._gateway._upnp._asked
    threads = list(Path(f"/proc/{helper.pid}/task").iterdir())
    assert len(threads) == 2
    for thread in threads:
        rights = process_state(helper.pid, f"task/{thread.name}")
        assert set(rights["Uid"]) == {str(NOBODY)}
        assert rights["CapPrm"] == rights["CapEff"] == ["0" * 16]
        assert rights["NoNewPrivs"] == ["1"]

    gateway.endless = True
    seen = []

    def has_lost_the_router():
        seen.append(int(process_state(helper.pid).get("VmData", "0")[0]))
        return node.mapping() is None

    until(has_lost_the_router, 60)
    assert max(seen) <= MEMORY // 1024
    gateway.endless = False
    until(node.mapping, 60)


async def fails_and_is_replaced(gateway):
    helper, answers = HelperProcess(), threading.Event()
    gateway.faults["GetExternalIPAddress"] = never(answers)
    try:
        await helper.ask("discover", 1000)
        before = helper.pid
        with pytest.raises(UpnpError, match="no full answer within"):
            await helper.ask("address", limit=0.2)
        assert process_state(before) == {}
        answers.set()
        with pytest.raises(UpnpError, match="not been searched yet"):
            await helper.ask("address")
        await helper.ask("discover", 1000)
        assert await helper.ask("address") == ["20.2.1.2"]
        os.kill(helper.pid, signal.SIGKILL)
        with pytest.raises(UpnpError):
            await helper.ask("address")
    finally:
        answers.set()
        await helper.close()


def test_a_helper_that_hangs_or_dies_is_replaced(home, gateway):
    with home.namespaces["host"].entered():
        asyncio.run(fails_and_is_replaced(gateway))


DAEMON = """
import asyncio, sys
from re6st.upnp.helper_process import HelperProcess

async def live():
    helper = HelperProcess()
    await helper.ask("discover", 1000)
    print(helper.pid, flush=True)
    await helper.ask("address", limit=600)

asyncio.run(live())
"""


def test_the_helper_ends_with_its_daemon_even_while_it_waits(home, gateway):
    answers, asked = threading.Event(), threading.Event()

    def hang(arguments):
        asked.set()
        answers.wait(60)

    gateway.faults["GetExternalIPAddress"] = hang
    try:
        with home.namespaces["host"].entered():
            daemon = subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE)
        with daemon:
            helper = int(daemon.stdout.readline())
            assert asked.wait(30)
            assert process_state(helper)
            daemon.kill()
            until(lambda: not process_state(helper), 60)
    finally:
        answers.set()


def test_of_two_routers_the_one_that_is_connected_is_used(home, gateway, node):
    gateway.connected = False
    assert node.map(Transport.TCP, 4226, 30.0) is None
    until(lambda: "no public address" in reason_of(node))
    other = FaultyGateway(home.namespaces["other"], "192.168.1.3")
    try:
        until(node.mapping, 30)
        assert ("TCP", "4226") in other.mappings
        assert not gateway.mappings
    finally:
        node.call(node.mapper.stop())
        other.close()
