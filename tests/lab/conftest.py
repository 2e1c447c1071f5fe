"""Labs for end-to-end tests: taken down in the end, with their logs kept when a test failed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from re6st.lab import topology, worlds
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces
from re6st.lab.topology import Topology

FORMING = 90.0
"""Seconds that a mesh has to form on a busy machine; normally it needs a tenth of that."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    if outcome.get_result().failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Lab):
                value.failed = True


@contextmanager
def formed_lab(world: Topology, tag: str) -> Iterator[Lab]:
    """Yield a lab of ``world``, called after ``tag``, whose nodes all reach each other.

    In the end nothing may be left of it.
    """
    name = f"t{os.getpid()}{tag}"
    before = host_interfaces()
    with Lab(world, name=name) as lab:
        lab.start_mesh()
        matrix = lab.wait_for_all_pairs(FORMING)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
        yield lab
    assert_clean(name)
    assert host_interfaces() == before


@pytest.fixture(scope="module")
def demo_lab() -> Iterator[Lab]:
    """The demo's world with all nodes running and all pairs pinging."""
    with formed_lab(topology.load(topology.find("demo")), "demo") as lab:
        yield lab


@pytest.fixture(scope="session")
def trio() -> Iterator[Lab]:
    """A mesh of the registry's node, node1 and node2, all with public addresses, shared by modules.

    Each test leaves it as it was: all nodes run with the configuration they began with, and reach each other.
    """
    guests = {f"node{number}": None for number in range(1, 3)}
    with formed_lab(worlds.with_guests(worlds.mixed(1), guests), "trio") as lab:
        yield lab
