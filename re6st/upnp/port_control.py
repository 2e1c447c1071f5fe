"""Asks the home router by PCP (RFC 6887) or NAT-PMP (RFC 6886): datagrams to the default route's next hop.

    discover: both are asked ──> a PCP answer: PCP
                             └─> a NAT-PMP answer only: NAT-PMP

Only NAT-PMP tells the outside address by itself, and most routers that speak PCP speak both. To see the
address of the others, a mapping is made and removed again (RFC 6887, 11.6).

Each answer tells for how long the router has kept its state (:mod:`re6st.upnp.epoch`). So the loss of all
mappings shows with the next answer, whatever it was about, and at once where the router announces its start.
A check renews one mapping in turn, which also shows whether the outside address is the same.

Both protocols have no more protection than that answers come from the router's address, and with PCP repeat
a secret number (nonce). It depends on a secret of this node, which so can renew what it made earlier.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TypeVar

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp import natpmp, pcp
from re6st.upnp.actions import Add, Checked, Grant, Remove
from re6st.upnp.epoch import EpochWatch

logger = logging.getLogger(__name__)

TRIES = (0.25, 0.5, 1.0, 2.0)
"""Seconds to wait for an answer to each of the same packets (RFC 6886, 3.1): the router is next door.

RFC 6887, 8.1.1, would wait 3 s; somebody waits for the mapping.
"""

DISCOVERY_TRIES = TRIES[:3]

LEASE = 3600
"""Seconds asked for where nothing was said."""

SHORTEST_LEASE, LONGEST_LEASE = 120, 86_400
"""Seconds between which a lease is taken to be, whatever the router says (RFC 6887, 15)."""

_QUEUE_SIZE = 32

ADVICE: dict[int, str] = {
    pcp.Result.NOT_AUTHORIZED: "it is restricted there, allow it for this machine",
    pcp.Result.NO_RESOURCES: "its table of mappings is full, or it needs a restart",
    pcp.Result.USER_EX_QUOTA: "its table of mappings is full",
    pcp.Result.ADDRESS_MISMATCH: "there is another router before it; use UPnP there",
}

Answer = TypeVar("Answer")


class SilentError(UpnpError):
    """Nothing answered."""


@dataclass(slots=True)
class _Answers:
    """What a router has said when it was asked by both protocols."""

    control: pcp.Answer | None = None
    address: natpmp.Address | None = None
    speaks_nat_pmp_only: bool = False
    speaks_pcp_only: bool = False

    def read(self, packet: bytes) -> _Answers | None:
        """Take note of ``packet``; return self when nothing more is to be expected (RFC 6887, 9)."""
        answer = pcp.parse(packet)
        if answer is not None and answer.result == pcp.Result.UNSUPP_VERSION:
            self.speaks_pcp_only = True
        elif answer is not None and answer.opcode == pcp.Opcode.ANNOUNCE:
            self.control = answer
        elif natpmp.refuses_version(packet):
            self.speaks_nat_pmp_only = True
        known = natpmp.parse(packet)
        if isinstance(known, natpmp.Address) and known.result != natpmp.Result.UNSUPPORTED_VERSION:
            self.address = known
        return self if self.is_complete else None

    @property
    def is_any(self) -> bool:
        """Whether the router speaks one of them."""
        return self.control is not None or self.address is not None

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is to be expected."""
        has_control = self.control is not None or self.speaks_nat_pmp_only
        has_address = self.address is not None or self.speaks_pcp_only
        return self.is_any and has_control and has_address


