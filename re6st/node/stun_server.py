"""Answers STUN binding requests at the UDP port with the number of the control API's (RFC 8489).

Two nodes that answer tell a third one whether its router lets holes be punched. An answer leaves from the
address that was asked, or the asking router would not let it in. It is hardly larger than its request, and
only so many are given in a second: this is no means to hit somebody else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from typing import Any

from re6st import stun
from re6st.errors import RemoteProtocolError
from re6st.node.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

RATE = 50.0
"""Answers in a second, in the long run."""

BURST = 100.0
"""Answers at once."""

_BATCH = 32
_ANCILLARY = socket.CMSG_SPACE(64)
_IPV4_MAPPED = "::ffff:"


class StunServer:
    """Answers on one UDP port of all addresses."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._bucket = TokenBucket(RATE, BURST)

    async def start(self) -> None:
        """Begin to answer. A port that is taken is no reason for a node not to run."""
        try:
            self._socket = _bind(self._port)
        except OSError as error:
            logger.warning(
                "UDP port %d is in use (%s): this node does not help others to punch holes", self._port, error
            )
            return
        asyncio.get_running_loop().add_reader(self._socket, self._on_readable)

    async def stop(self) -> None:
        """Answer no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _on_readable(self) -> None:
        if self._socket is None:
            return
        for _ in range(_BATCH):
            try:
                message, ancillary, _, source = self._socket.recvmsg(stun.LONGEST + 1, _ANCILLARY)
                self._answer(self._socket, message, ancillary, source)
            except BlockingIOError:
                return
            except OSError as error:
                logger.debug("A STUN request was not answered: %s", error)

    def _answer(
        self, answering: socket.socket, message: bytes, ancillary: list[tuple[int, int, bytes]], source: Any
    ) -> None:
        try:
            transaction = stun.read_request(message)
        except RemoteProtocolError:
            return
        if not self._bucket.take(time.monotonic()):
            return
        address = ipaddress.ip_address(source[0].partition("%")[0].removeprefix(_IPV4_MAPPED))
        response = stun.binding_response(transaction, address, source[1])
        # The address that was asked comes as ancillary data, which chooses the source when it is sent back.
        answering.sendmsg([response], ancillary, 0, source)


def _bind(port: int) -> socket.socket:
    """Return a socket for IPv6 and IPv4, or for IPv4 alone where the host has no IPv6."""
    try:
        bound = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if bound.family is socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        bound.setblocking(False)
        bound.bind(("", port))
    except OSError:
        bound.close()
        raise
    return bound
