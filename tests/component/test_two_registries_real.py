"""Two registries on one PostgreSQL: what one does the other knows at once, and one may be killed at any time.

node --- https --- registry A ---.
   \\                              PostgreSQL
    `--- https --- registry B ---'
"""

import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_registry_real import NETWORK, Node

from re6st.errors import RegistryUnavailableError, RevokedError
from re6st.identity import CONTEXT_REVOCATIONS, TrustStore, build_request, generate_key
from re6st.lab.postgresql import running_cluster
from re6st.messages import DocumentVersions, Revocations, decode
from re6st.node.registry_order import RegistryOrder
from re6st.registry.client import RegistryClient
from re6st.registry.operator_client import OperatorClient
from re6st.registry.operators import Scope
from re6st.registry.state import StateDirectory

COMMAND = Path(sys.executable).with_name("re6st-registry")
TOGETHER = 60.0
"""Seconds that anything may take on a busy machine."""


class Process:
    """A registry's server with a state directory of its own."""

    def __init__(self, path, log):
        self.state = StateDirectory(path)
        self._log = log
        self.start()

    def start(self):
        command = [COMMAND, "--state", self.state.path, "serve", "--listen", "127.0.0.1:0"]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        line = self.child.stdout.readline()
        found = re.search(r"https://127\.0\.0\.1:\d+", line)
        assert found, f"{line!r}, see {self._log.name}"
        self.url = found[0]

    def kill(self):
        self.child.kill()
        self.child.wait(10)

    def run(self, *arguments):
        done = subprocess.run(
            [COMMAND, "--state", self.state.path, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Pair:
    """Both registries and what their operator has."""

    def __init__(self, one, other, cluster):
        self.one, self.other, self.cluster = one, other, cluster
        self.authority = one.state.authority()
        self.trust = TrustStore([self.authority.certificate])
        self.url = one.url

    def client(self, files=None, *, first=None):
        urls = sorted((self.one.url, self.other.url), key=lambda url: url != first)
        return RegistryClient(urls, [self.authority.certificate], files)

    async def join(self, directory, *, at):
        with self.one.state.service() as service:
            token = service.create_token()
        key = generate_key()
        enrolment = await self.client(first=at.url).enrol(token, build_request(key, directory.name))
        return Node(directory, self, key, enrolment.certificate)


@pytest.fixture(scope="module")
def cluster():
    with running_cluster() as running:
        yield running


@pytest.fixture
def pair(tmp_path, cluster):
    with contextlib.ExitStack() as stack:
        one, other = tmp_path / "one", tmp_path / "other"
        StateDirectory(one).create(NETWORK, place=cluster.database())
        # As docs/operations.md says: CA and place of the database are copied, the rest makes itself.
        other.mkdir(mode=0o700)
        for name in ("ca.pem", "ca-key.pem", "store.url"):
            shutil.copy2(one / name, other / name)
        log = stack.enter_context((tmp_path / "log").open("w"))
        processes = []
        for path in (one, other):
            processes.append(Process(path, log))
            stack.callback(processes[-1].kill)
        yield Pair(*processes, cluster)


async def test_one_registry_is_killed_and_the_other_goes_on(pair, tmp_path):
    one, other = pair.one, pair.other
    node = await pair.join(tmp_path / "attic", at=one)
    await pair.client(node.files, first=other.url).publish(node.record(1))
    assert not other.run("check")

    # A revocation that is made at one reaches a node that waits at the other.
    waiting = asyncio.create_task(
        pair.client(node.files, first=one.url).versions(
            known=DocumentVersions(parameters_version=1, revocations_version=1), wait=100
        )
    )
    cellar = await pair.join(tmp_path / "cellar", at=other)
    await asyncio.to_thread(other.run, "revoke", "cellar")
    assert (await asyncio.wait_for(waiting, TOGETHER)).revocations_version == 2
    document = await pair.client(node.files, first=one.url).revocations()
    revoked = decode(pair.trust.verify_document(CONTEXT_REVOCATIONS, document), Revocations)
    assert revoked.serials == (cellar.certificate.serial_hex,)
    with pytest.raises(RevokedError):
        await pair.client(cellar.files, first=one.url).sample()

    # Events of both reach an operator at either.
    with one.state.service() as service:
        token = service.create_operator_token("alice", Scope.READ)
        known = service.last_change()
    operator = OperatorClient(one.url, token, pair.authority.certificate)
    told = asyncio.create_task(next_change(operator, known))
    garage = await pair.join(tmp_path / "garage", at=other)
    assert await asyncio.wait_for(told, TOGETHER) == "token.created"

    # Everything works while one of both is gone, whichever is asked first, also for who waits just now.
    waiting = asyncio.create_task(
        pair.client(node.files, first=one.url).versions(
            known=DocumentVersions(parameters_version=1, revocations_version=2), wait=100
        )
    )
    one.kill()
    order = RegistryOrder(lambda: 0.0)
    order.note(one.url)
    assert order.arrange((), (other.url, one.url))[0] == one.url
    client = RegistryClient(
        order.arrange((), (other.url, one.url)),
        [pair.authority.certificate],
        node.files,
        answered=lambda url: order.note(str(url)),
    )
    renewed = await client.renew(build_request(node.key, ""))
    pair.trust.verify(renewed.certificate, time.time())
    assert order.arrange((), (one.url, other.url))[0] == other.url
    await client.publish(node.record(2))
    shed = await pair.join(tmp_path / "shed", at=one)
    assert len({item.certificate.prefix for item in (node, cellar, garage, shed)}) == 4
    await asyncio.to_thread(other.run, "revoke", "garage")
    assert (await asyncio.wait_for(waiting, TOGETHER)).revocations_version == 3

    # A planned change happens once, whoever is there.
    one.start()
    with other.state.service() as service:
        service.plan_parameters({"hello_interval": "2"}, time.time() + 3)
    waiting = pair.client(node.files, first=one.url).versions(
        known=DocumentVersions(parameters_version=1, revocations_version=3), wait=100
    )
    assert (await asyncio.wait_for(waiting, TOGETHER)).parameters_version == 2
    assert one.run("parameters", "planned", "--json").strip() == "[]"
    assert other.run("audit").count(" parameters.set ") == 1


async def next_change(operator, known):
    async for entry in operator.events(known):
        return entry.action
    return None


async def test_neither_serves_without_its_database_and_both_come_back(pair, tmp_path):
    node = await pair.join(tmp_path / "attic", at=pair.one)
    with pair.one.state.service() as service:
        token, known = service.create_operator_token("alice", Scope.READ), service.last_change()
    told = asyncio.create_task(
        next_change(OperatorClient(pair.one.url, token, pair.authority.certificate), known)
    )
    await asyncio.to_thread(pair.cluster.stop)
    with pytest.raises(RegistryUnavailableError, match="problem of its own"):
        await pair.client(node.files).sample()
    await asyncio.to_thread(pair.cluster.start)
    deadline = time.monotonic() + TOGETHER
    for process in (pair.one, pair.other):
        while True:
            try:
                await RegistryClient([process.url], [pair.authority.certificate], node.files).sample()
                break
            except RegistryUnavailableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)
    await pair.join(tmp_path / "cellar", at=pair.other)
    # A stream of changes that broke goes on where it was.
    assert await asyncio.wait_for(told, TOGETHER) == "token.created"


async def test_a_registry_without_the_key_of_the_ca_in_force_serves_nobody(pair, tmp_path):
    node = await pair.join(tmp_path / "attic", at=pair.one)
    pair.one.run("authority", "prepare")
    alone = RegistryClient([pair.other.url], [pair.authority.certificate], node.files)
    with pytest.raises(RegistryUnavailableError, match="problem of its own"):
        await alone.sample()
    assert "copy ca-new.pem" in Path(pair.one._log.name).read_text()
    # The other one serves its nodes meanwhile.
    await pair.client(node.files, first=pair.other.url).sample()
    shutil.copy2(pair.one.state.new_authority, pair.other.state.new_authority)
    await alone.sample()
    for step in ("switch", "finish"):
        pair.one.run("authority", step, "--force")
    new = pair.one.state.authority()
    assert new.certificate != pair.authority.certificate
    pair.other.run("authority", "finish")
    assert pair.other.state.authority().certificate == new.certificate
    assert not pair.other.state.new_authority.exists()
    assert pair.other.run("check") == ""
