"""Messages of the operator API; its description is made from them. Times are seconds since the epoch."""

from __future__ import annotations

import enum
from typing import Annotated, Any

from msgspec import Meta

from re6st.messages import OWNER_LENGTH, AdmissionState, Message, Name, NetworkParameters, Text
from re6st.prefix import DEFAULT_NODE_LENGTH, LONGEST_NODE_LENGTH
from re6st.registry.authority import DAY
from re6st.registry.diagnosis import Kind, Severity
from re6st.registry.operators import Scope
from re6st.registry.tokens import MAXIMUM_USES

PrefixLength = Annotated[int, Meta(ge=33, le=LONGEST_NODE_LENGTH)]
Lifetime = Annotated[float, Meta(gt=0, le=3650 * DAY)]
Key = Annotated[str, Meta(max_length=64)]
Value = Annotated[str, Meta(max_length=4096)]
Selector = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~]+$(?!\n)")]
Owner = Annotated[str, Meta(max_length=OWNER_LENGTH)]
MaximumNodes = Annotated[int, Meta(ge=0, le=1_000_000)]


class Order(Message, frozen=True, forbid_unknown_fields=True):
    """What an operator asks for: a field that is not known is a slip, which must not be passed over."""


class NodeState(enum.Enum):
    """What a node may do now."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    RELEASED = "released"


class NodeTrouble(Message, frozen=True, kw_only=True):
    """Something that is wrong with a node."""

    kind: Kind
    severity: Severity
    text: str
    """What it is and what to do, for people."""


class Node(Message, frozen=True, kw_only=True):
    """A member of the network, or a former one."""

    name: str
    prefix: str
    address: str
    state: NodeState
    further_prefixes: tuple[str, ...] = ()
    """Other prefixes that it has."""
    group: str = ""
    """Empty only from a registry that knows no groups."""
    owner: str = ""
    """To whom it belongs, for people."""
    created: float
    suspended: float | None = None
    released: float | None = None
    quarantine_until: float | None = None
    serial: str | None = None
    """Of its newest certificate."""
    expires: float | None = None
    """When its newest certificate expires."""
    published: float | None = None
    """When its peer record came."""
    reachable: bool | None = None
    """Whether it can be dialled from outside, as it says."""
    software: str | None = None
    seen: float | None = None
    """When it was heard of last."""
    tunnels: int | None = None
    """How many are up, as it reported last."""
    parameters_version: int | None = None
    """Which version of the network parameters it uses."""
    clock_offset: float | None = None
    """Seconds by which its clock was ahead of the registry's."""
    troubles: tuple[NodeTrouble, ...] = ()
    """What is wrong with it, the worst first."""


class MeshNode(Message, frozen=True, kw_only=True):
    """A node of the mesh."""

    name: str
    prefix: str
    seen: float
    severity: Severity | None = None
    """Of its worst trouble."""
    reachability: str


class MeshTunnel(Message, frozen=True, kw_only=True):
    """A tunnel between two nodes of the mesh."""

    dialer: str
    """Prefix."""
    listener: str
    established: str
    age: float
    """Seconds, as reported by the end that was heard of last."""
    round_trip: float | None = None
    """Seconds."""
    confirmed: bool
    """Both ends reported it."""


class Mesh(Message, frozen=True, kw_only=True):
    """The nodes that reported within the last hours, and their tunnels."""

    nodes: tuple[MeshNode, ...]
    tunnels: tuple[MeshTunnel, ...]
    complete: bool
    """There are not more nodes than these."""


class NodePage(Message, frozen=True, kw_only=True):
    """Some nodes, by prefix."""

    items: tuple[Node, ...]
    next: str | None = None
    """What to give as ``after`` for the next page; absent on the last one."""


class TroubleCount(Message, frozen=True, kw_only=True):
    """How many nodes have one kind of trouble."""

    kind: Kind
    severity: Severity
    nodes: int


class Troubles(Message, frozen=True, kw_only=True):
    """How many nodes are unwell, and of what."""

    unwell: int
    """Nodes that somebody should look after."""
    items: tuple[TroubleCount, ...]
    """The worst first; a node may have several troubles."""
    counted: float
    """When: in a large network it is not counted again for each question."""


class Renaming(Order, frozen=True, kw_only=True):
    """A node's new name."""

    name: Name


class NodeGroup(Order, frozen=True, kw_only=True):
    """The group that a node shall be in."""

    group: Name


class NodeOwner(Order, frozen=True, kw_only=True):
    """To whom a node belongs, for people; empty for nobody."""

    owner: Owner


