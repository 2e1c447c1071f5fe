"""The adapter to miniupnpc, with the answers and errors that the library gives."""

import pytest

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp.igd import CODES, InternetGateway


class Library:
    """Answers as ``miniupnpc.UPnP`` does."""

    lanaddr = "192.168.1.2"

    def __init__(self, held=None, failure=None):
        self.held = held or {}
        self.failure = failure
        self.calls = []

    def _answer(self, *call):
        self.calls.append(call)
        if self.failure is not None:
            raise Exception(self.failure)  # noqa: TRY002 - that is what it raises

    def externalipaddress(self):
        self._answer("externalipaddress")
        return "20.2.1.2"

    def getspecificportmapping(self, port, protocol):
        return self.held.get((port, protocol))

    def addportmapping(self, *call):
        self._answer("add", *call)
        return True

    def deleteportmapping(self, *call):
        self._answer("delete", *call)
        return True


def gateway(**options):
    found = InternetGateway()
    found._client = Library(**options)
    return found


@pytest.mark.parametrize(("text", "code"), CODES.items())
def test_code_is_known_by_its_text(text, code):
    with pytest.raises(UpnpError, match=f"{text} .{code}.") as caught:
        gateway(failure=text).add(Transport.UDP, 4227, 4227, 60)
    assert caught.value.code == code


@pytest.mark.parametrize("text", ["Miniupnpc HTTP error", "Miniupnpc Socket error", "Success"])
def test_no_proper_answer_has_no_code(text):
    with pytest.raises(UpnpError) as caught:
        gateway(failure=text).external_address()
    assert caught.value.code is None


def test_advice_is_part_of_the_message():
    with pytest.raises(UpnpError, match="allow it for this machine"):
        gateway(failure="Action not authorized").add(Transport.TCP, 4226, 4226, 60)


def test_own_mapping_is_renewed_and_a_foreign_one_left_alone():
    ours = gateway(held={(4226, "TCP"): ("192.168.1.2", 4226, "re6st", True, 60)})
    ours.add(Transport.TCP, 4226, 4226, 60)
    assert ours._client.calls == [("add", 4226, "TCP", "192.168.1.2", 4226, "re6st", "", 60)]
    assert ours.holds(Transport.TCP, 4226, 4226)
    for foreign in (("192.168.1.9", 4226), ("192.168.1.2", 9999)):
        taken = gateway(held={(4226, "TCP"): (*foreign, "game", True, 60)})
        with pytest.raises(UpnpError) as caught:
            taken.add(Transport.TCP, 4226, 4226, 60)
        assert caught.value.code == 718
        assert not taken.holds(Transport.TCP, 4226, 4226)
        taken.remove(Transport.TCP, 4226, 4226)
        assert taken._client.calls == []
