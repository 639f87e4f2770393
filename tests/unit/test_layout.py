"""The layout of the package: imports, engines, sizes of folders, docstrings, and the cost of every pytest run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest_llmperf

PACKAGE = Path(pytest_llmperf.__file__).parent
FLOORS = (  # from the top down: each imports those below it, and none beside it
    ("plugin", "search_plugin", "__main__"),
    ("session", "cli"),
    ("api",),
    ("report",),
    ("history",),
    ("search",),
    ("runner",),
    ("interchange",),
    ("gate",),
    ("answers",),
    ("metrics", "servers"),
    ("telemetry", "load"),
    ("plan",),
    ("embedded",),
    ("definitions",),
    ("formulas",),
    ("boundary",),
    ("clock", "errors", "records", "units"),
)
FULL = 9  # entries of a folder
FULL_TOP = 25
ENGINES = ("servers.engines.", "servers.deployments.", "plan.server.engines.", "plan.server.deployments.")
ENGINE_DOORS = {  # the tables, and what all engines, deployments or servers that are up share
    "servers.engines.table",
    "servers.engines.commands",
    "servers.deployments.holder",
    "plan.server.engines.remote",
}
NEEDS_A_NEIGHBOUR = re.compile(
    r"\s*(What|Whether|Where|How|That|Of|If|Why|Those|Who|When|As|Which|By|From|In|For|At|So|With|To|Its|Over|Under)\b"
    r"|\s*(Between|Beyond|Until|Without|Within|Below|Against|Before)\b"
)
LIGHT = {"plugin", "search_plugin", "session", "session.command_line", "session.stash"}
HEAVY = {"numpy", "scipy", "pandas", "pydantic", "yaml", "httpx", "h11", "grpc", "pynvml", "rich", "click", "optuna"}


class Import(NamedTuple):
    """One module of the package imports another; names are without the package's."""

    importer: str
    imported: str
    place: str


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts).removesuffix("__init__").rstrip(".")] = path
    return found


def _imports() -> Iterator[Import]:
    """All, those for types only and those inside of functions too."""
    modules = _modules()
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            else:
                continue
            ours = {full.partition(".")[2] for full in named if full.partition(".")[0] == pytest_llmperf.__name__}
            # `from package import module` names the package too, which is nothing but a docstring.
            for imported in sorted(ours & modules.keys()):
                if modules[imported].name != "__init__.py":
                    yield Import(name, imported, f"{path.relative_to(PACKAGE)}:{node.lineno}")


IMPORTS = tuple(_imports())


def _floor(module: str) -> int | None:
    top = module.partition(".")[0]
    return next((number for number, names in enumerate(FLOORS) if top in names), None)


def _circle(arrows: set[tuple[str, str]]) -> list[str]:
    """One circle of them; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for start, end in arrows:
        graph.setdefault(start, set()).add(end)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_entry_of_the_package_has_a_floor():
    new = sorted({name.partition(".")[0] for name in _modules() if name and _floor(name) is None})
    assert not new, f"say in FLOORS who may import them, or put them into a folder that is there: {', '.join(new)}"


def test_imports_go_down():
    wrong = [
        f"{found.place} imports {found.imported}"
        for found in IMPORTS
        if found.importer.partition(".")[0] != found.imported.partition(".")[0]
        and (_floor(found.importer) or 0) >= (_floor(found.imported) or 0)
    ]
    advice = "what both need belongs to the lower folder, or is handed in by who calls"
    assert not wrong, "\n".join([f"imports from a folder above or beside ({advice}):", *wrong])


def test_no_modules_import_each_other():
    circle = _circle({(found.importer, found.imported) for found in IMPORTS})
    assert not circle, f"carry what two of them share into a module of its own: {' -> '.join(circle)}"


def test_no_folders_import_each_other():
    """At any depth: `load.answers` may not import `load.endpoints` and be imported by it."""
    arrows = set()
    for found in IMPORTS:
        one, other = found.importer.split("."), found.imported.split(".")
        same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        arrows.add((".".join(one[: same + 1]), ".".join(other[: same + 1])))
    circle = _circle(arrows)
    assert not circle, f"carry what makes the circle into one of them, or below both: {' -> '.join(circle)}"


def test_engines_are_reached_by_their_tables():
    """An engine more is its files and a row of both tables: nothing outside of them names one."""
    outside = (found for found in IMPORTS if not found.importer.startswith((*ENGINES, "plan.server.table")))
    wrong = [
        f"{found.place} imports {found.imported}"
        for found in outside
        if found.imported.startswith(ENGINES) and found.imported not in ENGINE_DOORS
    ]
    advice = "ask a function of its `Engine` in servers/engines/table.py, or a field that all models have"
    assert not wrong, "\n".join([f"names one engine ({advice}):", *wrong])


def test_no_folder_is_too_full():
    full = {}
    for folder in sorted({path.parent for path in _modules().values()}):
        entries = {path.name for path in folder.iterdir() if path.suffix == ".py" or any(path.glob("**/*.py"))}
        count, most = len(entries - {"__init__.py", "__main__.py"}), FULL_TOP if folder == PACKAGE else FULL
        if count > most:
            full[str(folder.relative_to(PACKAGE.parent))] = f"{count} entries, at most {most}"
    assert not full, f"group what belongs together in a folder: {full}"


def test_packages_hold_a_docstring_only():
    """Whoever imports one module of a folder pays for no other, and a name has one place."""
    packages = {name: path for name, path in _modules().items() if name and path.name == "__init__.py"}
    code = [name for name, path in packages.items() if len(ast.parse(path.read_text(encoding="utf-8")).body) > 1]
    assert not code, f"no re-exports: import from the module itself: {', '.join(code)}"


def test_docstrings_begin_with_a_noun_or_verb():
    """A stranger reads them one at a time: `Of the machine` needs the sentence above it to be understood."""
    fragments = []
    for path in _modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Expr(value=ast.Constant(value=str(text))) if NEEDS_A_NEIGHBOUR.match(text):
                    fragments.append(f"{path.relative_to(PACKAGE.parent)}:{node.lineno}: {text:.60}")
    advice = "begin with what it is or does: The ..., Returns ..., Seconds ..., True if ..."
    assert not fragments, "\n".join([f"docstrings that do not stand alone ({advice}):", *fragments])


def test_the_plugin_is_light():
    """Every pytest run of every user imports it."""
    code = "import sys, pytest_llmperf.plugin, pytest_llmperf.search_plugin; print(*sys.modules, sep='\\n')"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    ours = {name.partition(".")[2] for name in loaded if name.startswith(f"{pytest_llmperf.__name__}.")}
    assert ours == LIGHT, f"import it where it is used, inside the function: {', '.join(sorted(ours - LIGHT))}"
    assert not loaded & HEAVY, f"import it inside the function: {', '.join(sorted(loaded & HEAVY))}"


def test_unit_tests_lie_as_the_package_does():
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    strange = sorted(str(folder) for folder in folders if not (PACKAGE / folder).is_dir())
    assert not strange, f"no such folders in the package: {', '.join(strange)}"
