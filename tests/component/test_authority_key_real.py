"""The CA's key under a passphrase, with the command that operators use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/re6st-registry"


@pytest.fixture
def registry(tmp_path):
    def run(*arguments, status=0, **environment):
        finished = subprocess.run(
            [sys.executable, str(SCRIPT), "--state", str(tmp_path / "registry"), *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
            timeout=60,
            check=False,
        )
        assert finished.returncode == status, finished.stderr
        return finished.stdout + finished.stderr

    run("init", "--network", "2001:db8:42::/48", "--url", "https://192.0.2.1:8443")
    return run


def test_a_key_under_a_passphrase(registry, tmp_path):
    key = tmp_path / "registry/ca-key.pem"
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_text("correct horse battery\n")
    other.write_text("wrong horse battery\n")
    (tmp_path / "short").write_text("short\n")
    given = {"RE6ST_CA_PASSPHRASE_FILE": str(secret)}
    short = str(tmp_path / "short")
    assert "12 octets" in registry("authority", "encrypt", "--passphrase-file", short, status=1)
    registry("authority", "encrypt", "--passphrase-file", str(secret))
    assert b"ENCRYPTED PRIVATE KEY" in key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    assert "RE6ST_CA_PASSPHRASE_FILE" in registry("check", status=1)
    assert "another passphrase" in registry("check", status=1, RE6ST_CA_PASSPHRASE_FILE=str(other))
    assert "cannot read" in registry("check", status=1, RE6ST_CA_PASSPHRASE_FILE=str(tmp_path / "none"))
    registry("check", **given)
    # As systemd gives it.
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/re6st-ca-passphrase").write_text(secret.read_text())
    registry("parameters", "set", "hello_interval=2", CREDENTIALS_DIRECTORY=str(tmp_path / "credentials"))
    # A new CA is as well kept as the old one.
    registry("authority", "prepare", **given)
    assert b"ENCRYPTED PRIVATE KEY" in (tmp_path / "registry/ca-new.pem").read_bytes()
    registry("authority", "switch", **given)
    registry("authority", "finish", **given)
    assert b"ENCRYPTED PRIVATE KEY" in key.read_bytes()
    registry("authority", "decrypt", **given)
    assert b"ENCRYPTED" not in key.read_bytes()
    registry("check")
