"""The life of one tunnel at one of its ends, as a pure state machine.

Theory
======

A tunnel has two ends, each with a machine of its own; they meet only through the control API and the
driver. A dialer's end begins with a request and has no driver until the peer has made an offer. A
listener's end begins with the offer, so with a driver::

    dialer:    REQUESTED --OFFERED--> OPENING --CONNECTED--> UP --+
                  |                      |                        |
    listener:     |        begins in  OPENING --CONNECTED--> UP --+--DRAIN--> DRAINING
                  |                      |                        |              |
                  |                     END                      END            END    (we want it to end)
                  |                      v                        v              |
                  |                   CLOSING                 DETACHED <---------+
                  |                      |                        |
                  +-REFUSED, END         +--- GONE (driver) ------+
                  v                                               v
                CLOSED  <-----------------------------------------+

Rules of the house:

- An end that a daemon adopts from the one before begins in UP.
- Whatever changes the state of a tunnel is in :data:`TRANSITIONS`; whatever must be done about it is an
  :class:`Action` there. This module knows neither slots, nor peers, nor time.
- A pair that is not in the table cannot follow from what we did, but it can follow from delay: an answer that
  crossed our cancellation, a driver that comes up while it is being ended. Such inputs change nothing.
- Only an end that was UP was seen by the routing daemon. So the ways out are two, CLOSING and DETACHED: the
  interface of a tunnel that never was UP is free at once, the other one must first grow quiet.
- A removal that can wait goes through DRAINING: the tunnel still carries packets, but both ends make it so
  dear that routes leave it, and it ends when none is left. A removal that cannot wait goes from UP straight
  to DETACHED and may cost the packets of the next second.
- A driver that ends by itself (GONE) needs no word from us; a driver that we end is awaited, because its
  interface and port are taken until then. A driver that never confirms is given up (GIVEN_UP).
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)


class Direction(enum.Enum):
    """Who opened a tunnel."""

    OUTGOING = "out"
    """This node is the dialer."""
    INCOMING = "in"
    """This node is the listener."""


class TunnelState(enum.Enum):
    """Where one end of a tunnel is in its life."""

    REQUESTED = "requested"
    """We asked the peer and wait for its answer."""
    OPENING = "opening"
    """The driver runs and is not connected yet."""
    UP = "up"
    """Packets pass; the routing daemon may use the tunnel."""
    CLOSING = "closing"
    """The driver was told to end; routing never used the tunnel."""
    DRAINING = "draining"
    """Packets still pass, and routes are being moved away."""
    DETACHED = "detached"
    """The driver was told to end; routing has used the tunnel."""
    CLOSED = "closed"
    """Nothing is left of it."""


class Input(enum.Enum):
    """What can happen to one end of a tunnel."""

    OFFERED = "offered"
    REFUSED = "refused"
    """The request got a refusal or no usable answer."""
    CONNECTED = "connected"
    DRAIN = "drain"
    """We or the peer want it to end without the loss of a packet."""
    END = "end"
    """We want it to end: the peer said so, time is up, or it is not wanted any more."""
    GONE = "gone"
    """The driver has ended."""
    GIVEN_UP = "given up"
    """The driver does not confirm that it has ended."""


class Action(enum.Enum):
    """What the owner of the machine must do about a transition, in this order."""

    CANCEL_REQUEST = "cancel request"
    DIAL = "dial"
    ATTACH = "attach"
    DRAIN = "drain"
    DETACH = "detach"
    END_DRIVER = "end driver"
    RELEASE = "release"
    """Slot and port are not in use any more."""


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state and what to do on the way."""

    state: TunnelState
    actions: tuple[Action, ...] = ()


TRANSITIONS: dict[TunnelState, dict[Input, Transition]] = {
    TunnelState.REQUESTED: {
        Input.OFFERED: Transition(TunnelState.OPENING, (Action.DIAL,)),
        Input.REFUSED: Transition(TunnelState.CLOSED, (Action.RELEASE,)),
        Input.END: Transition(TunnelState.CLOSED, (Action.CANCEL_REQUEST, Action.RELEASE)),
    },
    TunnelState.OPENING: {
        Input.CONNECTED: Transition(TunnelState.UP, (Action.ATTACH,)),
        Input.END: Transition(TunnelState.CLOSING, (Action.END_DRIVER,)),
        Input.GONE: Transition(TunnelState.CLOSED, (Action.RELEASE,)),
    },
    TunnelState.UP: {
        Input.DRAIN: Transition(TunnelState.DRAINING, (Action.DRAIN,)),
        Input.END: Transition(TunnelState.DETACHED, (Action.DETACH, Action.END_DRIVER)),
        Input.GONE: Transition(TunnelState.CLOSED, (Action.DETACH, Action.RELEASE)),
    },
    TunnelState.DRAINING: {
        Input.END: Transition(TunnelState.DETACHED, (Action.DETACH, Action.END_DRIVER)),
        Input.GONE: Transition(TunnelState.CLOSED, (Action.DETACH, Action.RELEASE)),
    },
    TunnelState.CLOSING: {
        Input.GONE: Transition(TunnelState.CLOSED, (Action.RELEASE,)),
        Input.GIVEN_UP: Transition(TunnelState.CLOSED, (Action.RELEASE,)),
    },
    TunnelState.DETACHED: {
        Input.GONE: Transition(TunnelState.CLOSED, (Action.RELEASE,)),
        Input.GIVEN_UP: Transition(TunnelState.CLOSED, (Action.RELEASE,)),
    },
    TunnelState.CLOSED: {},
}
"""State, input -> transition. A missing pair changes nothing."""

LIVE = frozenset({TunnelState.REQUESTED, TunnelState.OPENING, TunnelState.UP})
"""States of a tunnel that is wanted."""

ENDED = frozenset({TunnelState.CLOSING, TunnelState.DETACHED, TunnelState.CLOSED})
"""States of a tunnel that carries nothing any more and will not."""


class Lifecycle:
    """The state of one end of a tunnel."""

    def __init__(self, label: str, direction: Direction, now: float) -> None:
        """Begin at ``now``; ``label`` names the tunnel in the log."""
        self._label = label
        self.state = TunnelState.REQUESTED if direction is Direction.OUTGOING else TunnelState.OPENING
        self.since = now
        """When the state was entered (monotonic seconds)."""

    @classmethod
    def adopted(cls, label: str, direction: Direction, since: float) -> Lifecycle:
        """Return the life of an end that has been UP since ``since``, when another daemon ran."""
        life = cls(label, direction, since)
        life.state = TunnelState.UP
        logger.debug("= tunnel %s: adopted as %s", label, life.state.value)
        return life

    @property
    def live(self) -> bool:
        """Whether the tunnel is wanted (though perhaps not up yet)."""
        return self.state in LIVE

    @property
    def ended(self) -> bool:
        """Whether the tunnel was told to end, or has ended."""
        return self.state in ENDED

    def feed(self, happened: Input, now: float) -> tuple[Action, ...]:
        """Take ``happened`` into account and return what must be done, in order."""
        transition = TRANSITIONS[self.state].get(happened)
        if transition is None:
            logger.debug(
                "tunnel %s: %s means nothing while %s", self._label, happened.value, self.state.value
            )
            return ()
        self._set_state(transition.state, happened, now)
        return transition.actions

    def _set_state(self, state: TunnelState, reason: Input, now: float) -> None:
        logger.debug("= tunnel %s: %s -> %s (%s)", self._label, self.state.value, state.value, reason.value)
        self.state = state
        self.since = now