class PrefixRequest(Order, frozen=True, kw_only=True):
    """A further prefix for a node."""

    prefix: Text | None = None
    """Without it: a free one of ``prefix_length``."""
    prefix_length: PrefixLength | None = None
    """Without it: as the node's group says, or 64."""


class GroupRequest(Order, frozen=True, kw_only=True):
    """A group to be made."""

    name: Name
    description: Text = ""
    prefix_length: PrefixLength | None = None
    """Of the prefixes of its new nodes, unless chosen otherwise."""
    maximum_nodes: MaximumNodes | None = None
    """Members that it may have; absent: any number."""


class GroupChange(Order, frozen=True, kw_only=True):
    """What a group shall be like; what is absent is taken away."""

    description: Text = ""
    prefix_length: PrefixLength | None = None
    maximum_nodes: MaximumNodes | None = None


class Group(Message, frozen=True, kw_only=True):
    """A group of nodes."""

    name: str
    description: str = ""
    prefix_length: int | None = None
    maximum_nodes: int | None = None
    nodes: int
    """Members that it has."""
    created: float


class GroupList(Message, frozen=True, kw_only=True):
    """All groups, by name."""

    items: tuple[Group, ...]


class LinkRequest(Order, frozen=True, kw_only=True):
    """Whom a join link is for."""

    name: Name | None = None
    return_node: Selector | None = None
    """Name or prefix of a node that was installed again and gets its place back."""
    group: Name | None = None
    """Of the nodes; not for one that gets its place back."""
    owner: Owner = ""
    """To whom they belong; not for one that gets its place back."""
    prefix_length: PrefixLength | None = None
    """Without it: as their group says, or 64."""
    lifetime: Lifetime = DAY
    """Seconds."""
    uses: Annotated[int, Meta(ge=1, le=MAXIMUM_USES)] = 1
    url: Text | None = None
    """Where the node reaches the registry, if not at the network's URLs."""


class Link(Message, frozen=True, kw_only=True):
    """A join link: whoever has it can join."""

    id: int
    """Of its token."""
    link: str
    expires: float
    qr_code: tuple[str, ...] = ()
    """The link as a QR code (ISO/IEC 18004): rows of ``0`` and ``1`` (dark), without the quiet zone."""

    def __repr__(self) -> str:
        return f"Link(id={self.id}, expires={self.expires})"


class TokenState(enum.Enum):
    """Whether a token lets nodes in."""

    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Token(Message, frozen=True, kw_only=True):
    """The token of a join link; itself it is not known any more."""

    id: int
    state: TokenState
    prefix_length: int
    created: float
    expires: float
    uses: int
    maximum_uses: int
    name: str | None = None
    group: str | None = None
    """Of its nodes; absent: the first one."""
    owner: str = ""


class TokenPage(Message, frozen=True, kw_only=True):
    """Some tokens, the oldest first."""

    items: tuple[Token, ...]
    next: int | None = None


class ReservationRequest(Order, frozen=True, kw_only=True):
    """For which name to keep which prefix."""

    name: Name
    prefix: Text | None = None
    """Without it: the one that the node has, or a free one of ``prefix_length``."""
    prefix_length: PrefixLength = DEFAULT_NODE_LENGTH


class KeptPrefix(Message, frozen=True, kw_only=True):
    """A prefix that is kept for a name."""

    name: str
    prefix: str
    created: float


class ReservationList(Message, frozen=True, kw_only=True):
    """All reservations, by prefix."""

    items: tuple[KeptPrefix, ...]


class Parameters(NetworkParameters, frozen=True, kw_only=True, omit_defaults=False):
    """Network parameters with all their values, those included that are as by default."""


class ParametersChange(Order, frozen=True, kw_only=True):
    """New values as an operator writes them; lists are separated by commas."""

    changes: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=4096)]],
        Meta(min_length=1, max_length=32),
    ]


class ParametersPlanRequest(Order, frozen=True, kw_only=True):
    """New values from a chosen time on."""

    due: Annotated[float, Meta(ge=0, le=1e11)]
    """When they are put in force, seconds since the epoch."""
    changes: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=4096)]],
        Meta(min_length=1, max_length=32),
    ]


class ParametersPlan(Message, frozen=True, kw_only=True):
    """A change that waits for its time."""

    id: int
    due: float
    changes: dict[str, str]


class ParametersPlanList(Message, frozen=True, kw_only=True):
    """All changes that wait, the next one first."""

    items: tuple[ParametersPlan, ...]


