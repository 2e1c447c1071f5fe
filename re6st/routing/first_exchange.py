"""What makes babel's first exchange on a new tunnel take a moment instead of several hello intervals (pure).

By itself babeld uses a neighbour after two of its hellos and an IHU, gathers what it sends for up to a
second, and asks for the neighbour's table only once, when its own link comes up - perhaps before that of
the neighbour. But when a tunnel is up, we know already that packets pass in both directions. So we say it
in a packet that babeld could have sent (all sections of RFC 8966):

- two *unicast Hellos* (4.6.5): two in a row make the link usable. Their history is apart from that
  of the multicast Hellos that babeld sends, which take over before this one runs out.
- a *multicast Hello*: without any, babeld would forget the router again. Its number does not continue those
  of our babeld; a receiver takes that for a restart of the router and counts anew (Appendix A.1).
- an *IHU* (4.6.6) for whoever hears it: the cost of the link for the neighbour.
- a *wildcard Route Request* (4.6.10): send all your routes. babeld ignores it when it has sent them during
  the last hello interval, even if nobody was there to hear it.
- a *Seqno Request* (4.6.11) for the neighbour's own prefix, without a number that it would have to exceed:
  babeld answers urgently, that is within 125 ms, and with everything else that it has gathered.
- an *Acknowledgment Request* (4.6.3) that has to be answered within 10 ms: what is ready is sent with the
  answer, provided that babeld speaks to its neighbours by unicast.

It is sent when our link is up, again as soon as babeld hears the neighbour (now its link is up as well),
and a few times more for as long as its routes are missing. After a hello interval, when babeld heeds wildcard
requests again, one more follows for what may have been lost.

*A babeld that begins again* on a link that is up, because the one before was killed, would do harm by itself.
The numbers of its Hellos jump, so the neighbour would think the link lost until it has heard two; and having
heard one Hello of the neighbour, it would say the same in an IHU. Meanwhile the neighbour asks for the routes
that it had through here and is told that there are none. So before it speaks the packet is sent in its name:
its unicast Hellos outweigh the history that is reset, and two multicast Hellos in a row begin a new one,
so that the jump which follows is seen in any case. A neighbour whose Hellos jump is sent a *greeting* by us
several times, so that it uses the link at once. A greeting has no multicast Hello, whose number would jump as
well and be answered again, and asks for nothing: the neighbour has not much to tell yet, and what it would
tell are retractions. The greeting may come later than the neighbour's routes, though. A route through a link
that is not usable yet counts as unreachable, and babeld would say so to everybody. So the new babeld is also
handed a greeting by ourselves, in the name of each neighbour that the one before has used. Its Hellos have
the numbers -2 and -1 (modulo 2^16), and each of the neighbour's greetings has 0 and 1, whichever is heard
first: a gap would make the link unusable for a moment, which is enough for a retraction.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Network

from re6st.routing.packets import assemble

_ACKNOWLEDGMENT_REQUEST, _HELLO, _IHU, _ROUTE_REQUEST, _SEQNO_REQUEST = 2, 4, 5, 9, 10
_WILDCARD, _IPV6 = 0, 2
_UNICAST = 0x8000
_ANYONE = bytes(8)
_WILDCARD_REQUEST = (_ROUTE_REQUEST, bytes((_WILDCARD, 0)))


def first_packet(
    *, cost: int, hello_interval: float, number: int, peer: IPv6Network | None, multicast_hellos: int = 1
) -> bytes:
    """Return the packet; ``number`` is the sequence number of its Hellos, the next packet has two more.

    ``cost`` is that of the link, ``hello_interval`` is babeld's, in seconds, ``peer`` the prefix of the
    neighbour if that is known.
    """
    number &= 0xFFFF
    records = _hellos(hello_interval, number, multicast_hellos)
    records += [_ihu(cost, hello_interval), _WILDCARD_REQUEST]
    if peer is not None:
        prefix = peer.network_address.packed[: (peer.prefixlen + 7) // 8]
        head = struct.pack("!BBHBB", _IPV6, peer.prefixlen, 0, 1, 0)
        records.append((_SEQNO_REQUEST, head + _ANYONE + prefix))
    records.append((_ACKNOWLEDGMENT_REQUEST, struct.pack("!HHH", 0, number, 1)))
    return assemble(records)


def _hellos(hello_interval: float, number: int, multicast: int) -> list[tuple[int, bytes]]:
    # The unicast Hellos have to last until babeld has sent two of its own, even if one more is lost.
    interval = _centiseconds(hello_interval)
    lasting = min(0xFFFF, 2 * interval)
    parts = [struct.pack("!HHH", _UNICAST, (number + i) & 0xFFFF, lasting) for i in range(2)]
    parts += [struct.pack("!HHH", 0, (number + i) & 0xFFFF, interval) for i in range(multicast)]
    return [(_HELLO, part) for part in parts]


def _ihu(cost: int, hello_interval: float) -> tuple[int, bytes]:
    interval = min(0xFFFF, 3 * _centiseconds(hello_interval))
    return (_IHU, struct.pack("!BBHH", _WILDCARD, 0, cost, interval))


def _centiseconds(seconds: float) -> int:
    return max(1, min(0xFFFF, round(seconds * 100)))


def greeting(*, cost: int, hello_interval: float, number: int) -> bytes:
    """Return the packet that makes a router that has begun again use the link; see :func:`first_packet`."""
    return assemble([*_hellos(hello_interval, number, 0), _ihu(cost, hello_interval)])


def wildcard_request() -> bytes:
    """Return the packet that only asks for all routes."""
    return assemble([_WILDCARD_REQUEST])
