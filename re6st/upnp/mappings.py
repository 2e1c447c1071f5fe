"""Decides what to ask of the home router next so that it holds the port mappings we want (pure).

A *wish* is a port of ours that should be reachable from outside. The plan compares wishes with what the
router (internet gateway device, IGD) is known to hold and names one action at a time; whoever carries it
out reports the result before asking for the next one.

    wish      WAITING ── added ──> MAPPED ── renewed at half of the lease, looked after by checks
                 ^  └── refused ──> REFUSED ── tried again later
                 └───────── the router is gone ──────────────┘

    gateway   SEARCHING ──> READY <──> USELESS (its own outside address is not public)
                 ^ └──> ABSENT  │         │
                 └── silent, or refuses everything

The external port is the internal one if it is free. Otherwise come a few that depend on the node only, so
that they are the same after a restart, and then random ones. A router that reboots forgets its mappings
and may get another outside address: both are seen by the checks. Removals wait for the end of a search.

A router that is of no use may speak another protocol, or not be the only one. So one that grants nothing is
searched again by other protocols, and the one that it was asked by is avoided for a while. One without a
public address is searched anew ever less often; what it holds stays there, as the address may come back.

Codes are those of the WANIPConnection service (UPnP Forum, WANIPConnection:2, 2.5). Time is monotonic
seconds, given by the caller.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address

from re6st.messages import Transport
from re6st.status import MappingStatus
from re6st.upnp.actions import (
    BY_HAND,
    CONFLICT_IN_MAPPING_ENTRY,
    CONFLICT_WITH_OTHER_MECHANISMS,
    ONLY_PERMANENT_LEASES_SUPPORTED,
    Action,
    Add,
    Check,
    Discover,
    Grant,
    Mapping,
    Remove,
    public_address,
)
from re6st.upnp.avoidance import Avoidance
from re6st.upnp.wishes import SEARCHING_REASON, Wish, WishState, external_candidate

logger = logging.getLogger(__name__)

CONFLICTS = (CONFLICT_IN_MAPPING_ENTRY, CONFLICT_WITH_OTHER_MECHANISMS)

CANDIDATES = 12
"""External ports that are tried in a row before the wish has to wait."""

SILENCES_UNTIL_AVOIDED = 2
"""A router that answers searches only is asked by another protocol after so many of its silences in a row."""

SEARCHES_UNTIL_GONE = 2
"""A router that held mappings is believed to be gone after so many searches: a datagram may get lost."""

CONFLICT_REASON = (
    "every external port that was tried is taken by another device or program;"
    " look at the port forwardings in the router, or restart it"
)

USELESS = "useless"
"""State of mappings that the router would make, or has made, but that nobody could use."""

ENABLE = f"enable UPnP or PCP on the router, or {BY_HAND}"
PERMIT = f"change that in the router's settings, or {BY_HAND}"
GET_ADDRESS = (
    "ask the provider for a public IPv4 address, or use IPv6;"
    " if a second router of yours is before this one, make one of them a bridge"
)
"""What an owner can do about a router that is absent, refuses or has no public address."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds."""

    lease: float = 3600.0
    """Asked of the router; it is renewed after about half of it."""
    check: float = 60.0
    """Between two looks at what the router holds."""
    suspicious_check: float = 4.0
    """The same while something seems to be wrong."""
    suspicion: float = 30.0
    """For how long it seems so."""
    first_retry: float = 15.0
    """After the first failure; each further one in a row doubles it."""
    last_retry: float = 600.0
    """The longest time between two attempts, and for how long a protocol that was of no use is avoided."""
    last_useless_check: float = 300.0
    """The longest time between two looks at a router that is of no use."""


class GatewayState(enum.Enum):
    """What is known of the home router."""

    SEARCHING = "searching"
    ABSENT = "absent"
    READY = "ready"
    USELESS = "useless"
    """It answers, but its own outside address cannot be reached either."""


