"""The brain of a node, pure: events and the time go in, effects come out."""

from re6st.core.node import Counts, NodeCore, PeerSnapshot, TunnelSnapshot
from re6st.core.settings import CoreSettings

__all__ = ["CoreSettings", "Counts", "NodeCore", "PeerSnapshot", "TunnelSnapshot"]
