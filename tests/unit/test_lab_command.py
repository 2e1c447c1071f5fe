"""re6st.lab.cli: what the commands refuse, and what they run."""

import os
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from re6st.lab import cli as command_line
from re6st.lab.namespace import Namespace


class ExecutedError(Exception):
    """The command would have become another program."""


@pytest.fixture
def run(monkeypatch):
    """Run the command line against a lab with the one host dora; return result and what it became."""
    namespace = Namespace("lab-dora")
    node = SimpleNamespace(
        host=SimpleNamespace(namespace=namespace),
        command=lambda *words: ["sh", "re6st-node", "--config", "dora.toml", *words],
    )
    lab = SimpleNamespace(namespace=lambda host: namespace, nodes={"dora": node})
    became = []

    def execvp(program, words):
        became.append((program, words))
        raise ExecutedError

    monkeypatch.setattr(command_line.requirements, "check_root", lambda: None)
    monkeypatch.setattr(command_line.Lab, "attach", lambda name: lab)
    monkeypatch.setattr(os, "execvp", execvp)
    return lambda *arguments: (CliRunner().invoke(command_line.cli, arguments), became)


@pytest.mark.parametrize("timeout", ["0", "-1", "0.05"])
def test_a_ping_has_time_to_be_answered(run, timeout):
    result, _ = run("ping", "--timeout", timeout)
    assert result.exit_code == 2
    assert "0.1" in result.output


@pytest.mark.parametrize("program", ["no-such-command", "/no/such/command", "/etc/passwd"])
def test_what_cannot_be_run_is_said_with_the_status_of_a_shell(run, program):
    result, became = run("exec", "dora", "--", program, "-x")
    assert result.exit_code == 127
    assert f"there is no program '{program}'" in result.output
    assert became == []


def test_a_command_runs_in_the_namespace_of_the_host(run):
    _, became = run("exec", "dora", "--", "sh", "-c", "exit 3")
    assert became == [("ip", ["ip", "netns", "exec", "lab-dora", "sh", "-c", "exit 3"])]


def test_re6st_node_gets_the_configuration_of_the_host(run):
    _, became = run("node", "dora", "status", "--json")
    words = ["sh", "re6st-node", "--config", "dora.toml", "status", "--json"]
    assert became == [("ip", ["ip", "netns", "exec", "lab-dora", *words])]


def test_a_host_without_a_node_is_named(run):
    result, became = run("node", "anna", "status")
    assert result.exit_code == 1
    assert "there is no node 'anna'; there are: dora" in result.output
    assert became == []
