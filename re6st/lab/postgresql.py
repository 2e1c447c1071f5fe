"""A PostgreSQL server of the lab's own: a cluster in a temporary directory, reachable by a unix socket only.

Such a socket can be reached from each namespace. The server keeps its promises (``fsync``), so that what it
acknowledged can be looked for after a crash.
"""

from __future__ import annotations

import contextlib
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from re6st.errors import ChildError, ConfigError
from re6st.registry.place import PostgresqlUrl

OWNER = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user."""

PROGRAMS = Path("/usr/lib/postgresql")

START_TIME = 60
"""Seconds that the server may take to start or to stop."""


class Cluster:
    """A cluster, and its server while it runs."""

    def __init__(self, directory: Path) -> None:
        """Make the cluster in ``directory``, whose path must be short. Raises :class:`ChildError`."""
        self.directory = directory
        self.data = directory / "data"
        shutil.chown(directory, OWNER, OWNER)
        # The socket in it is for registries of any user.
        directory.chmod(0o755)
        self._run(
            "initdb",
            *("--pgdata", str(self.data), "--username", OWNER, "--auth=trust"),
            *("--encoding=UTF8", "--locale=C", "--no-sync"),
        )
        (self.data / "postgresql.auto.conf").write_text(
            f"listen_addresses = ''\nunix_socket_directories = '{directory}'\nmax_connections = 40\n"
        )

    def start(self) -> None:
        """Start the server and wait until it answers. Raises :class:`ChildError`."""
        self._control("start", "--log", str(self.directory / "log"))

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; the mode ``immediate`` is a crash. Raises :class:`ChildError`."""
        self._control("stop", "--mode", mode)

    @property
    def running(self) -> bool:
        """Whether the server was started and not stopped."""
        return (self.data / "postmaster.pid").exists()

    def database(self) -> PostgresqlUrl:
        """Return the URL of a new database. Raises :class:`ChildError`."""
        name = f"re6st_{uuid.uuid4().hex[:12]}"
        self._run("createdb", "--host", str(self.directory), "--username", OWNER, name)
        return PostgresqlUrl(f"postgresql://{OWNER}@/{name}?host={self.directory}")

    def _control(self, action: str, *arguments: str) -> None:
        wait = ("--wait", "--silent", f"--timeout={START_TIME}", "--pgdata", str(self.data))
        self._run("pg_ctl", action, *wait, *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        account = pwd.getpwnam(OWNER)
        done = subprocess.run(
            [str(_programs() / program), *arguments],
            cwd=self.directory,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ChildError(f"{program} failed: {(done.stdout + done.stderr).strip()}")


def _programs() -> Path:
    """Return the directory with the newest version's programs. Raises :class:`ConfigError`."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not found:
        raise ConfigError("PostgreSQL is missing: install the package postgresql")
    return found[-1].parent


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Yield a cluster that runs; nothing is left of it in the end. Raises :class:`ChildError`."""
    directory = Path(tempfile.mkdtemp(prefix="re6st-pg-", dir="/tmp"))
    try:
        cluster = Cluster(directory)
        cluster.start()
        try:
            yield cluster
        finally:
            if cluster.running:
                cluster.stop("immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
