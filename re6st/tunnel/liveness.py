"""Whether a tunnel still carries packets, judged by its use: a detector, as a pure state machine.

Theory
======

What is known of a tunnel is cheap: the packet counters of its interface, read every now and then, and the
answers to *probes* (ICMPv6 echo requests to the other end). The detector says when to send a probe, and when
the tunnel is dead::

                    sent, nothing heard for a patience;
                    a steady flow stops; time to refresh
    UNPROVEN --answer--> TRUSTED ---------------------> DOUBTED --all probes unanswered--> DEAD
        |                   ^                              |                                 ^
        |                   +------ anything heard --------+                                 |
        +------------------------------- a long silence -------------------------------------+

*Heard.* Each received packet, whatever it is, and each answer shows that the tunnel works in our direction.
That it works in the other one, only answers show. So of a tunnel that fails in one direction the end that
hears nothing says so; the other one is told.

*Doubt* begins with a single probe when

- packets were sent and nothing was heard for a *patience*. Routing's own small packets (hellos, and answers
  to probes of the other end) do not count as use, or an idle tunnel would be probed with every hello. But
  :data:`SMALL_FLOW` small ones within :data:`SMALL_TIME`, with nothing heard meanwhile, are more than
  routing sends through an idle tunnel, and those of a live one are answered;
- a steady flow of received packets stops. Its end costs one probe, but so the end that only receives, or
  only answers, notices a failure at the same time as the other one, which could not tell it;
- the host has moved or was asleep, as its owner is told from outside;
- the round-trip time was not measured for a while. These are the keepalives of an idle tunnel.

*Patience* is the retransmission timeout of RFC 6298: SRTT + 4 RTTVAR, gains 1/8 and 1/4, measured by probes
only (each has a number, so no answer is ambiguous), but not less than :data:`SHORTEST_PATIENCE`.

*Verdict.* If the first probe has no answer after a patience, more follow at short intervals. The tunnel is
dead when none of :data:`PROBES` was answered, and nothing else was heard, one patience after the last one:
0.4 s after the first one on a short path, two patiences and 0.16 s on a long one. If each direction loses 5 %
of the packets independently, a probe fails with p = 1 - 0.95^2 = 0.0975, and all six of them with
p^6 = 8.6e-7, of the few bursts that begin at all. The last probes follow each other quickly on purpose: a
path that loses everything for longer than a burst is not worth waiting for while there are others.

*Our own sleep is no silence.* When the machine is busy we look later than we wanted. Then answers may wait to
be read, and packets to be sent, by us or by the tunnel's own process. So the time by which we are late is
added to all deadlines, and the verdict is only spoken a moment later, when we are in time (or when it was put
off for :data:`MOST_FORGIVEN`).

A peer whose host never answers echo requests cannot be judged by probes: its detector stays UNPROVEN, and
says dead only when nothing at all was heard for :data:`LONGEST_SILENCE`, in which the routing daemon of a
living peer says hello several times. The driver has no timeout of its own: OpenVPN's follow the wall clock
(``--ping-exit``), and would end healthy tunnels when that is set forward.

*Budget.* An idle tunnel costs one probe per :data:`IDLE_REFRESH` and end, that is 1,440 a day. With its
answer, each of 64 octets plus about 60 for the tunnel and its underlay, that is 0.36 MB a day and end.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)

PROBES = 6
"""Probes that must all be lost."""

SPACING = 0.04
"""Seconds between probes after the first one."""

SHORTEST_PATIENCE = 0.12
"""Seconds: what wireless links and busy machines now and then take on the shortest path."""

LONGEST_PATIENCE = 3.0
"""Seconds."""

FIRST_PATIENCE = 1.0
"""Seconds, before anything was measured (RFC 6298, 2.1)."""

PROBE_GAP = 0.4
"""Least seconds between two doubts: what a flow that is never answered may cost."""

IDLE_REFRESH = 60.0
"""Seconds after which the round-trip time of an idle tunnel is measured again."""

BUSY_REFRESH = 5.0
"""The same for a tunnel in use, which may fill the queues on its path."""

FIRST_REFRESHES = (0.3, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between the first measurements of a tunnel; later ones follow as above."""

SMALL = 68
"""Octets: a packet up to this size is a hello, a probe, or an answer to one; a TCP segment is larger."""

SMALL_FLOW = 5
"""Small packets without a word from the peer that are taken for somebody's flow."""

