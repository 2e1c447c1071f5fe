"""Takes over the tunnels of the daemon before: what is sound goes on without a lost packet (I/O).

When a tunnel is attached, everything that the next daemon must know of it is kept with its process
(:class:`TunnelNote`). A tunnel is sound, and adopted, when

- the note is complete, and belongs to a slot of ours and to a run of this same node;
- the record of the peer in it still holds: signed, not expired, not revoked;
- the process is the one of the note, by its arguments, and says that it is connected;
- the link is up: one that was taken away from routes was on its way out.

Everything else ends, as after a crash. The peers notice nothing: processes, keys and interfaces stay, and so
does the boot id (:class:`RunRecord`), since a new one would have them drop the tunnels.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from ipaddress import IPv6Network
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from re6st.config import SLOTS, NodeConfig
from re6st.core.effects import AttachTunnel
from re6st.core.events import TunnelAdopted
from re6st.errors import ChildError, Re6stError
from re6st.files import write_atomically
from re6st.messages import Endpoint, SignedPeerRecord, Transport
from re6st.node.tunnel import Tunnel
from re6st.node.tunnel_operator import TunnelOperator
from re6st.peers import Peer
from re6st.tunnel.driver import Driver, Link, Survivor

logger = logging.getLogger(__name__)

RUN_RECORD = "run.json"
"""File name of the :class:`RunRecord` in the runtime directory."""


class RunRecord(Struct, frozen=True, kw_only=True):
    """What one run of the daemon leaves to the next one."""

    boot_id: str
    """As peers know it."""
    prefix: str
    """Node prefix: who has joined anew is another node."""

    @classmethod
    def begin(cls, prefix: IPv6Network) -> RunRecord:
        """Return the record of a run that continues no other."""
        return cls(boot_id=secrets.token_hex(16), prefix=str(prefix))

    @classmethod
    def read(cls, directory: Path, prefix: IPv6Network) -> RunRecord | None:
        """Return what the last run of the node with ``prefix`` has left; None if there is nothing."""
        try:
            record = msgspec.json.decode((directory / RUN_RECORD).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None
        return record if record.prefix == str(prefix) else None

    def write(self, directory: Path) -> None:
        """Keep it for the next run. Raises :class:`StorageError`."""
        write_atomically(directory / RUN_RECORD, msgspec.json.encode(self), 0o600)


class TunnelNote(Struct, frozen=True, kw_only=True):
    """What the next daemon must know of a tunnel. See :class:`re6st.core.events.TunnelAdopted`."""

    tunnel: int
    name: str
    """By which both ends call it."""
    peer: SignedPeerRecord
    boot_id: str
    slot: int
    incoming: bool
    port: int
    transport: Transport
    mapped: bool
    punched: bool = False
    fragments: bool = False
    uplink: str = ""
    proxied: bool = False
    remote: Endpoint | None = None
    """Where the peer is, which the process does not know behind a proxy."""
    mtu: int
    cost: int
    since: float
    expires: float

    @classmethod
    def of(cls, tunnel: Tunnel, effect: AttachTunnel) -> TunnelNote:
        """Return the note of ``tunnel``, which is being attached."""
        return cls(
            tunnel=tunnel.number,
            name=tunnel.name,
            peer=tunnel.peer.signed,
            boot_id=effect.boot_id,
            slot=tunnel.slot,
            incoming=tunnel.incoming,
            port=tunnel.port,
            transport=tunnel.transport,
            mapped=tunnel.mapped,
            punched=tunnel.punched,
            fragments=tunnel.fragments,
            uplink=tunnel.uplink,
            proxied=tunnel.proxied,
            remote=tunnel.remote,
            mtu=tunnel.mtu,
            cost=tunnel.cost,
            since=tunnel.up_since,
            # JSON has no infinity.
            expires=min(effect.expires, 1e18),
        )


def note_of(tunnel: Tunnel, effect: AttachTunnel) -> str:
    """Return what is kept of ``tunnel``, which is being attached."""
    return msgspec.json.encode(TunnelNote.of(tunnel, effect)).decode()


class Links(Protocol):
    """The kernel's interfaces, as far as adoption needs them."""

    async def is_up(self, name: str) -> bool:
        """Whether the interface ``name`` exists and its link is up."""


