"""Alert rules and dashboard, checked by Prometheus' own promtool; all metrics that they use exist."""

import json
import re
import subprocess
from ipaddress import IPv6Network
from pathlib import Path

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from re6st.node.metrics import render
from re6st.registry.kept import Kept
from re6st.registry.metrics import Metrics
from re6st.registry.state import StateDirectory
from re6st.status import NodeStatus, Reachability, TunnelStatus

TREE = Path(__file__).parents[2]
RULES = TREE / "conf/prometheus/re6st.rules.yml"
DASHBOARD = TREE / "conf/grafana/re6st.json"


def promtool(*arguments):
    finished = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def expressions():
    rules = yaml.safe_load(RULES.read_text())
    yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_the_rules_say_what_they_should(tmp_path):
    promtool("check", "rules", str(RULES))
    cases = Path(__file__).with_name("alerts.test.yml").read_text()
    file = tmp_path / "alerts.test.yml"
    file.write_text(cases.replace("RULES", json.dumps(str(RULES))))
    promtool("test", "rules", str(file))


def test_the_dashboard_asks_valid_questions(tmp_path):
    rules = [
        {"record": f"panel{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def filled(kind):
    """Return an instance of the struct ``kind`` with something in each field."""
    values = {int: 1, float: 1.0, bool: True, str: "x", Reachability: Reachability.PUBLIC}
    fields = {field.name: values.get(field.type, []) for field in msgspec.structs.fields(kind)}
    return kind(**fields)


class Observed:
    """A node with everything that it can tell."""

    def status(self):
        return filled(NodeStatus)

    def tunnel_statuses(self):
        return [filled(TunnelStatus)]


@pytest.fixture
def names(tmp_path):
    state = StateDirectory(tmp_path / "registry")
    state.create(IPv6Network("2001:db8:42::/48"))
    with state.service() as service:
        metrics = Metrics(service, Kept(service.count_troubles))
        metrics.count("GET", "/", 200, 0.1)
        text = metrics.render().decode() + render(Observed()).decode()
    families = list(text_string_to_metric_families(text))
    return {sample.name for family in families for sample in family.samples} | {
        family.name for family in families
    }


def test_all_metrics_exist(names):
    used = {name for text in expressions() for name in re.findall(r"\bre6st_[a-z_]+", text)}
    assert len(used) > 10
    assert used <= names
