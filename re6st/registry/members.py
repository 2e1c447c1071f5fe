"""Use cases around the life of a node: rename, suspend, resume, revoke, delete, expiry.

    joins -> active <-> suspended          the operator; certificates on the list of revocations meanwhile
             active  -> expired            its certificate ran out; it must be let in again
             any     -> released           it left, was revoked, or was expired for longer than the quarantine
             released -> active            the operator gives it its place back (see tokens)
             released -> deleted -> purged no trace is left but in the audit log

A prefix that was given back stays in quarantine before somebody else gets it.
"""

from __future__ import annotations

from ipaddress import IPv6Network

from re6st.errors import RegistryRefusedError, RemoteProtocolError
from re6st.identity import CONTEXT_REVOCATIONS, format_time
from re6st.messages import Revocations, decode, encode
from re6st.prefix import parse_prefix
from re6st.registry.certification import check_name
from re6st.registry.store import EVERYBODY, CertificateRow, Member, NodeRow, Selection
from re6st.registry.usecases import UseCases


class MemberUseCases(UseCases):
    """What happens to nodes after they joined."""

    def members(self) -> list[Member]:
        """Return members and former members, by prefix."""
        return self._store.overview(self._clock())

    def members_page(
        self, limit: int, selection: Selection = EVERYBODY, *, after: tuple[bytes, int] | None = None
    ) -> list[Member]:
        """Return up to ``limit`` nodes behind ``after`` (first address, row number); see the store."""
        return self._store.overview(self._clock(), selection, after=after, limit=limit)

    def member(self, selector: str) -> Member:
        """Return the member, or the former one, with this name or prefix.

        Raises :class:`RegistryRefusedError` with the code ``unknown-node``, :class:`ConfigError`.
        """
        view = self._store.member_view(self._find_any(selector), self._clock())
        if view is None:
            raise self._unknown(selector)
        return view

    def certificates(self, node: NodeRow) -> list[CertificateRow]:
        """Return all certificates of a node, the newest first."""
        return self._store.certificates(node.identifier)

    def count_states(self) -> dict[str, int]:
        """Return how many nodes are in each state."""
        return self._store.count_states(self._clock())

    def release_time(self, node: NodeRow) -> float | None:
        """Return until when the prefix of a former member is in quarantine; None for a member."""
        return None if node.released is None else node.released + self._quarantine

    def rename(self, selector: str, name: str) -> NodeRow:
        """Give a member another name. Its certificate shows it after the next renewal.

        A reservation of its prefix goes with it. Raises :class:`RegistryRefusedError`, :class:`ConfigError`.
        """
        check_name(name)
        with self._store.transaction():
            node = self._find(selector)
            now = self._clock()
            holder = self._store.member(name)
            if (
                (holder is not None and holder.identifier != node.identifier)
                or self._store.token_for(name, now) is not None
                or (name.lower() != node.name.lower() and self._store.reservation(name) is not None)
            ):
                raise RegistryRefusedError(f"{name} is taken: choose another name", code="name-taken")
            reservation = self._store.reservation(node.name)
            if reservation is not None and reservation.prefix == node.prefix:
                self._store.unreserve(node.name)
                self._store.reserve(type(reservation)(name, node.prefix, reservation.created))
            self._store.rename_node(node.identifier, name)
            self._log("node.renamed", name, before=node.name, prefix=node.prefix)
            return self._again(node)

    def suspend(self, selector: str) -> NodeRow:
        """Let a member not take part until it is resumed; it keeps name and prefix. May be repeated."""
        with self._store.transaction():
            node = self._find(selector)
            if node.suspended is None:
                self._store.suspend_node(node.identifier, self._clock())
                self._list_revocations()
                self._log("node.suspended", node.name, prefix=node.prefix)
            return self._again(node)

    def resume(self, selector: str) -> NodeRow:
        """Let a suspended member take part again. May be repeated."""
        with self._store.transaction():
            node = self._find(selector)
            if node.suspended is not None:
                self._store.suspend_node(node.identifier, None)
                self._list_revocations()
                self._log("node.resumed", node.name, prefix=node.prefix)
            return self._again(node)

    def revoke(self, selector: str) -> NodeRow:
        """Withdraw the certificates of the member with this name or prefix; return who it was.

        Raises :class:`RegistryRefusedError` with the code ``unknown-node``, :class:`ConfigError`.
        """
        with self._store.transaction():
            node = self._find(selector)
            self._expel(node)
            self._log("node.revoked", node.name, prefix=node.prefix)
            return self._again(node)

    def delete(self, selector: str) -> NodeRow:
        """Forget a node, revoking it if it is a member. Its prefix stays in quarantine all the same.

        The row is dropped for good when quarantine and certificates are over (see :meth:`tidy`).
        """
        with self._store.transaction():
            node = self._find_any(selector)
            if node.released is None:
                self._expel(node)
            self._store.delete_node(node.identifier, self._clock())
            self._log("node.deleted", node.name, prefix=node.prefix)
            return self._again(node)

    def tidy(self) -> tuple[int, int]:
        """Release members whose certificate ran out for longer than the quarantine, purge deleted ones.

        The quarantine of the former counts from the expiry of the certificate: since then they cannot have
        used the prefix. Suspended members are kept. Returns how many nodes of both kinds.
        """
        now = self._clock()
        with self._store.transaction():
            lapsed = self._store.lapsed(now - self._quarantine)
            for node, expired in lapsed:
                self._store.release_node(node.identifier, expired, now)
                self._log("node.expired", node.name, prefix=node.prefix, certificate_expired=expired)
            purged = self._store.purge(now - self._quarantine, now)
            return len(lapsed), purged

    # -- shared with the nodes' own use cases

    def _find(self, selector: str) -> NodeRow:
        """Return the member with this name or prefix."""
        node = self._holder(parse_prefix(selector)) if ":" in selector else self._store.member(selector)
        if node is None:
            former = self._store.former_member(selector) if ":" not in selector else None
            if former is not None and former.released is not None:
                raise RegistryRefusedError(
                    f"{former.name} is no member any more: it was revoked, left or expired on"
                    f" {format_time(former.released)}",
                    code="unknown-node",
                )
            raise self._unknown(selector)
        return node

    def _holder(self, prefix: IPv6Network) -> NodeRow | None:
        """Return the member that has this prefix, be it a further one."""
        number = self._store.holder_of_further(prefix)
        return self._store.member_at(prefix) or (self._store.node(number) if number is not None else None)

    def _find_any(self, selector: str) -> NodeRow:
        """Return the member with this name or prefix, or else who had it last."""
        if ":" in selector:
            prefix = parse_prefix(selector)
            node = self._holder(prefix) or self._store.former_member_at(prefix)
        else:
            node = self._store.member(selector) or self._store.former_member(selector)
        if node is None:
            raise self._unknown(selector)
        return node

    def _unknown(self, selector: str) -> RegistryRefusedError:
        return RegistryRefusedError(
            f"no member is called {selector[:64]} or owns that prefix: see re6st-registry nodes",
            code="unknown-node",
        )

    def _again(self, node: NodeRow) -> NodeRow:
        return self._store.node(node.identifier) or node

    def _expel(self, node: NodeRow) -> None:
        now = self._clock()
        self._store.release_node(node.identifier, now, now)
        self._list_revocations()

    def _list_revocations(self, version: int | None = None) -> None:
        """Sign the list of what is revoked now, as its next version or as this one."""
        serials = tuple(self._store.revoked_serials(self._clock()))
        version = version or self._store.document_version(CONTEXT_REVOCATIONS) + 1
        revocations = Revocations(version=version, serials=serials)
        try:
            decode(encode(revocations), Revocations)
        except RemoteProtocolError as error:
            raise RegistryRefusedError(
                f"the list of revocations is full ({len(serials)} certificates): it empties as they expire",
                code="revocations-full",
            ) from error
        self._store.put_document(CONTEXT_REVOCATIONS, version, self._authority.sign_revocations(revocations))
