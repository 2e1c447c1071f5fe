"""Use cases around the key of the LANs, by which members are told from strangers there (RFC 8967)."""

from __future__ import annotations

import secrets

import msgspec

from re6st.errors import RegistryRefusedError
from re6st.identity import format_time
from re6st.lan_keys import KEY_LENGTH, digest, recognised
from re6st.messages import LanKeyPeriod, LanKeys, decode, encode
from re6st.registry.configuration import ParameterUseCases
from re6st.registry.store import Store

SETTING_LAN_KEYS = "lan-keys"


class LanKeyUseCases(ParameterUseCases):
    """The key itself is in the store; the network parameters name its digest only."""

    def lan_keys(self) -> LanKeys:
        """Return the keys that are in force, or will be, for members only."""
        known = recognised(self.current_parameters().lan_keys, _stored(self._store).keys)
        return LanKeys(keys=tuple(known.values()))

    def rotate_lan_key(self, delay: float) -> LanKeyPeriod:
        """Make a new key, which all nodes use ``delay`` seconds from now on. The very first is used at once.

        Raises :class:`RegistryRefusedError` with the code ``lan-key-pending``.
        """
        with self._store.transaction():
            now, before = self._clock(), self.current_parameters()
            begun = sorted((one for one in before.lan_keys if one.since <= now), key=lambda one: one.since)
            if len(begun) < len(before.lan_keys):
                due = format_time(max(one.since for one in before.lan_keys))
                raise RegistryRefusedError(
                    f"a new key is on its way to all nodes: it is in force from {due} on",
                    code="lan-key-pending",
                )
            key = secrets.token_bytes(KEY_LENGTH)
            period = LanKeyPeriod(digest=digest(key), since=now + delay if begun else now)
            after = msgspec.structs.replace(
                before, version=before.version + 1, lan_keys=(*begun[-1:], period)
            )
            kept = recognised(after.lan_keys, (*_stored(self._store).keys, key))
            keep_lan_keys(self._store, LanKeys(keys=tuple(kept.values())))
            self._put(before, after, "lan-key.rotated")
        return period


def keep_lan_keys(store: Store, keys: LanKeys) -> None:
    """Store ``keys``, inside a transaction."""
    store.set_setting(SETTING_LAN_KEYS, encode(keys).decode())


def _stored(store: Store) -> LanKeys:
    text = store.setting(SETTING_LAN_KEYS)
    return decode(text.encode(), LanKeys) if text else LanKeys()