class ParameterDifference(Message, frozen=True, kw_only=True):
    """A parameter that changes."""

    key: str
    before: str
    after: str


class ParametersPreview(Message, frozen=True, kw_only=True):
    """What a change would do."""

    version: int
    """The version in force."""
    differences: tuple[ParameterDifference, ...]


class AdmissionPreview(Message, frozen=True, kw_only=True):
    """What a change of who may come in would do."""

    differences: tuple[ParameterDifference, ...]


class LanKey(Message, frozen=True, kw_only=True):
    """A key of the LANs, without itself."""

    digest: str
    """SHA-256, hexadecimal."""
    since: float
    """From when on it is in force, until that of the next one."""


class LanKeyList(Message, frozen=True, kw_only=True):
    """The key in force and the one that follows, by time."""

    items: tuple[LanKey, ...]


class LanKeyRotation(Order, frozen=True, kw_only=True):
    """When a new key takes over."""

    delay: Annotated[float, Meta(ge=0, le=90 * DAY)] = 3600.0
    """Seconds that all nodes have to get it."""


class ParametersUndo(Order, frozen=True, kw_only=True):
    """Which version's values to put in force again; the previous one's by default."""

    version: Annotated[int, Meta(ge=1)] | None = None


class HistoricParameters(Message, frozen=True, kw_only=True):
    """A version of the parameters."""

    parameters: Parameters
    created: float | None = None


class ParametersHistory(Message, frozen=True, kw_only=True):
    """Versions of the parameters, the newest first."""

    items: tuple[HistoricParameters, ...]


class AuditEntry(Message, frozen=True, kw_only=True):
    """Who did what, from where and when."""

    id: int
    time: float
    actor_kind: str
    actor: str
    origin: str
    action: str
    subject: str
    details: dict[str, Any]


class AuditPage(Message, frozen=True, kw_only=True):
    """Some entries of the audit log."""

    items: tuple[AuditEntry, ...]
    next: int | None = None
    """What to give as ``after`` (or ``before``) for the next page; absent on the last one."""


class OperatorTokenRequest(Order, frozen=True, kw_only=True):
    """Whom a token is for, and what it is good for."""

    name: Name
    scope: Scope = Scope.READ
    lifetime: Lifetime | None = None
    """Seconds; absent: for ever."""


class OperatorToken(Message, frozen=True, kw_only=True):
    """The token of an operator."""

    name: str
    scope: Scope
    created: float | None = None
    expires: float | None = None
    revoked: float | None = None
    token: str | None = None
    """Itself; only in the answer to its creation."""

    def __repr__(self) -> str:
        return f"OperatorToken(name={self.name!r}, scope={self.scope!r})"


class OperatorTokenList(Message, frozen=True, kw_only=True):
    """All operators' tokens, the oldest first."""

    items: tuple[OperatorToken, ...]


class Overview(Message, frozen=True, kw_only=True):
    """Who is asking, and how the network is."""

    operator: str
    scope: Scope
    network: str
    fingerprint: str
    nodes: dict[str, int]
    """How many are in each state."""
    requests: int = 0
    """Machines that wait to be let in."""
    parameters_version: int
    revocations_version: int
    time: float
    """Of the registry's clock."""


class WaitingRequest(Message, frozen=True, kw_only=True):
    """A machine that asks to be let in."""

    id: int
    state: AdmissionState
    name: str = ""
    """Which it wants."""
    key: str
    """SHA-256 of its public key: compare it with what the machine shows."""
    message: str = ""
    origin: str
    """Network address that asked."""
    created: float
    expires: float
    """Until when it can be decided."""
    reason: str = ""
    """Why it was denied."""
    suspicions: tuple[str, ...] = ()
    """What to know before it is approved, for people."""


class RequestPage(Message, frozen=True, kw_only=True):
    """Some requests, the newest first."""

    items: tuple[WaitingRequest, ...]
    next: int | None = None
    """What to give as ``before`` for the next page; absent on the last one."""


class Approval(Order, frozen=True, kw_only=True):
    """How a machine is let in."""

    name: Name | None = None
    """Instead of the one that it wants."""
    prefix_length: PrefixLength | None = None
    """Without it: as its group says, or 64."""
    group: Name | None = None
    """Without it: that of nodes which are approved (``requests_group``)."""
    owner: Owner = ""


class Denial(Order, frozen=True, kw_only=True):
    """Why a machine is not let in."""

    reason: Text = ""
