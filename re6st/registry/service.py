"""The registry's use cases: tokens, enrolment, renewal, peer records, parameters, revocation.

Each public method is one transaction: it happens as a whole or not at all, also when the process is killed.
Nothing is kept in memory between two calls, so that what the operator's commands change in the database is
in force for a running server at once.

Enrolment is idempotent: the same token with the same key gives the same node again, because an answer
may get lost on its way; with another key a used token is refused. The same holds for renewal.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Network

from re6st.errors import (
    ConfigError,
    RegistryRefusedError,
    RemoteProtocolError,
    RevokedError,
    StorageError,
    UntrustedError,
)
from re6st.identity import (
    CONTEXT_PARAMETERS,
    CONTEXT_REVOCATIONS,
    NodeCertificate,
    der_to_pem,
    format_time,
    parse_node_certificate,
)
from re6st.messages import (
    MAXIMUM_BODY,
    Enrolment,
    EnrolmentRequest,
    NetworkParameters,
    PeerSample,
    RenewalRequest,
    Revocations,
    SignedDocument,
    SignedPeerRecord,
    decode,
    encode,
)
from re6st.prefix import DEFAULT_NODE_LENGTH, check_node_length, parse_prefix
from re6st.registry.allocator import allocate
from re6st.registry.authority import DAY, NODE_VALIDITY, Authority
from re6st.registry.certification import CertificationRequest, check_name, open_request
from re6st.registry.parameters import change_parameters
from re6st.registry.records import draw_records, open_published, store_record
from re6st.registry.store import CertificateRow, NodeRow, RecordRow, Store, TokenRow

QUARANTINE = 30 * DAY
"""Seconds for which a prefix that was given back is not assigned again, unless chosen otherwise."""

TOKEN_VALIDITY = DAY
"""Seconds for which a token can be used, unless chosen otherwise."""

TOKEN_OCTETS = 24
"""Random octets in a token."""

ENROLMENT_SAMPLE = 16
"""Peer records that a new node gets."""

SAMPLE_LIMIT = 64
"""Peer records that one may ask for at once."""

LIVE_CERTIFICATES = 16
"""Certificates that one node may have at the same time: revoking it lists them all."""

SETTING_QUARANTINE = "quarantine"
SETTING_VALIDITY = "node-validity"


@dataclass(frozen=True, slots=True)
class Caller:
    """A node whose certificate was verified."""

    node: NodeRow
    certificate: NodeCertificate


@dataclass(frozen=True, slots=True)
class Member:
    """A node as operators see it."""

    node: NodeRow
    certificate: CertificateRow | None
    """The newest one."""
    record: RecordRow | None


class Service:
    """The use cases over one store and one authority."""

    def __init__(self, store: Store, authority: Authority, *, clock: Callable[[], float] = time.time) -> None:
        """``clock`` returns seconds since the epoch."""
        self._store = store
        self._authority = authority
        self._trust = authority.trust
        self._clock = clock
        self._quarantine = float(store.setting(SETTING_QUARANTINE) or QUARANTINE)
        self._validity = float(store.setting(SETTING_VALIDITY) or NODE_VALIDITY)

    @property
    def network(self) -> IPv6Network:
        """The prefix of the network."""
        return self._trust.network

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate."""
        return self._authority.fingerprint

    def authority_pem(self) -> bytes:
        """Return the CA certificate."""
        return der_to_pem(self._authority.certificate)

    # -- tokens

    def create_token(
        self,
        name: str | None = None,
        prefix_length: int = DEFAULT_NODE_LENGTH,
        lifetime: float = TOKEN_VALIDITY,
    ) -> str:
        """Return a new token for one node, reserving ``name`` for it if given; ``lifetime`` in seconds.

        Raises :class:`ConfigError` for an impossible length, :class:`RegistryRefusedError` for a name.
        """
        check_node_length(self.network, prefix_length)
        if lifetime <= 0:
            raise ConfigError("a token must be valid for some time: --expires 1d, for example")
        now = self._clock()
        token = secrets.token_urlsafe(TOKEN_OCTETS)
        with self._store.transaction():
            if name is not None:
                check_name(name)
                self._check_free(name, None, now)
            self._store.add_token(_digest(token), name, prefix_length, now, now + lifetime)
        return token

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, the oldest first; the tokens themselves are not known."""
        return self._store.tokens()

    # -- certificates

    def enrol(self, message: EnrolmentRequest) -> Enrolment:
        """Exchange a token for a prefix and a certificate. Raises :class:`RegistryRefusedError`."""
        now = self._clock()
        request = open_request(message.request)
        with self._store.transaction():
            token = self._store.token(_digest(message.token))
            if token is None:
                raise RegistryRefusedError(
                    "the token is not known here: ask the operator for a new join link", code="token-unknown"
                )
            if token.used is not None:
                node, certificate = self._repeat(token, request, now)
            else:
                node, certificate = self._admit(token, request, now)
            return self._enrolment(node, certificate, now)

    def _repeat(self, token: TokenRow, request: CertificationRequest, now: float) -> tuple[NodeRow, bytes]:
        """Return what was answered before, if it is the same node that asks."""
        node = self._store.node(token.node) if token.node is not None else None
        if token.key_digest == request.key_digest and node is not None and node.released is None:
            for row in self._live_certificates(node, now):
                if row.key_digest == request.key_digest:
                    return node, row.der
        used = format_time(token.used or 0)
        raise RegistryRefusedError(
            f"the token was already used on {used}: each join link is for one node; ask the operator for"
            " another one",
            code="token-used",
        )

    def _admit(self, token: TokenRow, request: CertificationRequest, now: float) -> tuple[NodeRow, bytes]:
        if now >= token.expires:
            raise RegistryRefusedError(
                f"the token expired on {format_time(token.expires)}: ask the operator for a new join link",
                code="token-expired",
            )
        name = self._choose_name(token, request.name, now)
        prefix = allocate(self.network, self._store.leases(), token.prefix_length, now, self._quarantine)
        node = self._store.add_node(name, prefix, now)
        certificate = self._issue(node, request, now)
        self._store.use_token(token.identifier, node.identifier, request.key_digest, now)
        return node, certificate

    def _choose_name(self, token: TokenRow, wished: str, now: float) -> str:
        if token.name is not None and wished not in ("", token.name):
            raise RegistryRefusedError(
                f"the token is for the node {token.name}, not for {wished}: join without --name",
                code="name-not-allowed",
            )
        name = token.name or wished
        while not name:
            candidate = f"node-{secrets.token_hex(3)}"
            if self._store.member(candidate) is None and self._store.token_for(candidate, now) is None:
                name = candidate
        self._check_free(name, token, now)
        return name

    def _check_free(self, name: str, token: TokenRow | None, now: float) -> None:
        """Refuse a name that a member has, or that a token other than ``token`` reserves."""
        reserved = self._store.token_for(name, now)
        if self._store.member(name) is not None:
            reason = "is a member already"
        elif reserved is not None and (token is None or reserved.identifier != token.identifier):
            reason = "is the name that another token reserves"
        else:
            return
        raise RegistryRefusedError(f"{name} {reason}: choose another name", code="name-taken")

    def renew(self, caller: Caller, message: RenewalRequest) -> Enrolment:
        """Return a fresh certificate for the caller. Raises :class:`RegistryRefusedError`."""
        now = self._clock()
        request = open_request(message.request, caller.node.prefix)
        if request.name not in ("", caller.node.name):
            raise RegistryRefusedError(
                f"{caller.node.name} cannot become {request.name}: a node keeps its name",
                code="name-not-allowed",
            )
        with self._store.transaction():
            node = self._member_again(caller)
            live = self._live_certificates(node, now)
            newest = live[0]
            if _is_repetition(newest, caller, request, now):
                return self._enrolment(node, newest.der, now)
            if len(live) >= LIVE_CERTIFICATES:
                raise RegistryRefusedError(
                    f"{node.name} has {len(live)} valid certificates already: renew when the time of the"
                    " newest one comes",
                    code="too-many-certificates",
                )
            return self._enrolment(node, self._issue(node, request, now), now)

    def _issue(self, node: NodeRow, request: CertificationRequest, now: float) -> bytes:
        der = self._authority.issue_node(request.public_key, node.name, node.prefix, now, self._validity)
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
        answer = Enrolment(
            certificate=certificate, parameters=self.parameters(), revocations=self.revocations()
        )
        # Base64 and the names of the fields; revocations and sample together must fit one answer.
        room = MAXIMUM_BODY - len(encode(answer)) - 1024
        peers = []
        for record in draw_records(self._store, node, ENROLMENT_SAMPLE, now):
            room -= len(encode(record)) + 1
            if room < 0:
                break
            peers.append(record)
        return Enrolment(
            certificate=certificate,
            parameters=answer.parameters,
            revocations=answer.revocations,
            peers=tuple(peers),
        )

    # -- members

    def authenticate(self, der: bytes) -> Caller:
        """Return whose certificate ``der`` is.

        Raises :class:`UntrustedError`, :class:`ExpiredError` or :class:`RevokedError`.
        """
        certificate = self._trust.verify(der, self._clock())
        row = self._store.certificate(certificate.serial_hex)
        node = self._store.node(row.node) if row is not None else None
        if row is None or node is None or row.der != der:
            raise UntrustedError(f"the registry does not know this certificate of {certificate.name}")
        if row.revoked is not None or node.released is not None:
            when = format_time(row.revoked or node.released or 0)
            raise RevokedError(
                f"the certificate of {node.name} was revoked on {when}: ask the operator for a new join link"
            )
        return Caller(node, certificate)

    def _member_again(self, caller: Caller) -> NodeRow:
        """Return the caller's row, inside a transaction: it may have been revoked since it was let in."""
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
        return PeerSample(
            peers=draw_records(self._store, caller.node, count, self._clock()),
            parameters_version=self._store.document_version(CONTEXT_PARAMETERS),
            revocations_version=self._store.document_version(CONTEXT_REVOCATIONS),
        )

    def members(self) -> list[Member]:
        """Return members and former members, by prefix."""
        certificates = self._store.newest_certificates()
        records = self._store.records()
        return [
            Member(node, certificates.get(node.identifier), records.get(node.identifier))
            for node in self._store.nodes()
        ]

    def release_time(self, node: NodeRow) -> float | None:
        """Return until when the prefix of a former member is in quarantine; None for a member."""
        return None if node.released is None else node.released + self._quarantine

    def leave(self, caller: Caller) -> None:
        """The caller leaves for good: its certificates are revoked, its prefix goes into quarantine."""
        with self._store.transaction():
            self._expel(self._member_again(caller))

    def revoke(self, selector: str) -> NodeRow:
        """Withdraw the certificates of the member with this name or prefix; return who it was.

        Raises :class:`RegistryRefusedError` with the code ``unknown-node``, :class:`ConfigError`.
        """
        with self._store.transaction():
            if ":" in selector:
                node = self._store.member_at(parse_prefix(selector))
            else:
                node = self._store.member(selector)
            if node is None:
                raise RegistryRefusedError(
                    f"no member is called {selector} or owns that prefix: see re6st-registry nodes",
                    code="unknown-node",
                )
            self._expel(node)
            return self._store.node(node.identifier) or node

    def _expel(self, node: NodeRow) -> None:
        now = self._clock()
        self._store.release_node(node.identifier, now)
        serials = tuple(self._store.revoked_serials(now))
        version = self._store.document_version(CONTEXT_REVOCATIONS) + 1
        revocations = Revocations(version=version, serials=serials)
        try:
            decode(encode(revocations), Revocations)
        except RemoteProtocolError as error:
            raise RegistryRefusedError(
                f"the list of revocations is full ({len(serials)} certificates): it empties as they expire",
                code="revocations-full",
            ) from error
        self._store.put_document(CONTEXT_REVOCATIONS, version, self._authority.sign_revocations(revocations))

    # -- documents

    def parameters(self) -> SignedDocument:
        """Return the network parameters, signed."""
        return self._document(CONTEXT_PARAMETERS)

    def revocations(self) -> SignedDocument:
        """Return the revocations, signed."""
        return self._document(CONTEXT_REVOCATIONS)

    def _document(self, kind: str) -> SignedDocument:
        document = self._store.document(kind)
        if document is None:
            raise StorageError(f"{self._store.path} holds no {kind}: it is incomplete, restore a backup")
        return document

    def current_parameters(self) -> NetworkParameters:
        """Return the network parameters in force."""
        return decode(self.parameters().payload, NetworkParameters)

    def change_parameters(self, changes: Mapping[str, str]) -> NetworkParameters:
        """Sign and store the next version of the parameters. Raises :class:`ConfigError`."""
        with self._store.transaction():
            parameters = change_parameters(self.current_parameters(), changes, self.network)
            document = self._authority.sign_parameters(parameters)
            self._store.put_document(CONTEXT_PARAMETERS, parameters.version, document)
            return parameters


def start_documents(store: Store, authority: Authority, parameters: NetworkParameters) -> None:
    """Put the first version of both documents into a new store."""
    with store.transaction():
        signed = authority.sign_parameters(parameters)
        store.put_document(CONTEXT_PARAMETERS, parameters.version, signed)
        store.put_document(CONTEXT_REVOCATIONS, 1, authority.sign_revocations(Revocations(version=1)))


def _is_repetition(newest: CertificateRow, caller: Caller, request: CertificationRequest, now: float) -> bool:
    """Return whether the caller was just given ``newest`` for this request, and the answer was lost."""
    return (
        newest.serial != caller.certificate.serial_hex
        and newest.key_digest == request.key_digest
        and now - newest.issued < 0.1 * (newest.expires - newest.issued)
    )


def _digest(token: str) -> bytes:
    """Return what is stored of a token. Tokens are random, so that a plain hash is enough."""
    return hashlib.sha256(token.encode()).digest()
