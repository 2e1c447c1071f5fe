"""Messages that nodes and registries exchange, and the documents that they sign.

Everything is JSON; octet strings travel as base64. Unknown fields are ignored, so that an old node
understands what a newer one sends. All sizes are bounded by the HTTP servers that decode them, and
every text that names a prefix or an address is parsed where it enters (see :mod:`re6st.peers`).

A *signed document* is a pair of payload and signature. The signature covers ``<context> NUL <payload>``
(:func:`re6st.identity.sign`), where the context names the kind of document: a signature made for one
kind is worthless for another one.
"""

from __future__ import annotations

import enum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from re6st.errors import RemoteProtocolError

PROTOCOL_VERSION = 1
"""Version of the control protocol; peers of another version refuse each other's tunnels."""

MAXIMUM_BODY = 256 * 1024
"""Octets that a request or an answer may have."""

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$(?!\n)"
"""What a node name looks like: a host name."""

Name = Annotated[str, Meta(min_length=1, max_length=63, pattern=NAME_PATTERN)]
Serial = Annotated[str, Meta(max_length=40, pattern=r"^[0-9a-f]+$(?!\n)")]
Text = Annotated[str, Meta(max_length=256)]

OWNER_LENGTH = 254
"""Characters of an e-mail address (RFC 5321), and of every other name of a node's owner."""
Port = Annotated[int, Meta(ge=1, le=65535)]
Version = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""What SQLite can hold: a signed integer of 64 bits."""
Blob = Annotated[bytes, Meta(max_length=16 * 1024)]
LanKeyValue = Annotated[bytes, Meta(min_length=32, max_length=32)]
RecordPayload = Annotated[bytes, Meta(max_length=2 * 1024)]
"""A full record has about 1.5 KiB: nobody can fill the memory of others by padding theirs."""
RecordCertificate = Annotated[bytes, Meta(max_length=4 * 1024)]
"""A certificate of the network has about 0.6 KiB."""


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of everything that travels."""


class Transport(enum.Enum):
    """Transport protocol of an endpoint."""

    UDP = "udp"
    TCP = "tcp"


class Endpoint(Struct, frozen=True, order=True):
    """Where something can be reached on the underlay."""

    transport: Transport
    address: Annotated[str, Meta(max_length=45)]
    port: Port

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.transport.value}:{host}:{self.port}"


# -- signed documents -----------------------------------------------------------------------------------


class SignedDocument(Message, frozen=True, kw_only=True):
    """A payload (JSON of a versioned document) and its signature by the network's CA key."""

    payload: Annotated[bytes, Meta(max_length=192 * 1024)]
    signature: Annotated[bytes, Meta(max_length=128)]
    further_signature: Annotated[bytes, Meta(max_length=128)] = b""
    """That of the other CA while one takes over from the other: it is enough to know one of them."""


class LanKeyPeriod(Message, frozen=True, kw_only=True):
    """From when on which key of the LANs is in force; see :mod:`re6st.lan_keys`."""

    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]
    since: Annotated[float, Meta(ge=0)]
    """Seconds since the epoch."""


class LanKeys(Message, frozen=True, kw_only=True):
    """The keys themselves, for members only."""

    keys: Annotated[tuple[LanKeyValue, ...], Meta(max_length=2)] = ()

    def __repr__(self) -> str:
        """Return no secret."""
        return f"LanKeys({len(self.keys)} keys)"


class NetworkParameters(Message, frozen=True, kw_only=True, omit_defaults=False):
    """Settings of the whole network, signed by the CA (context ``parameters``).

    All values are written, so that a signed document means the same to software with other defaults.
    """

    version: Version
    network: Text
    """The prefix of the network."""
    registry_urls: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()
    """Where the registry can be asked, in any order."""
    authorities: Annotated[tuple[RecordCertificate, ...], Meta(max_length=2)] = ()
    """CA certificates (DER) to trust, the one that issues first; none: the one known from the join."""
    babel_port: Port = 6696
    """UDP port of babel inside the tunnels; one host may be a member of several networks."""
    hello_interval: Annotated[float, Meta(ge=0.2, le=60)] = 4.0
    """Seconds between babel hellos on a tunnel."""
    update_interval: Annotated[float, Meta(ge=1, le=600)] = 40.0
    """Seconds between full babel updates on a tunnel. A route is held for 3.5 of them, which must be less
    than the 200 s after which babeld forgets how feasible a destination was: dead routes could come back.
    """
    gossip_interval: Annotated[float, Meta(ge=1, le=3600)] = 300.0
    """Seconds between exchanges of peer records with a random neighbour."""
    lan_keys: Annotated[tuple[LanKeyPeriod, ...], Meta(max_length=2)] = ()
    """Which keys there are for neighbours in LANs: the one in force, and perhaps the next."""


class Revocations(Message, frozen=True, kw_only=True):
    """All certificates that were withdrawn before their expiry (context ``revocations``)."""

    version: Version
    serials: Annotated[tuple[Serial, ...], Meta(max_length=4096)] = ()
    """Serial numbers, lower-case hexadecimal."""


