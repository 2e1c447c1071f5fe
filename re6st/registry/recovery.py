"""Use cases around backups: what a registry that went back in time does about what it does not know.

Certificates that were issued after the backup are unknown to the restored database, but their holders are
members all the same: the CA signed them, and nobody else can. When such a node comes, the registry *adopts*
it, so that its prefix is not given to somebody else and its certificate can be revoked. It is adopted only if
it can be true: the certificate is younger than the backup, and its prefix is free or was the same node's.
What was revoked after the backup may come back that way; the audit log tells of each adoption.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from re6st.errors import UntrustedError
from re6st.identity import NodeCertificate, public_key_digest
from re6st.messages import NetworkParameters
from re6st.registry.authority import CLOCK_TOLERANCE
from re6st.registry.configuration import ParameterUseCases, put_parameters
from re6st.registry.store import CertificateRow, NodeRow
from re6st.registry.tokens import TokenUseCases

SETTING_BACKUP_TIME = "backup-time"
"""When the last backup was made."""

SETTING_RESTORED = "restored-from"
"""When the backup was made from which this database was restored."""


class RecoveryUseCases(TokenUseCases, ParameterUseCases):
    """Making backups, and living on with an old one."""

    def note_backup(self, file: str, with_keys: bool) -> None:
        """Write down that a backup is made."""
        with self._store.transaction():
            self._store.set_setting(SETTING_BACKUP_TIME, str(self._clock()))
            self._log("registry.backed-up", file, with_keys=with_keys)

    def advance_documents(self, parameters: NetworkParameters, revocations_version: int) -> None:
        """After a backup was restored: continue with these versions, which are newer than all known ones."""
        with self._store.transaction():
            put_parameters(self._store, self._authority, parameters, self._clock())
            self._list_revocations(revocations_version)
            self._store.set_setting(SETTING_RESTORED, self._store.setting(SETTING_BACKUP_TIME) or "0")
            self._log("registry.restored", "", parameters=parameters.version, revocations=revocations_version)

    def _adopt(self, certificate: NodeCertificate) -> tuple[CertificateRow, NodeRow] | None:
        """Take over a node with a valid certificate that was issued after the backup.

        Returns None when nothing was lost. Raises :class:`UntrustedError` when somebody else has its prefix.
        """
        restored = self._store.setting(SETTING_RESTORED)
        issued = certificate.not_before + CLOCK_TOLERANCE
        # Times in certificates are whole seconds.
        if restored is None or issued + 1 < float(restored):
            return None
        with self._store.transaction():
            node = self._store.member_at(certificate.prefix)
            if node is not None and node.created > float(restored):
                raise self._lost(certificate)
            if node is None:
                node = self._admit_again(certificate, issued)
            key = x509.load_der_x509_certificate(certificate.der).public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise UntrustedError(f"the certificate of {certificate.name} is for a key of a foreign kind")
            row = CertificateRow(
                serial=certificate.serial_hex,
                node=node.identifier,
                der=certificate.der,
                key_digest=public_key_digest(key),
                issued=issued,
                expires=certificate.not_after,
                revoked=None,
            )
            self._store.add_certificate(row)
            self._log("node.adopted", node.name, prefix=node.prefix, serial=row.serial)
            return row, node

    def _admit_again(self, certificate: NodeCertificate, issued: float) -> NodeRow:
        overlapping = self._store.holders(certificate.prefix, certificate.name)
        if self._store.member(certificate.name) is not None or any(
            lease.released is None for lease in overlapping
        ):
            raise self._lost(certificate)
        node = self._store.add_node(certificate.name, certificate.prefix, self._clock())
        for prefix in certificate.further:
            if not self._store.holders(prefix, certificate.name):
                # It was given before: this certificate names it.
                self._store.add_further(node.identifier, prefix, issued)
        return node

    def _lost(self, certificate: NodeCertificate) -> UntrustedError:
        return UntrustedError(
            f"the registry was restored from a backup that does not know {certificate.name}, and its name or"
            f" prefix {certificate.prefix} was given to somebody else since: ask the operator for a new join"
            " link and join again with --force"
        )
