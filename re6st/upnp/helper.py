"""Asks the home router what it is told to, in a process of its own, by miniupnpc.

What a router answers is foreign input to a library in C, which takes all of it into memory, however much it
is, and waits as long as it comes. Here this costs no more than this process: it has little memory, no rights,
and ends with the pipe of the daemon that started it, which also limits the time of each question
(:mod:`re6st.upnp.helper_process`).

Each line that comes in is a question, of words between blanks. Each is answered by one line, of fields
between tabs, in which whatever is not printable ASCII is escaped:

    discover MILLISECONDS                   ok
    address                                 ok  OUTSIDE-ADDRESS
    entry PROTOCOL PORT                     ok  or  ok  HOST  HOST-PORT
    self                                    ok  ADDRESS OF THIS HOST
    add PROTOCOL PORT HOST-PORT LEASE TEXT  ok
    delete PROTOCOL PORT                    ok

Where it fails, the answer is ``error`` and the text of the library. The file is run by its path, with the
directory of the library as only argument, and imports as little as possible: a bare interpreter is small and
quick. Afterwards it may not be able to read a file any more.
"""

import _thread
import ctypes
import os
import resource
import select
import sys

MEMORY = 16 << 20
"""Bytes of data that the process may have; it needs 5 million, proper answers some thousand."""

NOBODY = 65534
"""User and group without rights."""

_LIMITS = {
    resource.RLIMIT_DATA: MEMORY,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 32,
    resource.RLIMIT_NPROC: 0,
}

_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS = 38
"""Of capset(2) and prctl(2)."""

_WATCHER_STACK = 128 << 10


class Conversation:
    """Answers questions; a router must be discovered before anything else is asked of it."""

    # The module typing, which has a name for what the library is, would cost memory.
    def __init__(self, library) -> None:  # type: ignore[no-untyped-def]
        self._library = library
        self._client = library.UPnP()
        self._found = False

    def answer(self, question: str) -> str:
        """Return the line that answers ``question``, without its end."""
        name, *arguments = question.split()
        try:
            fields = self._ask(name, arguments)
        except MemoryError:
            raise
        except Exception as error:
            # The binding raises plain Exception, for an empty network even with the text "Success".
            fields = ["error", str(error)]
        return "\t".join(ascii(field)[1:-1] for field in fields)

    def _ask(self, name: str, arguments: list[str]) -> list[str]:
        if name == "discover":
            self._found = False
            self._client = self._library.UPnP()
            self._client.discoverdelay = int(arguments[0])
            self._client.discover()
            self._client.selectigd()
            self._found = True
            return ["ok"]
        client = self._client
        if not self._found:
            raise LookupError("it has not been searched yet")
        if name == "address":
            return ["ok", str(client.externalipaddress())]
        if name == "self":
            return ["ok", str(client.lanaddr)]
        if name == "add":
            protocol, port, host_port, lease, text = arguments
            client.addportmapping(int(port), protocol, client.lanaddr, int(host_port), text, "", int(lease))
            return ["ok"]
        protocol, port = arguments
        if name == "entry":
            entry = client.getspecificportmapping(int(port), protocol)
            return ["ok"] if entry is None else ["ok", str(entry[0]), str(entry[1])]
        if name == "delete":
            client.deleteportmapping(int(port), protocol)
            return ["ok"]
        raise ValueError(f"unknown question: {name}")


def give_up_rights() -> None:
    """Do not keep root's rights.

    Where a service may not change its user, as with our systemd unit, it stays root, but
    without capabilities. Each thread has its own, so this comes before there is another one.
    """
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError:
            pass
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up its rights")


def give_up_room() -> None:
    """Take no more memory than needed, and start nothing: no thread either."""
    for kind, limit in _LIMITS.items():
        resource.setrlimit(kind, (limit, limit))


def end_with_the_daemon() -> None:
    """Wait for the end of standard input, then end the process, whatever it is doing."""
    poll = select.poll()
    poll.register(0, 0)  # the end is reported always
    poll.poll()
    os._exit(0)


def main() -> None:
    """Answer questions until there are no more."""
    sys.path.append(sys.argv[1])
    import miniupnpc

    give_up_rights()
    _thread.stack_size(_WATCHER_STACK)
    _thread.start_new_thread(end_with_the_daemon, ())
    give_up_room()
    conversation = Conversation(miniupnpc)
    for line in sys.stdin:
        print(conversation.answer(line), flush=True)


if __name__ == "__main__":
    main()
