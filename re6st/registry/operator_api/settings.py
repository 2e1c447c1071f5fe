"""What operators can do about who may come in without a join link, and about the keys of the LANs."""

from __future__ import annotations

from re6st.messages import LanKeyPeriod
from re6st.registry.operator_api.call import Call
from re6st.registry.operator_api.parameters import difference_messages
from re6st.registry.operator_messages import (
    AdmissionPreview,
    LanKey,
    LanKeyList,
    LanKeyRotation,
    ParametersChange,
)
from re6st.registry.policy import AdmissionPolicy
from re6st.registry.service import Service


def show_policy(service: Service, _call: Call) -> AdmissionPolicy:
    """Show who is let in without a join link from an operator."""
    return service.policy()


def preview_policy(service: Service, call: Call) -> AdmissionPreview:
    """Check a change of who is let in, and tell what it would do."""
    message: ParametersChange = call.message
    return AdmissionPreview(differences=difference_messages(service.preview_policy(message.changes)))


def set_policy(service: Service, call: Call) -> AdmissionPolicy:
    """Change who is let in without a join link; with If-Match only what the operator has seen."""
    message: ParametersChange = call.message
    before = service.policy()
    call.check_seen(before, "somebody else has changed who may come in meanwhile: look at it first")
    return service.change_policy(message.changes, expected=before)


def list_lan_keys(service: Service, _call: Call) -> LanKeyList:
    """List the keys of the LANs, by digest: the one in force, and the one that follows."""
    periods = sorted(service.current_parameters().lan_keys, key=lambda period: period.since)
    return LanKeyList(items=tuple(_lan_key(period) for period in periods))


def rotate_lan_key(service: Service, call: Call) -> LanKey:
    """Make a new key of the LANs, to which all nodes change at the same moment."""
    message: LanKeyRotation = call.message
    return _lan_key(service.rotate_lan_key(message.delay))


def _lan_key(period: LanKeyPeriod) -> LanKey:
    return LanKey(digest=period.digest.hex(), since=period.since)
