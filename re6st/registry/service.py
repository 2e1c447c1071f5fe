"""The registry's use cases: tokens, enrolment, renewal, peer records, parameters, revocation.

Each public method is one transaction: it happens as a whole or not at all, also when the process is killed.
Nothing is kept in memory between two calls, so that what the operator's commands change in the database is
in force for a running server at once.

Enrolment is idempotent: the same token with the same key gives the same node again, because an answer
may get lost on its way; with another key a used token is refused. The same holds for renewal.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.errors import RegistryRefusedError, RevokedError, UntrustedError
from re6st.identity import (
    NodeCertificate,
    format_time,
    parse_node_certificate,
)
from re6st.messages import (
    MAXIMUM_BODY,
    Enrolment,
    EnrolmentRequest,
    PeerSample,
    RenewalRequest,
    SignedPeerRecord,
    encode,
)
from re6st.registry.admissions import TokenRow, TokenUse
from re6st.registry.assigning import PrefixUseCases
from re6st.registry.certification import CertificationRequest, open_request
from re6st.registry.groups import DEFAULT_GROUP
from re6st.registry.invitations import InvitationUseCases
from re6st.registry.lan_keys import LanKeyUseCases
from re6st.registry.operators import OperatorUseCases
from re6st.registry.plans import PlanUseCases
from re6st.registry.records import open_published, store_record
from re6st.registry.recovery import RecoveryUseCases
from re6st.registry.rollover import RolloverUseCases
from re6st.registry.space import allocate
from re6st.registry.store import NO_CLAIMS, CertificateRow, Claims, NodeRow

ENROLMENT_SAMPLE = 16
"""Peer records that a new node gets."""

SAMPLE_LIMIT = 64
"""Peer records that one may ask for at once."""

LIVE_CERTIFICATES = 16
"""Certificates that one node may have at the same time: revoking it lists them all."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A node whose certificate was verified."""

    node: NodeRow
    certificate: NodeCertificate
    transaction: int | None = None
    """In which that was done, see :attr:`Database.current`."""