class PeerRecord(Message, frozen=True, kw_only=True):
    """What a node says of itself, signed with its certificate's key (context ``peer``)."""

    prefix: Text
    name: Name
    sequence: Version
    """Grows with every change; of two records of one node the one with the higher sequence is valid."""
    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=16)] = ()
    """Where its control API listens; empty for a node that cannot be reached from outside."""
    capabilities: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=16)] = ()
    software: Annotated[str, Meta(max_length=32)] = ""
    departed: bool = False
    """The node has left the network for good."""


class SignedPeerRecord(Message, frozen=True, kw_only=True):
    """A peer record with all that is needed to verify it: anyone may pass it on."""

    certificate: RecordCertificate
    """X.509 certificate of the node, DER."""
    payload: RecordPayload
    """JSON of :class:`PeerRecord`."""
    signature: Annotated[bytes, Meta(max_length=128)]


Records = Annotated[tuple[SignedPeerRecord, ...], Meta(max_length=64)]


# -- control API between nodes --------------------------------------------------------------------------


class Hole(Message, frozen=True, kw_only=True):
    """Where a node's packets come from outside of its router, for a peer that is about to punch a hole."""

    endpoint: Endpoint
    """Of the UDP port that the tunnel will use, as others have observed it."""
    predictable: bool = True
    """Two others have observed the same: the router has endpoint-independent mapping (RFC 4787, 4.1)."""


class TunnelRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/tunnels``: the dialer asks for a tunnel."""

    protocol: int
    boot_id: Annotated[str, Meta(max_length=64)]
    """Random, new at each cold start of the dialer: the listener drops tunnels of an earlier boot."""
    record: SignedPeerRecord
    drivers: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=8)]
    transports: Annotated[tuple[Transport, ...], Meta(max_length=4)]
    mtu: Annotated[int, Meta(ge=1280, le=65535)]
    """Largest packet, in octets, that the dialer's end of the tunnel can take."""
    replace: bool = False
    """Drop an existing tunnel to the dialer instead of refusing."""
    isolated: bool = False
    """The dialer has no tunnel at all: a full listener may end another one for its sake."""
    fragments: bool = False
    """Its path does not carry the smallest packets in one piece: both ends shall cut them."""
    hole: Hole | None = None
    """Given when the request travels over the overlay, because neither end can be reached from outside."""
    parameters_version: Version = 0
    revocations_version: Version = 0


class TunnelOffer(Message, frozen=True, kw_only=True):
    """The listener's answer: it waits for a while at these endpoints."""

    tunnel: Annotated[str, Meta(max_length=64)]
    """Name of the tunnel, chosen by the listener; ``DELETE /v1/tunnels/<tunnel>`` ends it."""
    boot_id: Annotated[str, Meta(max_length=64)]
    record: SignedPeerRecord
    driver: Annotated[str, Meta(max_length=32)]
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1, max_length=8)]
    key: Annotated[str, Meta(max_length=4096)]
    """Pre-shared key of this tunnel only (OpenVPN: a ``tls-crypt`` static key file)."""
    mtu: Annotated[int, Meta(ge=1280, le=65535)]
    fragments: bool = False
    """The listener cuts packets, as the dialer has asked, and the dialer must as well."""
    parameters_version: Version = 0
    revocations_version: Version = 0

    def __repr__(self) -> str:
        return f"TunnelOffer(tunnel={self.tunnel!r}, endpoints={self.endpoints!r}, key=<redacted>)"


class Draining(Message, frozen=True, kw_only=True):
    """``POST /v1/tunnels/<tunnel>/drain``: move your routes away from it, I will end it. Said repeatedly."""

    leaving: bool = False
    """The sender stops: the route to its own prefix need not move."""


class DrainProgress(Message, frozen=True, kw_only=True):
    """How far the other end is."""

    drained: bool = False
    """It has no route through the tunnel any more."""


class RefusalReason(enum.Enum):
    """Why a tunnel was refused."""

    FULL = "full"
    ALREADY_CONNECTED = "already-connected"
    NOT_ALLOWED = "not-allowed"
    INCOMPATIBLE = "incompatible-version"
    UNAVAILABLE = "unavailable"


class TunnelRefusal(Message, frozen=True, kw_only=True):
    """The listener will not have this tunnel (status 409)."""

    reason: RefusalReason
    detail: Text = ""
    hints: Records = ()
    """Other peers to try, when the reason is FULL."""


class Gossip(Message, frozen=True, kw_only=True):
    """``POST /v1/gossip``, both the request and the answer: some peer records and the versions known."""

    records: Records = ()
    parameters_version: Version = 0
    revocations_version: Version = 0


class LanAnnouncement(Message, frozen=True, kw_only=True):
    """What a node says of itself in its LANs; nothing in it is believed."""

    prefix: Annotated[str, Meta(max_length=49)]
    port: Port
    """TCP port of its control API."""


class ReachabilityRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/reachability``: try the endpoints of the caller's record."""

    record: SignedPeerRecord
    """The caller's own."""


class EndpointResult(Message, frozen=True, kw_only=True):
    """Whether the caller was found at one of its endpoints."""

    endpoint: Endpoint
    reached: bool


