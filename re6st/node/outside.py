"""Tests from outside whether a node can be reached: for peers that ask, and through peers for this node.

A node that asks is tested at the endpoints of its own signed record only, and the answer says no more than
whether the node itself was found there, which its certificate proves. So nobody can have others look into
foreign networks. Only global addresses are tried, few at a time, and each node may ask once in a while.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv6Network
from typing import Protocol

from re6st.errors import IdentityError, ProtocolError
from re6st.messages import Endpoint, EndpointResult, ReachabilityAnswer, ReachabilityRequest
from re6st.node.control_client import ControlClient
from re6st.node.own_record import OwnRecord
from re6st.peers import Peer
from re6st.status import OutsideStatus

TESTED = 4
"""Endpoints that are tried for one request."""

TEST_TIMEOUT = 5.0
"""Seconds for all of them."""

TEST_INTERVAL = 5.0
"""Seconds between two requests of the same node; what comes sooner gets an empty answer."""

CONCURRENT = 4
"""Requests that are served at a time; to more the answer is empty."""

TESTERS = 3
"""Peers that are asked, one after the other, until one answers."""

_REMEMBERED = 256


class Underlay(Protocol):
    """What must be known of the network below; see :mod:`re6st.node.reachability`."""

    def dial_order(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of a peer's ``endpoints`` that can be tried from here, best first."""

    def usable(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return those of ``endpoints`` to which packets may be sent."""


class OutsideTester:
    """Tests others, and has this node tested."""

    def __init__(
        self,
        client: ControlClient,
        underlay: Underlay,
        own: OwnRecord,
        peers: Callable[[], Sequence[Peer]],
    ) -> None:
        """``peers`` returns those whom this node can ask, neighbours first."""
        self._client = client
        self._underlay = underlay
        self._own = own
        self._peers = peers
        self._busy = 0
        self._served: dict[IPv6Network, float] = {}

    async def test(self, peer: Peer) -> ReachabilityAnswer:
        """Try the endpoints of ``peer``, whose own and newest record this is."""
        now = time.monotonic()
        if self._busy >= CONCURRENT or now - self._served.get(peer.prefix, float("-inf")) < TEST_INTERVAL:
            return ReachabilityAnswer()
        self._served.pop(peer.prefix, None)
        self._served[peer.prefix] = now
        if len(self._served) > _REMEMBERED:
            del self._served[next(iter(self._served))]
        candidates = [one for one in peer.endpoints if ipaddress.ip_address(one.address).is_global]
        endpoints = self._underlay.usable(candidates)[:TESTED]
        self._busy += 1
        try:
            reached = await asyncio.gather(*(self._reaches(peer, endpoint) for endpoint in endpoints))
        finally:
            self._busy -= 1
        return ReachabilityAnswer(
            results=tuple(
                EndpointResult(endpoint=endpoint, reached=found)
                for endpoint, found in zip(endpoints, reached, strict=True)
            )
        )

    async def _reaches(self, peer: Peer, endpoint: Endpoint) -> bool:
        try:
            async with asyncio.timeout(TEST_TIMEOUT):
                await self._client.greet(peer, endpoint)
        except (ProtocolError, IdentityError, TimeoutError):
            return False
        return True

    async def ask(self) -> OutsideStatus:
        """Have a peer test this node's endpoints."""
        if not self._own.endpoints:
            return OutsideStatus(reason="this node publishes no endpoint")
        here = {endpoint.address for endpoint in self._own.endpoints}
        # A peer behind the same router would test the router's hairpin.
        elsewhere = [
            peer
            for peer in self._peers()
            if peer.reachable and not here & {endpoint.address for endpoint in peer.endpoints}
        ]
        reason = "no other node is known that could do it"
        candidates = elsewhere[: 2 * TESTERS]
        for peer in random.sample(candidates, min(TESTERS, len(candidates))):
            try:
                answer = await self._ask(peer)
            except (ProtocolError, IdentityError) as error:
                reason = str(error)
                continue
            if answer.results:
                return _summary(peer, answer)
            reason = f"{peer.name} cannot reach such addresses, or has tested this node a moment ago"
        return OutsideStatus(reason=reason)

    async def _ask(self, peer: Peer) -> ReachabilityAnswer:
        """Have ``peer`` test us. Raises :class:`ProtocolError` or :class:`IdentityError`."""
        request = ReachabilityRequest(record=self._own.signed)
        # One way after the other: a second request while the first is being served would be answered first,
        # and say nothing.
        try:
            overlay = [self._client.overlay_endpoint(peer)]
            return await self._client.request_reachability(peer, overlay, request)
        except ProtocolError:
            underlay = self._underlay.dial_order(peer.endpoints)[:1]
            return await self._client.request_reachability(peer, underlay, request)


def _summary(peer: Peer, answer: ReachabilityAnswer) -> OutsideStatus:
    return OutsideStatus(
        tester=peer.name,
        reached=[str(result.endpoint) for result in answer.results if result.reached],
        unreached=[str(result.endpoint) for result in answer.results if not result.reached],
    )
