"""Everything that the node adds to this host's network, put up together and taken down together.

What an earlier run has left is used again or replaced, without a moment in which it is missing. Each step
of taking down is tried whatever the others do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv6Network

from re6st.config import SLOTS, NodeConfig
from re6st.errors import Re6stError
from re6st.node.firewall import Firewall, FirewallConfiguration
from re6st.node.netlink import Kernel
from re6st.node.sysctl import ForwardingSettings

logger = logging.getLogger(__name__)


class Host:
    """The host as a guest house."""

    def __init__(
        self,
        config: NodeConfig,
        name: str,
        prefixes: tuple[IPv6Network, ...],
        network: IPv6Network,
        kernel: Kernel,
    ) -> None:
        """``name`` is that of the network instance, ``prefixes`` are the node's inside ``network``."""
        self._config = config
        self._name = name
        self._prefixes = prefixes
        self._network = network
        self._kernel = kernel
        self._forwarding = ForwardingSettings(name)
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Put everything up. Raises :class:`Re6stError`."""
        await self._kernel.open()
        await self._firewall().apply()
        await asyncio.to_thread(self._forwarding.acquire)
        await self._put_prefixes()
        if self._config.lan_interfaces:
            await self._kernel.close_network(self._network)
        else:
            await self._kernel.reopen_network(self._network)

    async def use(self, prefixes: tuple[IPv6Network, ...]) -> None:
        """Own ``prefixes`` from now on, and no others. Raises :class:`NetlinkError`."""
        async with self._changing:
            self._prefixes = prefixes
            await self._firewall().apply()
            await self._put_prefixes()

    def _firewall(self) -> Firewall:
        return Firewall(
            FirewallConfiguration(
                name=self._name,
                interfaces=tuple(self._config.interface(slot) for slot in range(SLOTS)),
                network=self._network,
                prefix=self._prefixes[0],
                further=self._prefixes[1:],
                lan_interfaces=self._config.lan_interfaces,
                tunnel_ports=self._config.tunnel_port_range,
            )
        )

    async def _put_prefixes(self) -> None:
        """Put up the prefixes, and take down others that this node has had, in an earlier run for example."""
        for prefix in self._prefixes:
            await self._kernel.add_prefix(prefix, self._config.main_interface)
        for prefix in await self._kernel.prefixes(self._network):
            if prefix not in self._prefixes:
                logger.info("%s is not this node's any more", prefix)
                await self._kernel.remove_prefix(prefix, self._config.main_interface)

    async def clean_routes(self) -> None:
        """Remove babeld's routes; call it while babeld does not run. Raises :class:`NetlinkError`."""
        count = await self._kernel.flush_routes(self._network)
        if count:
            logger.info("Removed %d routes that babeld had left", count)

    async def stop(self) -> None:
        """Take everything down."""
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            self.clean_routes,
            lambda: self._kernel.reopen_network(self._network),
            self._remove_prefixes,
            self.remove_interfaces,
            lambda: asyncio.to_thread(self._forwarding.release),
            self._firewall().remove,
            self._kernel.close,
        )
        for step in steps:
            try:
                await step()
            except Re6stError as error:
                logger.error("This host's network is not quite as before: %s", error)

    async def _remove_prefixes(self) -> None:
        for prefix in {*self._prefixes, *await self._kernel.prefixes(self._network)}:
            await self._kernel.remove_prefix(prefix, self._config.main_interface)

    async def remove_interfaces(self, keep: Collection[str] = ()) -> None:
        """Remove all tunnel interfaces but those to ``keep``. Raises :class:`NetlinkError`."""
        for name in set(await self._kernel.tunnel_links()).difference(keep):
            await self._kernel.remove_link(name)