class ReachabilityAnswer(Message, frozen=True, kw_only=True):
    """What was tried; nothing, when no endpoint can be tried from here or there were too many requests."""

    results: Annotated[tuple[EndpointResult, ...], Meta(max_length=16)] = ()


# -- registry API ---------------------------------------------------------------------------------------


class EnrolmentRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/enrolments``: a certificate for this request, against a token."""

    token: Annotated[str, Meta(max_length=128)]
    request: Blob
    """PKCS #10 certification request (RFC 2986), DER; its CN is the wished node name, or empty."""

    def __repr__(self) -> str:
        return "EnrolmentRequest(token=<redacted>)"


class AdmissionRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/requests``: who has no token asks to be let in, and later asks again what came of it."""

    token: Annotated[str, Meta(min_length=32, max_length=128, pattern=r"^[A-Za-z0-9_-]+$(?!\n)")]
    """Random secret that the asker made. It lets the asker in, with the key of the request, once approved."""
    request: Blob
    """PKCS #10 certification request, DER; its CN is the wished node name, or empty."""
    message: Text = ""
    """For the operator: who is asking."""

    def __repr__(self) -> str:
        return "AdmissionRequest(token=<redacted>)"


class AdmissionState(enum.Enum):
    """What came of a request."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


class AdmissionAnswer(Message, frozen=True, kw_only=True):
    """What came of a request so far."""

    state: AdmissionState
    key: Annotated[str, Meta(max_length=64)]
    """SHA-256 of the public key, in hexadecimal digits: what the operator sees of the asker."""
    name: Annotated[str, Meta(max_length=63)] = ""
    """Under which the asker may enrol, if not under one of its choice."""
    reason: Text = ""
    """Why it was denied."""
    expires: float | None = None
    """Until when the operator can decide, seconds since the epoch."""


Mailbox = Annotated[
    str,
    Meta(
        max_length=254,
        pattern=(
            r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@"
            r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
            r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+$(?!\n)"
        ),
    ),
]
"""A valid e-mail address of the HTML standard (4.10.5.1.5), with the lengths of RFC 5321 and a dot in the
domain: no quoted names, comments, literals or line ends."""


class InvitationRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/invitations``: send a join link to this mailbox."""

    email: Mailbox


class RenewalRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/renewals``: a fresh certificate; the old one authenticates the request."""

    request: Blob


class Enrolment(Message, frozen=True, kw_only=True):
    """A certificate and everything with which a new node can start."""

    certificate: Blob
    parameters: SignedDocument
    revocations: SignedDocument
    peers: Records = ()


class PeerSample(Message, frozen=True, kw_only=True):
    """``GET /v1/peers/sample``: peer records drawn at random."""

    peers: Records = ()
    parameters_version: Version = 0
    revocations_version: Version = 0


Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Word = Annotated[str, Meta(max_length=32)]


class TunnelReport(Message, frozen=True, kw_only=True):
    """A tunnel that is up, as one of its ends tells the registry."""

    peer: Text
    """Node prefix at the other end."""
    outgoing: bool
    """The node that tells has dialled."""
    established: Word
    """See :class:`re6st.status.TunnelStatus`."""
    age: Seconds
    """Since it is up."""
    round_trip: Seconds | None = None
    """Smoothed round-trip time, if it was measured."""


class NodeReport(Message, frozen=True, kw_only=True):
    """``PUT /v1/nodes/self/report``: how a node is, for the operators of its registry."""

    time: Seconds
    """Of the node's clock, since the epoch."""
    uptime: Seconds
    """Of its daemon."""
    software: Word
    reachability: Word
    """See :class:`re6st.status.Reachability`."""
    reason: Text = ""
    """Why it can, or cannot, be reached from outside."""
    routes: Count
    """Nodes to which it has a route."""
    peers: Count
    """Nodes that it knows."""
    parameters_version: Version
    revocations_version: Version
    tunnels: Annotated[tuple[TunnelReport, ...], Meta(max_length=64)] = ()


class DocumentVersions(Message, frozen=True, kw_only=True):
    """Which versions of the signed documents are in force."""

    parameters_version: Version
    revocations_version: Version
    renewal: bool = False
    """The caller's certificate does not say what the registry knows: it should renew it soon."""


class Problem(Message, frozen=True, kw_only=True):
    """An error answer (RFC 9457)."""

    type: Text
    """Machine-readable reason, for example ``token-expired``."""
    title: Text = ""
    detail: Annotated[str, Meta(max_length=1024)] = ""
    status: int = 500


# -- encoding -------------------------------------------------------------------------------------------

MessageType = TypeVar("MessageType", bound=Struct)


def encode(message: Struct) -> bytes:
    """Return ``message`` as JSON."""
    return msgspec.json.encode(message)


def decode(body: bytes | bytearray | memoryview, kind: type[MessageType]) -> MessageType:
    """Return the message of type ``kind`` in ``body``.

    Raises :class:`RemoteProtocolError`, naming the field at fault, when it is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"not a valid {kind.__name__}: {error}") from error