class PortControl:
    """The router, once :meth:`discover` has found it. Implements :class:`re6st.upnp.gateways.Gateway`."""

    def __init__(
        self, secret: bytes, router: Callable[[], IPv4Address | None], announced: Callable[[], None]
    ) -> None:
        """Ask the ``router`` of the time; call ``announced`` when it may have lost all mappings."""
        self._secret = secret
        self._find_router = router
        self._announced = announced
        self._listener: asyncio.DatagramTransport | None = None
        self._place: tuple[IPv4Address, IPv4Address] | None = None
        """The router, and our address in its LAN."""
        self._is_pcp = True
        self._epoch = EpochWatch()
        self._has_restarted = False
        """It has lost its state since the last check."""
        self._turn = 0

    @property
    def protocol(self) -> str:
        """Name of the protocol that is spoken."""
        return "PCP" if self._is_pcp else "NAT-PMP"

    async def discover(self) -> str | None:
        """Find the router and return its outside address: empty if it has none, None if it tells it later.

        Raises :class:`UpnpError`.
        """
        router = self._find_router()
        if router is None:
            raise SilentError("there is no router: this host has no default route for IPv4")
        async with _Questions(router) as questions:
            if (router, questions.client) != self._place:
                self._has_restarted = self._place is not None
                self._epoch = EpochWatch()
                self._place = router, questions.client
            answers = await self._negotiate(questions)
            await self._listen()
            return await self._outside_address(questions, answers)

    async def add(self, wanted: Add) -> Grant:
        """Make or renew a mapping, of another external port if that is taken. Raises :class:`UpnpError`."""
        granted = await self._add(wanted)
        if self._has_restarted:
            self._announced()
        return granted

    async def check(self, held: Sequence[Add]) -> Checked:
        """Look whether the router goes on with the same state. Raises :class:`UpnpError`."""
        address: str | None = None
        lost: list[Add] = []
        if self._is_pcp and held:
            self._turn += 1
            renewed = held[self._turn % len(held)]
            try:
                granted = await self._add(renewed)
            except UpnpError as error:
                if error.code is None:
                    raise
                lost.append(renewed)
            else:
                address = granted.address
                if granted.external_port != renewed.external_port:
                    lost.append(renewed)
        else:
            renewed = None
            address = await self.discover()
        if self._has_restarted:
            self._has_restarted = False
            lost += [one for one in held if one is not renewed]
        return Checked(address, tuple(lost))

    async def remove(self, mapping: Remove) -> None:
        """Remove a mapping. Raises :class:`UpnpError`."""
        what = f"remove the mapping of {mapping.transport.value} port {mapping.external_port}"
        await self._map(what, mapping.transport, mapping.internal_port, 0, 0)

    async def close(self) -> None:
        """Ask nothing more; mappings stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # -- questions --------------------------------------------------------------------------------------

    async def _negotiate(self, questions: _Questions) -> _Answers:
        """Ask by both protocols, until it is clear which ones are spoken and what the outside address is."""
        answers = _Answers()
        packets = (pcp.announce(questions.client), natpmp.ADDRESS_REQUEST)
        for patience in DISCOVERY_TRIES:
            with contextlib.suppress(SilentError):
                await questions.ask(packets, answers.read, (patience,))
            if answers.address is not None or answers.is_complete:
                break
        if answers.is_any:
            return answers
        raise SilentError(f"{questions.router} does not answer PCP or NAT-PMP")

    async def _outside_address(self, questions: _Questions, answers: _Answers) -> str | None:
        """Choose the protocol; return the router's outside address as :meth:`discover` does."""
        control, known = answers.control, answers.address
        self._is_pcp = control is not None
        if control is not None:
            self._see_epoch(control.epoch)
            if control.result not in (pcp.Result.SUCCESS, pcp.Result.UNSUPP_OPCODE):
                raise _refusal("speak PCP", control.result, pcp.Result)
        elif known is not None:
            self._see_epoch(known.epoch)
        if known is not None and known.result == natpmp.Result.SUCCESS:
            return str(known.address)
        if known is not None and known.result == natpmp.Result.NETWORK_FAILURE:
            return ""
        if known is not None and control is None:
            raise _refusal("tell its outside address", known.result, natpmp.Result)
        return await self._probe(questions.port)

    async def _probe(self, port: int) -> str | None:
        """Return the outside address of a mapping that is made for nothing else (RFC 6887, 11.6).

        Only the router can send anything to the ``port``, which is that of the socket it is asked through.
        """
        what = "tell its outside address"
        try:
            granted = await self._map(what, Transport.UDP, port, 0, SHORTEST_LEASE)
            await self._map(what, Transport.UDP, port, 0, 0)
        except UpnpError as error:
            return "" if error.code == pcp.Result.NETWORK_FAILURE else None
        return granted.address

    async def _add(self, wanted: Add) -> Grant:
        what = f"map {wanted.transport.value} port {wanted.external_port}"
        # A lease for good is nothing that these protocols know.
        lease = wanted.lease or LEASE
        granted = await self._map(what, wanted.transport, wanted.internal_port, wanted.external_port, lease)
        if not granted.external_port:
            raise UpnpError(f"the home router did not {what}: it names no port", code=pcp.Result.SUCCESS)
        return replace(granted, lease=max(SHORTEST_LEASE, min(granted.lease, LONGEST_LEASE)))

    async def _map(
        self, what: str, transport: Transport, internal_port: int, external_port: int, lifetime: int
    ) -> Grant:
        if self._place is None:
            raise UpnpError(f"the home router did not {what}: it has not been searched yet")
        async with _Questions(self._place[0]) as questions:
            if self._is_pcp:
                nonce = self._nonce(transport, internal_port)
                request = pcp.map_port(
                    questions.client, nonce, transport, internal_port, external_port, lifetime
                )

                def read(packet: bytes) -> pcp.Answer | None:
                    answer = pcp.parse(packet)
                    if answer is None or (mapped := answer.mapped) is None:
                        return None
                    is_ours = hmac.compare_digest(mapped.nonce, nonce)
                    same = (mapped.transport, mapped.internal_port) == (transport, internal_port)
                    return answer if is_ours and same else None

                answer = await questions.ask((request,), read, TRIES)
                self._see_epoch(answer.epoch)
                if answer.result != pcp.Result.SUCCESS or answer.mapped is None:
                    raise _refusal(what, answer.result, pcp.Result)
                return Grant(
                    answer.mapped.external_port, answer.lifetime, str(answer.mapped.external_address or "")
                )

            def read_old(packet: bytes) -> natpmp.Mapped | None:
                known = natpmp.parse(packet)
                if not isinstance(known, natpmp.Mapped):
                    return None
                return known if (known.transport, known.internal_port) == (transport, internal_port) else None

            old = natpmp.map_port(transport, internal_port, external_port, lifetime)
            mapped = await questions.ask((old,), read_old, TRIES)
            self._see_epoch(mapped.epoch)
            if mapped.result != natpmp.Result.SUCCESS:
                raise _refusal(what, mapped.result, natpmp.Result)
            return Grant(mapped.external_port, mapped.lifetime)

    def _nonce(self, transport: Transport, internal_port: int) -> bytes:
        return hmac.digest(self._secret, f"{transport.value} {internal_port}".encode(), "sha256")[
            : pcp.NONCE_SIZE
        ]

    # -- restarts ---------------------------------------------------------------------------------------

    def _see_epoch(self, epoch: int) -> None:
        if not self._epoch.is_continued(epoch, asyncio.get_running_loop().time()):
            logger.info("The home router has restarted, or forgotten its port mappings")
            self._has_restarted = True

    async def _listen(self) -> None:
        """Hear the router's announcements, if the port is free; otherwise the next check shows the same."""
        if self._listener is not None:
            return
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((pcp.ANNOUNCEMENT_GROUP, pcp.ANNOUNCEMENT_PORT))
            self._listener, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Announcements(self._hear), sock=bound
            )
        except OSError as error:
            bound.close()
            logger.debug("Announcements of the home router are not heard: %s", error)

    def _hear(self, packet: bytes, sender: str) -> None:
        answer = pcp.parse(packet)
        is_announcement = answer is not None and answer.opcode == pcp.Opcode.ANNOUNCE
        is_announcement = is_announcement or isinstance(natpmp.parse(packet), natpmp.Address)
        if self._place is not None and sender == str(self._place[0]) and is_announcement:
            self._announced()


