"""Use cases around further prefixes of nodes.

A node has one node prefix for its life, and further ones as an operator gives it. Its certificate names all.
When they change, the registry asks the node at its next contact to renew its certificate, and the node uses
them from then on.
"""

from __future__ import annotations

from ipaddress import IPv6Network

from re6st.errors import ConfigError, RegistryRefusedError
from re6st.identity import MAXIMUM_FURTHER
from re6st.prefix import DEFAULT_NODE_LENGTH, check_node_length
from re6st.registry.space import allocate
from re6st.registry.store import NodeRow
from re6st.registry.tokens import TokenUseCases


class PrefixUseCases(TokenUseCases):
    """What nodes have beside their node prefix."""

    def further_prefixes(self, node: NodeRow) -> tuple[IPv6Network, ...]:
        """Return the further prefixes of a node, the lowest first."""
        return self._store.further(node.identifier)

    def add_prefix(
        self, selector: str, prefix: IPv6Network | None = None, prefix_length: int | None = None
    ) -> IPv6Network:
        """Give a member a further prefix, ``prefix`` or a free one of ``prefix_length``; return it.

        Raises :class:`RegistryRefusedError`, :class:`ConfigError`.
        """
        now = self._clock()
        with self._store.transaction():
            node = self._find(selector)
            present = self._store.further(node.identifier)
            if prefix is not None and prefix in present:
                return prefix
            if len(present) >= MAXIMUM_FURTHER:
                raise RegistryRefusedError(
                    f"{node.name} has {len(present)} further prefixes already, all that a certificate takes:"
                    " give it a shorter one instead",
                    code="too-many-prefixes",
                )
            if prefix is None:
                length = prefix_length or self.group(node.group).prefix_length or DEFAULT_NODE_LENGTH
                prefix = allocate(self._store, self.network, length, now, self._quarantine)
            else:
                self._check_wanted(prefix, node, now)
            self._store.add_further(node.identifier, prefix, now)
            self._log("node.prefix-added", node.name, prefix=node.prefix, further=prefix)
            return prefix

    def _check_wanted(self, prefix: IPv6Network, node: NodeRow, now: float) -> None:
        check_node_length(self.network, prefix.prefixlen)
        if not prefix.subnet_of(self.network):
            raise ConfigError(f"{prefix} is not inside the network {self.network}")
        self._check_prefix_free(prefix, node.name)
        self._check_no_quarantine(prefix, node.name, now)

    def remove_prefix(self, selector: str, prefix: IPv6Network) -> NodeRow:
        """Take a further prefix from a member; it is in quarantine then.

        Raises :class:`RegistryRefusedError` with the codes ``unknown-node`` and ``unknown-prefix``.
        """
        with self._store.transaction():
            node = self._find(selector)
            if prefix not in self._store.further(node.identifier):
                raise RegistryRefusedError(
                    f"{prefix} is no further prefix of {node.name}: see re6st-registry nodes show",
                    code="unknown-prefix",
                )
            self._store.take_further(node.identifier, prefix, self._clock())
            self._log("node.prefix-removed", node.name, prefix=node.prefix, further=prefix)
            return node
