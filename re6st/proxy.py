"""The HTTP proxy through which a node reaches others where nothing else is let out (RFC 9110, 9.3.6)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path

from re6st.errors import ConfigError, file_failure

_URL = re.compile(r"http://(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>[0-9]{1,5})/?")
_LONGEST_FILE = 1024
_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is, and how this node proves that it may use it."""

    host: str
    port: int
    credentials: Path | None = None
    """The file that holds user and password, for programs that read it themselves."""
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """As it was configured."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def headers(self) -> dict[str, str]:
        """Return what proves that we may use it (RFC 7617)."""
        if not self.user:
            return {}
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {pair}"}


def parse_url(url: str) -> tuple[str, int]:
    """Return host and port of ``http://HOST:PORT``. Raises :class:`ConfigError`."""
    match = _URL.fullmatch(url)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ConfigError(f"{url!r} is no proxy: it must be http://HOST:PORT, without user and password")
    return match["host"].strip("[]"), int(match["port"])


def load_proxy(url: str, credentials: Path | None) -> Proxy | None:
    """Return the proxy at ``url``, with user and password from the first two lines of a file if one is given.

    None if ``url`` is empty. Raises :class:`ConfigError`, also when others may read the file.
    """
    if not url:
        return None
    host, port = parse_url(url)
    if credentials is None:
        return Proxy(host, port)
    try:
        if credentials.stat().st_mode & _OTHERS:
            raise ConfigError(f"{credentials} holds a password that others may read: chmod 600 {credentials}")
        with credentials.open() as file:
            lines = file.read(_LONGEST_FILE).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the credentials for the proxy: {file_failure(error, credentials)}"
        ) from error
    if len(lines) < 2 or not lines[0] or ":" in lines[0]:
        raise ConfigError(f"{credentials} must have the user in line 1 and the password in line 2")
    return Proxy(host, port, credentials, lines[0], lines[1])
