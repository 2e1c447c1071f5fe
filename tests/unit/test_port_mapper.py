"""What the port mapper does with news that come while the router is being asked."""

import asyncio

import pytest

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp.actions import Checked, Grant
from re6st.upnp.mappings import Timing
from re6st.upnp.port_mapper import PortMapper

NEVER = 100_000.0


class Router:
    """Is asked at a time at which the host moves into its network."""

    protocol = "UPnP"

    def __init__(self, moves_during):
        self.moves_during = moves_during
        self.mapper = None
        self.searches = 0

    async def move(self, question):
        await asyncio.sleep(0)
        if question == self.moves_during:
            self.moves_during = ""
            self.mapper.network_changed()

    async def discover(self, avoided):
        self.searches += 1
        moves = self.moves_during == "discover"
        await self.move("discover")
        if moves:
            raise UpnpError("nothing answers in the network before")
        return "20.2.1.2"

    async def add(self, wanted):
        await self.move("add")
        return Grant(wanted.external_port, wanted.lease)

    async def check(self, held):
        await self.move("check")
        return Checked("20.2.1.2", ())

    async def remove(self, mapping):
        pass

    async def close(self):
        pass


@pytest.mark.parametrize(("question", "searches"), [("", 1), ("discover", 2), ("add", 2), ("check", 2)])
def test_a_network_that_changes_meanwhile_is_searched(question, searches):
    async def live():
        router = Router(question)
        timing = Timing(check=0.0 if question == "check" else NEVER, first_retry=NEVER, last_retry=NEVER)
        mapper = router.mapper = PortMapper(
            lambda: None, "node", secret=b"", router=lambda: None, timing=timing, gateway=router
        )
        await mapper.start()
        async with asyncio.timeout(30):
            mapper.want(Transport.TCP, 4226)
            while router.searches < searches or not mapper.mapping(Transport.TCP, 4226):
                await asyncio.sleep(0.01)
        assert router.searches == searches
        await mapper.stop()

    asyncio.run(live())