class MappingPlan:
    """Wishes, what the router holds, and what to do next."""

    def __init__(self, seed: str, draw: Callable[[], float], timing: Timing | None = None) -> None:
        """Have external ports depend on ``seed``; ``draw`` gives a number from 0 up to 1."""
        self._seed = seed
        self._draw = draw
        self._timing = timing or Timing()
        self._wishes: dict[tuple[Transport, int], Wish] = {}
        self._removals: list[Remove] = []
        self._gateway = GatewayState.SEARCHING
        self._reason = SEARCHING_REASON
        self._address: IPv4Address | None = None
        self._next_discovery = 0.0
        self._next_check = 0.0
        self._checked_at = float("-inf")
        self._suspicious_until = float("-inf")
        self._discoveries_failed = 0
        self._silences = 0
        """Requests in a row that got no proper answer, each followed by a discovery."""
        self._useless_looks = 0
        """Looks in a row that have shown no public address."""
        self._avoidance = Avoidance(self._timing.last_retry)
        self._protocol = ""
        self._permanent = False
        """The router knows permanent mappings only."""

    # -- what is wanted ---------------------------------------------------------------------------------

    def want(self, transport: Transport, internal_port: int, now: float) -> None:
        """Have ``internal_port`` mapped as soon as possible, until :meth:`unwant`."""
        wish = self._wishes.get((transport, internal_port))
        if wish is None:
            wish = Wish(transport, internal_port, external_port=internal_port, due=now)
            if self._gateway in (GatewayState.ABSENT, GatewayState.USELESS):
                wish.reason = self._reason
            self._wishes[transport, internal_port] = wish

    def unwant(self, transport: Transport, internal_port: int) -> None:
        """Have the mapping of ``internal_port`` removed."""
        wish = self._wishes.pop((transport, internal_port), None)
        if wish is not None and wish.state is WishState.MAPPED:
            self._remove_soon(Remove(transport, internal_port, wish.external_port))

    def unwant_all(self) -> None:
        """Have all mappings removed."""
        for transport, internal_port in list(self._wishes):
            self.unwant(transport, internal_port)

    def network_changed(self, now: float) -> None:
        """Look at once whether the router is there, another one, or a changed one."""
        self._discoveries_failed = self._silences = self._useless_looks = 0
        self._avoidance.end()
        self._ask_again(now)
        self._next_discovery = now
        self._set_gateway(GatewayState.SEARCHING, SEARCHING_REASON)

    def suspect(self, now: float) -> None:
        """Look soon, and often for a while, whether the router still has the same address and our mappings.

        A router that connects anew to its provider may need some time for that.
        """
        self._suspicious_until = now + self._timing.suspicion
        self._next_check = min(self._next_check, max(now, self._checked_at + self._timing.suspicious_check))

    # -- what to do -------------------------------------------------------------------------------------

    def next_action(self, now: float) -> Action | None:
        """Return what is to be done now; report its result before asking again."""
        if self._gateway in (GatewayState.SEARCHING, GatewayState.ABSENT):
            is_due = self._has_work() and now >= self._next_discovery
            return Discover(self._avoidance.at(now)) if is_due else None
        if self._removals:
            return self._removals[0]
        if self._gateway is GatewayState.READY:
            due = min((w for w in self._wishes.values() if w.due <= now), key=_urgency, default=None)
            if due is not None:
                lease = 0 if self._permanent else int(self._timing.lease)
                return Add(due.transport, due.internal_port, due.external_port, lease)
        if self._wishes and now >= self._next_check:
            # There may be a better router than one that cannot help.
            is_useless = self._gateway is GatewayState.USELESS
            return Discover(self._avoidance.at(now)) if is_useless else Check(self._held())
        return None

    def next_removal(self) -> Remove | None:
        """Return a mapping to be removed at the router known last, also while it is being searched.

        For the end of the node, which has no time for a search; report the result before asking again.
        """
        return self._removals[0] if self._removals else None

    def holds_anything(self) -> bool:
        """Whether the router is believed to hold mappings of ours."""
        return bool(self._held() or self._removals)

    def deadline(self) -> float | None:
        """Return when :meth:`next_action` should be asked next; None: not before something is wanted."""
        if self._gateway in (GatewayState.SEARCHING, GatewayState.ABSENT):
            return self._next_discovery if self._has_work() else None
        if self._removals:
            return float("-inf")
        if not self._wishes:
            return None
        dues = [wish.due for wish in self._wishes.values() if self._gateway is GatewayState.READY]
        return min([self._next_check, *dues])

    def _has_work(self) -> bool:
        return bool(self._wishes or self._removals)

    def _remove_soon(self, removal: Remove) -> None:
        if removal not in self._removals:
            self._removals.append(removal)

    def _held(self) -> tuple[Add, ...]:
        return tuple(
            Add(wish.transport, wish.internal_port, wish.external_port, int(self._timing.lease))
            for wish in self._wishes.values()
            if wish.state is WishState.MAPPED
        )

    # -- what came of it --------------------------------------------------------------------------------

    def found(self, address: str | None, now: float, protocol: str = "UPnP") -> None:
        """Take note of a router whose outside address is ``address`` (empty: it has none).

        None: it tells its address only when it makes a mapping. ``protocol`` is how it is talked to.
        """
        self._discoveries_failed = 0
        self._permanent = False
        if protocol != self._protocol and protocol not in self._avoidance.at(now):
            self._ask_again(now)
        self._protocol = protocol
        self._see_address(address, now)
        self._next_check = self._plan_check(now)
        if self._gateway is GatewayState.READY and self._held():
            # What it still holds of an earlier acquaintance must be seen before anything else.
            self._next_check = now

    def missing(self, reason: str, now: float) -> None:
        """Take note that no router answers."""
        self._next_discovery = now + self._retry_delay(self._discoveries_failed)
        self._discoveries_failed += 1
        if self.holds_anything() and self._discoveries_failed < SEARCHES_UNTIL_GONE:
            self._set_gateway(GatewayState.SEARCHING, self._reason)
            return
        self._removals.clear()
        self._address = None
        self._set_gateway(GatewayState.ABSENT, reason)
        self._lose_all(reason, now)

    def silent(self, reason: str, now: float) -> None:
        """Take note that the router did not answer a request: search again, it may have moved."""
        self._next_discovery = now + (self._retry_delay(self._silences - 1) if self._silences else 0.0)
        self._silences += 1
        self._set_gateway(GatewayState.SEARCHING, reason)
        if self._silences >= SILENCES_UNTIL_AVOIDED:
            self._try_elsewhere(reason, now)

    def added(self, action: Add, granted: Grant, now: float) -> None:
        """Take note that the router made or renewed a mapping, as it was ``granted``."""
        self._silences = 0
        self._see_address(granted.address, now)
        wish = self._wishes.get((action.transport, action.internal_port))
        if wish is None:
            self._remove_soon(Remove(action.transport, action.internal_port, granted.external_port))
            return
        if self._address is None:
            self._next_check = self._plan_check(now)
        elif wish.state is not WishState.MAPPED or wish.external_port != granted.external_port:
            logger.info(
                "The home router forwards %s of %s to our %s (%s)",
                granted.external_port,
                self._address,
                wish,
                self._protocol,
            )
        wish.external_port = granted.external_port
        wish.attempt = wish.failures = 0
        wish.made = now
        wish.due = now + granted.lease * (0.45 + 0.1 * self._draw()) if granted.lease else float("inf")
        wish.set_state(WishState.MAPPED)

    def refused(self, action: Add, code: int | None, reason: str, now: float) -> None:
        """Take note that the router refused a mapping with ``code``; ``reason`` is for people."""
        self._silences = 0
        wish = self._wishes.get((action.transport, action.internal_port))
        if wish is None:
            return
        if code == ONLY_PERMANENT_LEASES_SUPPORTED and not self._permanent:
            self._permanent = True
            return
        if code in CONFLICTS and wish.attempt + 1 < CANDIDATES:
            wish.attempt += 1
            wish.set_state(WishState.WAITING, "the external port was taken, another one is being tried")
        else:
            wish.attempt = 0
            wish.due = now + self._retry_delay(wish.failures)
            wish.failures += 1
            reason = CONFLICT_REASON if code in CONFLICTS else reason
            logger.warning("The home router does not map our %s: %s", wish, reason)
            wish.set_state(WishState.REFUSED, reason)
            if not self._held():
                self._try_elsewhere(reason, now)
        wish.external_port = external_candidate(
            self._seed, wish.transport, wish.internal_port, wish.attempt, self._draw
        )

    def checked(self, address: str | None, lost: Collection[Add], now: float) -> None:
        """Take note of the router's outside address (None: as before) and of mappings that it has lost."""
        self._silences = 0
        for wish in self._wishes.values():
            if wish.state is not WishState.MAPPED:
                continue
            if (wish.transport, wish.internal_port) not in {
                (one.transport, one.internal_port) for one in lost
            }:
                wish.seen, wish.unseen = True, 0
            elif wish.seen or not wish.unseen:
                # Soon it holds for others again what they know of it, so nothing is withdrawn.
                logger.info("The home router has forgotten the mapping of our %s: making it anew", wish)
                wish.seen, wish.unseen = False, 1
                wish.due = now
            else:
                self._believe(wish, now)
        self._see_address(address, now)
        self._next_check = self._plan_check(now)

    def removed(self, action: Remove) -> None:
        """Take note that a removal was tried."""
        self._removals.remove(action)

    # -- what there is ----------------------------------------------------------------------------------

    @property
    def gateway(self) -> GatewayState:
        """What is known of the router."""
        return self._gateway

    @property
    def address(self) -> IPv4Address | None:
        """The router's outside address, if it is public."""
        return self._address

    @property
    def reason(self) -> str:
        """Why nothing can be mapped, for people; empty if it can."""
        return self._reason

    def why_not(self, transport: Transport, internal_port: int) -> str:
        """Return why ``internal_port`` is not mapped, for people; empty if it is."""
        wish = self._wishes.get((transport, internal_port))
        if wish is None or self._reason:
            return self._reason
        if wish.state is WishState.WAITING:
            return "the home router is being asked to forward the port"
        return wish.reason

    def mapping(self, transport: Transport, internal_port: int) -> Mapping | None:
        """Return the mapping of ``internal_port`` if it is in force."""
        wish = self._wishes.get((transport, internal_port))
        if wish is None or wish.state is not WishState.MAPPED or self._address is None:
            return None
        return Mapping(transport, internal_port, self._address, wish.external_port)

    def mappings(self) -> tuple[Mapping, ...]:
        """Return all mappings in force."""
        found = (self.mapping(transport, port) for transport, port in self._wishes)
        return tuple(mapping for mapping in found if mapping is not None)

    def is_pending(self, transport: Transport, internal_port: int) -> bool:
        """Whether it may be worth while to wait some seconds for this mapping."""
        wish = self._wishes.get((transport, internal_port))
        return (
            wish is not None
            and wish.state is WishState.WAITING
            and self._gateway in (GatewayState.SEARCHING, GatewayState.READY)
        )

    def status(self) -> list[MappingStatus]:
        """Return what became of each wish."""
        is_useful = self._gateway is not GatewayState.USELESS
        return [
            MappingStatus(
                protocol=wish.transport.value,
                internal_port=wish.internal_port,
                external_port=wish.external_port if is_useful and wish.state is WishState.MAPPED else 0,
                state=wish.state.value if is_useful else USELESS,
                reason=(self._reason if wish.state is WishState.WAITING or not is_useful else "")
                or wish.reason,
                method=self._protocol if is_useful and wish.state is WishState.MAPPED else "",
                remedy=self._remedy(wish),
            )
            for wish in self._wishes.values()
        ]

    def _remedy(self, wish: Wish) -> str:
        if self._gateway is GatewayState.USELESS:
            return GET_ADDRESS
        if self._gateway is GatewayState.ABSENT:
            return ENABLE
        return PERMIT if wish.state is WishState.REFUSED else ""

    # -- conclusions ------------------------------------------------------------------------------------

    def _try_elsewhere(self, reason: str, now: float) -> None:
        """Search the router by other protocols at once, unless they were tried lately."""
        if self._protocol in self._avoidance.at(now):
            return
        self._avoidance.add(self._protocol, now)
        self._next_discovery = now
        self._set_gateway(GatewayState.SEARCHING, reason)

    def _ask_again(self, now: float) -> None:
        """Ask for what was refused: the router is another one, or is asked by another protocol."""
        for wish in self._wishes.values():
            if wish.state is WishState.REFUSED:
                wish.due = now
                wish.attempt = 0
                wish.external_port = wish.internal_port

    def _believe(self, wish: Wish, now: float) -> None:
        """Take a mapping to be there which the router makes, but never shows: make it again ever less often.

        Some refuse to show any. Whether it works is found out by peers who try it.
        """
        pause = min(self._timing.check * 2.0**wish.unseen, self._timing.lease / 4)
        if now >= wish.made + pause:
            wish.unseen += 1
            wish.due = now

    # -- helpers ----------------------------------------------------------------------------------------

    def _plan_check(self, now: float) -> float:
        """Return when to look again, having just looked."""
        self._checked_at = now
        if now < self._suspicious_until:
            return now + self._timing.suspicious_check
        if self._gateway is GatewayState.USELESS:
            self._useless_looks += 1
            return now + min(self._retry_delay(self._useless_looks - 1), self._timing.last_useless_check)
        return now + self._timing.check

    def _see_address(self, text: str | None, now: float) -> None:
        if text is None:
            self._set_gateway(GatewayState.READY, "")
            return
        address = public_address(text)
        if address is None:
            own = (
                f"its own outside address {text} is not public" if text else "it has no public address itself"
            )
            reason = f"the home router cannot help: {own} (carrier-grade NAT, or a second router before it)"
            self._address = None
            self._set_gateway(GatewayState.USELESS, reason)
            return
        if address != self._address:
            logger.info("The home router's outside address is %s", address)
            self._suspicious_until = now
        self._address = address
        self._useless_looks = 0
        self._set_gateway(GatewayState.READY, "")

    def _lose_all(self, reason: str, now: float) -> None:
        for wish in self._wishes.values():
            wish.due = now
            wish.failures = 0
            wish.set_state(WishState.WAITING, reason)

    def _set_gateway(self, state: GatewayState, reason: str) -> None:
        if state is not self._gateway:
            logger.debug("= gateway: %s -> %s %s", self._gateway.value, state.value, reason)
        self._gateway, self._reason = state, reason

    def _retry_delay(self, failures: int) -> float:
        delay = self._timing.first_retry * 2.0 ** min(failures, 16)
        return min(delay, self._timing.last_retry) * (0.9 + 0.2 * self._draw())


def _urgency(wish: Wish) -> tuple[bool, float]:
    """Order new mappings, for which someone waits, before renewals."""
    return wish.state is WishState.MAPPED, wish.due
