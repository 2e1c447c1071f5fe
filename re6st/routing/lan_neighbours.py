"""babeld in the LANs of this host: with which key, since when, and who is there (I/O).

Nobody else than babeld can sign its packets there, so nothing is said in its name (compare
:mod:`re6st.routing.introductions`). What babeld is told is in :mod:`re6st.routing.lan`.

An interface of a LAN is not ours: it may vanish and come again under the same name. babeld would then go on
to send to the neighbours it remembers through the one that has gone, and is started again.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from re6st.errors import ChildError
from re6st.routing import lan
from re6st.routing.control import ControlConnection, UnansweredError
from re6st.routing.lan import LanKey
from re6st.routing.table import Change, InterfaceUp, NeighbourDown, NeighbourUp, RoutesChanged, RoutingTable

logger = logging.getLogger(__name__)


class LanNeighbours:
    """The interfaces of trusted LANs."""

    def __init__(
        self, interfaces: tuple[str, ...], table: Callable[[], RoutingTable], kill: Callable[[], None]
    ) -> None:
        """``table`` returns what babeld knows; ``kill`` ends it, so that it is started again."""
        self.interfaces = interfaces
        self._table = table
        self._kill = kill
        self._key: LanKey | None = None
        self._indexes: dict[str, int] = {}
        """The kernel's numbers of the interfaces, as they were when babeld began to use them."""

    @property
    def has_key(self) -> bool:
        """Whether neighbours are looked for."""
        return self._key is not None

    async def use_key(self, key: LanKey, connection: ControlConnection | None) -> None:
        """Look for neighbours that know ``key``, and no longer for those with another one.

        Without ``connection`` this only takes note. Raises :class:`ChildError`.
        """
        self._key = key
        if connection is not None:
            await self._enter(connection, key)

    async def _enter(self, connection: ControlConnection, key: LanKey) -> None:
        if self.interfaces:
            await connection.command(lan.key_command(key), shown="key id ...")
        for interface in self.interfaces:
            await connection.command(lan.interface_command(interface))

    async def enter_again(self, connection: ControlConnection) -> None:
        """Tell a new connection of the LANs. What babeld refuses there does not keep tunnels from routes."""
        try:
            if self._key is not None:
                await self._enter(connection, self._key)
        except UnansweredError:
            raise
        except ChildError as error:
            logger.warning("No neighbours are looked for in LANs: %s", error)

    def restarted(self) -> None:
        """Take note that babeld has begun again: it knows the interfaces as they are now."""
        self._indexes.clear()

    def connected(self) -> None:
        """Take note which interfaces babeld uses."""
        for interface in filter(self._table().is_up, self.interfaces):
            self._note(interface)

    def take(self, change: Change) -> bool:
        """Take ``change`` if it is one of a LAN; return whether it is."""
        if isinstance(change, RoutesChanged) or change.interface not in self.interfaces:
            return False
        match change:
            case InterfaceUp(interface=interface):
                former, present = self._indexes.get(interface), self._note(interface)
                if former not in (None, present) and self._table().neighbours(interface):
                    logger.info("%s is another interface than before: babeld is started again", interface)
                    self._kill()
            case NeighbourUp(interface=interface):
                logger.info("There are neighbours in the LAN %s", interface)
            case NeighbourDown(interface=interface):
                logger.info("No neighbour in the LAN %s can be reached any more", interface)
        return True

    def _note(self, interface: str) -> int:
        try:
            self._indexes[interface] = socket.if_nametoindex(interface)
        except OSError:
            self._indexes.pop(interface, None)
        return self._indexes.get(interface, 0)
