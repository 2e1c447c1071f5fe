"""A registry over a real database in a temporary directory, with a clock of our own."""

import time
from ipaddress import IPv6Network

import pytest

from re6st.errors import RegistryRefusedError
from re6st.identity import CONTEXT_REVOCATIONS, TrustStore, build_request, generate_key
from re6st.messages import Endpoint, EnrolmentRequest, PeerRecord, Revocations, Transport, decode
from re6st.peers import seal_record
from re6st.registry.service import Service
from re6st.registry.state import StateDirectory

DAY = 86400.0
NETWORK = IPv6Network("2001:db8:42::/48")


class World:
    """A registry whose time we set, and nodes that use it."""

    place = None
    """Where to make the database, if not in the state directory."""

    def __init__(self, path, network=NETWORK, **settings):
        self.now = time.time()
        self.state = StateDirectory(path)
        self.state.create(network, ["https://192.0.2.1:8443"], place=self.place, **settings)
        self.authority = self.state.authority()
        self.manager = self.state.service()
        self.store = self.manager.__enter__()._store
        self.service = Service(
            self.store, self.authority, clock=lambda: self.now, reload=self.state.authority
        )
        self.trust = TrustStore([self.authority.certificate])

    def close(self):
        self.manager.__exit__(None, None, None)

    def enrol(self, name="", *, token=None, key=None, **options):
        token = token or self.service.create_token(**options)
        key = key or generate_key()
        enrolment = self.service.enrol(EnrolmentRequest(token=token, request=build_request(key, name)))
        return key, enrolment

    def node(self, name="", **options):
        key, enrolment = self.enrol(name, **options)
        return key, self.service.authenticate(enrolment.certificate)

    def publish(self, key, caller, sequence=1, reachable=True, **changes):
        endpoints = (Endpoint(Transport.TCP, "192.0.2.9", 4226),) if reachable else ()
        values = {
            "name": caller.node.name,
            "prefix": str(caller.node.prefix),
            "endpoints": endpoints,
        } | changes
        record = PeerRecord(sequence=sequence, **values)
        self.service.publish(caller, seal_record(key, caller.certificate.der, record))

    def revocations(self):
        payload = self.trust.verify_document(CONTEXT_REVOCATIONS, self.service.revocations())
        return decode(payload, Revocations)


def refused(code, function, *arguments, **options):
    with pytest.raises(RegistryRefusedError) as caught:
        function(*arguments, **options)
    assert caught.value.code == code
    return str(caught.value)
