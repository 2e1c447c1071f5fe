"""The registry's state directory: how it is made, opened, and its server certificate kept fresh.

ca.pem            CA certificate
ca-key.pem        its private key (0600), perhaps encrypted: whoever has it is the network
ca-new.pem        key and certificate of the CA that takes over (0600), while it does; the certificate only
                  where another process signs
server.pem        key and certificate of the HTTPS server (0600), in one file so that they always match
registry.sqlite3  everything else (0600), unless
store.url         says that it is elsewhere, in PostgreSQL
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path
from urllib.parse import quote

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from re6st.errors import ConfigError, StorageError
from re6st.files import write_atomically
from re6st.identity import (
    authority_network,
    der_to_pem,
    generate_key,
    is_encrypted,
    key_to_pem,
    load_certificate,
    load_key,
)
from re6st.lan_keys import KEY_LENGTH, digest
from re6st.messages import LanKeyPeriod, LanKeys
from re6st.registry.authority import NODE_VALIDITY, SERVER_VALIDITY, Authority, build_authority
from re6st.registry.configuration import start_documents
from re6st.registry.held_key import HeldKey, certified_key
from re6st.registry.lan_keys import keep_lan_keys
from re6st.registry.parameters import first_parameters
from re6st.registry.place import Place, PostgresqlUrl, parse_place
from re6st.registry.remote_key import RemoteKey
from re6st.registry.service import Service
from re6st.registry.store import Store
from re6st.registry.token_key import TokenKey, generate_in_token, parse_token_uri
from re6st.registry.usecases import QUARANTINE, SETTING_QUARANTINE, SETTING_VALIDITY, SYSTEM, Actor

DEFAULT_STATE = Path("/var/lib/re6st-registry")

PASSPHRASE_VARIABLE = "RE6ST_CA_PASSPHRASE_FILE"  # noqa: S105 - not a secret
"""Environment variable with the name of a file that holds the passphrase of the CA's key."""

PASSPHRASE_CREDENTIAL = "re6st-ca-passphrase"  # noqa: S105 - not a secret
"""Name of the same as a credential of systemd (systemd.exec(5), LoadCredential=)."""


SIGNER_VARIABLE = "RE6ST_CA_SIGNER"
"""Environment variable with the socket of the process that holds the CA's key (re6st-registry signer)."""


TOKEN_VARIABLE = "RE6ST_CA_TOKEN"  # noqa: S105 - not a secret
"""Environment variable of the signing process with the PKCS #11 URI of the CA's key in a token."""


