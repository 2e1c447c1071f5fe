"""Which router is asked, by which protocol."""

import asyncio

import pytest

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp.actions import Remove
from re6st.upnp.gateways import AnyGateway


class Router:
    def __init__(self, protocol, address):
        self.protocol = protocol
        self.address = address
        self.removed = []

    async def discover(self):
        if self.address is None:
            raise UpnpError(f"no {self.protocol} here")
        return self.address

    async def remove(self, mapping):
        self.removed.append(mapping)

    async def close(self):
        pass


def test_a_search_in_vain_does_not_change_where_mappings_are_removed():
    async def live():
        gateway = AnyGateway(b"secret", lambda: None, lambda: None)
        upnp, control = Router("UPnP", None), Router("PCP", "20.2.1.2")
        gateway._upnp, gateway._port_control = upnp, control
        assert await gateway.discover() == "20.2.1.2"
        control.address = None
        with pytest.raises(UpnpError, match="no UPnP here; and no PCP here"):
            await gateway.discover()
        await gateway.remove(Remove(Transport.TCP, 4226, 4226))
        assert (len(upnp.removed), len(control.removed), gateway.protocol) == (0, 1, "PCP")
        upnp.address = "20.2.1.3"
        assert (await gateway.discover(), gateway.protocol) == ("20.2.1.3", "UPnP")

    asyncio.run(live())