SMALL_TIME = 6.0
"""Seconds within which they must be sent. Hellos come every four seconds, some with a packet beside them."""

STEADY = 3
"""Looks in a row at which packets of a flow had arrived, after which its end is worth a probe."""

LATE = 0.03
"""Seconds by which a look may be late without any consequence."""

MOMENT = 0.06
"""Seconds that answers have to be read after we were late."""

MOST_FORGIVEN = 2.0
"""Seconds by which one verdict may be put off because we are late again and again."""

LONGEST_SILENCE = 300.0
"""Seconds without a packet after which a peer is dead that answers no probes; hellos come once a minute at
least (:attr:`re6st.messages.NetworkParameters.hello_interval`).
"""

_CLOCK_GRANULARITY = 0.01
_REMEMBERED_PROBES = 16


class State(enum.Enum):
    """What is thought of a tunnel."""

    UNPROVEN = "unproven"
    """No probe was ever answered: silence means nothing unless it is long."""
    TRUSTED = "trusted"
    DOUBTED = "doubted"
    """Probes are under way."""
    DEAD = "dead"
    """Final."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What an interface has carried so far."""

    sent_packets: int
    sent_octets: int
    received_packets: int
    received_octets: int


class RoundTrip:
    """Estimates the round-trip time (RFC 6298, section 2)."""

    def __init__(self) -> None:
        self.smoothed: float | None = None
        """SRTT, seconds; None before the first measurement."""
        self.variation = 0.0
        """RTTVAR, seconds."""

    def measure(self, sample: float) -> None:
        """Take a measurement of ``sample`` seconds into account."""
        if self.smoothed is None:
            self.smoothed, self.variation = sample, sample / 2
            return
        self.variation += (abs(self.smoothed - sample) - self.variation) / 4
        self.smoothed += (sample - self.smoothed) / 8

    @property
    def patience(self) -> float:
        """How long to wait for an answer, seconds."""
        if self.smoothed is None:
            return FIRST_PATIENCE
        timeout = self.smoothed + max(_CLOCK_GRANULARITY, 4 * self.variation)
        return min(LONGEST_PATIENCE, max(SHORTEST_PATIENCE, timeout))


