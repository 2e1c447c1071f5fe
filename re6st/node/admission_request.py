"""Asking the registry to be let in, without a token: until an operator has decided, however long it takes.

The secret of the request is on disk before the registry hears of it, as the key is. Whoever interrupts this
and starts it again asks with the same secret, and so about the same request.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import textwrap
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from re6st.errors import ConfigError, RegistryRefusedError, RegistryUnavailableError, StorageError
from re6st.files import write_atomically
from re6st.identity import build_request, format_time, public_key_digest
from re6st.messages import AdmissionAnswer, AdmissionRequest, AdmissionState
from re6st.node.credentials import CredentialFiles
from re6st.proxy import Proxy
from re6st.registry.client import JoinLink, RegistryClient, fetch_authorities

PATIENCE = 60
"""Seconds for which the registry is asked to hold its answer back."""

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0
"""Seconds between two questions; twice as long after each one that brought nothing in less time."""

_SECRET_OCTETS = 32


async def ask_admission(
    client: RegistryClient,
    key: ec.EllipticCurvePrivateKey,
    files: CredentialFiles,
    name: str,
    message: str,
    tell: Callable[[str], None],
) -> tuple[str, str]:
    """Return the token and the name with which to enrol, once the registry lets this machine in.

    ``tell`` is given what the person should read. Raises :class:`RegistryRefusedError` when it does not, and
    whatever the first question to the registry raises.
    """
    token = _pending_token(files)
    request = AdmissionRequest(token=token, request=build_request(key, name), message=message)
    answer = await client.ask_admission(request)
    if answer.state is AdmissionState.PENDING:
        digits = public_key_digest(key.public_key()).hex()
        tell(
            "The operator of the network is asked to let this machine in"
            + (f", until {format_time(answer.expires)}" if answer.expires is not None else "")
            + ". Its key, for the operator to compare:"
        )
        for line in textwrap.wrap(" ".join(textwrap.wrap(digits, 4)), 40):
            tell(f"    {line}")
        tell("Waiting. After an interruption (Ctrl-C) the same command goes on with the same request.")
        answer = await _wait(client, request, tell)
    if answer.state is AdmissionState.APPROVED:
        return token, answer.name
    forget(files)
    if answer.state is AdmissionState.DENIED:
        why = f": {answer.reason}" if answer.reason else ""
        raise RegistryRefusedError(f"the operator does not let this machine in{why}", code="denied")
    raise RegistryRefusedError(
        "nobody decided about the request in time: the same command asks again", code="request-expired"
    )


async def ask_mail(link: JoinLink, email: str, proxy: Proxy | None = None) -> None:
    """Ask the registry for a join link by mail.

    Raises :class:`ConfigError` for a link with a token, and what the registry client raises.
    """
    if link.token:
        raise ConfigError("this link lets one machine in already: leave --email away")
    authorities = await fetch_authorities(link, proxy=proxy)
    await RegistryClient(link.urls, authorities, proxy=proxy).ask_invitation(email)


async def _wait(
    client: RegistryClient, request: AdmissionRequest, tell: Callable[[str], None]
) -> AdmissionAnswer:
    """Ask until it is decided; a registry that cannot be reached meanwhile is asked later."""
    loop = asyncio.get_running_loop()
    pause, failure = FIRST_PAUSE, ""
    while True:
        began = loop.time()
        try:
            answer = await client.ask_admission(request, PATIENCE)
            failure = ""
            if answer.state is not AdmissionState.PENDING:
                return answer
        except RegistryUnavailableError as error:
            if str(error) != failure:
                failure = str(error)
                tell(f"{failure}; trying again")
        pause = FIRST_PAUSE if loop.time() - began > pause else min(2 * pause, LONGEST_PAUSE)
        await asyncio.sleep(pause if loop.time() - began < pause else 0)


def _pending_token(files: CredentialFiles) -> str:
    """Return the secret of a request that was not answered, or a new one that is on disk already."""
    with contextlib.suppress(OSError, UnicodeError):
        token = files.pending_token.read_text()
        if token:
            return token
    token = secrets.token_urlsafe(_SECRET_OCTETS)
    write_atomically(files.pending_token, token.encode(), 0o600)
    return token


def forget(files: CredentialFiles) -> None:
    """Remove the secret of a request that is over. Raises :class:`StorageError`."""
    try:
        files.pending_token.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {files.pending_token}: {error.strerror}") from error
