"""A new CA takes over under a running server: who connects, who joins, who was away."""

import asyncio

import pytest
from test_registry_real import join, running

from re6st.errors import UntrustedError
from re6st.identity import TrustStore, build_request, generate_key
from re6st.messages import SignedDocument, encode
from re6st.registry import server
from re6st.registry.client import JoinLink, RegistryClient, fetch_authorities, signed_authorities


async def until(condition):
    async with asyncio.timeout(120):
        while True:
            try:
                return await condition()
            except UntrustedError:
                await asyncio.sleep(0.05)


async def test_a_running_server_follows(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "CHANGE_CHECK", 0.05)
    async with running(tmp_path / "registry") as registry:
        service, old = registry.service, registry.authority.certificate
        member = await join(registry, tmp_path / "1", "attic")
        link = JoinLink.parse(str(registry.link(uses=3)))
        registry.state.make_new_authority(service.network, service.now())
        service.prepare_authority(registry.state.authority())
        _, new = service.current_parameters().authorities
        assert await fetch_authorities(link) == (old, new)
        service.switch_authority(force=True)

        # The server shows a certificate of the new CA, and still lets in who has one of the old.
        only_new = RegistryClient([registry.url], [new], member.files)
        monkeypatch.setattr("re6st.registry.client.RegistryClient._check_certificate", lambda _: None)
        assert (await until(lambda: only_new.sample(1))).parameters_version == 3
        with pytest.raises(UntrustedError):
            await member.client.sample(1)

        # A link from before leads to both; what somebody made up does not count.
        assert await fetch_authorities(link) == (new, old)
        made_up = TrustStore([registry.authority.certificate])
        document = await member.client.parameters_of_anybody()
        assert signed_authorities(made_up, encode(document)) == (new, old)
        forged = SignedDocument(payload=document.payload + b" ", signature=document.signature)
        with pytest.raises(UntrustedError):
            signed_authorities(made_up, encode(forged))
        late = await RegistryClient([registry.url], await fetch_authorities(link)).enrol(
            link.token, build_request(generate_key(), "late")
        )
        TrustStore([new]).verify(late.certificate, service.now())

        service.finish_authority(force=True)
        registry.state.keep_new_authority()
        with pytest.raises(UntrustedError):
            await fetch_authorities(link)