def passphrase_file(environment: Mapping[str, str]) -> Path | None:
    """Return where the passphrase of the CA's key is, None if nobody has said."""
    if PASSPHRASE_VARIABLE in environment:
        return Path(environment[PASSPHRASE_VARIABLE])
    directory = environment.get("CREDENTIALS_DIRECTORY")
    credential = Path(directory) / PASSPHRASE_CREDENTIAL if directory else None
    return credential if credential is not None and credential.exists() else None


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Paths in a state directory."""

    path: Path
    ask: Callable[[], bytes] | None = None
    """Asks the person at the terminal for the passphrase of the CA's key."""

    @property
    def authority_certificate(self) -> Path:
        """The CA certificate."""
        return self.path / "ca.pem"

    @property
    def authority_key(self) -> Path:
        """The CA's private key."""
        return self.path / "ca-key.pem"

    @property
    def new_authority(self) -> Path:
        """Key and certificate of the CA that takes over."""
        return self.path / "ca-new.pem"

    @property
    def signed_versions(self) -> Path:
        """The highest versions of documents that the signing process has signed."""
        return self.path / "signed-versions.json"

    @property
    def server(self) -> Path:
        """Key and certificate of the HTTPS server."""
        return self.path / "server.pem"

    @property
    def database(self) -> Path:
        """The database."""
        return self.path / "registry.sqlite3"

    @property
    def place_file(self) -> Path:
        """Where it is written down that the database is elsewhere."""
        return self.path / "store.url"

    @property
    def place(self) -> Place:
        """Where the database is. Raises :class:`StorageError`, :class:`ConfigError`."""
        try:
            return parse_place(self.place_file.read_text())
        except FileNotFoundError:
            return self.database
        except (OSError, UnicodeError) as error:
            raise StorageError(f"cannot read {self.place_file}: {error}") from error

    def keep_place(self, place: Place) -> None:
        """Write down where the database is. Raises :class:`StorageError`."""
        if place != self.database:
            text = str(place) if isinstance(place, PostgresqlUrl) else f"sqlite://{quote(str(place))}"
            write_atomically(self.place_file, f"{text}\n".encode(), 0o600)

    def create(
        self,
        network: IPv6Network,
        urls: Sequence[str] = (),
        *,
        place: Place | None = None,
        now: float | None = None,
        node_validity: float = NODE_VALIDITY,
        quarantine: float = QUARANTINE,
    ) -> None:
        """Make a new network with its CA here; times in seconds (since the epoch; now by default).

        The database is made at ``place``, by default here, too.

        Raises :class:`ConfigError` when something is here already, :class:`StorageError`.
        """
        now = time.time() if now is None else now
        key = generate_key()
        authority = Authority(build_authority(key, network, now), key)
        lan_key = secrets.token_bytes(KEY_LENGTH)
        parameters = msgspec.structs.replace(
            first_parameters(network, authority.fingerprint, urls),
            lan_keys=(LanKeyPeriod(digest=digest(lan_key), since=now),),
        )
        self.prepare()
        try:
            write_atomically(self.authority_key, key_to_pem(key), 0o600)
            write_atomically(self.authority_certificate, der_to_pem(authority.certificate), 0o644)
            self._issue_server(authority, now)
            self.keep_place(place or self.database)
            with Store.create(self.place) as store:
                with store.transaction():
                    store.set_setting(SETTING_VALIDITY, str(node_validity))
                    store.set_setting(SETTING_QUARANTINE, str(quarantine))
                    keep_lan_keys(store, LanKeys(keys=(lan_key,)))
                start_documents(store, authority, parameters, now)
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        """Leave a directory that was empty as it was, so that the same can be tried again."""
        for path in self.path.iterdir():
            with contextlib.suppress(OSError):
                path.unlink()

    def prepare(self) -> None:
        """Make the directory (0700), or take an empty one.

        Raises :class:`ConfigError` when there is something in it, :class:`StorageError`.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise ConfigError(
                    f"{self.path} is not empty: nothing in it is overwritten; choose another directory"
                    " (--state) or move that one away"
                )
            self.path.chmod(0o700)
        except OSError as error:
            raise StorageError(f"cannot make the state directory {self.path}: {error.strerror}") from error

    def authority(self) -> Authority:
        """Return the CA, and the one that takes over from it, if any.

        Raises :class:`ConfigError`, :class:`StorageError` or :class:`UntrustedError`.
        """
        try:
            exists = self.authority_certificate.exists()
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}; run as its owner") from error
        if not exists:
            raise ConfigError(
                f"{self.path} holds no registry: make one with re6st-registry --state {self.path} init"
                " --network PREFIX"
            )
        new = self.load_new_authority()
        certificate = load_certificate(self.authority_certificate)
        if SIGNER_VARIABLE in os.environ:
            if new is not None and new.certificate == certificate:
                return new  # it was just taking the other's place
            return Authority(certificate, RemoteKey(Path(os.environ[SIGNER_VARIABLE]), certificate), new)
        key = self._load_key(self.authority_key)
        if new is not None and new.key.public_key() == key.public_key():
            return new  # it was just taking the other's place
        return Authority(certificate, key, new)

    def signing_authority(self) -> Authority:
        """Return the CA for the signing process, its key here or in a token. Raises as :meth:`authority`.

        Only that process loads the driver of a token, which may disturb others: a driver that uses OpenSSL
        leaves errors behind that Python's TLS then takes for its own.
        """
        if TOKEN_VARIABLE not in os.environ:
            return self.authority()
        certificate = load_certificate(self.authority_certificate)
        new = self.load_new_authority()
        if new is not None and new.certificate == certificate:
            return new  # it was just taking the other's place
        key = TokenKey(parse_token_uri(os.environ[TOKEN_VARIABLE]), certified_key(certificate))
        return Authority(certificate, key, new)

    def load_new_authority(self) -> Authority | None:
        """Return the CA that takes over, None without one. Raises as :meth:`authority`."""
        if not self.new_authority.exists():
            return None
        certificate = load_certificate(self.new_authority)
        if SIGNER_VARIABLE in os.environ:
            return Authority(certificate, RemoteKey(Path(os.environ[SIGNER_VARIABLE]), certificate))
        if TOKEN_VARIABLE in os.environ and b"PRIVATE KEY-----" not in self.new_authority.read_bytes():
            uri = parse_token_uri(os.environ[TOKEN_VARIABLE])
            return Authority(certificate, TokenKey(uri, certified_key(certificate)))
        return Authority(certificate, self._load_key(self.new_authority))

    def take_new_authority(self, certificate: bytes, network: IPv6Network) -> None:
        """Let the CA ``certificate`` (DER) be the one that takes over, whose key a signing process holds.

        Raises :class:`ConfigError` when there is no such process or the CA is not one of ``network``,
        :class:`UntrustedError`, :class:`StorageError`.
        """
        if SIGNER_VARIABLE not in os.environ:
            raise ConfigError(f"a CA is made here unless a signing process holds the key ({SIGNER_VARIABLE})")
        if authority_network(certificate) != network:
            raise ConfigError(f"the new CA must be for the network {network}")
        write_atomically(self.new_authority, der_to_pem(certificate), 0o600)

    def make_new_authority(self, network: IPv6Network, now: float) -> Authority:
        """Return the CA that takes over, a new one unless there is one already."""
        present = self.load_new_authority()
        if present is not None:
            return present
        if SIGNER_VARIABLE in os.environ:
            raise ConfigError(
                "the signing process holds the CA's key, and has to hold the new one: make it there with"
                " re6st-registry --state DIRECTORY authority make > ca-new.crt, restart the process, and"
                " give the certificate here with --certificate ca-new.crt"
            )
        if TOKEN_VARIABLE in os.environ:
            held = generate_in_token(parse_token_uri(os.environ[TOKEN_VARIABLE]))
            authority = Authority(build_authority(held, network, now), held)
            write_atomically(self.new_authority, der_to_pem(authority.certificate), 0o600)
            return authority
        key = generate_key()
        authority = Authority(build_authority(key, network, now), key)
        self._write_new_authority(authority, self._passphrase() if self._protects_key() else None)
        return authority

    def _write_new_authority(self, authority: Authority, passphrase: bytes | None) -> None:
        pem = key_to_pem(authority.key, passphrase) + der_to_pem(authority.certificate)
        write_atomically(self.new_authority, pem, 0o600)

    def _protects_key(self) -> bool:
        """Return whether new keys here need a passphrase, which they do not beside one in a token."""
        return self.authority_key.exists() and self.is_encrypted()

    def is_encrypted(self) -> bool:
        """Return whether the CA's key needs a passphrase. Raises :class:`StorageError`."""
        try:
            return is_encrypted(self.authority_key.read_bytes())
        except OSError as error:
            raise StorageError(f"cannot read {self.authority_key}: {error.strerror}") from error

    def encrypt(self, passphrase: bytes | None) -> None:
        """Encrypt the keys of all CAs here with ``passphrase``, or decrypt them without one.

        Raises :class:`StorageError`, :class:`ConfigError` or :class:`UntrustedError`.
        """
        new = self.load_new_authority()
        key = self._load_key(self.authority_key)
        if new is not None:
            self._write_new_authority(new, passphrase)
        write_atomically(self.authority_key, key_to_pem(key, passphrase), 0o600)

    def _load_key(self, path: Path) -> ec.EllipticCurvePrivateKey:
        try:
            encrypted = is_encrypted(path.read_bytes())
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        return load_key(path, self._passphrase() if encrypted else None)

    def _passphrase(self) -> bytes:
        """Return the passphrase of the CA's key. Raises :class:`ConfigError`, :class:`StorageError`."""
        file = passphrase_file(os.environ)
        if file is not None:
            try:
                passphrase = file.read_bytes().rstrip(b"\r\n")
            except OSError as error:
                raise StorageError(f"cannot read the passphrase of the CA's key: {error}") from error
        else:
            passphrase = self.ask() if self.ask is not None else b""
        if not passphrase:
            raise ConfigError(
                f"the CA's key {self.authority_key} is encrypted: name a file with its passphrase in"
                f" {PASSPHRASE_VARIABLE}, or let systemd provide it"
                f" (LoadCredential={PASSPHRASE_CREDENTIAL}:FILE)"
            )
        return passphrase

    def keep_new_authority(self) -> None:
        """Let the CA that took over be the only one; may be repeated. Raises :class:`StorageError`."""
        new = self.load_new_authority()
        if new is not None:
            # The key first: certificate and new CA tell then that this was under way.
            if not isinstance(new.key, HeldKey):
                passphrase = self._passphrase() if self._protects_key() else None
                write_atomically(self.authority_key, key_to_pem(new.key, passphrase), 0o600)
            write_atomically(self.authority_certificate, der_to_pem(new.certificate), 0o644)
            self.new_authority.unlink(missing_ok=True)

    @contextlib.contextmanager
    def service(self, actor: Actor = SYSTEM) -> Iterator[Service]:
        """Open the registry here for ``actor``. Raises as :meth:`authority` and :meth:`Store.open`."""
        authority = self.authority()
        with Store.open(self.place) as store:
            yield Service(store, authority, actor=actor, reload=self.authority)

    def refresh_server(self, authority: Authority, now: float) -> bool:
        """Renew the server's certificate when a third of its time is left, or it is not usable at all.

        Returns whether it was renewed. Raises :class:`StorageError`.
        """
        if self._server_time_left(authority, now) > SERVER_VALIDITY / 3:
            return False
        self._issue_server(authority, now)
        return True

    def _server_time_left(self, authority: Authority, now: float) -> float:
        """Return for how many seconds the server's certificate is still good, 0 if it is not at all."""
        try:
            certificate = x509.load_pem_x509_certificate(self.server.read_bytes())
            certificate.verify_directly_issued_by(x509.load_der_x509_certificate(authority.certificate))
        except (OSError, ValueError, TypeError, InvalidSignature):
            return 0.0
        return certificate.not_valid_after_utc.timestamp() - now

    def _issue_server(self, authority: Authority, now: float) -> None:
        key = generate_key()
        certificate = authority.issue_server(key.public_key(), now)
        write_atomically(self.server, key_to_pem(key) + der_to_pem(certificate), 0o600)
