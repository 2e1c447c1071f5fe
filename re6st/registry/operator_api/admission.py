"""What operators can do about who may join: join links, kept prefixes, requests for admission."""

from __future__ import annotations

from re6st.errors import RegistryRefusedError
from re6st.messages import AdmissionState
from re6st.prefix import parse_prefix
from re6st.registry.admissions import Reservation
from re6st.registry.links import JoinLink
from re6st.registry.operator_api.call import Call
from re6st.registry.operator_messages import (
    Approval,
    Denial,
    KeptPrefix,
    Link,
    LinkRequest,
    RequestPage,
    ReservationList,
    ReservationRequest,
    Token,
    TokenPage,
    TokenState,
    WaitingRequest,
)
from re6st.registry.qr import qr_code
from re6st.registry.requests import RequestRow
from re6st.registry.service import Service


def create_link(service: Service, call: Call) -> Link:
    """Make a join link."""
    message: LinkRequest = call.message
    kept = (message.name, message.group, message.owner or None)
    if message.return_node is not None and (any(kept) or message.uses != 1):
        raise RegistryRefusedError(
            "return_node is for one node, which keeps its name, group and owner: leave these and uses away",
            code="malformed",
        )
    urls = service.choose_urls(message.url)
    if message.return_node is not None:
        token = service.create_return_token(message.return_node, message.lifetime)
    else:
        token = service.create_token(
            message.name,
            message.prefix_length,
            message.lifetime,
            message.uses,
            group=message.group,
            owner=message.owner,
        )
    row = service.find_token(token)
    link = str(JoinLink(urls[0], service.fingerprint, token, urls[1:]))
    return Link(id=row.identifier, link=link, expires=row.expires, qr_code=qr_code(link))


def list_tokens(service: Service, call: Call) -> TokenPage:
    """List the tokens of join links, the oldest first."""
    limit = call.limit()
    rows = service.tokens_page(call.number("after", 0), limit + 1)
    items = tuple(
        Token(
            id=row.identifier,
            state=TokenState(row.state(service.now())),
            prefix_length=row.prefix_length,
            created=row.created,
            expires=row.expires,
            uses=row.uses,
            maximum_uses=row.maximum_uses,
            name=row.name,
            group=row.group,
            owner=row.owner,
        )
        for row in rows[:limit]
    )
    return TokenPage(items=items, next=items[-1].id if len(rows) > limit else None)


def revoke_token(service: Service, call: Call) -> None:
    """Let nobody in with this token any more."""
    service.revoke_token(call.number("id", 0))


def list_reservations(service: Service, _call: Call) -> ReservationList:
    """List the prefixes that are kept for a name."""
    return ReservationList(items=tuple(_kept(row) for row in service.reservations()))


def create_reservation(service: Service, call: Call) -> KeptPrefix:
    """Keep a prefix for a name."""
    message: ReservationRequest = call.message
    prefix = parse_prefix(message.prefix) if message.prefix is not None else None
    return _kept(service.reserve(message.name, prefix, message.prefix_length))


def _kept(row: Reservation) -> KeptPrefix:
    return KeptPrefix(name=row.name, prefix=str(row.prefix), created=row.created)


def remove_reservation(service: Service, call: Call) -> None:
    """Keep no prefix for this name any more."""
    service.unreserve(call.path["name"])


def list_requests(service: Service, call: Call) -> RequestPage:
    """List machines that ask to be let in, the newest first; with ``all`` also those that were decided."""
    limit = call.limit()
    pending = not call.switch("all")
    rows = service.requests(pending=pending, before=call.number("before", 2**53), limit=limit + 1)
    items = tuple(_waiting(service, row) for row in rows[:limit])
    return RequestPage(items=items, next=items[-1].id if len(rows) > limit else None)


def _waiting(service: Service, row: RequestRow) -> WaitingRequest:
    state = service.request_state(row)
    return WaitingRequest(
        id=row.identifier,
        state=state,
        name=row.name,
        key=row.key_digest.hex(),
        message=row.message,
        origin=row.origin,
        created=row.created,
        expires=row.expires,
        reason=row.reason,
        suspicions=service.suspicions(row) if state is AdmissionState.PENDING else (),
    )


def approve_request(service: Service, call: Call) -> WaitingRequest:
    """Let in a machine that asked."""
    message: Approval = call.message
    row = service.approve(
        call.number("id", 0), message.name, message.prefix_length, group=message.group, owner=message.owner
    )
    return _waiting(service, row)


def deny_request(service: Service, call: Call) -> WaitingRequest:
    """Keep out a machine that asked."""
    message: Denial = call.message
    return _waiting(service, service.deny(call.number("id", 0), message.reason))
