"""Where the registry's tables are: in a file of SQLite or in a database of PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from re6st.errors import ConfigError

SCHEMES = ("postgresql", "postgres")


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """A connection URI without a password (libpq, 34.1.1.2)."""

    text: str

    def __str__(self) -> str:
        return self.text


Place = Path | PostgresqlUrl


def parse_place(text: str) -> Place:
    """Return the place that ``text`` names: an absolute path, ``sqlite:///PATH`` or ``postgresql://...``.

    Raises :class:`ConfigError`.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise _unknown(text) from error
    if parts.scheme in SCHEMES and "://" in text:
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise ConfigError(
                "the URL of the store must not contain a password, since others can see it: put it into a"
                " password file (PGPASSFILE), a service file, or a credential of systemd"
            )
        return PostgresqlUrl(text)
    if parts.scheme == "sqlite" and not parts.netloc and parts.path.startswith("/"):
        return Path(unquote(parts.path))
    if text.startswith("/"):
        return Path(text)
    raise _unknown(text)


def _unknown(text: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is not a place for the registry's tables, such as postgresql://HOST/DATABASE or an"
        " absolute path"
    )
