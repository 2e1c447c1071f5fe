"""What operators see of the registry itself, and who they are: overview, audit log, operators' tokens."""

from __future__ import annotations

from typing import Any

import msgspec

from re6st.registry.ledger import AuditRow
from re6st.registry.operator_api.call import Call
from re6st.registry.operator_messages import (
    AuditEntry,
    AuditPage,
    OperatorToken,
    OperatorTokenList,
    OperatorTokenRequest,
    Overview,
)
from re6st.registry.operators import Scope
from re6st.registry.service import Service


def overview(service: Service, call: Call) -> Overview:
    """Say who is asking, and how the network is."""
    return Overview(
        operator=call.operator.name,
        scope=call.operator.scope,
        network=str(service.network),
        fingerprint=service.fingerprint,
        nodes=service.count_states(),
        requests=service.count_requests(),
        parameters_version=service.current_parameters().version,
        revocations_version=service.revocations_version(),
        time=service.now(),
    )


def audit_entry(row: AuditRow) -> AuditEntry:
    """Return an entry as it travels."""
    return AuditEntry(
        id=row.identifier,
        time=row.time,
        actor_kind=row.actor_kind,
        actor=row.actor,
        origin=row.origin,
        action=row.action,
        subject=row.subject,
        details=msgspec.json.decode(row.details, type=dict[str, Any]),
    )


def list_audit(service: Service, call: Call) -> AuditPage:
    """List the audit log: behind ``after``, the oldest first, or below ``before``, the newest first."""
    limit = call.limit()
    if "before" in call.query:
        rows = service.latest_audit(call.number("before", 0), limit + 1)
    else:
        rows = service.audit(call.number("after", 0), float(call.number("since", 0)), limit + 1)
    items = tuple(audit_entry(row) for row in rows[:limit])
    return AuditPage(items=items, next=items[-1].id if len(rows) > limit else None)


def list_operator_tokens(service: Service, _call: Call) -> OperatorTokenList:
    """List operators' tokens."""
    items = tuple(
        OperatorToken(
            name=row.name,
            scope=Scope(row.scope),
            created=row.created,
            expires=row.expires,
            revoked=row.revoked,
        )
        for row in service.operator_tokens()
    )
    return OperatorTokenList(items=items)


def create_operator_token(service: Service, call: Call) -> OperatorToken:
    """Make an operator's token; it is shown only once."""
    message: OperatorTokenRequest = call.message
    token = service.create_operator_token(message.name, message.scope, message.lifetime)
    row = service.operator_token(message.name)
    return OperatorToken(
        name=row.name, scope=Scope(row.scope), created=row.created, expires=row.expires, token=token
    )


def revoke_operator_token(service: Service, call: Call) -> None:
    """Withdraw an operator's token."""
    service.revoke_operator_token(call.path["name"])
