"""Whom the registry lets in without a join link from an operator, and the bounds of that (pure).

All ways are off until the operator switches them on. Every bound counts what strangers can make the registry
keep or do, so that asking is never more than a nuisance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Network
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from re6st.errors import ConfigError
from re6st.messages import Mailbox, Message, Name
from re6st.prefix import DEFAULT_NODE_LENGTH, LONGEST_NODE_LENGTH, check_node_length
from re6st.registry.assignments import convert
from re6st.registry.groups import DEFAULT_GROUP

Length = Annotated[int, Meta(ge=33, le=LONGEST_NODE_LENGTH)]
Number = Annotated[int, Meta(ge=1, le=1_000_000)]
Word = Annotated[str, Meta(max_length=254)]


class AdmissionPolicy(Message, frozen=True, kw_only=True, omit_defaults=False):
    """Who may come in how."""

    requests: bool = False
    """Nodes may ask; an operator approves or denies."""
    requests_pending: Number = 200
    """Requests that may wait at a time."""
    requests_per_address: Number = 10
    """Requests not approved that one address (an IPv6 /64) may send in a day."""
    requests_days: Annotated[int, Meta(ge=1, le=90)] = 7
    """Days until a request expires that nobody decides."""
    requests_group: Name = DEFAULT_GROUP
    """Of nodes that are approved, unless the operator chooses another one."""
    open: bool = False
    """Whoever asks is let in at once."""
    open_prefix_length: Length = 80
    open_group: Name = DEFAULT_GROUP
    open_nodes: Number = 1000
    """Members that may have come in this way."""
    open_per_hour: Number = 60
    open_per_address: Number = 5
    """Nodes that one address (an IPv6 /64) may bring in in a day."""
    mail: bool = False
    """Whoever reads mail at one of ``mail_domains`` gets join links."""
    mail_domains: Annotated[tuple[Word, ...], Meta(max_length=256)] = ()
    """``example.org``, or ``*`` for any."""
    mail_nodes: Number = 3
    """Members that one mailbox may have."""
    mail_prefix_length: Length = DEFAULT_NODE_LENGTH
    mail_group: Name = DEFAULT_GROUP
    mail_per_hour: Number = 60
    """Mails in all."""
    mail_per_mailbox: Number = 3
    """Mails to one mailbox in a day."""
    mail_per_address: Number = 10
    """Questions from one address (an IPv6 /64) in a day."""
    mail_server: Word = ""
    """``HOST:PORT`` of the SMTP server."""
    mail_security: Literal["starttls", "tls", "none"] = "starttls"
    """``none`` only for a server on this host."""
    mail_user: Word = ""
    """The password comes from a file, never from here."""
    mail_sender: Word = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups into which newcomers are put."""
        return self.requests_group, self.open_group, self.mail_group

    @property
    def mail_place(self) -> tuple[str, int]:
        """Host and port of the SMTP server. Raises :class:`ConfigError`."""
        match = re.fullmatch(r"\[?([A-Za-z0-9.:_-]+?)\]?:([0-9]{1,5})", self.mail_server)
        if match is None or not 0 < int(match[2]) < 65536:
            raise ConfigError("admission: mail_server must be HOST:PORT, such as smtp.example.org:587")
        return match[1], int(match[2])

    def allows_mail(self, mailbox: str) -> bool:
        """Return whether ``mailbox`` is of a domain that gets join links."""
        domain = mailbox.rpartition("@")[2].lower()
        return any(allowed.lower() in ("*", domain) for allowed in self.mail_domains)


def change_policy(
    policy: AdmissionPolicy, changes: Mapping[str, str], network: IPv6Network
) -> AdmissionPolicy:
    """Return ``policy`` with ``changes`` (texts as typed). Raises :class:`ConfigError`."""
    changed = msgspec.structs.replace(policy, **convert(policy, changes, "admission"))
    check_node_length(network, changed.open_prefix_length)
    check_node_length(network, changed.mail_prefix_length)
    if changed.mail_server or changed.mail:
        host, _ = changed.mail_place
    if changed.mail:
        if not changed.mail_domains:
            raise ConfigError("admission: mail_domains must say who gets join links (* for anybody)")
        try:
            msgspec.convert(changed.mail_sender, Mailbox)
        except msgspec.ValidationError as error:
            raise ConfigError(
                "admission: mail_sender must be an address, such as re6st@example.org"
            ) from error
        if changed.mail_security == "none" and host not in ("localhost", "127.0.0.1", "::1"):
            raise ConfigError("admission: mail_security=none is only for a server on this host")
    return changed
