"""The key of this node's LANs: from the owner's file, or that of the network with all its changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from re6st.errors import ChildError, ConfigError, ProtocolError, StorageError, file_failure
from re6st.files import write_atomically
from re6st.lan_keys import choose, recognised
from re6st.messages import LanKeyPeriod, LanKeys, decode, encode
from re6st.routing.lan import LanKey, parse_key
from re6st.supervisor.backoff import Backoff, RestartPolicy

logger = logging.getLogger(__name__)

LAN_KEYS_NAME = "lan-keys.json"
"""File of the network's keys of LANs, 0600, in the state directory."""

RETRY = 10.0
"""Seconds until a key that could not be put to use is tried again."""

FETCHING = RestartPolicy(first=10.0, cap=600.0)
"""Pauses between attempts to get a key that is missing."""

SPREAD = 60.0
"""Seconds over which all nodes ask for a key that was announced, at most."""

LONGEST_WAIT = 60.0
"""Seconds after which the clock is read again in any case: somebody may set it."""

_LONGEST_FILE = 256
_OTHERS = 0o077


def load_key(path: Path) -> LanKey:
    """Return the key in the file ``path``. Raises :class:`ConfigError`, also when others may read it."""
    try:
        if path.stat().st_mode & _OTHERS:
            raise ConfigError(f"{path} holds a key that others may read: chmod 600 {path}")
        with path.open() as file:
            text = file.read(_LONGEST_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the key of the LANs: {file_failure(error, path)}") from error
    try:
        return parse_key(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


class LanKeyring:
    """Holds the network's keys as far as the network parameters name them, and uses the one in force.

    Keys come from the registry or from any other member that has them; by their digests the parameters say
    which ones are right.
    """

    def __init__(
        self,
        path: Path,
        periods: Callable[[], tuple[LanKeyPeriod, ...]],
        sources: Callable[[], AsyncGenerator[LanKeys, None]],
        use: Callable[[LanKey], Awaitable[None]],
        draw: Callable[[], float],
    ) -> None:
        """Keep the keys in the file ``path``. ``periods`` are those of the parameters in force, ``sources``
        asks the registry and other members until it is closed, ``use`` is told which key to use, and ``draw``
        returns random numbers in [0, 1).
        """
        self._path = path
        self._periods = periods
        self._sources = sources
        self._use = use
        self._known: dict[bytes, bytes] = {}
        self._used: bytes | None = None
        self._named = asyncio.Event()
        """The parameters may name other keys than before."""
        self._changed = asyncio.Event()
        """Another key may be in force, or known, than before."""
        self._draw = draw
        self._backoff = Backoff(FETCHING)
        self._announced = periods()
        self._fetch_at = time.monotonic()
        self._load()

    def keys(self) -> LanKeys:
        """Return the keys, for another member."""
        return LanKeys(keys=tuple(recognised(self._periods(), self._known.values()).values()))

    def wake(self) -> None:
        """Look again: the parameters may name other keys."""
        self._named.set()
        self._changed.set()

    async def apply(self) -> float:
        """Use the key that is in force; return after how many seconds to look again."""
        now = time.time()
        choice = choose(self._periods(), self._known, now)
        if choice.key is not None and choice.key != self._used:
            try:
                await self._use(LanKey(choice.key))
            except ChildError as error:
                logger.warning("The key of the LANs is not in use yet: %s", error)
                return RETRY
            which = "The key" if self._used is None else "Another key"
            logger.info("%s of the LANs is in use", which)
            self._used = choice.key
        wait = LONGEST_WAIT if choice.next_change is None else choice.next_change - now
        return min(wait, LONGEST_WAIT)

    async def run(self) -> None:
        """Get the keys and use them, for ever. Neither waits for the other: all change keys at one moment."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._keep_getting(), name="get keys of LANs")
            both.create_task(self._keep_using(), name="use keys of LANs")

    async def _keep_getting(self) -> None:
        while True:
            self._named.clear()
            pause = self._until_fetch()
            if pause is not None and pause <= 0:
                await self._fetch()
                self._fetch_at = time.monotonic() + self._backoff.next_delay(self._draw())
                pause = self._until_fetch()
            await _wait(self._named, LONGEST_WAIT if pause is None else min(pause, LONGEST_WAIT))

    async def _keep_using(self) -> None:
        while True:
            self._changed.clear()
            await _wait(self._changed, await self.apply())

    def _until_fetch(self) -> float | None:
        """Return after how many seconds to ask for a key, None while none is missing."""
        periods, now = self._periods(), time.time()
        choice = choose(periods, self._known, now)
        if periods != self._announced:
            self._announced = periods
            self._backoff.forget()
            self._fetch_at = time.monotonic()
            if choice.key is not None and choice.next_change is not None:
                self._fetch_at += self._draw() * min(SPREAD, choice.next_change - now)
        return self._fetch_at - time.monotonic() if choice.missing else None

    async def _fetch(self) -> None:
        async with contextlib.aclosing(self._sources()) as sources:
            async for found in sources:
                fresh = recognised(self._periods(), (*self._known.values(), *found.keys))
                if fresh.keys() - self._known.keys():
                    self._known = fresh
                    self._store()
                    self._changed.set()
                if not choose(self._periods(), self._known, time.time()).missing:
                    return

    def _load(self) -> None:
        try:
            self._known = recognised(self._periods(), decode(self._path.read_bytes(), LanKeys).keys)
        except FileNotFoundError:
            return
        except (OSError, ProtocolError) as error:
            logger.warning("The stored keys of the LANs are ignored: %s", error)

    def _store(self) -> None:
        try:
            write_atomically(self._path, encode(LanKeys(keys=tuple(self._known.values()))), 0o600)
        except StorageError as error:
            logger.error("The keys of the LANs cannot be kept for the next start: %s", error)


async def _wait(event: asyncio.Event, longest: float) -> None:
    """Wait for ``event``, but no more than ``longest`` seconds."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(longest, 0))
