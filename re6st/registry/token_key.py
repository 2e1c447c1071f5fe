"""The CA's private key in a PKCS #11 token (a smart card or an HSM), found by its URI (RFC 7512).

    pkcs11:token=re6st;object=ca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/re6st/pin

The module is the token's driver and runs inside this process. It is used for one signature at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from re6st.errors import ConfigError, StorageError
from re6st.registry.held_key import HeldKey

if TYPE_CHECKING:
    import pkcs11


@dataclass(frozen=True, slots=True)
class TokenUri:
    """Which key in which token."""

    token: str
    """Label of the token."""
    label: str
    """Label of the key."""
    module: Path
    """The driver, a shared library."""
    pin: Path | None
    """File whose first line is the PIN; None where the token asks by itself."""


def parse_token_uri(text: str) -> TokenUri:
    """Return what the PKCS #11 URI ``text`` says. Raises :class:`ConfigError`."""
    path, _, query = text.removeprefix("pkcs11:").partition("?")
    pairs = [item.partition("=") for item in [*path.split(";"), *query.split("&")] if item]
    given = {key: unquote(value) for key, _, value in pairs}
    unknown = given.keys() - {"token", "object", "type", "module-path", "pin-source"}
    if not text.startswith("pkcs11:") or unknown or not {"token", "object", "module-path"} <= given.keys():
        raise ConfigError(
            "the URI of the CA's key must look like pkcs11:token=LABEL;object=LABEL?module-path=FILE"
            "&pin-source=file:FILE; a PIN itself belongs into a file"
        )
    pin = given.get("pin-source")
    return TokenUri(
        given["token"],
        given["object"],
        Path(given["module-path"]),
        Path(pin.removeprefix("file:")) if pin is not None else None,
    )


class TokenKey(HeldKey):
    """A key in a token."""

    def __init__(self, uri: TokenUri, certificate: bytes) -> None:
        """Use the key of ``certificate`` (DER) that is at ``uri``. Raises :class:`UntrustedError`."""
        super().__init__(certificate)
        self._uri = uri
        self._session: pkcs11.Session | None = None

    def sign_whole(self, data: bytes) -> bytes:
        """Return the signature of ``data``.

        Raises :class:`StorageError` when the token is away, or does not sign; the next time it is opened
        again. Raises :class:`ConfigError` without the library.
        """
        try:
            import pkcs11
            from pkcs11.exceptions import PKCS11Error
        except ImportError as error:
            raise ConfigError(
                "a CA's key in a token needs python-pkcs11: install re6st[pkcs11] with pip"
            ) from error
        try:
            key = self._open().get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=self._uri.label)
            if not isinstance(key, pkcs11.SignMixin):
                raise StorageError(f"the key {self._uri.label} in the token {self._uri.token} cannot sign")
            raw = key.sign(hashlib.sha256(data).digest(), mechanism=pkcs11.Mechanism.ECDSA)
        except (PKCS11Error, OSError, RuntimeError) as error:
            self._close()
            raise StorageError(
                f"the token {self._uri.token} does not sign with its key {self._uri.label}"
                f" ({str(error) or type(error).__name__}): is it there, are"
                " module and PIN right?"
            ) from error
        # The token gives both numbers one after the other (PKCS #11, 6.3.1), certificates have them in DER.
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def _open(self) -> pkcs11.Session:
        if self._session is None:
            import pkcs11
            from pkcs11.exceptions import UserAlreadyLoggedIn

            token = pkcs11.lib(str(self._uri.module)).get_token(token_label=self._uri.token)
            pin = None
            if self._uri.pin is not None:
                pin = self._uri.pin.read_text().partition("\n")[0].rstrip("\r")
            try:
                self._session = token.open(user_pin=pin)
            except UserAlreadyLoggedIn:
                # Who logs in does so for the whole process, and another key of ours was first.
                self._session = token.open()
        return self._session

    def _close(self) -> None:
        from pkcs11.exceptions import PKCS11Error

        session, self._session = self._session, None
        with contextlib.suppress(PKCS11Error):
            if session is not None:
                session.close()
