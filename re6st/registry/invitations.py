"""Use cases around join links by mail: who asks with an address gets a link, if the operator wants that.

    asks -> waiting -> sent                 the mail server took it
                    -> refused              the mailbox gets no links, or no more of them; nobody is told;
                                            or the link of an earlier attempt was used or revoked
                    -> failed               the mail server does not want it, or did not answer for hours

Asking does the same for each address: a row is added (of mailboxes that get nothing, only so many). What
becomes of it is decided later, when the mail is taken from the queue, so that neither answer nor time tell
whether an address is known or allowed. The token is made at that moment and written down as a digest only;
another attempt replaces it. Taking a mail postpones it, so that two registries on one database do not send
it twice, and a crash only delays it. Whose turn it is, and who asks too much, is decided in
:mod:`re6st.registry.askers`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from re6st.errors import RegistryRefusedError
from re6st.gate import source_group
from re6st.registry.admissions import TokenRow, Way
from re6st.registry.approval import ApprovalUseCases
from re6st.registry.askers import MOST_ASKED, MOST_FOREIGN, in_turn, is_crowded
from re6st.registry.authority import DAY
from re6st.registry.certification import CertificationRequest
from re6st.registry.configuration import ParameterUseCases
from re6st.registry.links import JoinLink
from re6st.registry.policy import AdmissionPolicy
from re6st.registry.requests import MailRow
from re6st.registry.tokens import TOKEN_OCTETS, TOKEN_VALIDITY
from re6st.registry.usecases import digest

FIRST_DELAY = 60.0
"""Seconds until the second attempt, more than sending takes; four times as long before each further one."""

ATTEMPTS = 6
"""Attempts to send one mail, over almost six hours."""

LONGEST_WAIT = DAY
"""Seconds after which a mail that never had its turn is not sent any more."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A mail that is to be sent now."""

    identifier: int
    mailbox: str
    link: str = field(repr=False)
    expires: float
    policy: AdmissionPolicy
    attempts: int
    """Which attempt this is, from 1: what becomes of it counts only while there is no later one."""


