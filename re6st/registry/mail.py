"""Sends mails by SMTP (RFC 5321): what they say, and the connection to the mail server (I/O).

The connection is encrypted before the password or an address is sent, and the server's certificate is
verified by the system's authorities; only a server on this host may go without. The password comes from a
file of mode 0600 or a credential of systemd, never from a command line or the database.
"""

from __future__ import annotations

import re
import ssl
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path

import aiosmtplib

from re6st.errors import ConfigError, MailError, connection_failure
from re6st.identity import format_time
from re6st.registry.policy import AdmissionPolicy

PASSWORD_VARIABLE = "RE6ST_SMTP_PASSWORD_FILE"  # noqa: S105 - not a secret
"""Environment variable with the name of a file (0600) that holds the password for the mail server."""

PASSWORD_CREDENTIAL = "re6st-smtp-password"  # noqa: S105 - not a secret
"""Name of the same as a credential of systemd (systemd.exec(5), LoadCredential=)."""

TIME_LIMIT = 30.0
"""Seconds that one step of the conversation with the mail server may take."""

_INVITATION = """\
Somebody, probably you, asked for a machine to join the network
{network}. On that machine, as root, run:

  re6st-node join '{link}'

The link is for one machine and can be used until {expires}.
Whoever has it can join instead of you: pass it on to nobody. If you got
several of these mails, only the newest link is sure to work.

If it was not you, do nothing.
"""

_TEST = """\
This is a test of the mail settings of the registry of the network
{network}. There is nothing to do.
"""


def compose_invitation(
    sender: str, mailbox: str, network: str, link: str, expires: float, now: float
) -> EmailMessage:
    """Return the mail that brings ``link`` to ``mailbox``; times in seconds since the epoch."""
    text = _INVITATION.format(network=network, link=link, expires=format_time(expires))
    return _compose(sender, mailbox, f"Join the network {network}", text, now)


def compose_test(sender: str, mailbox: str, network: str, now: float) -> EmailMessage:
    """Return a mail that shows that mails can be sent."""
    return _compose(sender, mailbox, "Test of the re6st registry", _TEST.format(network=network), now)


def _compose(sender: str, mailbox: str, subject: str, text: str, now: float) -> EmailMessage:
    import datetime

    # The addresses were checked where they came in; EmailMessage refuses line ends in headers all the same.
    message = EmailMessage()
    message["From"] = sender
    message["To"] = mailbox
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.datetime.fromtimestamp(now, datetime.UTC))
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    # Not quoted-printable, which would cut the link into lines for whoever looks at the source.
    message.set_content(text, cte="7bit")
    return message


def read_password(environment: Mapping[str, str]) -> str | None:
    """Return the password for the mail server, None if nobody has given one. Raises :class:`ConfigError`."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    credential = Path(directory) / PASSWORD_CREDENTIAL if directory else None
    named = environment.get(PASSWORD_VARIABLE)
    path = Path(named) if named else credential
    if path is None or (not named and not path.exists()):
        return None
    try:
        if named and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path} can be read by others: chmod 600 {path}")
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot read the password for the mail server in {path}: {error}") from error


async def send(message: EmailMessage, policy: AdmissionPolicy, password: str | None) -> None:
    """Hand ``message`` to the mail server of ``policy``. Raises :class:`MailError`, :class:`ConfigError`."""
    host, port = policy.mail_place
    if policy.mail_user and password is None:
        raise ConfigError(
            f"the mail server wants the password of {policy.mail_user}: name a file with it in"
            f" {PASSWORD_VARIABLE}, or let systemd provide it (LoadCredential={PASSWORD_CREDENTIAL}:FILE)"
        )
    with _translated(host, port):
        await aiosmtplib.send(
            message,
            sender=policy.mail_sender,
            hostname=host,
            port=port,
            username=policy.mail_user or None,
            password=password if policy.mail_user else None,
            # By default it would be looked up, which may take long and block everything.
            local_hostname=policy.mail_sender.rpartition("@")[2],
            use_tls=policy.mail_security == "tls",
            start_tls=policy.mail_security == "starttls",
            timeout=TIME_LIMIT,
        )


@contextmanager
def _translated(host: str, port: int) -> Iterator[None]:
    """Turn errors of the library and of the network into :class:`MailError`."""
    try:
        yield
    except aiosmtplib.SMTPRecipientsRefused as error:
        refusals = error.recipients
        text = "; ".join(f"{refusal.code} {refusal.message}" for refusal in refusals)
        raise MailError(
            f"{host} refuses the recipient: {_line(text)}",
            permanent=all(refusal.code >= 500 for refusal in refusals),
        ) from error
    except aiosmtplib.SMTPDataError as error:
        text = _line(f"{error.code} {error.message}")
        raise MailError(f"{host} refuses the mail: {text}", permanent=error.code >= 500) from error
    except aiosmtplib.SMTPException as error:
        raise MailError(f"cannot send by {host}:{port}: {_line(str(error))}") from error
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or str(error)
        raise MailError(
            f"no secure connection to {host}:{port}: bad certificate or TLS ({reason})"
        ) from error
    except OSError as error:
        raise MailError(f"{host}:{port} cannot be reached: {connection_failure(error)}") from error


def _line(text: str) -> str:
    """Return what a mail server said as one line without control characters."""
    return re.sub(r"[^\x20-\x7e]+", " ", text).strip()[:200]