class Liveness:
    """Judges one tunnel, from when it is up until it is dead or not of interest any more.

    All times are monotonic seconds. Call :meth:`look` regularly, and not later than :attr:`deadline`.
    """

    def __init__(self, label: str, now: float, counts: Counts) -> None:
        """Begin at ``now``; ``label`` names the tunnel in the log."""
        self._label = label
        self._counts = counts
        self._looked = now
        self._heard = now
        self._used = float("-inf")
        self._waiting_since: float | None = None
        self._small = 0
        self._small_since = now
        self._steady = 0
        self._probes: dict[int, float] = {}
        self._last_number = 0
        self._burst = 0
        self._next_step = now
        self._doubted_at = float("-inf")
        self._forgiven = 0.0
        self._refreshes = 0
        self._refresh_at = now
        self.round_trip = RoundTrip()
        self.state = State.UNPROVEN

    @property
    def deadline(self) -> float:
        """When the next look is due at the latest."""
        return self._next_step if self._burst else self._refresh_at

    @property
    def in_use(self) -> bool:
        """Whether the tunnel carried more than hellos lately, or is in doubt: looks should be frequent."""
        return self._burst > 0 or self._waiting_since is not None or self._looked - self._used < 2.0

    def look(self, now: float, counts: Counts, late: float = 0.0) -> int | None:
        """Take ``counts`` into account; return the number of a probe to be sent now, if any.

        ``late`` is by how much this look comes later than it was meant to. Answers that have arrived must
        have been reported before. Afterwards :attr:`state` may be DEAD.
        """
        if self.state is State.DEAD:
            return None
        if late > LATE:
            self._forgive(now, late)
        self._compare(now, counts)
        if not self._burst:
            return self._probe(now) if self._doubtful(now) else None
        if now < self._next_step:
            return None
        if self._burst < PROBES:
            return self._probe(now)
        self._conclude(now)
        return None

    def suspect(self, now: float) -> None:
        """Ask the peer at ``now``, however idle the tunnel is: there is a reason outside of it."""
        self._refresh_at = min(self._refresh_at, now)

    def answered(self, now: float, number: int) -> None:
        """Take the answer to the probe ``number`` into account; unknown ones are ignored."""
        sent = self._probes.pop(number, None)
        if sent is None or self.state is State.DEAD:
            return
        self.round_trip.measure(max(0.0, now - sent))
        if self._refreshes >= len(FIRST_REFRESHES):
            self._plan_refresh(now)
        self._hear(now)
        self._set_state(State.TRUSTED, "a probe was answered")

    # -- evidence ---------------------------------------------------------------------------------------

    def _forgive(self, now: float, late: float) -> None:
        """We were asleep: whatever we wait for gets that time in addition, and a moment to be read."""
        self._heard += late
        if self._waiting_since is not None:
            self._waiting_since += late
        if self._burst and self._forgiven < MOST_FORGIVEN:
            before = self._next_step
            self._next_step = max(before + late, now + MOMENT)
            self._forgiven += self._next_step - before

    def _compare(self, now: float, counts: Counts) -> None:
        before, self._counts = self._counts, counts
        previous_look, self._looked = self._looked, now
        received = counts.received_packets - before.received_packets
        sent = counts.sent_packets - before.sent_packets
        if received > 0:
            if counts.received_octets - before.received_octets > SMALL * received:
                self._steady += 1
                self._use(now)
            self._hear(now)
        elif sent > 0 and counts.sent_octets - before.sent_octets > SMALL * sent:
            self._use(now)
            if self._waiting_since is None:
                # Of many packets the first was sent soon after the last look, a single one perhaps now.
                self._waiting_since = previous_look if sent > 1 else now
        elif sent > 0:
            self._count_small(now, sent)

    def _count_small(self, now: float, sent: int) -> None:
        if now - self._small_since > SMALL_TIME:
            self._small, self._small_since = 0, now
        self._small += sent
        if self._small >= SMALL_FLOW and self._waiting_since is None:
            self._waiting_since = now

    def _use(self, now: float) -> None:
        if now - self._used < 1.0 and self._refreshes >= len(FIRST_REFRESHES):
            self._refresh_at = min(self._refresh_at, now + BUSY_REFRESH)
        self._used = now

    def _hear(self, now: float) -> None:
        self._heard = now
        self._waiting_since = None
        self._small = 0
        self._burst = 0
        if self.state is State.DOUBTED:
            self._set_state(State.TRUSTED, "the peer was heard")

    def _doubtful(self, now: float) -> bool:
        """Whether there is a reason for a first probe."""
        if now >= self._refresh_at:
            self._refreshes += 1
            self._plan_refresh(now)
            return True
        if now - self._doubted_at < PROBE_GAP or self.state is State.UNPROVEN:
            return False
        patience = self.round_trip.patience
        if self._waiting_since is not None and now - self._waiting_since >= patience:
            return True
        if now - self._heard < patience:
            return False
        stopped, self._steady = self._steady >= STEADY, 0
        return stopped

    # -- probes -----------------------------------------------------------------------------------------

    def _probe(self, now: float) -> int:
        if not self._burst:
            self._doubted_at = now
            self._forgiven = 0.0
        self._burst += 1
        self._last_number += 1
        self._probes[self._last_number] = now
        while len(self._probes) > _REMEMBERED_PROBES:
            del self._probes[next(iter(self._probes))]
        alone = self._burst in (1, PROBES)
        self._next_step = now + (self.round_trip.patience if alone else SPACING)
        if self._burst == 2 and self.state is State.TRUSTED:
            self._set_state(State.DOUBTED, "a probe was not answered")
        return self._last_number

    def _conclude(self, now: float) -> None:
        self._burst = 0
        self._waiting_since = None
        if self.state is not State.UNPROVEN:
            self._set_state(State.DEAD, f"{PROBES} probes were not answered, nothing was heard")
        elif now - self._heard > LONGEST_SILENCE:
            self._set_state(State.DEAD, f"nothing was heard for {LONGEST_SILENCE:.0f} seconds")

    def _plan_refresh(self, now: float) -> None:
        if self._refreshes <= len(FIRST_REFRESHES):
            self._refresh_at = now + FIRST_REFRESHES[self._refreshes - 1]
        else:
            self._refresh_at = now + (BUSY_REFRESH if now - self._used < BUSY_REFRESH else IDLE_REFRESH)

    def _set_state(self, state: State, reason: str) -> None:
        if state is not self.state:
            logger.debug("= %s: %s -> %s (%s)", self._label, self.state.value, state.value, reason)
            self.state = state
