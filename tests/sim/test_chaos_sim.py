"""Nodes that are killed at random for hours leave a connected graph of bounded degree."""

from chaos import Chaos


def test_sixty_nodes_that_come_and_go_stay_together() -> None:
    report = Chaos(60, 3).run(1800)
    assert report.deaths > 15
    # A settled node may have lost all its neighbours a moment ago, or have come back to a dead registry.
    assert sum(report.cut_off) <= 2
    assert max(report.outgoing) <= 12
    assert max(report.incoming) <= 16
    assert min(report.fewest) >= 1
    assert sum(report.feasible) / len(report.feasible) > 0.9
