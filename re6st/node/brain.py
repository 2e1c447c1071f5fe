"""Runs the pure core in the event loop: events in, effects out, one timer for all its deadlines."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from re6st.core import NodeCore
from re6st.core.effects import Effect
from re6st.core.events import Event

logger = logging.getLogger(__name__)


class Brain:
    """The only caller of the core. Must be used from the event loop's thread."""

    def __init__(self, core: NodeCore, execute: Callable[[Effect], None]) -> None:
        """Hand each effect to ``execute``, which must not block."""
        self._core = core
        self._execute = execute
        self._events: deque[Event] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = True

    def start(self) -> None:
        """Begin to act."""
        self._stopped = False
        self._perform(self._core.start(self._now()))

    def drain(self) -> None:
        """Have the core make peers send nothing more through this node."""
        if not self._stopped:
            self._perform(self._core.drain(self._now()))

    def finish(self) -> None:
        """Have the core leave in good order: it closes its tunnels and stores its address book."""
        if not self._stopped:
            self._perform(self._core.stop(self._now()))

    def hand_over(self) -> None:
        """Have the core save what it knows for the next daemon, and stop acting."""
        if not self._stopped:
            self._perform(self._core.hand_over(self._now()))
        self.stop()

    def stop(self) -> None:
        """Stop acting: later events are ignored."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def report(self, event: Event) -> None:
        """Tell the core what happened; what it wants done is carried out before this returns.

        An event reported while another one is being handled is handled next.
        """
        if self._stopped:
            return
        self._events.append(event)
        if self._busy:
            return
        self._work_off()

    def _work_off(self) -> None:
        while self._events and not self._stopped:
            event = self._events.popleft()
            logger.debug("> %s", event)
            self._perform(self._core.handle(event, self._now()))

    def _on_timer(self) -> None:
        self._timer = None
        if not self._stopped:
            self._perform(self._core.advance(self._now()))
            self._work_off()

    def _perform(self, effects: list[Effect]) -> None:
        self._busy = True
        try:
            for effect in effects:
                logger.debug("< %s", effect)
                self._execute(effect)
        finally:
            self._busy = False
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.next_deadline()
        if deadline is not None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._on_timer)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
