"""The CA's private key in a PKCS #11 token (a smart card or an HSM), found by its URI (RFC 7512).

    pkcs11:token=re6st;object=ca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/re6st/pin

The module is the token's driver and runs inside this process, in threads of its own: SoftHSM leaves errors
behind in OpenSSL's queue, of which each thread has one, and Python's ssl takes what it finds there for its
own failure. It is used for one signature at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from re6st.errors import ConfigError, StorageError
from re6st.registry.held_key import HeldKey

if TYPE_CHECKING:
    import pkcs11

_Result = TypeVar("_Result")


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
    """A key in a token.

    The token may hold several keys of the same label, while one CA takes over from another for example: the
    one that belongs to the public key signs.
    """

    def __init__(self, uri: TokenUri, public_key: ec.EllipticCurvePublicKey) -> None:
        """Use the private key of ``public_key`` that is at ``uri``."""
        super().__init__(public_key)
        self._uri = uri
        self._session: pkcs11.Session | None = None
        self._key: pkcs11.SignMixin | None = None

    def sign_whole(self, data: bytes) -> bytes:
        """Return the signature of ``data``.

        Raises :class:`StorageError` when the token is away, or does not sign; the next time it is opened
        again. Raises :class:`ConfigError` without the library.
        """
        with _translated(self._uri, "sign with its key"):
            try:
                return _in_own_thread(lambda: self._sign(data))
            except BaseException:
                self._close()
                raise

    def _sign(self, data: bytes) -> bytes:
        import pkcs11

        if self._session is None:
            self._session = _open(self._uri)
        wanted = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY,
            pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.EC,
            pkcs11.Attribute.LABEL: self._uri.label,
        }
        keys = [self._key] if self._key is not None else list(self._session.get_objects(wanted))
        for key in keys:
            if isinstance(key, pkcs11.SignMixin):
                signature = _signature(key, data)
                if self._is_right(signature, data):
                    self._key = key
                    return signature
        raise StorageError(
            f"the token {self._uri.token} has {len(keys)} keys called {self._uri.label}, of which none"
            " belongs to the CA certificate: bring the CA's key into it under this label, or use its file"
            " without RE6ST_CA_TOKEN"
        )

    def _is_right(self, signature: bytes, data: bytes) -> bool:
        try:
            self.public_key().verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def _close(self) -> None:
        session, self._session, self._key = self._session, None, None
        if session is not None:
            from pkcs11.exceptions import PKCS11Error

            with contextlib.suppress(PKCS11Error):
                session.close()


def generate_in_token(uri: TokenUri) -> TokenKey:
    """Make another key with the label of ``uri`` in the token, which never leaves it (EC P-256).

    Raises :class:`StorageError`, :class:`ConfigError`.
    """
    with _translated(uri, "make a key"):
        key = _in_own_thread(lambda: _generate(uri))
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StorageError(f"the token {uri.token} made a key of a foreign kind")
    return TokenKey(uri, key)


def _generate(uri: TokenUri) -> object:
    import pkcs11
    from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

    with contextlib.closing(_open(uri, writable=True)) as session:
        curve = session.create_domain_parameters(
            pkcs11.KeyType.EC,
            {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
            local=True,
        )
        public, _private = curve.generate_keypair(
            id=secrets.token_bytes(8),
            label=uri.label,
            store=True,
            private_template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
        )
        return serialization.load_der_public_key(encode_ec_public_key(public))


def _in_own_thread(work: Callable[[], _Result]) -> _Result:
    with ThreadPoolExecutor(1, "token") as driver:
        return driver.submit(work).result()


def _signature(key: pkcs11.SignMixin, data: bytes) -> bytes:
    import pkcs11

    raw = key.sign(hashlib.sha256(data).digest(), mechanism=pkcs11.Mechanism.ECDSA)
    # The token gives both numbers one after the other (PKCS #11, 6.3.1), certificates have them in DER.
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def _open(uri: TokenUri, *, writable: bool = False) -> pkcs11.Session:
    import pkcs11
    from pkcs11.exceptions import UserAlreadyLoggedIn

    token = pkcs11.lib(str(uri.module)).get_token(token_label=uri.token)
    pin = uri.pin.read_text().partition("\n")[0].rstrip("\r") if uri.pin is not None else None
    try:
        return token.open(rw=writable, user_pin=pin)
    except UserAlreadyLoggedIn:
        # Who logs in does so for the whole process, and another key of ours was first.
        return token.open(rw=writable)


@contextlib.contextmanager
def _translated(uri: TokenUri, what: str) -> Iterator[None]:
    """Tell errors of the token in our own terms; ``what`` is what it should do."""
    try:
        from pkcs11.exceptions import PKCS11Error
    except ImportError as error:
        raise ConfigError(
            "a CA's key in a token needs python-pkcs11: install re6st[pkcs11] with pip"
        ) from error
    try:
        yield
    except (PKCS11Error, OSError, RuntimeError) as error:
        raise StorageError(
            f"the token {uri.token} does not {what} {uri.label} ({str(error) or type(error).__name__}): is it"
            " there, are module and PIN right?"
        ) from error