class Service(
    InvitationUseCases,
    PrefixUseCases,
    RecoveryUseCases,
    OperatorUseCases,
    RolloverUseCases,
    PlanUseCases,
    LanKeyUseCases,
):
    """All use cases; those of nodes are here, those of operators in the modules it inherits from."""

    # -- certificates

    def enrol(self, message: EnrolmentRequest) -> Enrolment:
        """Exchange a token for a prefix and a certificate. Raises :class:`RegistryRefusedError`."""
        now = self._clock()
        request = open_request(message.request)
        with self._store.transaction():
            token = self.find_token(message.token)
            use = self._store.token_use(token.identifier, request.key_digest)
            if use is not None:
                node, certificate = self._repeat(token, use, request, now)
            else:
                self._check_usable(token, now)
                self._check_owner(token, request)
                node, certificate = self._admit(token, request, now)
                self._store.use_token(token.identifier, node.identifier, request.key_digest, now)
                self._log("node.enrolled", node.name, prefix=node.prefix, token=token.identifier)
            return self._enrolment(node, certificate, now)

    def _check_usable(self, token: TokenRow, now: float) -> None:
        """Raise :class:`RegistryRefusedError` unless ``token`` can let another node in."""
        if token.uses >= token.maximum_uses:
            raise _used(token, token.last_used or 0)
        if token.revoked is not None:
            raise RegistryRefusedError(
                f"the token was revoked on {format_time(token.revoked)}: ask the operator for a new one",
                code="token-revoked",
            )
        if now >= token.expires:
            raise RegistryRefusedError(
                f"the token expired on {format_time(token.expires)}: ask the operator for a new join link",
                code="token-expired",
            )

    def _repeat(
        self, token: TokenRow, use: TokenUse, request: CertificationRequest, now: float
    ) -> tuple[NodeRow, bytes]:
        """Return what was answered before to the same node."""
        node = self._store.node(use.node)
        if node is not None and node.released is None:
            row = self._store.certificate_for_key(node.identifier, request.key_digest, now)
            if row is not None:
                return node, row.der
        raise _used(token, use.used)

    def _admit(self, token: TokenRow, request: CertificationRequest, now: float) -> tuple[NodeRow, bytes]:
        if token.node is not None:
            return self._return_place(token, request, now)
        name, claims = self._choose_name(token, request.name, now)
        reservation = self._store.reservation(name) if claims.reserved else None
        if reservation is not None:
            self._check_prefix_free(reservation.prefix, name)
            prefix = reservation.prefix
        else:
            prefix = allocate(self._store, self.network, token.prefix_length, now, self._quarantine)
        group = self.group(token.group or DEFAULT_GROUP)
        self._check_room(group)
        node = self._store.add_node(name, prefix, now, group, token.owner)
        return node, self._issue(node, request, now, further=())

    def _return_place(
        self, token: TokenRow, request: CertificationRequest, now: float
    ) -> tuple[NodeRow, bytes]:
        """Give a machine that was installed again its name and prefix back, and to nobody else."""
        node = self._store.node(token.node) if token.node is not None else None
        if node is None:
            raise RegistryRefusedError("the node of this token was deleted", code="unknown-node")
        if request.name not in ("", node.name):
            raise RegistryRefusedError(
                f"the token is for the node {node.name}, not for {request.name}: join without --name",
                code="name-not-allowed",
            )
        self._check_return(node, now)
        if node.released is not None:
            self._store.restore_node(node.identifier, node.name)
        elif self._live_certificates(node, now):
            self._store.withdraw_certificates(node.identifier, now)
            self._store.drop_record(node.identifier)
            self._list_revocations()
        node = self._again(node)
        return node, self._issue(node, request, now, self._store.further(node.identifier))

    def _choose_name(self, token: TokenRow, wished: str, now: float) -> tuple[str, Claims]:
        if token.name is not None and wished not in ("", token.name):
            raise RegistryRefusedError(
                f"the token is for the node {token.name}, not for {wished}: join without --name",
                code="name-not-allowed",
            )
        name = token.name or wished
        while not name:
            candidate = f"node-{secrets.token_hex(3)}"
            claims = self._store.claims(candidate, now)
            if claims == NO_CLAIMS:
                return candidate, claims
        return name, self._check_free(name, token, now)

    def renew(self, caller: Caller, message: RenewalRequest) -> Enrolment:
        """Return a fresh certificate for the caller. Raises :class:`RegistryRefusedError`."""
        now = self._clock()
        request = open_request(message.request, caller.node.prefix)
        if request.name not in ("", caller.node.name, caller.certificate.name):
            raise RegistryRefusedError(
                f"{caller.node.name} cannot become {request.name}: a node keeps its name",
                code="name-not-allowed",
            )
        with self._store.transaction():
            node = self._member_again(caller)
            live = self._live_certificates(node, now)
            newest = live[0]
            further = self._store.further(node.identifier)
            current = parse_node_certificate(newest.der).further == further
            if current and _is_repetition(newest, caller, request, now):
                return self._enrolment(node, newest.der, now)
            if len(live) >= LIVE_CERTIFICATES:
                raise RegistryRefusedError(
                    f"{node.name} has {len(live)} valid certificates already: renew when the time of the"
                    " newest one comes",
                    code="too-many-certificates",
                )
            certificate = self._issue(node, request, now, further)
            self._log("node.renewed", node.name, prefix=node.prefix)
            return self._enrolment(node, certificate, now)

    def wants_renewal(self, caller: Caller) -> bool:
        """Return whether the caller's prefixes are others now than its certificate says."""
        return caller.certificate.further != self._store.further(caller.node.identifier)

    def _issue(
        self, node: NodeRow, request: CertificationRequest, now: float, further: tuple[IPv6Network, ...]
    ) -> bytes:
        der = self._authority.issue_node(
            request.public_key, node.name, node.prefix, now, self._validity, further
        )
        certificate = parse_node_certificate(der)
        self._store.add_certificate(
            CertificateRow(
                serial=certificate.serial_hex,
                node=node.identifier,
                der=der,
                key_digest=request.key_digest,
                issued=now,
                expires=certificate.not_after,
                revoked=None,
            )
        )
        return der

    def _live_certificates(self, node: NodeRow, now: float) -> list[CertificateRow]:
        """Return the valid certificates of ``node``, the newest first."""
        rows = self._store.certificates(node.identifier)
        return [row for row in rows if row.revoked is None and row.expires > now]

    def _enrolment(self, node: NodeRow, certificate: bytes, now: float) -> Enrolment:
        parameters, revocations = self.documents()
        answer = Enrolment(certificate=certificate, parameters=parameters, revocations=revocations)
        # Base64 and the names of the fields; revocations and sample together must fit one answer.
        room = MAXIMUM_BODY - len(encode(answer)) - 1024
        peers = []
        for record in self._deck.draw(node, ENROLMENT_SAMPLE, now):
            room -= len(encode(record)) + 1
            if room < 0:
                break
            peers.append(record)
        return Enrolment(
            certificate=certificate,
            parameters=parameters,
            revocations=revocations,
            peers=tuple(peers),
        )

    # -- members

    def authenticate(self, der: bytes) -> Caller:
        """Return whose certificate ``der`` is.

        Raises :class:`UntrustedError`, :class:`ExpiredError` or :class:`RevokedError`.
        """
        certificate = self._trust.verify(der, self._clock())
        known = self._store.certified(certificate.serial_hex) or self._adopt(certificate)
        if known is None or known[0].der != der:
            raise UntrustedError(f"the registry does not know this certificate of {certificate.name}")
        row, node = known
        if row.revoked is not None or node.released is not None:
            when = format_time(row.revoked or node.released or 0)
            raise RevokedError(
                f"the certificate of {node.name} was revoked on {when}: ask the operator for a new join link"
            )
        if node.suspended is not None:
            raise RevokedError(
                f"{node.name} is suspended since {format_time(node.suspended)}: ask the operator to resume it"
            )
        return Caller(node, certificate, self._store.current)

    def _member_again(self, caller: Caller) -> NodeRow:
        """Return the caller's row, inside a transaction: it may have been revoked since it was let in."""
        if caller.transaction is not None and caller.transaction == self._store.current:
            return caller.node
        return self.authenticate(caller.certificate.der).node

    def publish(self, caller: Caller, signed: SignedPeerRecord) -> None:
        """Remember the caller's own peer record. Raises :class:`RegistryRefusedError`."""
        now = self._clock()
        peer = open_published(signed, self._trust, now)
        with self._store.transaction():
            store_record(self._store, self._member_again(caller), peer, now)

    def sample(self, caller: Caller, count: int = ENROLMENT_SAMPLE) -> PeerSample:
        """Return up to ``count`` random peer records, mostly of peers that can be dialled."""
        if not 1 <= count <= SAMPLE_LIMIT:
            raise RegistryRefusedError(f"count must be between 1 and {SAMPLE_LIMIT}", code="malformed")
        versions = self.versions()
        return PeerSample(
            peers=self._deck.draw(caller.node, count, self._clock()),
            parameters_version=versions.parameters_version,
            revocations_version=versions.revocations_version,
        )

    def leave(self, caller: Caller) -> None:
        """The caller leaves for good: its certificates are revoked, its prefix goes into quarantine."""
        with self._store.transaction():
            node = self._member_again(caller)
            self._expel(node)
            self._log("node.left", node.name, prefix=node.prefix)


def _used(token: TokenRow, used: float) -> RegistryRefusedError:
    what = "each join link is for one node" if token.maximum_uses == 1 else f"{token.uses} times"
    return RegistryRefusedError(
        f"the token was already used on {format_time(used)}: {what}; ask the operator for another one",
        code="token-used",
    )


def _is_repetition(newest: CertificateRow, caller: Caller, request: CertificationRequest, now: float) -> bool:
    """Return whether the caller was just given ``newest`` for this request, and the answer was lost."""
    return (
        newest.serial != caller.certificate.serial_hex
        and newest.key_digest == request.key_digest
        and now - newest.issued < 0.1 * (newest.expires - newest.issued)
    )