class _Questions(asyncio.DatagramProtocol):
    """Packets to and from one router, through a socket with a port that nobody can foresee."""

    def __init__(self, router: IPv4Address) -> None:
        self.router = router
        self.client = IPv4Address(0)
        """Our address towards it."""
        self.port = 0
        """Our UDP port."""
        self._packets: asyncio.Queue[bytes | OSError] = asyncio.Queue(_QUEUE_SIZE)
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> _Questions:
        try:
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: self, remote_addr=(str(self.router), pcp.PORT), family=socket.AF_INET
            )
        except OSError as error:
            raise SilentError(f"{self.router} cannot be asked: {error.strerror}") from error
        client, self.port = self._transport.get_extra_info("sockname")
        self.client = IPv4Address(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Keep a packet; the socket is connected, so it is the router's."""
        self._keep(data)

    def error_received(self, exc: Exception) -> None:
        """Keep an error: the router has told that nobody listens there, for example."""
        if isinstance(exc, OSError):
            self._keep(exc)

    def _keep(self, packet: bytes | OSError) -> None:
        if not self._packets.full():
            self._packets.put_nowait(packet)

    async def ask(
        self,
        packets: Sequence[bytes],
        read: Callable[[bytes], Answer | None],
        tries: Sequence[float],
    ) -> Answer:
        """Send ``packets``, again after each time of ``tries``, and return what ``read`` makes of an answer.

        Raises :class:`SilentError`.
        """
        if self._transport is None:
            raise ValueError("not open")
        for patience in tries:
            for packet in packets:
                self._transport.sendto(packet)
            try:
                async with asyncio.timeout(patience):
                    return await self._read(read)
            except TimeoutError:
                continue
        raise SilentError(f"the home router {self.router} does not answer")

    async def _read(self, read: Callable[[bytes], Answer | None]) -> Answer:
        while True:
            packet = await self._packets.get()
            if isinstance(packet, OSError):
                raise SilentError(f"the home router {self.router} does not answer: {packet.strerror}")
            if (answer := read(packet)) is not None:
                return answer


class _Announcements(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[bytes, str], None]) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._hear(data, addr[0])


def _refusal(what: str, result: int, kind: type[pcp.Result] | type[natpmp.Result]) -> UpnpError:
    """Return the error for ``result`` of a request, in words for people."""
    try:
        name = kind(result).name
    except ValueError:
        name = "unknown result"
    advice = f"; {ADVICE[result]}" if kind is pcp.Result and result in ADVICE else ""
    return UpnpError(f"the home router refused to {what}: {name} ({result}){advice}", code=result)
