"""Network parameters on the operator's side: first values, changes, and what is sound.

A mistake here reaches the whole network at once, so parameters are checked before they are signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

import msgspec
from msgspec import Struct

from re6st.errors import ConfigError, RemoteProtocolError
from re6st.identity import TrustStore, fingerprint, format_time
from re6st.messages import LanKeyPeriod, NetworkParameters, decode, encode
from re6st.prefix import parse_network
from re6st.registry.assignments import convert
from re6st.registry.links import parse_registry_url

BABEL_PORTS = range(16384, 32768)
"""UDP ports from which that of babel is chosen: below the ephemeral ones, above the registered services."""

LONGEST_UPDATE_INTERVAL = 50.0
"""Seconds: babeld holds routes 3.5 times as long, which must be less than 200 s."""

FIXED = ("version", "network", "babel_port", "authorities", "lan_keys")
"""Not for operators to set: another port would split the network; CAs and keys have commands of their own."""


_WHY_FIXED = {
    "version": "cannot be set; it grows with each change",
    "network": "cannot be set; another network has to be founded with init",
    "babel_port": "cannot be set; nodes with the old port and with the new one would not hear each other",
    "authorities": "cannot be set; see re6st-registry authority",
    "lan_keys": "cannot be set; see re6st-registry lan-key",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A parameter that two versions do not agree on, with its values as texts."""

    key: str
    before: str
    after: str


def format_value(value: object) -> str:
    """Return a value of a parameter as operators write it; certificates and keys by their fingerprints."""
    if isinstance(value, tuple) and any(isinstance(part, LanKeyPeriod) for part in value):
        return ",".join(f"{part.digest.hex()[:16]} from {format_time(part.since)}" for part in value)
    if isinstance(value, tuple) and any(isinstance(part, bytes) for part in value):
        return ",".join(fingerprint(part) for part in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def differences(before: Struct, after: Struct) -> tuple[Difference, ...]:
    """Return in which parameters, the version aside, ``after`` differs from ``before`` (of the same type)."""
    names = [field.name for field in msgspec.structs.fields(type(before)) if field.name != "version"]
    return tuple(
        Difference(name, format_value(getattr(before, name)), format_value(getattr(after, name)))
        for name in names
        if getattr(before, name) != getattr(after, name)
    )


def choose_babel_port(network: IPv6Network, authority_fingerprint: str) -> int:
    """Return the UDP port of babel for a new network.

    It depends on prefix and CA, so that two networks with nodes on one host hardly ever share it.
    """
    digest = hashlib.sha256(f"{network} {authority_fingerprint}".encode()).digest()
    return BABEL_PORTS[int.from_bytes(digest[:8]) % len(BABEL_PORTS)]


def first_parameters(
    network: IPv6Network, authority_fingerprint: str, registry_urls: Sequence[str] = ()
) -> NetworkParameters:
    """Return the parameters of a new network. Raises :class:`ConfigError` for an invalid URL."""
    parameters = NetworkParameters(
        version=1,
        network=str(network),
        registry_urls=tuple(str(parse_registry_url(url)) for url in registry_urls),
        babel_port=choose_babel_port(network, authority_fingerprint),
    )
    check_parameters(parameters, network)
    return parameters


def change_parameters(
    parameters: NetworkParameters, changes: Mapping[str, str], network: IPv6Network
) -> NetworkParameters:
    """Return the next version of ``parameters`` with ``changes`` (texts as typed by the operator).

    Lists are separated by commas. Raises :class:`ConfigError` that names every mistake.
    """
    accepted = convert(parameters, changes, "network parameters", _WHY_FIXED)
    accepted["version"] = parameters.version + 1
    changed = msgspec.structs.replace(parameters, **accepted)
    check_parameters(changed, network)
    return changed


def check_parameters(parameters: NetworkParameters, network: IPv6Network) -> None:
    """Raise :class:`ConfigError` unless ``parameters`` are sound for ``network``."""
    try:
        decode(encode(parameters), NetworkParameters)
    except RemoteProtocolError as error:
        raise ConfigError(f"network parameters: {error}") from error
    if parse_network(parameters.network) != network:
        raise ConfigError(f"network parameters: the network is {network}, not {parameters.network}")
    if parameters.version < 1:
        raise ConfigError("network parameters: versions begin at 1")
    if parameters.update_interval < parameters.hello_interval:
        raise ConfigError("network parameters: update_interval must not be shorter than hello_interval")
    if parameters.update_interval > LONGEST_UPDATE_INTERVAL:
        raise ConfigError(
            f"network parameters: update_interval must not exceed {LONGEST_UPDATE_INTERVAL:g} seconds,"
            " or dead routes may come back as loops"
        )
    for url in parameters.registry_urls:
        parse_registry_url(url)
    if parameters.authorities and TrustStore(parameters.authorities).network != network:
        raise ConfigError("network parameters: the CA certificates are of another network")
