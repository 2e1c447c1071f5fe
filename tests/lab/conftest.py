"""Labs for end-to-end tests: taken down in the end, with their logs kept when a test failed."""

import os
from collections.abc import Iterator

import pytest

from re6st.lab import topology
from re6st.lab.lab import Lab
from re6st.lab.leftovers import assert_clean, host_interfaces

FORMING = 90.0
"""Seconds that a mesh has to form on a busy machine; normally it needs a tenth of that."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    if outcome.get_result().failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Lab):
                value.failed = True


@pytest.fixture(scope="module")
def demo_lab() -> Iterator[Lab]:
    """The demo's world with all nodes running and all pairs pinging."""
    name = f"t{os.getpid()}demo"
    before = host_interfaces()
    with Lab(topology.load(topology.find("demo")), name=name) as lab:
        lab.start_mesh()
        matrix = lab.wait_for_all_pairs(FORMING)
        assert matrix.complete, f"these pairs do not ping: {matrix.missing}"
        yield lab
    assert_clean(name)
    assert host_interfaces() == before
