"""What a node wants from its registry, and when: nothing waits for it.

- *Publish* the own record: at the start, when it has changed, and a few times a day.
- *Sample* the peers: at the start unless the address book is well filled; a few more times soon after
  it, because nodes that start together (or two halves of a young network) know nothing of each other
  yet; then ever more rarely. A node without any tunnel and with nobody left to dial asks more often.
- *Renew* the certificate after two thirds of its life, or soon when another CA has taken over.
- Ask for the *versions* of signed documents, because a revocation is known to the registry alone at first.
  The registry holds its answer back for up to :attr:`re6st.core.settings.CoreSettings.versions_wait` (100 s)
  while there is nothing new. Whoever learns of it tells all others by gossip, so it suffices that *somebody*
  is waiting. One of N nodes asks every 12 N seconds on average
  (:attr:`re6st.core.settings.CoreSettings.versions_interval`), N being estimated by the peers in its book, at
  random times, so that the questions of all are spread evenly; at least once an hour, and again a few
  seconds after an answer that brought news. A question costs a TLS handshake, about 6 kB in all. Per node and
  day:

  ============ ============== ================= ============== =======================
  Nodes        One node asks  How many wait     Traffic of a   Traffic of the registry
               every          on average        node           (all nodes)
  ============ ============== ================= ============== =======================
  2            108 s          1.9               4.8 MB         10 MB
  5            108 s          4.6               4.8 MB         24 MB
  10           120 s          8.3               4.3 MB         43 MB
  100          20 min         8.3               0.4 MB         43 MB
  300 and more 60 min         8.3 per 300 nodes 0.14 MB        43 MB per 300 nodes
  ============ ============== ================= ============== =======================

  With 8.3 waiting on average and independently, there is nobody in 0.02 % of the time.

One request per operation is under way at a time; after a failure the next one waits, ever longer. When the
host is elsewhere, or was asleep, failures until then mean nothing any more: what has failed is asked soon,
and so is what is under way, since its answer may never come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from re6st.core.context import Context
from re6st.core.deadlines import Timer
from re6st.core.effects import AskRegistry
from re6st.core.events import Document, RegistryOperation

REFUSED_DELAY = 600.0
"""Seconds after which a request that the registry refused is tried all the same."""

RENEWAL_AT = 2 / 3
"""Part of its life after which a certificate is renewed; varies by a twentieth of the life."""

START_DELAY = 0.1
"""Seconds from the start to the first sample: the address book comes first."""

MOVED_DELAY = 1.0
"""Seconds, roughly, from a change of this host's network until what the registry owes us is asked anew."""

WELL_FILLED = 2
"""A book with so many dialable peers per wanted tunnel needs no sample at the start."""

_NUMBERS = {operation: number for number, operation in enumerate(RegistryOperation)}
_OPERATIONS = tuple(RegistryOperation)


@dataclass(slots=True)
class _Errand:
    """The state of one operation."""

    asked: bool = False
    """A request is under way."""
    again: bool = False
    """Another one is wanted after that."""
    failures: int = 0


