"""Use cases around admission: tokens of join links, and prefixes that are reserved for a name."""

from __future__ import annotations

import secrets
from ipaddress import IPv6Network

from re6st.errors import ConfigError, RegistryRefusedError
from re6st.prefix import DEFAULT_NODE_LENGTH, check_node_length
from re6st.registry.admissions import Reservation, TokenRow
from re6st.registry.authority import DAY
from re6st.registry.certification import check_name
from re6st.registry.grouping import GroupUseCases
from re6st.registry.groups import GroupRow
from re6st.registry.space import allocate
from re6st.registry.store import Claims, NodeRow
from re6st.registry.usecases import digest

TOKEN_VALIDITY = DAY
"""Seconds for which a token can be used, unless chosen otherwise."""

TOKEN_OCTETS = 24
"""Random octets in a token."""

MAXIMUM_USES = 10_000
"""Nodes that one token may let in."""


class TokenUseCases(GroupUseCases):
    """Who may join, and under which name and prefix."""

    def create_token(
        self,
        name: str | None = None,
        prefix_length: int | None = None,
        lifetime: float = TOKEN_VALIDITY,
        uses: int = 1,
        *,
        group: str | None = None,
        owner: str = "",
    ) -> str:
        """Return a new token for ``uses`` nodes, reserving ``name`` if given; ``lifetime`` in seconds.

        The nodes will be in ``group`` and belong to ``owner``. A prefix that is reserved for ``name`` decides
        on the length, else ``prefix_length``, else the group. Raises :class:`ConfigError` for an impossible
        value, :class:`RegistryRefusedError` for a name, a group or an owner.
        """
        self._check_token(lifetime, uses)
        if name is not None and uses > 1:
            raise ConfigError("a token for several nodes cannot give them one name: leave --name away")
        now = self._clock()
        with self._store.transaction():
            chosen, owner = self._group_for(group, owner)
            name, prefix_length = self._admission_length(name, prefix_length, chosen, now)
            return self._add_token(name, prefix_length, now, lifetime, uses, group=chosen, owner=owner)

    def create_return_token(self, selector: str, lifetime: float = TOKEN_VALIDITY) -> str:
        """Return a token that gives a machine its name and prefix back, after it was installed again.

        ``selector`` is the name or prefix of a member, or of a former one whose prefix is still free. The
        certificates that the node has are revoked when the token is used. Raises
        :class:`RegistryRefusedError`, :class:`ConfigError`.
        """
        self._check_token(lifetime, 1)
        now = self._clock()
        with self._store.transaction():
            node = self._find_any(selector)
            self._check_return(node, now)
            return self._add_token(None, node.prefix.prefixlen, now, lifetime, 1, node)

    def _check_token(self, lifetime: float, uses: int) -> None:
        if lifetime <= 0:
            raise ConfigError("a token must be valid for some time: --expires 1d, for example")
        if not 1 <= uses <= MAXIMUM_USES:
            raise ConfigError(f"a token can be used for 1 to {MAXIMUM_USES} nodes, not {uses}")

    def _add_token(
        self,
        name: str | None,
        prefix_length: int,
        now: float,
        lifetime: float,
        uses: int,
        node: NodeRow | None = None,
        *,
        group: GroupRow | None = None,
        owner: str = "",
    ) -> str:
        token = secrets.token_urlsafe(TOKEN_OCTETS)
        back = node.identifier if node is not None else None
        number = self._store.add_token(
            digest(token), name, prefix_length, now, now + lifetime, uses, back, group=group, owner=owner
        )
        self._log(
            "token.created",
            str(number),
            name=name,
            node=node.name if node is not None else None,
            prefix_length=prefix_length,
            expires=now + lifetime,
            uses=uses,
            group=group.name if group is not None else None,
            owner=owner or None,
        )
        return token

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, the oldest first; the tokens themselves are not known."""
        return self._store.tokens()

    def tokens_page(self, after: int, limit: int) -> list[TokenRow]:
        """Return up to ``limit`` tokens with numbers above ``after``."""
        return self._store.tokens(after, limit)

    def _admission_length(
        self, name: str | None, prefix_length: int | None, group: GroupRow, now: float
    ) -> tuple[str | None, int]:
        """Return name and prefix length of a token for ``name``: a reservation decides on both.

        Raises :class:`ConfigError`, :class:`RegistryRefusedError`.
        """
        prefix_length = prefix_length or group.prefix_length or DEFAULT_NODE_LENGTH
        check_node_length(self.network, prefix_length)
        if name is None:
            return None, prefix_length
        check_name(name)
        reservation = self._store.reservation(name)
        if reservation is not None:
            name, prefix_length = reservation.name, reservation.prefix.prefixlen
        self._check_free(name, None, now)
        return name, prefix_length

    def find_token(self, token: str) -> TokenRow:
        """Return what is known of a token. Raises :class:`RegistryRefusedError`."""
        row = self._store.token(digest(token))
        if row is None:
            raise RegistryRefusedError(
                "the token is not known here: ask the operator for a new join link", code="token-unknown"
            )
        return row

    def revoke_token(self, identifier: int) -> TokenRow:
        """Let nobody in with this token any more; who is in already stays. May be repeated.

        Raises :class:`RegistryRefusedError` with the code ``token-unknown``.
        """
        with self._store.transaction():
            row = self._store.token_numbered(identifier)
            if row is None:
                raise RegistryRefusedError(
                    f"there is no token {identifier}: see re6st-registry token list", code="unknown-token"
                )
            if row.revoked is None:
                self._store.revoke_token(identifier, self._clock())
                self._log("token.revoked", str(identifier), name=row.name)
            return self._store.token_numbered(identifier) or row

    def _check_free(self, name: str, token: TokenRow | None, now: float) -> Claims:
        """Refuse a name that a member has, or that something other than ``token`` keeps for its node.

        Returns what keeps it for this one.
        """
        claims = self._store.claims(name, now)
        named = token is not None and token.name is not None and token.name.lower() == name.lower()
        if claims.member:
            reason = "is a member already"
        elif claims.token is not None and (token is None or claims.token != token.identifier):
            reason = "is the name that another token reserves"
        elif token is not None and not named and claims.reserved:
            reason = "has a reserved prefix and can only join with a join link for this name"
        else:
            return claims
        raise RegistryRefusedError(f"{name} {reason}: choose another name", code="name-taken")

    def _check_return(self, node: NodeRow, now: float) -> None:
        """Refuse to give ``node`` its place back while somebody else has it, or it is suspended."""
        if node.suspended is not None:
            raise RegistryRefusedError(
                f"{node.name} is suspended: resume it first (re6st-registry resume)", code="suspended"
            )
        if node.released is None:
            return
        self._check_prefix_free(node.prefix, node.name)
        self._check_room(self.group(node.group))
        holder = self._store.member(node.name)
        if holder is not None or self._store.token_for(node.name, now) is not None:
            raise RegistryRefusedError(
                f"the name {node.name} has been given to somebody else meanwhile", code="name-taken"
            )

    def _check_prefix_free(self, prefix: IPv6Network, name: str) -> None:
        """Refuse a prefix that overlaps what a member holds, or what is reserved for another name."""
        for lease in self._store.holders(prefix, name):
            if lease.released is None:
                raise RegistryRefusedError(
                    f"{prefix} overlaps {IPv6Network((lease.start, lease.length))}, which belongs to or is"
                    " reserved for somebody else",
                    code="prefix-taken",
                )

    # -- reservations

    def reserve(
        self, name: str, prefix: IPv6Network | None = None, prefix_length: int = DEFAULT_NODE_LENGTH
    ) -> Reservation:
        """Keep a prefix for the node called ``name``: the wanted one, the one it has, or a free one.

        It joins with a join link for this name, and gets the same prefix whenever it joins again, whatever
        the quarantine. Raises :class:`RegistryRefusedError`, :class:`ConfigError`.
        """
        check_name(name)
        now = self._clock()
        with self._store.transaction():
            if self._store.reservation(name) is not None:
                raise RegistryRefusedError(f"a prefix is reserved for {name} already", code="name-taken")
            member = self._store.member(name)
            if prefix is None:
                prefix = (
                    member.prefix
                    if member is not None
                    else allocate(self._store, self.network, prefix_length, now, self._quarantine)
                )
            self._check_reservation(name, prefix, member, now)
            reservation = Reservation(name, prefix, now)
            self._store.reserve(reservation)
            self._log("reservation.created", name, prefix=prefix)
            return reservation

    def _check_reservation(self, name: str, prefix: IPv6Network, member: NodeRow | None, now: float) -> None:
        check_node_length(self.network, prefix.prefixlen)
        if not prefix.subnet_of(self.network):
            raise ConfigError(f"{prefix} is not inside the network {self.network}")
        if member is not None and member.prefix == prefix:
            return
        self._check_prefix_free(prefix, name)
        self._check_no_quarantine(prefix, name, now)

    def _check_no_quarantine(self, prefix: IPv6Network, name: str, now: float) -> None:
        """Refuse a prefix of which another node than ``name`` may still believe that it is its own."""
        nodes = {node.identifier: node for node in self._store.nodes()}
        over = now - self._quarantine
        former = [
            (node, node.prefix)
            for node in nodes.values()
            if node.released is not None and node.released > over
        ]
        former += [(nodes[row.node], row.prefix) for row in self._store.further_waiting(over, now)]
        for node, other in former:
            if node.name.lower() != name.lower() and other.overlaps(prefix):
                raise RegistryRefusedError(
                    f"{prefix} is in quarantine: {node.name} may still believe to have it",
                    code="prefix-taken",
                )

    def reservations(self) -> list[Reservation]:
        """Return all reservations, by prefix."""
        return self._store.reservations()

    def unreserve(self, name: str) -> None:
        """Keep no prefix for ``name`` any more; a member keeps what it has.

        Raises :class:`RegistryRefusedError` with the code ``unknown-reservation``.
        """
        with self._store.transaction():
            reservation = self._store.reservation(name)
            if reservation is None:
                raise RegistryRefusedError(
                    f"no prefix is reserved for {name}: see re6st-registry reservation list",
                    code="unknown-reservation",
                )
            self._store.unreserve(name)
            self._log("reservation.removed", name, prefix=reservation.prefix)
