"""What is wrong with a node, judged by what it told about itself: pure, told the time.

Nodes report with their regular questions to the registry (:mod:`re6st.core.registration`): small networks
every minute or two, large ones every hour. Whoever has been silent for longer is down, cut off, or does
not report; its peers know better, but they do not tell.
"""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass

from re6st.identity import format_time
from re6st.registry.authority import DAY
from re6st.registry.reports import ReportRow
from re6st.registry.store import Member
from re6st.status import Reachability

SILENCE = 3 * 3600.0
"""Seconds without a report after which a node that used to report is thought to be down."""

LONG_SILENCE = 1.5 * DAY
"""The same for nodes that do not report: they publish their record a few times a day."""

FIRST_CONTACT = 600.0
"""Seconds that a node may take from its enrolment to its first contact."""

CLOCK_WARNING = 10.0
CLOCK_BAD = 300.0
"""Seconds by which a clock may be wrong; certificates begin some minutes early."""

SETTLING = 600.0
"""Seconds that new network parameters may take to arrive before anybody is called outdated."""

RENEWAL_OVERDUE = 0.25
"""Part of a certificate's life: renewal begins at a third."""


class Severity(enum.Enum):
    """How bad something is."""

    NOTE = "note"
    """Worth knowing, not wrong."""
    WARNING = "warning"
    """It works, but not for ever or not well."""
    BAD = "bad"
    """The node is cut off, or will be soon."""


class Kind(enum.Enum):
    """What the trouble is about."""

    CERTIFICATE = "certificate"
    SILENT = "silent"
    CLOCK = "clock"
    ALONE = "alone"
    PARAMETERS = "parameters"
    SOFTWARE = "software"
    REACHABILITY = "reachability"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong with a node, for people."""

    kind: Kind
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class Standard:
    """What nodes are compared with."""

    now: float
    validity: float
    """Life of certificates, seconds."""
    parameters_version: int
    parameters_since: float
    """When that version came into force, seconds since the epoch."""
    software: str
    """The registry's own."""


def last_contact(member: Member, report: ReportRow | None) -> float | None:
    """Return when the node was heard of last, None for never."""
    times = [time for time in (member.published, report.received if report else None) if time is not None]
    return max(times, default=None)


def find_troubles(member: Member, report: ReportRow | None, standard: Standard) -> tuple[Trouble, ...]:
    """Return what is wrong with ``member``, the worst first; nothing for one that may not take part."""
    state = member.state(standard.now)
    if state in ("released", "suspended"):
        return ()
    found = [*_certificate(member, standard)]
    silence = _silence(member, report, standard.now)
    if silence is not None:
        found.append(silence)
    elif report is not None:
        found += _report(report, standard)
    order = list(Severity)
    return tuple(sorted(found, key=lambda trouble: -order.index(trouble.severity)))


def _certificate(member: Member, standard: Standard) -> list[Trouble]:
    if member.expires is None or member.expires <= standard.now:
        when = f" on {format_time(member.expires)}" if member.expires is not None else ""
        text = f"its certificate expired{when}: send a join link that gives it its place back"
        return [Trouble(Kind.CERTIFICATE, Severity.BAD, text)]
    left = member.expires - standard.now
    if left < RENEWAL_OVERDUE * standard.validity:
        text = f"it has not renewed its certificate, which expires in {_duration(left)}"
        return [Trouble(Kind.CERTIFICATE, Severity.WARNING, text)]
    return []


def _silence(member: Member, report: ReportRow | None, now: float) -> Trouble | None:
    contact = last_contact(member, report)
    if contact is None:
        if now - member.node.created < FIRST_CONTACT:
            return None
        return Trouble(Kind.SILENT, Severity.BAD, "it was never heard of since it was let in")
    silent = now - contact
    if silent < (SILENCE if report is not None else LONG_SILENCE):
        return None
    return Trouble(Kind.SILENT, Severity.BAD, f"nothing was heard of it for {_duration(silent)}")


def _report(row: ReportRow, standard: Standard) -> list[Trouble]:
    found: list[Trouble] = []
    report = row.report
    offset = report.time - row.received
    if abs(offset) > CLOCK_WARNING:
        severity = Severity.BAD if abs(offset) > CLOCK_BAD else Severity.WARNING
        direction = "ahead" if offset > 0 else "behind"
        text = f"its clock is {_duration(abs(offset))} {direction}: set it by NTP"
        found.append(Trouble(Kind.CLOCK, severity, text))
    if not report.tunnels and report.peers and report.uptime > FIRST_CONTACT / 10:
        text = f"it has no tunnel, though it knows {report.peers} nodes: run re6st-node doctor there"
        found.append(Trouble(Kind.ALONE, Severity.BAD, text))
    if (
        report.parameters_version < standard.parameters_version
        and row.received > standard.parameters_since + SETTLING
    ):
        text = f"it uses version {report.parameters_version} of the network parameters"
        found.append(Trouble(Kind.PARAMETERS, Severity.WARNING, text))
    theirs, ours = _release(report.software), _release(standard.software)
    if theirs is not None and ours is not None and theirs < ours:
        text = f"it runs {report.software}, the registry {standard.software}: upgrade it"
        found.append(Trouble(Kind.SOFTWARE, Severity.WARNING, text))
    if report.reachability == Reachability.NONE.value:
        text = f"others cannot dial it: {report.reason}" if report.reason else "others cannot dial it"
        found.append(Trouble(Kind.REACHABILITY, Severity.NOTE, text))
    return found


@functools.lru_cache(maxsize=256)
def _release(software: str) -> tuple[int, ...] | None:
    """Return the numbers of a version such as ``re6st 1.2.0``, None if there are none."""
    match = re.search(r"\b(\d{1,6}(?:\.\d{1,6}){1,3})", software)
    return tuple(int(number) for number in match[1].split(".")) if match else None


def _duration(seconds: float) -> str:
    for size, unit in ((DAY, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
