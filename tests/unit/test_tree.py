"""The tree itself: that it can be read, installed and looked up in the manual."""

import ast
import functools
import os
import re
import tomllib
from pathlib import Path

import click
import msgspec
import pytest

from re6st.config import NodeConfig, default_locations, from_values, load
from re6st.lab.cli import cli as lab_cli
from re6st.lab.topology import HostSpec, MeshSpec, NetworkSpec, RouterSpec
from re6st.node.cli import main as node_cli
from re6st.registry.cli import cli as registry_cli

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for path in (ROOT / "re6st").rglob("*.py"))
MANUALS = {"re6st-node": node_cli, "re6st-registry": registry_cli, "re6st-lab": lab_cli}
ONE_ADAPTER = {
    "aiosmtplib": ["re6st/registry/mail.py"],
    "miniupnpc": ["re6st/upnp/helper.py"],
    "netifaces": ["re6st/node/addresses.py"],
    "psycopg": ["re6st/registry/postgresql.py"],
    "sqlite3": ["re6st/node/cache.py", "re6st/registry/sqlite.py"],
}
"""A library is known to these modules only."""

CONTRACTS = {
    contract["name"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}

DRAWS_NOTHING_BY_ITSELF = [
    "re6st/core",
    "re6st/tunnel/lifecycle.py",
    "re6st/upnp/mappings.py",
    "re6st/upnp/wishes.py",
]
"""Given a source of randomness and the time, these repeat themselves exactly."""


def relative(path):
    return str(path.relative_to(ROOT))


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_first_line_names_the_duty(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, "every module says what it is for"
    assert text.splitlines()[0].endswith("."), "in its first line, as a sentence"


def test_every_module_has_its_layer():
    """A layer holds nothing against a module that it does not name."""
    layers = CONTRACTS["Imports go down: lab, node, adapters, logic, values"]["layers"]
    named = {name for layer in layers for name in layer.split(" | ")}
    parents = [ROOT / "re6st", ROOT / "re6st/tunnel"]
    found = [path for parent in parents for path in parent.iterdir() if path.suffix == ".py" or path.is_dir()]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found if path.name[0] != "_"}
    assert names - named == {"re6st.tunnel"}, "the modules of that are named one by one"


def test_what_calls_itself_pure_is_held_to_it():
    checked = {*CONTRACTS["Pure modules beside the core do no I/O either"]["source_modules"]}
    for path in MODULES:
        if re.search(r"\(pure\)|\ba pure\b|\bPure\b", path.read_text().partition("\n")[0]):
            assert ".".join(path.relative_to(ROOT).with_suffix("").parts) in checked


def test_every_package_is_installed():
    packages = {relative(path.parent).replace("/", ".") for path in MODULES if path.name == "__init__.py"}
    assert packages == set(project()["tool"]["setuptools"]["packages"])


def test_every_data_file_is_installed():
    patterns = project()["tool"]["setuptools"]["package-data"]
    listed = {
        found
        for package, globs in patterns.items()
        for pattern in globs
        for found in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    present = {
        path
        for path in (ROOT / "re6st").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "py.typed"
    }
    assert present <= listed


def test_no_module_lies_outside_a_package():
    assert all((path.parent / "__init__.py").exists() for path in MODULES)


@pytest.mark.parametrize(
    "name", ["scripts/re6st-node", "scripts/re6st-registry", "scripts/re6st-lab", ".ci/run"]
)
def test_scripts_can_be_run(name):
    path = ROOT / name
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env ")


def test_test_files_have_unique_names():
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) == len(set(names)), "pytest would import one for the other"


@functools.cache
def imported(path):
    """Return the top-level packages that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("library", ONE_ADAPTER)
def test_library_has_one_adapter(library):
    users = [relative(path) for path in MODULES if library in imported(path)]
    assert set(users) <= set(ONE_ADAPTER[library])


@pytest.mark.parametrize("place", DRAWS_NOTHING_BY_ITSELF)
def test_randomness_is_given(place):
    top = ROOT / place
    for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "random":
                assert [alias.name for alias in node.names] == ["Random"], relative(path)
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "random"
            ):
                assert node.attr == "Random", f"{relative(path)}: random.{node.attr}"


def commands(command, path=()):
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


@pytest.mark.parametrize("program", MANUALS)
def test_manual_has_every_command_and_option(program):
    text = (ROOT / "docs" / "man" / f"{program}.8").read_text()
    flags = set(re.findall(r"(?:Fl| ,) (-?[A-Za-z][A-Za-z-]*)", text))
    words = set(re.findall(r"[a-z][a-z-]*", text))
    missing = []
    for path, command in commands(MANUALS[program]):
        missing += [name for name in path if name not in words]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                missing += [
                    f"{' '.join(path)} {option}"
                    for option in parameter.opts
                    if option.startswith("--") and option[1:] not in flags
                ]
    assert not missing


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("networks.NAME", NetworkSpec),
        ("routers.NAME", RouterSpec),
        ("hosts.NAME", HostSpec),
        ("mesh", MeshSpec),
    ],
)
def test_manual_has_every_key_of_a_topology_and_no_other(table, kind):
    text = (ROOT / "docs" / "man" / "re6st-lab.8").read_text()
    part = re.split(r"^\.S[sh] ", text.split(f".Ss [{table}]\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    items = " ".join(re.findall(r"^\.It (.*)$", part, flags=re.MULTILINE))
    assert set(re.findall(r"Cm ([a-z0-9-]+)", items)) == {
        field.encode_name for field in msgspec.structs.fields(kind)
    }


def test_example_configuration_has_every_setting_with_its_default():
    text = (ROOT / "conf" / "node.toml").read_text()
    values = tomllib.loads(re.sub(r"^#([a-z-]+ = )", r"\1", text, flags=re.MULTILINE))
    fields = msgspec.structs.fields(NodeConfig)
    assert set(values) == {field.encode_name for field in fields}
    config = from_values(values, "node.toml")
    for field in fields:
        shows_example = field.name in ("registry", "advertise", "proxy_credentials", "lan_key_file")
        if field.default is not msgspec.NODEFAULT and not shows_example:
            assert getattr(config, field.name) == field.default


def test_example_configuration_can_be_used_as_it_is():
    config = load(ROOT / "conf" / "node.toml", default_locations("re6st"))
    assert config.control_port == 4226


def test_dependencies_are_pinned():
    def names(lines):
        return {
            re.split(r"[=<>~ ]", line)[0].lower().replace("_", "-") for line in lines if line[:1] not in "#\n"
        }

    declared = project()["project"]
    runtime = names((ROOT / "requirements.txt").read_text().splitlines(keepends=True))
    development = names((ROOT / "requirements-development.txt").read_text().splitlines(keepends=True))
    assert names(declared["dependencies"]) <= runtime
    assert names(declared["optional-dependencies"]["development"]) <= development | runtime
