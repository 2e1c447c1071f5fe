"""A PostgreSQL server of our own: a cluster in a temporary directory, reachable by a unix socket only."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

from re6st.registry.place import PostgresqlUrl

OWNER = "postgres"
"""PostgreSQL refuses to run as root; the Debian package makes this user."""


def programs():
    """Return the directory with the newest version's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    assert found, "install the package postgresql (tools/install-packages --tests)"
    return found[-1].parent


class Cluster:
    """A running server. Databases are made with :meth:`database`."""

    def __init__(self, directory):
        self.directory = directory
        self.data = directory / "data"
        self._server = None
        account = pwd.getpwnam(OWNER)
        self._as_owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}
        os.chown(directory, account.pw_uid, account.pw_gid)
        directory.chmod(0o755)
        self._run(
            "initdb", "--pgdata", self.data, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync",
            "--username=postgres",
        )  # fmt: skip
        (self.data / "postgresql.auto.conf").write_text(
            f"listen_addresses = ''\nunix_socket_directories = '{directory}'\nmax_connections = 40\n"
        )

    def _run(self, program, *arguments):
        command = [str(programs() / program), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, check=False, **self._as_owner
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        """Start the server and wait until it answers."""
        self._run(
            "pg_ctl", "start", "--wait", "--timeout=60", "--silent", "--pgdata", self.data,
            "--log", self.directory / "log",
        )  # fmt: skip

    def stop(self, mode="fast"):
        """Stop the server; ``immediate`` is as a crash."""
        self._run(
            "pg_ctl", "stop", "--wait", "--timeout=60", "--silent", "--pgdata", self.data, "--mode", mode
        )

    def database(self):
        """Return the URL of a new database."""
        name = f"re6st_{uuid.uuid4().hex[:12]}"
        self._run("createdb", "--host", self.directory, "--username=postgres", name)
        return PostgresqlUrl(f"postgresql://postgres@/{name}?host={self.directory}")


@contextlib.contextmanager
def running_cluster():
    """Yield a cluster that runs."""
    directory = Path(tempfile.mkdtemp(prefix="re6st-pg-", dir="/tmp"))
    try:
        cluster = Cluster(directory)
        cluster.start()
        try:
            yield cluster
        finally:
            if (cluster.data / "postmaster.pid").exists():
                cluster.stop("immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
