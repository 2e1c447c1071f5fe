"""Hosts: machines of the lab on which commands run."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from re6st.lab import process
from re6st.lab.namespace import Namespace
from re6st.lab.process import Notification, Process


@dataclass(frozen=True, slots=True)
class Host:
    """One machine: a namespace, an underlay address and a directory."""

    name: str
    namespace: Namespace
    addresses: tuple[IPv4Address | IPv6Address, ...]
    """On the underlay, IPv4 first."""
    directory: Path
    """Configuration, state and logs of what runs on it."""

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """The first of its addresses."""
        return self.addresses[0]

    def run(
        self, command: Sequence[str], *, timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` here and return what it printed (see :func:`re6st.lab.process.run`)."""
        return process.run(self.namespace, command, timeout=timeout, check=check)

    def start(
        self,
        command: Sequence[str],
        *,
        log: str = "command.log",
        environment: Mapping[str, str] | None = None,
        notify: bool = False,
    ) -> Process:
        """Start ``command`` here in the background, logging to the file ``log`` of the host's directory.

        With ``notify`` it is expected to report its readiness (:meth:`Process.wait_ready`).
        """
        notification = Notification(self.directory / "notify.sock") if notify else None
        return process.start(
            self.namespace,
            command,
            log=self.directory / log,
            environment=environment,
            notification=notification,
        )
