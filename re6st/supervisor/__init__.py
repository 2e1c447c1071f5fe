"""Runs the programs that a node is made of (babeld, openvpn) as children that outlive the daemon.

- :class:`Supervisor`: starts and stops children, and cleans up what an earlier daemon has left.
- :class:`ChildSpec`: what to run; :class:`RestartPolicy`: whether and when to run it again.
- :class:`Child`: a running one; :class:`ChildExit`: how its process ended.
- :class:`ChildRecord`: what is on disk of it.
"""

from re6st.supervisor.backoff import RestartPolicy
from re6st.supervisor.child import Child, ChildExit, ChildSpec
from re6st.supervisor.machine import ChildState
from re6st.supervisor.record import ChildRecord
from re6st.supervisor.supervisor import DEFAULT_GRACE, Supervisor

__all__ = [
    "DEFAULT_GRACE",
    "Child",
    "ChildExit",
    "ChildRecord",
    "ChildSpec",
    "ChildState",
    "RestartPolicy",
    "Supervisor",
]
