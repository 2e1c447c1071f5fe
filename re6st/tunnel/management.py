"""Parser of OpenVPN's management protocol: bytes in, events out (pure).

The protocol is made of lines (OpenVPN's doc/management-notes.txt). A line that begins with ``>`` is a
notification and can come at any moment, also between a command and its reply. A reply is one line that
begins with ``SUCCESS:`` or ``ERROR:``, or several lines followed by ``END``. Lines are told apart by their
beginning alone, so the parser needs no memory but that of an unfinished line.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

LONGEST_LINE = 4096
"""Octets; a longer line is skipped. OpenVPN's own lines are much shorter."""


class State(enum.Enum):
    """States of OpenVPN that mean something to us; all others are OTHER."""

    WAIT = "WAIT"
    """Waiting for the peer's first packet."""
    AUTH = "AUTH"
    """The TLS handshake is going on."""
    CONNECTED = "CONNECTED"
    RECONNECTING = "RECONNECTING"
    EXITING = "EXITING"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class StateChanged:
    """``>STATE:`` the tunnel has got further."""

    state: State
    detail: str
    """Why, for example ``SUCCESS`` or ``ping-exit``."""
    remote_address: str
    """Of the peer on the underlay, empty when it is not known."""
    remote_port: int
    """0 when it is not known."""


@dataclass(frozen=True, slots=True)
class BytesCounted:
    """``>BYTECOUNT:`` what came from and went to the peer since the start, octets."""

    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class HoldWaiting:
    """``>HOLD:`` OpenVPN waits for ``hold release``."""


@dataclass(frozen=True, slots=True)
class PeerNotice:
    """``>NOTIFY:`` the peer said something, for example ``remote-exit``."""

    kind: str


@dataclass(frozen=True, slots=True)
class FatalError:
    """``>FATAL:`` OpenVPN is about to end because of this."""

    text: str


@dataclass(frozen=True, slots=True)
class Notification:
    """Any other notification: ``>kind:text``."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A command was carried out."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A command was not understood or not possible."""

    text: str


@dataclass(frozen=True, slots=True)
class ReplyLine:
    """One line of a reply of several; the last one is ``END``."""

    text: str


ManagementEvent = (
    StateChanged
    | BytesCounted
    | HoldWaiting
    | PeerNotice
    | FatalError
    | Notification
    | Succeeded
    | Failed
    | ReplyLine
)


class ManagementParser:
    """Turns the bytes of one management connection into events."""

    def __init__(self) -> None:
        self._unfinished = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[ManagementEvent]:
        """Return the events that ``data``, cut anywhere, completes."""
        events = []
        *complete, rest = data.split(b"\n")
        for part in complete:
            line = self._take(part)
            if line is not None:
                events.append(parse_line(line))
        self._keep(rest)
        return events

    def _take(self, part: bytes) -> str | None:
        """Return the line that ends with ``part``, None if it is to be skipped or empty."""
        self._keep(part)
        line = self._unfinished.decode(errors="replace").removesuffix("\r")
        skip = self._skipping or not line
        self._unfinished.clear()
        self._skipping = False
        return None if skip else line

    def _keep(self, part: bytes) -> None:
        if self._skipping or len(self._unfinished) + len(part) > LONGEST_LINE:
            self._skipping = True
            self._unfinished.clear()
        else:
            self._unfinished += part


def parse_line(line: str) -> ManagementEvent:
    """Return what one line, without its end, says."""
    if line.startswith(">"):
        kind, _, text = line[1:].partition(":")
        return _parse_notification(kind, text)
    if line.startswith("SUCCESS:"):
        return Succeeded(line.removeprefix("SUCCESS:").strip())
    if line.startswith("ERROR:"):
        return Failed(line.removeprefix("ERROR:").strip())
    return ReplyLine(line)


def _parse_notification(kind: str, text: str) -> ManagementEvent:
    match kind:
        case "STATE":
            return parse_state(text)
        case "HOLD":
            return HoldWaiting()
        case "FATAL":
            return FatalError(text)
        case "NOTIFY":
            return PeerNotice(text.partition(",")[2].partition(",")[0])
        case "BYTECOUNT":
            received, _, sent = text.partition(",")
            if _is_number(received) and _is_number(sent):
                return BytesCounted(int(received), int(sent))
    return Notification(kind, text)


def parse_state(text: str) -> StateChanged:
    """Return what a line of the history says, which the command ``state`` prints.

    ``time,name,detail,tunnel address,remote address,remote port,local address,local port,...``.
    """
    fields = [*text.split(","), "", "", "", "", "", ""]
    try:
        state = State(fields[1])
    except ValueError:
        state = State.OTHER
    port = int(fields[5]) if _is_number(fields[5]) else 0
    return StateChanged(state, fields[2], fields[4], port)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
