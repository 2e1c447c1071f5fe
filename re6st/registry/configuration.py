"""Use cases around the signed documents: network parameters with their history, and revocations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from re6st.errors import ConfigError, RegistryRefusedError, StorageError
from re6st.identity import CONTEXT_PARAMETERS, CONTEXT_REVOCATIONS
from re6st.messages import NetworkParameters, Revocations, SignedDocument, decode
from re6st.registry.authority import Authority
from re6st.registry.links import RegistryUrl, parse_registry_url
from re6st.registry.parameters import (
    FIXED,
    Difference,
    change_parameters,
    check_parameters,
    differences,
)
from re6st.registry.store import Store
from re6st.registry.usecases import UseCases

URLS_LENGTH = 600
"""Characters that a join link may take for URLs: it is a line of a mail (RFC 5322, 2.1.1), and a QR code."""


@dataclass(frozen=True, slots=True)
class ParametersVersion:
    """A version of the network parameters that is, or was, in force."""

    parameters: NetworkParameters
    created: float | None
    """When it was made; None for what was in force before the history was kept."""


class ParameterUseCases(UseCases):
    """The documents that spread through the whole network."""

    def parameters(self) -> SignedDocument:
        """Return the network parameters, signed."""
        return self._document(CONTEXT_PARAMETERS)

    def revocations(self) -> SignedDocument:
        """Return the revocations, signed."""
        return self._document(CONTEXT_REVOCATIONS)

    def revocations_version(self) -> int:
        """Return the version of the revocations."""
        return self._store.document_version(CONTEXT_REVOCATIONS)

    def documents(self) -> tuple[SignedDocument, SignedDocument]:
        """Return parameters and revocations, signed."""
        documents = self._store.documents(CONTEXT_PARAMETERS, CONTEXT_REVOCATIONS)
        for kind in (CONTEXT_PARAMETERS, CONTEXT_REVOCATIONS):
            if kind not in documents:
                raise self._missing(kind)
        return documents[CONTEXT_PARAMETERS], documents[CONTEXT_REVOCATIONS]

    def _document(self, kind: str) -> SignedDocument:
        document = self._store.document(kind)
        if document is None:
            raise self._missing(kind)
        return document

    def _missing(self, kind: str) -> StorageError:
        return StorageError(f"{self._store.name} holds no {kind}: it is incomplete, restore a backup")

    def current_parameters(self) -> NetworkParameters:
        """Return the network parameters in force."""
        return decode(self.parameters().payload, NetworkParameters)

    def choose_urls(self, wanted: str | None) -> tuple[RegistryUrl, ...]:
        """Return the URLs for a join link: only the wanted one, or the network's, as many as it can hold.

        Raises :class:`ConfigError`.
        """
        known = self.current_parameters().registry_urls
        if wanted is None and not known:
            raise ConfigError(
                "the network has no registry URL yet: give --url https://HOST:PORT, or set it for all nodes"
                " with re6st-registry parameters set registry_urls=https://HOST:PORT"
            )
        if wanted is not None:
            return (parse_registry_url(wanted),)
        lengths = itertools.accumulate(len(url) for url in known)
        return tuple(
            parse_registry_url(url)
            for number, (url, length) in enumerate(zip(known, lengths, strict=True))
            if number == 0 or length <= URLS_LENGTH
        )

    def preview_parameters(self, changes: Mapping[str, str]) -> tuple[Difference, ...]:
        """Return what would change. Raises :class:`ConfigError` that names every mistake."""
        before = self.current_parameters()
        return differences(before, change_parameters(before, changes, self.network))

    def change_parameters(
        self, changes: Mapping[str, str], *, expected_version: int | None = None
    ) -> NetworkParameters:
        """Sign and store the next version of the parameters.

        Raises :class:`ConfigError` that names every mistake, :class:`RegistryRefusedError` with the code
        ``version-changed`` if another version than the expected one is in force.
        """
        with self._store.transaction():
            before = self.current_parameters()
            if expected_version not in (None, before.version):
                raise RegistryRefusedError(
                    f"version {before.version} of the parameters is in force meanwhile: look at it first",
                    code="version-changed",
                )
            return self._put(before, change_parameters(before, changes, self.network), "parameters.set")

    def undo_parameters(self, version: int | None = None) -> NetworkParameters:
        """Put the values of an earlier version in force again, as a new version; by default the previous.

        Raises :class:`RegistryRefusedError` with the code ``unknown-version``.
        """
        with self._store.transaction():
            before = self.current_parameters()
            wanted = before.version - 1 if version is None else version
            for earlier in self.parameter_history():
                known = earlier.parameters
                if known.version <= wanted and (version is None or known.version == wanted):
                    kept = {name: getattr(before, name) for name in FIXED}
                    changed = msgspec.structs.replace(known, **kept | {"version": before.version + 1})
                    check_parameters(changed, self.network)
                    return self._put(before, changed, "parameters.undone")
        raise RegistryRefusedError(
            "there is no such earlier version: see re6st-registry parameters history", code="unknown-version"
        )

    def _put(self, before: NetworkParameters, after: NetworkParameters, action: str) -> NetworkParameters:
        changed = differences(before, after)
        put_parameters(self._store, self._authority, after, self._clock())
        self._log(
            action, f"version {after.version}", **{item.key: [item.before, item.after] for item in changed}
        )
        return after

    def parameter_history(self) -> list[ParametersVersion]:
        """Return all versions of the parameters, the newest first."""
        return [
            ParametersVersion(decode(row.payload, NetworkParameters), row.created)
            for row in self._store.parameter_history()
        ]

    def compare_parameters(
        self, earlier: int | None = None, later: int | None = None
    ) -> tuple[Difference, ...]:
        """Return what changed between two versions: by default between the previous and the current one.

        Raises :class:`ConfigError`.
        """
        versions = {item.parameters.version: item.parameters for item in self.parameter_history()}
        newest = max(versions) if later is None else later
        oldest = max((version for version in versions if version < newest), default=newest)
        oldest = oldest if earlier is None else earlier
        for version in (oldest, newest):
            if version not in versions:
                known = ", ".join(str(number) for number in sorted(versions))
                raise ConfigError(f"version {version} of the parameters is not known; there are: {known}")
        return differences(versions[oldest], versions[newest])


def put_parameters(store: Store, authority: Authority, parameters: NetworkParameters, now: float) -> None:
    """Sign ``parameters`` and put them in force, inside a transaction. Raises :class:`ConfigError`."""
    document = authority.sign_parameters(parameters)
    store.put_document(CONTEXT_PARAMETERS, parameters.version, document)
    store.add_parameters(parameters.version, document.payload, now)


def start_documents(store: Store, authority: Authority, parameters: NetworkParameters, now: float) -> None:
    """Put the first version of both documents into a new store."""
    with store.transaction():
        put_parameters(store, authority, parameters, now)
        store.put_document(CONTEXT_REVOCATIONS, 1, authority.sign_revocations(Revocations(version=1)))
