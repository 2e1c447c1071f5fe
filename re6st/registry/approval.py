"""Use cases around admission without a join link: nodes that ask, operators that decide, open enrolment.

A node makes its key and a secret, and sends the secret with a certification request; both are on its disk
before. Asking again with the same secret tells what came of it, so that neither a lost answer nor a restart
makes a second request.

    pending -> approved     by an operator, or at once where enrolment is open
            -> denied       by an operator
            -> expired      nobody decided in time

An approval turns the secret into a token for this one key. The node enrols with it as with that of a join
link, which may be repeated as well. The digest of the key is what operator and owner can compare: whoever
stood in between would have had to send another key.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from re6st.errors import RegistryRefusedError
from re6st.gate import source_group
from re6st.messages import AdmissionAnswer, AdmissionRequest, AdmissionState
from re6st.registry.admissions import TokenRow, Way
from re6st.registry.askers import holds_too_much
from re6st.registry.authority import DAY
from re6st.registry.certification import CertificationRequest, open_request
from re6st.registry.groups import GroupRow
from re6st.registry.parameters import Difference, differences
from re6st.registry.policy import AdmissionPolicy, change_policy
from re6st.registry.requests import RequestRow
from re6st.registry.tokens import TokenUseCases
from re6st.registry.usecases import digest

SETTING_POLICY = "admission"

APPROVAL_TIME = 7 * DAY
"""Seconds that an approved node has to come."""

OPEN_TIME = 3600.0
"""Seconds that a node has to come where enrolment is open."""

MEMORY = 7 * DAY
"""Seconds for which a request is remembered after it expired."""


PARTS = (0.25, 0.5, 0.75)
"""Of the requests that may wait, by a network of each of the sizes of :data:`re6st.registry.askers.SIZES`."""


class ApprovalUseCases(TokenUseCases):
    """Who may join without a join link."""

    # -- policy

    def policy(self) -> AdmissionPolicy:
        """Return whom the registry lets in."""
        text = self._store.setting(SETTING_POLICY)
        return msgspec.json.decode(text, type=AdmissionPolicy) if text else AdmissionPolicy()

    def preview_policy(self, changes: Mapping[str, str]) -> tuple[Difference, ...]:
        """Return what would change.

        Raises :class:`ConfigError` that names every mistake, :class:`RegistryRefusedError` for a group.
        """
        before = self.policy()
        changed = change_policy(before, changes, self.network)
        for name in changed.groups:
            self.group(name)
        return differences(before, changed)

    def change_policy(
        self, changes: Mapping[str, str], *, expected: AdmissionPolicy | None = None
    ) -> AdmissionPolicy:
        """Change whom the registry lets in.

        Raises :class:`ConfigError` that names every mistake, :class:`RegistryRefusedError` with the code
        ``version-changed`` if another policy than the expected one is in force, or for an unknown group.
        """
        with self._store.transaction():
            before = self.policy()
            if expected not in (None, before):
                raise RegistryRefusedError(
                    "somebody else has changed who may come in meanwhile: look at it first",
                    code="version-changed",
                )
            changed = change_policy(before, changes, self.network)
            for name in changed.groups:
                self.group(name)
            self._store.set_setting(SETTING_POLICY, msgspec.json.encode(changed).decode())
            self._log("admission.set", "policy", **changes)
        return changed

    def _group_use(self, row: GroupRow) -> str | None:
        """Return why a group cannot be removed: also when it is for newcomers."""
        if row.name.lower() in [name.lower() for name in self.policy().groups]:
            return "newcomers are put into it; choose another one first (re6st-registry admission set)"
        return super()._group_use(row)

    # -- who asks

    def ask(self, message: AdmissionRequest) -> AdmissionAnswer:
        """Take a request, or say what came of it. Raises :class:`RegistryRefusedError`."""
        request = open_request(message.request)
        secret = digest(message.token)
        row = self._store.request(secret)
        if row is None:
            with self._store.transaction():
                row = self._store.request(secret) or self._file(secret, request, message.message)
        if row.key_digest != request.key_digest:
            raise RegistryRefusedError(
                "this secret belongs to a request with another key: make a new one", code="request-malformed"
            )
        return self._answer(row)

    def _file(self, secret: bytes, request: CertificationRequest, message: str) -> RequestRow:
        now, policy = self._clock(), self.policy()
        source = source_group(self._actor.origin)
        way = self._way_in(policy, source, now)
        if self._store.token(secret) is not None:
            raise RegistryRefusedError("this secret is a token already", code="request-malformed")
        expires = now + (policy.requests_days * DAY if way is Way.REQUEST else OPEN_TIME)
        state = AdmissionState.PENDING if way is Way.REQUEST else AdmissionState.APPROVED
        number = self._store.add_request(
            secret,
            request.key_digest,
            request.name,
            _printable(message),
            self._actor.origin,
            source,
            state.value,
            now,
            expires,
        )
        if way is Way.OPEN:
            self._store.add_token(
                secret,
                None,
                policy.open_prefix_length,
                now,
                expires,
                way=way,
                key_digest=request.key_digest,
                group=self.group(policy.open_group),
            )
        self._log(f"request.{state.value}", str(number), name=request.name, key=request.key_digest.hex())
        row = self._store.request_numbered(number)
        if row is None:
            raise RuntimeError("a request that was just stored is gone")
        return row

    def _way_in(self, policy: AdmissionPolicy, source: str, now: float) -> Way:
        """Return how somebody who asks now comes in. Raises :class:`RegistryRefusedError`."""
        if policy.open and (
            self._store.count_admitted(Way.OPEN, now) < policy.open_nodes
            and self._store.count_let_in(now - 3600) < policy.open_per_hour
            and self._store.count_let_in(now - DAY, source) < policy.open_per_address
        ):
            return Way.OPEN
        if policy.requests:
            if self._store.count_asked(source, now - DAY) >= policy.requests_per_address:
                raise RegistryRefusedError(
                    "too many requests came from this address within a day", code="too-many-requests"
                )
            most = [max(policy.requests_per_address, int(part * policy.requests_pending)) for part in PARTS]
            if holds_too_much(self._store.pending_sources(now), source, most):
                raise RegistryRefusedError(
                    "too many requests from your network wait for the operator: try again later, or ask for a"
                    " join link",
                    code="too-many-requests",
                )
            if self._store.count_pending(now) >= policy.requests_pending:
                raise RegistryRefusedError(
                    "too many requests wait for the operator: try again later", code="too-many-requests"
                )
            return Way.REQUEST
        if policy.open:
            raise RegistryRefusedError(
                "as many nodes as the operator wants have come in: try again later", code="too-many-requests"
            )
        raise RegistryRefusedError(
            "this registry lets nobody in without a token: ask the operator for a join link; if yours goes on"
            " with '&token=', put it in quotes on the command line",
            code="requests-not-allowed",
        )

    def _answer(self, row: RequestRow) -> AdmissionAnswer:
        """Return what its sender may know of a request."""
        now = self._clock()
        state, name = AdmissionState(row.state), ""
        if state is AdmissionState.APPROVED:
            token = self._store.token(row.digest)
            if token is None or token.state(now) in ("revoked", "expired"):
                state = AdmissionState.EXPIRED
            else:
                name = token.name or self._wished(row, now)
        elif state is AdmissionState.PENDING and now >= row.expires:
            state = AdmissionState.EXPIRED
        return AdmissionAnswer(
            state=state, key=row.key_digest.hex(), name=name, reason=row.reason, expires=row.expires
        )

    def _wished(self, row: RequestRow, now: float) -> str:
        """Return the name that the asker wants if it can have it."""
        return row.name if row.name and self._name_trouble(row.name, now) is None else ""

    def _name_trouble(self, name: str, now: float) -> str | None:
        try:
            self._check_free(name, None, now)
        except RegistryRefusedError as error:
            return str(error)
        if self._store.reservation(name) is not None:
            return f"{name} has a reserved prefix, which it would get"
        return None

    # -- who decides

    def requests(
        self, *, pending: bool = True, before: int | None = None, limit: int = 1000
    ) -> list[RequestRow]:
        """Return requests, the newest first: those that can be decided now, or all."""
        behind = {} if before is None else {"before": before}
        if pending:
            return self._store.pending_requests(self._clock(), limit=limit, **behind)
        return self._store.requests(limit=limit, **behind)

    def count_requests(self) -> int:
        """Return how many requests wait for an operator."""
        return self._store.count_pending(self._clock())

    def request_state(self, row: RequestRow) -> AdmissionState:
        """Return what came of a request."""
        return self._answer(row).state

    def suspicions(self, row: RequestRow) -> tuple[str, ...]:
        """Return what an operator should know before approving, for people."""
        found = [
            f"{name} has, or had, a certificate for this very key"
            for name in self._store.key_holders(row.key_digest)
        ]
        if self._store.denied_before(row.key_digest, row.identifier):
            found.append("a request with this key was denied before")
        trouble = self._name_trouble(row.name, self._clock()) if row.name else None
        return (*found, trouble) if trouble else tuple(found)

    def approve(
        self,
        identifier: int,
        name: str | None = None,
        prefix_length: int | None = None,
        *,
        group: str | None = None,
        owner: str = "",
    ) -> RequestRow:
        """Let in who asked, under ``name`` or that which it wants. May be repeated.

        The node will be in ``group``, by default that of the policy, and belong to ``owner``.

        Anybody can wish for a name with a reserved prefix: it is given only if it is ``name``.
        Raises :class:`RegistryRefusedError` with the codes ``unknown-request``, ``request-decided`` and those
        of names, :class:`ConfigError` for an impossible length.
        """
        now = self._clock()
        with self._store.transaction():
            row = self._undecided(identifier, AdmissionState.APPROVED)
            if row.state == AdmissionState.PENDING.value:
                if not name and row.name and self._store.reservation(row.name) is not None:
                    raise RegistryRefusedError(
                        f"{row.name} has a reserved prefix, which it would get: give the name explicitly"
                        f" (--name {row.name}) if this is the machine it is reserved for, else another one",
                        code="name-taken",
                    )
                chosen, owner = self._group_for(group or self.policy().requests_group, owner)
                given, length = self._admission_length(name or row.name or None, prefix_length, chosen, now)
                self._let_in(row, given, length, chosen, owner, now)
            return self._request(identifier)

    def _let_in(
        self,
        row: RequestRow,
        name: str | None,
        prefix_length: int,
        group: GroupRow,
        owner: str,
        now: float,
    ) -> None:
        """Make the secret of a request a token for its key."""
        self._store.add_token(
            row.digest,
            name,
            prefix_length,
            now,
            now + APPROVAL_TIME,
            way=Way.REQUEST,
            key_digest=row.key_digest,
            group=group,
            owner=owner,
        )
        self._decide(
            row,
            AdmissionState.APPROVED,
            name=name,
            prefix_length=prefix_length,
            group=group.name,
            owner=owner or None,
        )

    def deny(self, identifier: int, reason: str = "") -> RequestRow:
        """Keep out who asked, and tell why. May be repeated. Raises as :meth:`approve`."""
        with self._store.transaction():
            row = self._undecided(identifier, AdmissionState.DENIED)
            if row.state == AdmissionState.PENDING.value:
                self._decide(row, AdmissionState.DENIED, reason=_printable(reason))
            return self._request(identifier)

    def _decide(self, row: RequestRow, state: AdmissionState, reason: str = "", **details: object) -> None:
        self._store.decide_request(row.identifier, state.value, reason)
        known = {"name": row.name} | details
        key = row.key_digest.hex()
        self._log(f"request.{state.value}", str(row.identifier), key=key, reason=reason or None, **known)

    def _undecided(self, identifier: int, wanted: AdmissionState) -> RequestRow:
        """Return a request that can be decided, or was decided like this."""
        row = self._request(identifier)
        state = self.request_state(row)
        if state not in (AdmissionState.PENDING, wanted):
            raise RegistryRefusedError(
                f"request {identifier} is {state.value} already: see re6st-registry requests list --all",
                code="request-decided",
            )
        return row

    def _request(self, identifier: int) -> RequestRow:
        row = self._store.request_numbered(identifier)
        if row is None:
            raise RegistryRefusedError(
                f"there is no request {identifier}: see re6st-registry requests list", code="unknown-request"
            )
        return row

    # -- who comes

    def _check_owner(self, token: TokenRow, request: CertificationRequest) -> None:
        """Refuse another key than that which was approved."""
        if token.key_digest not in (None, request.key_digest):
            raise RegistryRefusedError("the token is for another key", code="token-unknown")

    def tidy(self) -> tuple[int, int]:
        """Release and purge nodes, and forget old requests and what came of them unused, too."""
        with self._store.transaction():
            self._store.drop_requests(self._clock() - MEMORY)
            self._store.drop_tokens(self._clock() - MEMORY)
        return super().tidy()


def _printable(text: str) -> str:
    """Return ``text`` without what could steer a terminal or hide a part of it."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)[:256]
