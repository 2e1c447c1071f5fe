"""What is asked of miniupnpc, with the answers and errors that the library gives."""

import pytest

from re6st.errors import UpnpError
from re6st.messages import Transport
from re6st.upnp.actions import Add, Remove
from re6st.upnp.helper import Conversation
from re6st.upnp.igd import CODES, InternetGateway


class Library:
    """Answers as ``miniupnpc.UPnP`` does."""

    lanaddr = "192.168.1.2"
    discoverdelay = 0

    def __init__(self, held=None, failure=None):
        self.held = held or {}
        self.failure = failure
        self.calls = []

    def UPnP(self):  # noqa: N802 - the library's name
        return self

    def discover(self):
        return 1

    def selectigd(self):
        return "http://192.168.1.1:5000/control"

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


class Helper:
    """Asks and answers without the process between."""

    def __init__(self, library):
        self.conversation = Conversation(library)

    async def ask(self, *words, limit=0.0):
        kind, *fields = self.conversation.answer(" ".join(map(str, words))).split("\t")
        if kind == "ok":
            return fields
        raise UpnpError(fields[0])

    async def close(self):
        pass


async def gateway(**options):
    library = Library(**options)
    found = InternetGateway(Helper(library))
    failure, library.failure = library.failure, None
    assert await found.discover() == "20.2.1.2"
    library.failure = failure
    library.calls.clear()
    return found, library


@pytest.mark.parametrize(("text", "code"), CODES.items())
async def test_code_is_known_by_its_text(text, code):
    router, _ = await gateway(failure=text)
    with pytest.raises(UpnpError, match=f"{text} .{code}.") as caught:
        await router.add(Add(Transport.UDP, 4227, 4227, 60))
    assert caught.value.code == code


@pytest.mark.parametrize("text", ["Miniupnpc HTTP error", "Miniupnpc Socket error", "Success"])
async def test_no_proper_answer_has_no_code(text):
    router, _ = await gateway(failure=text)
    with pytest.raises(UpnpError) as caught:
        await router.external_address()
    assert caught.value.code is None


async def test_advice_is_part_of_the_message():
    router, _ = await gateway(failure="Action not authorized")
    with pytest.raises(UpnpError, match="allow it for this machine"):
        await router.add(Add(Transport.TCP, 4226, 4226, 60))


async def test_own_mapping_is_renewed_and_a_foreign_one_left_alone():
    ours, library = await gateway(held={(4226, "TCP"): ("192.168.1.2", 4226, "re6st", True, 60)})
    await ours.add(Add(Transport.TCP, 4226, 4226, 60))
    assert library.calls == [("add", 4226, "TCP", "192.168.1.2", 4226, "re6st", "", 60)]
    assert await ours.holds(Remove(Transport.TCP, 4226, 4226))
    for foreign in (("192.168.1.9", 4226), ("192.168.1.2", 9999)):
        taken, library = await gateway(held={(4226, "TCP"): (*foreign, "game", True, 60)})
        with pytest.raises(UpnpError) as caught:
            await taken.add(Add(Transport.TCP, 4226, 4226, 60))
        assert caught.value.code == 718
        assert not await taken.holds(Remove(Transport.TCP, 4226, 4226))
        await taken.remove(Remove(Transport.TCP, 4226, 4226))
        assert library.calls == []


@pytest.mark.parametrize("host", ["192.168.1.9\nok\t20.2.1.2", "192.168.1.9\tx", "\0\x1b[2J\u2028é"])
def test_what_a_router_says_is_one_field_of_one_line(host):
    library = Library(held={(4226, "TCP"): (host, 4226, "", True, 60)})
    conversation = Conversation(library)
    conversation.answer("discover 300")
    answer = conversation.answer("entry TCP 4226")
    fields = answer.split("\t")
    assert len(fields) == 3
    assert all(field.isascii() and field.isprintable() for field in fields)


def test_nothing_is_asked_of_a_router_that_was_not_found():
    assert Conversation(Library()).answer("address") == "error\tit has not been searched yet"
