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
        self._prefixes = prefixes
        self._network = network
        self._kernel = kernel
        self._forwarding = ForwardingSettings(name)
        self._firewall = Firewall(
            FirewallConfiguration(
                name=name,
                interfaces=tuple(config.interface(slot) for slot in range(SLOTS)),
                network=network,
                prefix=prefixes[0],
                further=prefixes[1:],
                lan_interfaces=config.lan_interfaces,
                tunnel_ports=config.tunnel_port_range,
            )
        )

    async def start(self) -> None:
        """Put everything up. Raises :class:`Re6stError`."""
        await self._kernel.open()
        await self._firewall.apply()
        await asyncio.to_thread(self._forwarding.acquire)
        for prefix in self._prefixes:
            await self._kernel.add_prefix(prefix, self._config.main_interface)
        if self._config.lan_interfaces:
            await self._kernel.close_network(self._network)
        else:
            await self._kernel.reopen_network(self._network)

    async def give_up(self, prefixes: Collection[IPv6Network]) -> None:
        """Take down prefixes that an earlier run had and this one has not. Raises :class:`NetlinkError`."""
        for prefix in set(prefixes).difference(self._prefixes):
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
            *(self._removal(prefix) for prefix in self._prefixes),
            self.remove_interfaces,
            lambda: asyncio.to_thread(self._forwarding.release),
            self._firewall.remove,
            self._kernel.close,
        )
        for step in steps:
            try:
                await step()
            except Re6stError as error:
                logger.error("This host's network is not quite as before: %s", error)

    def _removal(self, prefix: IPv6Network) -> Callable[[], Awaitable[None]]:
        return lambda: self._kernel.remove_prefix(prefix, self._config.main_interface)

    async def remove_interfaces(self, keep: Collection[str] = ()) -> None:
        """Remove all tunnel interfaces but those to ``keep``. Raises :class:`NetlinkError`."""
        for name in set(await self._kernel.tunnel_links()).difference(keep):
            await self._kernel.remove_link(name)
