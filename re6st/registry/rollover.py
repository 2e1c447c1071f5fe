"""One CA takes over from another while the network works: three steps, with waiting in between.

    single   --prepare-->  prepared   A second CA exists. All nodes trust both; the first one issues.
                                      Documents carry the signatures of both from now on.
    prepared --switch-->   switched   The second one issues: the server and all nodes renew their
                                      certificates, each at a random moment. The first one is still trusted.
    switched --finish-->   single     The second one is the only one. The key of the first is deleted.

What is trusted stands in the network parameters, so it reaches nodes as every other parameter does. A node
that is away during the first two steps learns of both from the doubly signed parameters when it is
back; one that is away until after the last must join again. Hence *finish* refuses to leave anybody behind
unless told to. Each step may be repeated when it was interrupted.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import msgspec

from re6st.errors import RegistryRefusedError
from re6st.identity import fingerprint
from re6st.registry.authority import Authority
from re6st.registry.configuration import ParameterUseCases
from re6st.registry.members import MemberUseCases
from re6st.registry.reporting import ReportUseCases
from re6st.registry.store import Member, Selection

SETTING_STAGE = "rollover-stage"
SETTING_VERSION = "rollover-version"
"""Version of the network parameters with which the stage began."""

SHOWN_NAMES = 10
"""Names that a refusal lists."""


class Stage(enum.Enum):
    """How far a change of the CA is."""

    SINGLE = "single"
    PREPARED = "prepared"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True)
class RolloverStatus:
    """How far a change of the CA is, and for whom the next step would be too early."""

    stage: Stage
    issuing: str
    """SHA-256 of the CA certificate that issues."""
    expires: float
    """When that CA expires."""
    other: str | None
    """SHA-256 of the other CA certificate."""
    waiting_for: tuple[str, ...]
    """Names of active nodes that are not ready for the next step."""


class RolloverUseCases(MemberUseCases, ParameterUseCases, ReportUseCases):
    """What operators do about the CA. Files are the matter of the state directory."""

    def rollover_status(self) -> RolloverStatus:
        """Return how far a change of the CA is."""
        authority = self.authority
        stage = Stage(self._store.setting(SETTING_STAGE) or Stage.SINGLE.value)
        waiting: tuple[str, ...] = ()
        if stage is Stage.PREPARED:
            waiting = self._not_informed()
        elif stage is Stage.SWITCHED:
            waiting = self._not_renewed()
        others = [der for der in self._trust.authorities if der != authority.certificate]
        return RolloverStatus(
            stage,
            authority.fingerprint,
            self.authority_expiry(),
            fingerprint(others[0]) if others else None,
            waiting,
        )

    def prepare_authority(self, authority: Authority) -> None:
        """Let all nodes trust the other CA of ``authority``, too.

        Raises :class:`RegistryRefusedError` with the code ``rollover-under-way``.
        """
        stage = self.rollover_status().stage
        if stage is not Stage.SINGLE:
            raise RegistryRefusedError(f"a new CA is {stage.value} already", code="rollover-under-way")
        self._publish(authority, Stage.PREPARED, "authority.prepared")

    def switch_authority(self, *, force: bool = False) -> None:
        """Let the second CA issue certificates.

        Raises :class:`RegistryRefusedError` with the code ``not-prepared`` or ``nodes-not-ready``.
        """
        status = self.rollover_status()
        authority = self.authority
        if status.stage is not Stage.PREPARED or authority.other is None:
            raise RegistryRefusedError(
                "no new CA is prepared: re6st-registry authority prepare comes first", code="not-prepared"
            )
        _check_nobody_waits(status, force, "are not known to trust the new CA yet")
        self._publish(authority.led_by(authority.other.certificate), Stage.SWITCHED, "authority.switched")

    def finish_authority(self, *, force: bool = False) -> None:
        """Trust only the CA that issues now.

        Raises :class:`RegistryRefusedError` with the code ``not-switched`` or ``nodes-not-ready``.
        """
        status = self.rollover_status()
        if status.stage is Stage.SINGLE and self.current_parameters().authorities[:1] == (
            self.authority.certificate,
        ):
            return  # done before; perhaps the files were not put in order
        if status.stage is not Stage.SWITCHED:
            raise RegistryRefusedError(
                "the new CA does not issue yet: re6st-registry authority switch comes first",
                code="not-switched",
            )
        _check_nobody_waits(status, force, "have certificates of the old CA only")
        self._publish(replace(self.authority, other=None), Stage.SINGLE, "authority.finished")

    def _publish(self, authority: Authority, stage: Stage, action: str) -> None:
        """Sign both documents by ``authority``, whose CAs are the ones to trust."""
        former = self.authority
        try:
            self._publish_inside(authority, stage, action)
        except BaseException:
            self._keeper.use(former)
            raise

    def _publish_inside(self, authority: Authority, stage: Stage, action: str) -> None:
        with self._store.transaction():
            before = self.current_parameters()
            self._keeper.use(authority)
            after = msgspec.structs.replace(
                before, version=before.version + 1, authorities=authority.trust.authorities
            )
            self._put(before, after, action)
            self._keeper.use(authority)
            self._list_revocations()
            self._store.set_setting(SETTING_STAGE, stage.value)
            self._store.set_setting(SETTING_VERSION, str(after.version))

    def _active(self) -> list[Member]:
        return self._store.overview(self._clock(), Selection(state="active"))

    def _not_informed(self) -> tuple[str, ...]:
        """Return which active nodes have not reported the parameters with both CAs."""
        version = int(self._store.setting(SETTING_VERSION) or 0)
        return tuple(
            condition.member.node.name
            for condition in self.conditions(self._active())
            if condition.report is None or condition.report.report.parameters_version < version
        )

    def _not_renewed(self) -> tuple[str, ...]:
        """Return which active nodes have no certificate of the CA that issues now."""
        issuing = self.authority.certificate
        return tuple(
            member.node.name
            for member in self._active()
            if not any(
                self._trust.issuer(row.der) == issuing
                for row in self._store.certificates(member.node.identifier)
            )
        )


def _check_nobody_waits(status: RolloverStatus, force: bool, what: str) -> None:
    names = status.waiting_for
    if names and not force:
        shown = ", ".join(names[:SHOWN_NAMES]) + (
            f" and {len(names) - SHOWN_NAMES} more" if names[SHOWN_NAMES:] else ""
        )
        raise RegistryRefusedError(
            f"these nodes {what}: {shown}. Wait for them, or use --force and let them join again",
            code="nodes-not-ready",
        )
