"""The errors of re6st, arranged by who can act on them.

    Re6stError
    ├── ConfigError              the owner: correct the configuration or the environment
    │   └── SilentDaemonError        the daemon that is asked does not answer now
    │       └── NotRunningError          it does not run
    ├── IdentityError            the owner or the operator: keys and certificates
    │   ├── UntrustedError           signature, chain, name or prefix does not hold
    │   ├── ExpiredError             outside the time of validity
    │   └── RevokedError             withdrawn by the registry
    ├── ProtocolError            a message broke the rules
    │   ├── LocalProtocolError       we were about to send it: a bug of ours
    │   └── RemoteProtocolError      a peer sent it: drop it and count it
    ├── RegistryError            talking to the registry
    │   ├── RegistryUnavailableError     try again later
    │   └── RegistryRefusedError         do not try again with the same request
    ├── MailError            the mail server does not take a mail
    ├── StorageError             the disk: a file or database cannot be read or written
    ├── ChildError               a program we run failed
    ├── NetlinkError             the kernel refused a change
    └── UpnpError                the home router refused or is silent

Adapters translate foreign exceptions into these with ``raise ... from``. The message of each says
what failed, why, and where it helps what to do next.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class Re6stError(Exception):
    """Any failure that re6st foresees."""


class ConfigError(Re6stError):
    """The configuration or the environment is wrong; the owner of the machine can correct it."""


class SilentDaemonError(ConfigError):
    """The daemon that is asked does not answer; it may later."""


class NotRunningError(SilentDaemonError):
    """The daemon that is asked does not run; the owner can start it."""


class IdentityError(Re6stError):
    """A key, certificate or signature is not acceptable."""


class UntrustedError(IdentityError):
    """A signature, chain, name or prefix does not hold."""


class ExpiredError(IdentityError):
    """A certificate is used outside its time of validity."""


class NotYetValidError(ExpiredError):
    """A certificate is used before it is valid: most likely a clock is behind."""


class RevokedError(IdentityError):
    """A certificate was withdrawn by the registry."""


class ProtocolError(Re6stError):
    """A message breaks the rules of the protocol."""


class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """A peer broke the protocol."""


class RegistryError(Re6stError):
    """The registry could not do what was asked."""


class RegistryUnavailableError(RegistryError):
    """The registry cannot be reached now; the same request may succeed later."""


class RegistryRefusedError(RegistryError):
    """The registry refused the request; repeating it is of no use."""

    def __init__(self, message: str, *, code: str = "refused") -> None:
        super().__init__(message)
        self.code = code
        """The machine-readable reason (``type`` of the RFC 9457 problem document)."""


class MailError(Re6stError):
    """A mail could not be handed to the mail server."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        """The same mail will not be taken later either."""


class StorageError(Re6stError):
    """A file or a database cannot be read or written; nothing was changed."""


class SignerTimeoutError(StorageError):
    """The CA's signing process hangs: whoever asks it next would wait as long."""


class ChildError(Re6stError):
    """A program that we run failed."""

    def __init__(self, message: str, *, status: int | None = None, output: Sequence[str] = ()) -> None:
        last = "".join(f"\n    | {line}" for line in output)
        super().__init__(f"{message}{last}")
        self.status = status
        """Exit status, negative for a signal (as in :mod:`subprocess`); None while it runs."""
        self.output = tuple(output)
        """The last lines that it printed."""


class NetlinkError(Re6stError):
    """The kernel refused a change of an interface, address, route or rule."""


class UpnpError(Re6stError):
    """The home router refused a request, answered nonsense or did not answer."""

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        """Error code of the UPnP service (as 718: conflict); None when there was no proper answer."""


def file_failure(error: OSError | UnicodeError, path: Path) -> str:
    """Return that the file ``path`` is at fault and why, in words for people."""
    if isinstance(error, UnicodeError):
        return f"{path}: it is not text in UTF-8"
    hint = " (are you root?)" if isinstance(error, PermissionError) and os.geteuid() != 0 else ""
    return f"{path}: {error.strerror or error}{hint}"


def connection_failure(error: BaseException) -> str:
    """Return why a connection failed, in words for people; aiohttp wraps the cause as ``os_error``."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return str(cause) or type(cause).__name__
