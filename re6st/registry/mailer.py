"""Takes mails with join links from the queue in the database and sends them, one after the other."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from re6st.errors import ConfigError, MailError, Re6stError
from re6st.registry.invitations import Invitation
from re6st.registry.service import Service

logger = logging.getLogger(__name__)

POLL = 2.0
"""Seconds between looks at the queue."""

SENDING = 50.0
"""Seconds that sending one mail may take; after a minute another registry may try."""

PAUSE = 60.0
"""Seconds until it is tried again when nothing can be sent at all."""


class Mailer:
    """Sends what is due."""

    def __init__(self, service: Service, ask: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        """``ask`` calls a function in the service's thread."""
        self._service = service
        self._ask = ask
        self._failure = ""

    async def run(self) -> None:
        """Send mails for ever."""
        while True:
            try:
                invitation = await self._ask(self._service.take_invitation)
                if invitation is None:
                    await asyncio.sleep(POLL)
                    continue
                await self._send(invitation)
                self._failure = ""
            except Re6stError as error:
                # The same every minute would only fill the log.
                if str(error) != self._failure:
                    self._failure = str(error)
                    logger.error("No join link can be mailed: %s", error)
                await asyncio.sleep(PAUSE)
            except Exception:
                logger.exception("No join link can be mailed")
                await asyncio.sleep(PAUSE)

    async def _send(self, invitation: Invitation) -> None:
        from re6st.registry import mail

        service = self._service
        message = mail.compose_invitation(
            invitation.policy.mail_sender,
            invitation.mailbox,
            str(service.network),
            invitation.link,
            invitation.expires,
            time.time(),
        )
        try:
            async with asyncio.timeout(SENDING):
                await mail.send(message, invitation.policy, mail.read_password(os.environ))
        except TimeoutError:
            reason = f"{invitation.policy.mail_server} took longer than {SENDING:.0f} s"
            logger.warning("A join link could not be mailed: %s", reason)
            await self._ask(lambda: service.note_failed(invitation, reason, permanent=False))
        except (MailError, ConfigError) as error:
            permanent, reason = isinstance(error, MailError) and error.permanent, str(error)
            logger.warning("A join link could not be mailed: %s", reason)
            await self._ask(lambda: service.note_failed(invitation, reason, permanent=permanent))
        else:
            await self._ask(lambda: service.note_sent(invitation))
