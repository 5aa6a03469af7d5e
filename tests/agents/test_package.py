"""What the packages import: the core the standard library only, adapters and server the core."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvflow_agents

CHECKOUT = Path(__file__).parents[2]
CORE = CHECKOUT / "kvflow_agents"
OURS = {"kvflow_agents": CORE} | {
    folder.name: folder
    for group in ("adapters", "server")
    for folder in sorted((CHECKOUT / group).glob("kvflow_*"))
}
FRAMEWORKS = {"openai", "langchain_core", "langgraph", "autogen_agentchat", "autogen_core"} | {
    *("agents", "pydantic_ai", "agent_framework", "sglang", "torch", "typer", "rich")
}

LAZY_IMPORTS = {
    "call_watch.py": {"openai"},
    "cli.py": {"typer"},
    "command.py": {"typer"},
    "conform.py": {"typer"},
    "lint.py": {"typer", "rich"},
    "record.py": {"typer"},
    "report_table.py": {"rich"},
    "reports.py": {"rich"},
    "sdk.py": {"openai"},
}
"""What else the core imports, and only when it is used."""


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported(nodes: list[ast.stmt], *, is_nested_too: bool) -> Iterator[str]:
    """The packages that code imports; without nested code, what it imports when imported."""
    for node in nodes:
        for child in ast.walk(node) if is_nested_too else at_import(node):
            if isinstance(child, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0 and child.module, "an import is relative"
                yield child.module.partition(".")[0]


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """A statement and those inside it that run when its module is imported."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from at_import(child)


def imports(path: Path, *, is_nested_too: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set(imported(tree.body, is_nested_too=is_nested_too))


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def python(code: str, *options: str, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that finds `paths` first."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
    )


def bare_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code without site-packages, and so without anything that was installed."""
    return python(code, "-S", paths=[CHECKOUT])


def core_modules() -> list[str]:
    return [f"kvflow_agents.{path.stem}" for path in sources(CORE) if path.stem != "__init__"]


def test_there_are_packages_to_look_at() -> None:
    assert {"kvflow_agents", "kvflow_langgraph", "kvflow_autogen", "kvflow_sglang"} <= OURS.keys()
    assert len(sources(CORE)) > 10


@pytest.mark.parametrize("path", sources(CORE), ids=name_of)
def test_the_core_imports_the_standard_library_only(path: Path) -> None:
    lazily = LAZY_IMPORTS.get(path.name, set())
    foreign = imports(path) - sys.stdlib_module_names - {"kvflow_agents"}
    assert foreign == lazily
    at_once = imports(path, is_nested_too=False) - sys.stdlib_module_names
    assert at_once <= {"kvflow_agents"}


@pytest.mark.parametrize(
    "path",
    [path for name, folder in OURS.items() if name != "kvflow_agents" for path in sources(folder)],
    ids=name_of,
)
def test_adapters_and_server_import_the_core_and_never_each_other(path: Path) -> None:
    own = path.relative_to(CHECKOUT).parts[1]
    ours = {name for name in imports(path) if name.startswith("kvflow_")}
    assert ours <= {own, "kvflow_agents"}


def test_the_server_imports_sglang_in_one_package_alone() -> None:
    server = OURS["kvflow_sglang"]
    elsewhere = {
        path.name
        for path in sources(server)
        if server / "compat" not in path.parents and "sglang" in imports(path)
    }
    assert elsewhere == {"standalone.py"}  # a cache for tests and benchmarks


def test_the_core_works_without_site_packages() -> None:
    script = f"import {', '.join(core_modules())}; print(len(kvflow_agents.StepGraph().joins))"
    assert bare_python(script).stdout == "0\n"


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_package_imports_no_framework_when_it_is_imported(package: str) -> None:
    script = (
        f"import sys\nimport {package}\nprint(sorted({FRAMEWORKS!r}.intersection(sys.modules)))"
    )
    ran = python(script, paths=[CHECKOUT, OURS[package].parent])
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_the_command_line_without_its_library_says_what_to_install() -> None:
    ran = bare_python("from kvflow_agents.cli import main; main()")
    assert ran.returncode == 1
    assert "pip install 'kvflow-agents[cli]'" in ran.stderr


def test_every_public_name_is_there_once_and_in_order() -> None:
    names = kvflow_agents.__all__
    assert [*names] == sorted(set(names))
    assert all(hasattr(kvflow_agents, name) for name in names)


def test_every_package_is_typed_and_in_the_wheel() -> None:
    listed = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    for name, folder in OURS.items():
        assert (folder / "py.typed").is_file(), name
        assert f'"{folder.relative_to(CHECKOUT).as_posix()}"' in listed


def test_importing_the_core_starts_nothing() -> None:
    script = (
        f"import logging, threading, {', '.join(core_modules())}\n"
        "print(threading.active_count(), logging.getLogger('kvflow_agents').handlers)"
    )
    assert bare_python(script).stdout == "1 []\n"
