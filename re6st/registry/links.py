"""Registry URLs and join links: how they are written and read.

A join link is ``https://HOST:PORT/#ca=<fingerprint>&token=<token>``. What follows the ``#`` never travels.
One without a token is for all who want to ask the registry to be let in.
A registry behind a public host name may show a public certificate instead of one of the network's CA; its
URL is then marked ``#tls=public``, in join links, in configuration and in network parameters.

Where a network has several registries, a link names the others behind the token: ``&also=HOST:PORT``, or
``&also-public=HOST:PORT`` for one with a public certificate. Who does not know these keys passes over them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlsplit

from re6st.errors import ConfigError

MOST_ALTERNATIVES = 7
"""Further URLs that a join link may name."""

_ALTERNATIVES = {"also": False, "also-public": True}
"""What a further URL is called in a join link, and whether its certificate is public."""


@dataclass(frozen=True, slots=True)
class RegistryUrl:
    """Where the registry is, and which kind of certificate proves it."""

    base: str
    """``https://HOST[:PORT]``, without path."""
    public: bool = False
    """Its certificate is a public one for HOST, not one of the network's CA."""

    def __str__(self) -> str:
        return f"{self.base}/#tls=public" if self.public else self.base


def parse_registry_url(text: str) -> RegistryUrl:
    """Return the registry URL ``https://HOST[:PORT][/][#tls=public]``. Raises :class:`ConfigError`."""
    base, fragment = _split(text, "registry URL")
    if fragment not in ("", "tls=public"):
        raise ConfigError(f"{text!r}: the only fragment that a registry URL can have is #tls=public")
    return RegistryUrl(base, public=bool(fragment))


def _split(text: str, what: str) -> tuple[str, str]:
    """Return base URL and fragment of ``text``. Raises :class:`ConfigError` that calls it ``what``."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"not a valid {what}: {error}") from error
    if parts.scheme != "https":
        raise ConfigError(f"not a valid {what}: it does not begin with https://")
    if not host or re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host) is None:
        raise ConfigError(f"not a valid {what}: it names no host")
    if parts.username is not None or parts.path not in ("", "/") or parts.query:
        raise ConfigError(f"not a valid {what}: only https://HOST:PORT/ and a fragment are possible")
    shown = f"[{host}]" if ":" in host else host
    return f"https://{shown}" + (f":{port}" if port is not None else ""), parts.fragment


@dataclass(frozen=True, slots=True)
class JoinLink:
    """Everything that a machine needs to join a network.

    ``https://HOST:PORT/#ca=<64 hexadecimal digits>[&token=<token>][&tls=public][&also=HOST:PORT]...``
    """

    url: RegistryUrl
    fingerprint: str
    """SHA-256 of the CA certificate, 64 lower-case hexadecimal digits."""
    token: str = field(default="", repr=False)
    """Empty for who has to ask."""
    alternatives: tuple[RegistryUrl, ...] = ()
    """Where else this registry can be reached, or another one of the network."""

    @property
    def urls(self) -> tuple[RegistryUrl, ...]:
        """All URLs, in the order in which to try them."""
        return (self.url, *self.alternatives)

    def __str__(self) -> str:
        token = f"&token={self.token}" if self.token else ""
        public = "&tls=public" if self.url.public else ""
        others = "".join(
            f"&{'also-public' if url.public else 'also'}={quote(url.base.removeprefix('https://'), safe=':')}"
            for url in self.alternatives
        )
        return f"{self.url.base}/#ca={self.fingerprint}{token}{public}{others}"

    @classmethod
    def parse(cls, text: str) -> JoinLink:
        """Return the join link written in ``text``. Raises :class:`ConfigError` that says what is wrong."""
        base, fragment = _split(text, "join link")
        if not fragment:
            raise ConfigError(
                "not a valid join link: the part from '#' on is missing; put the link in quotes on the"
                " command line ('https://...#ca=...&token=...')"
            )
        pairs = parse_qsl(fragment, keep_blank_values=True)
        values = dict(pairs)
        authority = values.get("ca", "").lower()
        if re.fullmatch(r"[0-9a-f]{64}", authority) is None:
            raise ConfigError(
                "not a valid join link: 'ca=' must be followed by the 64 hexadecimal digits of the CA's"
                " fingerprint; was the link copied as a whole?"
            )
        token = values.get("token")
        if token is not None and re.fullmatch(r"[A-Za-z0-9_-]{16,128}", token) is None:
            raise ConfigError(
                "not a valid join link: its token is malformed; was the link copied as a whole?"
            )
        if values.get("tls", "public") != "public":
            raise ConfigError(f"not a valid join link: tls={values['tls']!r}, only tls=public is known")
        url = RegistryUrl(base, public="tls" in values)
        others = [_alternative(value, _ALTERNATIVES[key]) for key, value in pairs if key in _ALTERNATIVES]
        if len(others) > MOST_ALTERNATIVES:
            raise ConfigError(
                f"not a valid join link: it names more than {MOST_ALTERNATIVES} further registries"
            )
        known = tuple(dict.fromkeys(other for other in others if other != url))
        return cls(url, authority, token or "", known)


def _alternative(place: str, public: bool) -> RegistryUrl:
    base, fragment = _split(f"https://{place}", "join link")
    if fragment:
        raise ConfigError("not a valid join link: 'also=' must be followed by HOST:PORT only")
    return RegistryUrl(base, public)