class Adopter:
    """Finds out which tunnels of the daemon before are sound."""

    def __init__(
        self,
        config: NodeConfig,
        driver: Driver,
        links: Links,
        operator: TunnelOperator,
        open_record: Callable[[SignedPeerRecord], Peer],
    ) -> None:
        """``open_record`` verifies the record of a peer; see :meth:`re6st.node.verifier.Verifier.open`."""
        self._config = config
        self._driver = driver
        self._links = links
        self._operator = operator
        self._open_record = open_record

    async def adopt(self) -> list[TunnelAdopted]:
        """Hand all sound tunnels to the operator, and return what the core must know of them."""
        survivors = self._driver.survivors()
        adopted = await asyncio.gather(*(self._adopt(survivor) for survivor in survivors))
        events = [event for event in adopted if event is not None]
        if survivors:
            logger.info("Adopted %d of %d tunnels of an earlier run", len(events), len(survivors))
        return events

    async def _adopt(self, survivor: Survivor) -> TunnelAdopted | None:
        try:
            note = msgspec.json.decode(survivor.note, type=TunnelNote)
            peer = self._open_record(note.peer)
            await self._check(survivor, note)
            link = self._link(survivor, note, peer)
            remote = await self._driver.adopt(link, note.transport)
        except (msgspec.DecodeError, Re6stError) as error:
            logger.info("The tunnel on %s is not adopted: %s", survivor.interface, error)
            return None
        tunnel = Tunnel(
            number=note.tunnel,
            name=note.name,
            peer=peer,
            slot=note.slot,
            interface=survivor.interface,
            incoming=note.incoming,
            driver=self._driver.name,
            port=note.port,
            mtu=note.mtu,
            transport=note.transport,
            mapped=note.mapped,
            punched=note.punched,
            fragments=note.fragments,
            uplink=note.uplink,
            proxied=note.proxied,
            remote=note.remote if note.proxied else remote,
            up_since=note.since,
            cost=note.cost,
        )
        try:
            await self._operator.restore(tunnel)
        except Re6stError as error:
            logger.warning("The tunnel to %s cannot be adopted: %s", peer.name, error)
            await self._driver.close(note.tunnel)
            return None
        return _event(note, peer)

    async def _check(self, survivor: Survivor, note: TunnelNote) -> None:
        """Raise :class:`ChildError` unless the tunnel has one of our slots, which is in use by routes."""
        if not 0 <= note.slot < SLOTS or self._config.interface(note.slot) != survivor.interface:
            raise ChildError(f"slot {note.slot} is not that of {survivor.interface}")
        if any(tunnel.number == note.tunnel for tunnel in self._operator.tunnels()):
            raise ChildError(f"there is a tunnel {note.tunnel} already")
        if not await self._links.is_up(survivor.interface):
            raise ChildError("its link is down")

    def _link(self, survivor: Survivor, note: TunnelNote, peer: Peer) -> Link:
        return Link(
            tunnel=note.tunnel,
            interface=survivor.interface,
            peer_address=peer.address,
            peer_name=peer.name,
            peer_fingerprint=peer.fingerprint,
            key="",
            mtu=note.mtu,
        )


def _event(note: TunnelNote, peer: Peer) -> TunnelAdopted:
    return TunnelAdopted(
        tunnel=note.tunnel,
        peer=peer,
        slot=note.slot,
        outgoing=not note.incoming,
        transport=note.transport,
        port=note.port,
        cost=note.cost,
        boot_id=note.boot_id,
        since=note.since,
        expires=note.expires,
        fragments=note.fragments,
    )
