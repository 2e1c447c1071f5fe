"""Replaces the running daemon by a new one in place (execve(2)): same process id, children stay.

    SIGHUP --> try the new program and configuration in another process --refused--> say why, go on
                                   | accepted
                                   v
               save what is in memory only --> exec --> adopt everything (re6st.node.adoption)

So a restart that could not succeed is not begun, and an upgrade and a crash use the same mechanism. While one
program takes the place of the other, signals wait: nothing else would end the children in good order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from re6st.notify import notify

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that mean something to the daemon."""

CHECK_TIMEOUT = 60.0
"""Seconds that the new program may take to find the configuration good."""

_LONGEST_OBJECTION = 2000


def run_again() -> list[str]:
    """Return the command line of this process, for the interpreter that runs it now."""
    return [sys.executable, *sys.orig_argv[1:]]


def check_command() -> list[str]:
    """Return the command line that checks what this process, ``re6st-node ... run``, would find now."""
    return [*run_again()[:-1], "check"]


async def objection(command: Sequence[str]) -> str:
    """Run ``command`` and return what it has against a restart, empty if nothing."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return f"cannot run {command[0]}: {error.strerror}"
    try:
        output, _ = await asyncio.wait_for(process.communicate(), CHECK_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"the check of the configuration does not end within {CHECK_TIMEOUT:.0f} s"
    if process.returncode == 0:
        return ""
    text = output.decode(errors="replace").strip()[-_LONGEST_OBJECTION:]
    return text or f"the check of the configuration ended with status {process.returncode}"


def announce() -> None:
    """Tell the service manager that a restart in place begins (sd_notify(3))."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=Restarting in place")


def execute() -> NoReturn:
    """Become the new daemon. All descriptors but the standard ones close. Raises :class:`OSError`."""
    command = run_again()
    logger.info("Restarting in place: %s", " ".join(command))
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(command[0], command)  # noqa: S606 - our own command line, without a shell
    finally:
        accept_signals()


def accept_signals() -> None:
    """Let signals in that have waited during a restart; call it when they are handled."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