class InvitationUseCases(ApprovalUseCases, ParameterUseCases):
    """Join links for those who can read mail at certain domains."""

    def ask_invitation(self, mailbox: str) -> None:
        """Let a join link be sent to ``mailbox``, perhaps. Raises :class:`RegistryRefusedError`."""
        now, policy = self._clock(), self.policy()
        if not policy.mail:
            raise RegistryRefusedError(
                "this registry sends no join links by mail: ask the operator", code="mail-not-allowed"
            )
        source = source_group(self._actor.origin)
        with self._store.transaction():
            recent = [asked for asked in self._store.latest_asked(MOST_ASKED) if asked.created > now - 3600]
            if self._store.count_mails(now - DAY, source) >= policy.mail_per_address or is_crowded(
                recent, source, mailbox
            ):
                raise RegistryRefusedError(
                    "too many join links were asked for: try again later", code="too-many-requests"
                )
            foreign = sum(not policy.allows_mail(asked.mailbox) for asked in recent)
            if foreign >= MOST_FOREIGN and not policy.allows_mail(mailbox):
                return
            self._store.add_mail(mailbox.lower(), source, now)

    def take_invitation(self) -> Invitation | None:
        """Return a mail that is due, with a new link, and postpone it; None for none.

        Raises :class:`ConfigError` when the network has no registry URL yet.
        """
        with self._store.transaction():
            now, policy = self._clock(), self.policy()
            if not policy.mail or self._store.count_mailed(now - 3600) >= policy.mail_per_hour:
                return None
            for asked in in_turn(self._store.due_mails(now), self._store.served_mails(now - DAY)):
                row = self._store.mail(asked.identifier)
                if row is None:
                    raise RuntimeError("a mail that was just read is gone")
                reason = self._unwanted(row, policy, now)
                if reason is None:
                    return self._prepare(row, policy, now)
                self._store.finish_mail(row.identifier, "refused", reason)
            return None

    def _unwanted(self, row: MailRow, policy: AdmissionPolicy, now: float) -> str | None:
        """Return why nothing is sent, None if it is."""
        owner = _owner(row.mailbox)
        token = self._store.token_numbered(row.token) if row.token is not None else None
        if token is not None and token.state(now) in ("used", "revoked"):
            return f"the link of an earlier attempt was {token.state(now)}"
        if row.token is None and row.created < now - LONGEST_WAIT:
            return "others had their turn for a whole day"
        if not policy.allows_mail(row.mailbox):
            return "its domain is not allowed"
        if self._store.count_mailbox(owner) >= policy.mail_nodes:
            return "it has as many nodes as allowed"
        if row.token is None and self._store.count_mailed(now - DAY, owner) >= policy.mail_per_mailbox:
            return "it got as many mails within a day as allowed"
        return None

    def _prepare(self, row: MailRow, policy: AdmissionPolicy, now: float) -> Invitation:
        secret, expires = secrets.token_urlsafe(TOKEN_OCTETS), now + TOKEN_VALIDITY
        urls = self.choose_urls(None)
        link = JoinLink(urls[0], self.fingerprint, secret, urls[1:])
        number = row.token
        if number is None:
            number = self._store.add_token(
                digest(secret),
                None,
                policy.mail_prefix_length,
                now,
                expires,
                way=Way.MAIL,
                mailbox=_owner(row.mailbox),
                group=self.group(policy.mail_group),
                owner=row.mailbox,
            )
        else:
            self._store.replace_token(number, digest(secret), expires)
        self._store.postpone_mail(row.identifier, number, now + FIRST_DELAY * 4.0**row.attempts)
        return Invitation(row.identifier, row.mailbox, str(link), expires, policy, row.attempts + 1)

    def note_sent(self, invitation: Invitation) -> None:
        """Remember that the mail server took a mail."""
        with self._store.transaction():
            row = self._attempted(invitation)
            if row is not None:
                self._store.finish_mail(row.identifier, "sent", "")
                self._log("invitation.sent", row.mailbox, token=row.token)

    def note_failed(self, invitation: Invitation, reason: str, *, permanent: bool) -> None:
        """Remember that a mail could not be sent; it is tried again unless that is of no use."""
        with self._store.transaction():
            row = self._attempted(invitation)
            if row is None:
                return
            over = permanent or row.attempts >= ATTEMPTS
            self._store.finish_mail(row.identifier, "failed" if over else "waiting", reason[:256])
            if over:
                if row.token is not None:
                    self._store.revoke_token(row.token, self._clock())
                self._log("invitation.failed", row.mailbox, reason=reason[:256])

    def _attempted(self, invitation: Invitation) -> MailRow | None:
        """Return the mail of this attempt, None if another attempt has begun or it is finished."""
        row = self._store.mail(invitation.identifier)
        current = row is not None and row.state == "waiting" and row.attempts == invitation.attempts
        return row if current else None

    def mails(self, limit: int = 1000) -> list[MailRow]:
        """Return the mails of the last days, the newest first."""
        return self._store.mails(limit)

    def _check_owner(self, token: TokenRow, request: CertificationRequest) -> None:
        """Refuse another key than that which was approved, and more nodes than a mailbox may have."""
        super()._check_owner(token, request)
        if token.mailbox is None:
            return
        most = self.policy().mail_nodes
        if self._store.count_mailbox(token.mailbox) >= most:
            raise RegistryRefusedError(
                f"the mailbox of this link has {most} nodes already: let one leave, or ask the operator",
                code="mailbox-full",
            )


def _owner(mailbox: str) -> str:
    """Return under what a mailbox is counted: what follows a ``+`` (RFC 5233) makes no other person."""
    local, _, domain = mailbox.rpartition("@")
    return f"{local.partition('+')[0] or local}@{domain}"
