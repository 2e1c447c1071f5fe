"""The brain of a node, pure: events and the time go in, effects come out."""

from re6st.core.node import NodeCore
from re6st.core.settings import CoreSettings
from re6st.core.snapshots import Counts, PeerSnapshot, TunnelSnapshot

__all__ = ["CoreSettings", "Counts", "NodeCore", "PeerSnapshot", "TunnelSnapshot"]
