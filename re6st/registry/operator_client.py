"""The operator API for Python programs: what a cloud system needs to let machines in and out.

    registry = await OperatorClient.find("https://registry.example.org:8443", token, fingerprint)
    link = await registry.create_link(LinkRequest(name="vm1", lifetime=600))
    ...
    print((await registry.node("vm1")).prefix)

The registry is trusted because of its CA certificate, found by the fingerprint that every join link holds.
What changes something can be repeated without doing it twice: requests that create carry an idempotency key
and are sent again when the answer was lost. All methods may raise :class:`RegistryUnavailableError` (try
again later), :class:`RegistryRefusedError` (``code`` tells why) and :class:`UntrustedError`.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self
from urllib.parse import quote, urlencode

import aiohttp
from msgspec import Struct

from re6st.errors import (
    ConfigError,
    ExpiredError,
    RegistryRefusedError,
    RegistryUnavailableError,
    RemoteProtocolError,
    UntrustedError,
    connection_failure,
)
from re6st.identity import REGISTRY_NAME
from re6st.messages import MessageType, decode, encode
from re6st.registry.client import REQUEST_TIMEOUT, fetch_authorities, worst_failure
from re6st.registry.diagnosis import Kind
from re6st.registry.links import JoinLink, RegistryUrl, parse_registry_url
from re6st.registry.operator_messages import (
    Approval,
    AuditEntry,
    AuditPage,
    Denial,
    Group,
    GroupChange,
    GroupList,
    GroupRequest,
    KeptPrefix,
    LanKey,
    LanKeyList,
    LanKeyRotation,
    Link,
    LinkRequest,
    Mesh,
    Node,
    NodeGroup,
    NodeOwner,
    NodePage,
    NodeState,
    Overview,
    Parameters,
    ParametersChange,
    ParametersPlan,
    ParametersPlanList,
    ParametersPlanRequest,
    ParametersPreview,
    ParametersUndo,
    PrefixRequest,
    Renaming,
    RequestPage,
    ReservationRequest,
    Troubles,
    WaitingRequest,
)
from re6st.registry.policy import AdmissionPolicy
from re6st.registry.transport import request as send

PREFIX = "/v1/operator"

PAGE = 200
"""Items that are asked for at once."""

ATTEMPTS = 3
"""How often a request is sent whose answer does not come."""

RETRY_DELAY = 0.5
"""Seconds before the second attempt; twice as long before each further one."""

EVENT_PATIENCE = 60.0
"""Seconds of silence after which a stream of changes is thought to be dead; it says something every 15 s."""

LONGEST_EVENT = 256 * 1024
"""Octets of one event."""

Place = RegistryUrl | str


class OperatorClient:
    """The operator API of one registry, or of several on one database. Holds no connection between two calls.

    With several URLs it asks where it was answered last, and the others in turn when that one is away.
    """

    def __init__(
        self,
        urls: Place | Sequence[Place],
        token: str,
        *authorities: bytes,
        time_limit: float = REQUEST_TIMEOUT,
    ) -> None:
        """Ask at ``urls`` with an operator's ``token``; ``authorities`` are CA certificates (DER).

        ``time_limit`` is in seconds, for each attempt. Raises :class:`ConfigError` for no or malformed URLs.
        """
        self._urls = _places(urls)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._time_limit = time_limit
        self._contexts = {
            public: _trusting(None if public else authorities)
            for public in {url.public for url in self._urls}
        }

    @classmethod
    async def find(cls, urls: Place | Sequence[Place], token: str, fingerprint: str) -> Self:
        """Return a client of the registry at ``urls`` whose CA certificate has this SHA-256 fingerprint.

        The token is not sent before the fingerprint was compared.
        """
        places = _places(urls)
        link = JoinLink(places[0], fingerprint.lower(), alternatives=tuple(places[1:]))
        return cls(places, token, *await fetch_authorities(link))

    @property
    def url(self) -> RegistryUrl:
        """Where the next request goes first."""
        return self._urls[0]

    async def overview(self) -> Overview:
        """Return who we are, and how the network is."""
        return await self._get("/overview", Overview)

    # -- nodes

    async def nodes(
        self,
        *,
        state: NodeState | None = None,
        search: str = "",
        group: str | None = None,
        owner: str | None = None,
        unwell: bool = False,
        trouble: Kind | None = None,
    ) -> AsyncIterator[Node]:
        """Iterate over nodes by prefix; ``search`` is a part of name, owner or prefix.

        ``unwell`` gives only those that somebody should look after, ``trouble`` those that have this one.
        """
        query = {"limit": str(PAGE)}
        if state is not None:
            query["state"] = state.value
        wanted = {"search": search or None, "group": group, "owner": owner}
        wanted["trouble"] = trouble.value if trouble is not None else None
        query |= {key: value for key, value in wanted.items() if value is not None}
        if unwell:
            query["unwell"] = "1"
        while True:
            page = await self._get(f"/nodes?{urlencode(query)}", NodePage)
            for node in page.items:
                yield node
            if page.next is None:
                return
            query["after"] = page.next

    async def node(self, selector: str) -> Node:
        """Return the node with this name or prefix."""
        return await self._get(_node(selector), Node)

    async def rename(self, selector: str, name: str) -> Node:
        """Give a node another name."""
        return await self._ask("PUT", _node(selector) + "/name", Node, Renaming(name=name))

    async def move(self, selector: str, group: str) -> Node:
        """Put a node into another group."""
        return await self._ask("PUT", _node(selector) + "/group", Node, NodeGroup(group=group))

    async def set_owner(self, selector: str, owner: str) -> Node:
        """Write down to whom a node belongs."""
        return await self._ask("PUT", _node(selector) + "/owner", Node, NodeOwner(owner=owner))

    async def add_prefix(self, selector: str, request: PrefixRequest | None = None) -> Node:
        """Give a node a further prefix."""
        return await self._ask("POST", _node(selector) + "/prefixes", Node, request or PrefixRequest())

    async def remove_prefix(self, selector: str, prefix: str) -> None:
        """Take a further prefix from a node; it is in quarantine then."""
        await self._send("DELETE", f"{_node(selector)}/prefixes/{quote(prefix, safe='')}")

    async def suspend(self, selector: str) -> Node:
        """Keep a node out of the network until it is resumed."""
        return await self._ask("PUT", _node(selector) + "/suspension", Node)

    async def resume(self, selector: str) -> Node:
        """Let a suspended node take part again."""
        return await self._ask("DELETE", _node(selector) + "/suspension", Node)

    async def revoke(self, selector: str) -> Node:
        """Withdraw a node's certificates and put its prefix into quarantine."""
        return await self._ask("POST", _node(selector) + "/revocation", Node)

    async def delete(self, selector: str) -> None:
        """Forget a node, revoking it first."""
        await self._send("DELETE", _node(selector))

    async def troubles(self) -> Troubles:
        """Return how many nodes are unwell, and of what."""
        return await self._get("/troubles", Troubles)

    async def mesh(self) -> Mesh:
        """Return the nodes that reported lately, and their tunnels."""
        return await self._get("/mesh", Mesh)

    # -- groups

    async def groups(self) -> tuple[Group, ...]:
        """Return the groups of nodes, by name."""
        return (await self._get("/groups", GroupList)).items

    async def create_group(self, request: GroupRequest) -> Group:
        """Make a group of nodes."""
        return await self._ask("POST", "/groups", Group, request)

    async def change_group(self, name: str, change: GroupChange) -> Group:
        """Change a group of nodes."""
        return await self._ask("PUT", _group(name), Group, change)

    async def remove_group(self, name: str) -> None:
        """Remove a group that has no nodes."""
        await self._send("DELETE", _group(name))

    # -- admission

    async def create_link(self, request: LinkRequest) -> Link:
        """Return a new join link."""
        return await self._ask("POST", "/links", Link, request)

    async def revoke_link(self, identifier: int) -> None:
        """Let nobody in with this link (:attr:`Link.id`) any more."""
        await self._send("DELETE", f"/tokens/{identifier}")

    async def reserve(self, request: ReservationRequest) -> KeptPrefix:
        """Keep a prefix for a name."""
        return await self._ask("POST", "/reservations", KeptPrefix, request)

    async def unreserve(self, name: str) -> None:
        """Keep no prefix for this name any more."""
        await self._send("DELETE", f"/reservations/{quote(name, safe='')}")

    async def requests(self) -> tuple[WaitingRequest, ...]:
        """Return the machines that wait to be let in, the newest first."""
        return (await self._get("/requests?limit=1000", RequestPage)).items

    async def approve(self, identifier: int, approval: Approval | None = None) -> WaitingRequest:
        """Let in a machine that asked (:attr:`WaitingRequest.id`)."""
        path = f"/requests/{identifier}/approval"
        return await self._ask("POST", path, WaitingRequest, approval or Approval())

    async def deny(self, identifier: int, reason: str = "") -> WaitingRequest:
        """Keep out a machine that asked."""
        return await self._ask(
            "POST", f"/requests/{identifier}/denial", WaitingRequest, Denial(reason=reason)
        )

    # -- network parameters

    async def parameters(self) -> Parameters:
        """Return the network parameters in force."""
        return await self._get("/parameters", Parameters)

    async def preview(self, changes: Mapping[str, str]) -> ParametersPreview:
        """Return what a change of network parameters would do; nothing is changed."""
        message = ParametersChange(changes=dict(changes))
        return await self._ask("POST", "/parameters/preview", ParametersPreview, message)

    async def change_parameters(self, changes: Mapping[str, str]) -> Parameters:
        """Change network parameters for all nodes."""
        return await self._ask("PUT", "/parameters", Parameters, ParametersChange(changes=dict(changes)))

    async def undo_parameters(self, version: int | None = None) -> Parameters:
        """Put the values of an earlier version in force again, by default those of the previous one."""
        return await self._ask("POST", "/parameters/undo", Parameters, ParametersUndo(version=version))

    async def plan_parameters(self, changes: Mapping[str, str], due: float) -> ParametersPlan:
        """Change network parameters for all nodes at ``due`` (seconds since the epoch)."""
        message = ParametersPlanRequest(changes=dict(changes), due=due)
        return await self._ask("POST", "/parameters/plans", ParametersPlan, message)

    async def plans(self) -> tuple[ParametersPlan, ...]:
        """Return the changes that wait for their time, the next one first."""
        return (await self._get("/parameters/plans", ParametersPlanList)).items

    async def cancel_plan(self, identifier: int) -> None:
        """Drop a change (:attr:`ParametersPlan.id`) that waits for its time."""
        await self._send("DELETE", f"/parameters/plans/{identifier}")

    # -- who may come in without a join link, keys of the LANs

    async def admission(self) -> AdmissionPolicy:
        """Return who may come in without a join link."""
        return await self._get("/admission", AdmissionPolicy)

    async def change_admission(self, changes: Mapping[str, str]) -> AdmissionPolicy:
        """Change who may come in without a join link."""
        return await self._ask("PUT", "/admission", AdmissionPolicy, ParametersChange(changes=dict(changes)))

    async def lan_keys(self) -> tuple[LanKey, ...]:
        """Return from when on which key of the LANs is in force, by digest."""
        return (await self._get("/lan-keys", LanKeyList)).items

    async def rotate_lan_key(self, delay: float) -> LanKey:
        """Make a new key of the LANs, in force ``delay`` seconds from now on."""
        return await self._ask("POST", "/lan-keys", LanKey, LanKeyRotation(delay=delay))

    # -- what happens

    async def audit(self, after: int = 0) -> AsyncIterator[AuditEntry]:
        """Iterate over the audit log behind entry ``after``, the oldest first."""
        position: int | None = after
        while position is not None:
            page = await self._get(f"/audit?after={position}&limit={PAGE}", AuditPage)
            for entry in page.items:
                yield entry
            position = page.next

    async def events(self, after: int | None = None) -> AsyncIterator[AuditEntry]:
        """Iterate over changes as they happen, from the entry behind ``after`` on, or from now on.

        Goes on for ever, over lost connections too, and misses nothing. Raises
        :class:`RegistryRefusedError` when the token is not valid any more.
        """
        if after is None:
            after = (await self._last_entry()) or 0
        failures = 0
        while True:
            try:
                async for entry in self._stream(after):
                    after, failures = entry.id, 0
                    yield entry
            except RegistryUnavailableError:
                failures += 1
            await asyncio.sleep(min(30.0, RETRY_DELAY * 2.0 ** min(failures, 16)))

    async def _last_entry(self) -> int:
        page = await self._get(f"/audit?before={2**53}&limit=1", AuditPage)
        return page.items[0].id if page.items else 0

    async def _stream(self, after: int) -> AsyncIterator[AuditEntry]:
        url = self.url
        timeout = aiohttp.ClientTimeout(connect=self._time_limit, sock_read=EVENT_PATIENCE)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, read_bufsize=LONGEST_EVENT) as session,
                session.get(
                    f"{url.base}{PREFIX}/events?after={after}",
                    headers=self._headers,
                    ssl=self._contexts[url.public],
                    server_hostname=None if url.public else REGISTRY_NAME,
                    allow_redirects=False,
                ) as response,
            ):
                if response.status != 200:
                    await self._get("/overview", Overview)  # raises what is wrong, told in full
                    self._put_last(url)
                    raise RegistryUnavailableError(f"{url.base} gives no events ({response.status})")
                async for line in response.content:
                    if line.startswith(b"data: "):
                        yield _decode(line.removeprefix(b"data: "), AuditEntry)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._put_last(url)
            raise RegistryUnavailableError(
                f"the stream of changes from {url.base} broke: {connection_failure(error)}"
            ) from error

    def _put_last(self, url: RegistryUrl) -> None:
        """Ask the other registries first."""
        self._urls.sort(key=lambda other: other == url)

    # -- requests

    async def _get(self, path: str, kind: type[MessageType]) -> MessageType:
        return await self._ask("GET", path, kind)

    async def _ask(
        self, method: str, path: str, kind: type[MessageType], message: Struct | None = None
    ) -> MessageType:
        return _decode(await self._send(method, path, message), kind)

    async def _send(self, method: str, path: str, message: Struct | None = None) -> bytes:
        """Return the body of the answer; a request whose answer got lost is sent again."""
        headers = dict(self._headers)
        if method == "POST":
            headers["Idempotency-Key"] = secrets.token_urlsafe(24)
        body = encode(message) if message is not None else b""
        lost = False
        for attempt in range(1, ATTEMPTS + 1):
            failures: list[Exception] = []
            for url in tuple(self._urls):
                try:
                    answer = await send(
                        url,
                        self._contexts[url.public],
                        method,
                        PREFIX + path,
                        body,
                        self._time_limit,
                        headers,
                    )
                except (RegistryUnavailableError, UntrustedError, ExpiredError) as error:
                    failures.append(error)
                    lost = lost or isinstance(error, RegistryUnavailableError)
                except RegistryRefusedError as error:
                    # Deleting twice is deleting: the first answer was lost.
                    if method == "DELETE" and lost and error.code.startswith("unknown-"):
                        return b""
                    raise
                else:
                    self._urls.sort(key=lambda other: other != url)
                    return answer
            failure = worst_failure(failures)
            if attempt == ATTEMPTS or not isinstance(failure, RegistryUnavailableError):
                raise failure
            await asyncio.sleep(RETRY_DELAY * 2 ** (attempt - 1))
        raise AssertionError("not reached")


def _places(urls: Place | Sequence[Place]) -> list[RegistryUrl]:
    given = [urls] if isinstance(urls, RegistryUrl | str) else urls
    places = [parse_registry_url(url) if isinstance(url, str) else url for url in given]
    if not places:
        raise ConfigError("no registry URL is given, such as https://registry.example.org:8443")
    return list(dict.fromkeys(places))


def _trusting(authorities: Sequence[bytes] | None) -> ssl.SSLContext:
    """Return a context that trusts ``authorities`` (DER), or those of the system."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if authorities is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=b"".join(authorities))
    return context


def _group(name: str) -> str:
    return f"/groups/{quote(name, safe='')}"


def _node(selector: str) -> str:
    return f"/nodes/{quote(selector, safe='')}"


def _decode(body: bytes, kind: type[MessageType]) -> MessageType:
    try:
        return decode(body, kind)
    except RemoteProtocolError as error:
        raise RegistryUnavailableError(f"the registry answers nonsense: {error}") from error