class Registration:
    """Decides when to ask the registry for what."""

    def __init__(self, context: Context, known_peers: Callable[[], int]) -> None:
        """``known_peers`` returns the number of peers in the address book."""
        self._context = context
        self._known_peers = known_peers
        self._has_asked_versions = False
        self._answered_versions = False
        """Whether the last question for versions was answered."""
        self._asked_versions_at = float("-inf")
        self._newest: dict[Document, int] = {}
        """Highest versions that the registry was seen to have."""
        self._has_news = False
        """Whether it has shown a higher one since it was asked for versions."""
        self._errands = {operation: _Errand() for operation in RegistryOperation}
        self._samples = 0
        self._isolated_samples = 0
        self._renew_at: float | None = None

    def start(self) -> None:
        """Set the first deadlines."""
        self._plan(RegistryOperation.SAMPLE, START_DELAY)
        self._plan(
            RegistryOperation.VERSIONS,
            self._context.random.uniform(0, 2) * self._context.settings.versions_pause,
        )
        self.publish()

    def publish(self) -> None:
        """The own record has changed: publish it soon."""
        errand = self._errands[RegistryOperation.PUBLISH]
        if errand.asked:
            errand.again = True
        elif not errand.failures:
            self._plan(RegistryOperation.PUBLISH, self._context.settings.publish_delay)

    def isolated(self) -> None:
        """There is no tunnel and nobody left to dial: do not wait long for the next sample."""
        errand = self._errands[RegistryOperation.SAMPLE]
        if errand.asked or errand.failures:
            return
        planned = self._at(RegistryOperation.SAMPLE)
        delay = self._context.backoff(
            self._context.settings.isolated_sample_delay, max(1, self._isolated_samples)
        )
        if planned is None or planned > self._context.now + delay * 2:
            self._plan(RegistryOperation.SAMPLE, delay)

    def seen(self, document: Document, version: int) -> None:
        """The registry has ``version`` of ``document``."""
        if version > self._newest.get(document, 0):
            self._newest[document] = version
            self._has_news = True

    def network_changed(self) -> None:
        """The host is elsewhere, or was asleep."""
        for operation, errand in self._errands.items():
            is_owed = self._conclude(operation) is not None or errand.failures
            errand.failures = 0
            planned = self._at(operation)
            latest = self._context.now + MOVED_DELAY
            if is_owed and (planned is None or planned > latest):
                self._plan(operation, self._context.vary(MOVED_DELAY, 0.5))

    def tunnel_up(self) -> None:
        """A tunnel is up."""
        self._isolated_samples = 0

    def certificate_changed(self, not_before: float, not_after: float, *, superseded: bool = False) -> None:
        """The own certificate is valid from ``not_before`` to ``not_after`` (seconds since the epoch).

        With ``superseded`` it is renewed soon: all nodes do so within the time in which all ask for versions.
        """
        life = not_after - not_before
        self._renew_at = not_before + life * (RENEWAL_AT + self._context.random.uniform(-0.05, 0.05))
        if superseded and self._at(RegistryOperation.RENEW) is None:
            self._plan(RegistryOperation.RENEW, self._versions_mean() * self._context.random.random())

    def renewal_wanted(self) -> None:
        """The registry would give another certificate now: renew soon."""
        errand = self._errands[RegistryOperation.RENEW]
        if not errand.asked and self._at(RegistryOperation.RENEW) is None:
            self._plan(RegistryOperation.RENEW, 0.0)

    def sweep(self) -> None:
        """Look at the wall clock: is it time to renew?"""
        errand = self._errands[RegistryOperation.RENEW]
        wall = self._context.wall
        if wall is None or self._renew_at is None or wall < self._renew_at:
            return
        if not errand.asked and self._at(RegistryOperation.RENEW) is None:
            self._plan(RegistryOperation.RENEW, 0.0)

    def due(self, number: int, *, well_filled: bool) -> None:
        """Ask for the operation with this timer number."""
        operation = _OPERATIONS[number]
        if operation is RegistryOperation.SAMPLE and well_filled and not self._samples:
            self._samples = 1
            self._rest(operation)
            return
        errand = self._errands[operation]
        if errand.asked:
            return
        errand.asked = True
        patience, wait = self._context.settings.registry_timeout, 0.0
        if operation is RegistryOperation.VERSIONS:
            # What people hear about the registry must be fresh after a failure, and at the start.
            wait = self._context.settings.versions_wait if self._answered_versions else 0.0
            patience += wait
            self._asked_versions_at = self._context.now
            self._has_news = False
        self._context.schedule(patience, Timer.REGISTRY_TIMEOUT, _NUMBERS[operation])
        self._context.emit(AskRegistry(operation, wait))

    def answered(self, operation: RegistryOperation) -> None:
        """The registry has done ``operation``."""
        errand = self._conclude(operation)
        if errand is None:
            return
        errand.failures = 0
        if operation is RegistryOperation.SAMPLE:
            self._samples += 1
            self._isolated_samples += 1
        if errand.again:
            self._plan(operation, self._context.settings.publish_delay)
        else:
            self._rest(operation)

    def failed(self, operation: RegistryOperation, *, final: bool = False) -> None:
        """The registry has not done ``operation``, and will not if ``final``."""
        errand = self._conclude(operation)
        if errand is None:
            return
        errand.failures += 1
        delay = self._context.backoff(self._context.settings.registry_delay, errand.failures)
        if operation is RegistryOperation.VERSIONS:
            delay = max(delay, self._versions_delay())
            self._answered_versions = False
        self._plan(operation, self._context.vary(REFUSED_DELAY, 0.25) if final else delay)

    def timed_out(self, number: int) -> None:
        """The operation with this timer number has taken too long."""
        self.failed(_OPERATIONS[number])

    def _conclude(self, operation: RegistryOperation) -> _Errand | None:
        errand = self._errands[operation]
        if not errand.asked:
            return None
        errand.asked = False
        self._context.deadlines.clear(Timer.REGISTRY_TIMEOUT, _NUMBERS[operation])
        return errand

    def _rest(self, operation: RegistryOperation) -> None:
        """Plan the next regular time of ``operation``."""
        settings = self._context.settings
        if operation is RegistryOperation.SAMPLE:
            self._plan(operation, self._context.backoff(settings.sample_delay, max(1, self._samples)))
        elif operation is RegistryOperation.PUBLISH:
            self._plan(operation, self._context.vary(settings.publish_interval, 0.25))
        elif operation is RegistryOperation.VERSIONS:
            self._answered_versions = True
            pause = self._context.vary(self._context.settings.versions_pause, 0.5)
            waited = self._context.now - self._asked_versions_at
            self._plan(operation, pause if self._has_news else max(pause, self._versions_delay() - waited))

    def _versions_delay(self) -> float:
        """Return when to ask for versions again.

        Nodes that started together ask in step at first; the first delay after that spreads them evenly.
        """
        mean = self._versions_mean()
        if self._has_asked_versions:
            return self._context.vary(mean, 0.5)
        self._has_asked_versions = True
        return mean * self._context.random.random()

    def _versions_mean(self) -> float:
        shortest, longest = self._context.settings.versions_bounds
        mean = self._context.settings.versions_interval * (self._known_peers() + 1)
        return min(longest, max(shortest, mean))

    def _plan(self, operation: RegistryOperation, delay: float) -> None:
        self._errands[operation].again = False
        self._context.schedule(delay, Timer.REGISTRY, _NUMBERS[operation])

    def _at(self, operation: RegistryOperation) -> float | None:
        return self._context.deadlines.get(Timer.REGISTRY, _NUMBERS[operation])
