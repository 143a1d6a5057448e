"""Every import points down: the floors of the package, and no circles of files or folders.

Imports inside functions count; those for types alone (``if TYPE_CHECKING:``) do not. How to read a
failure: "training/loop.py imports cli/train.py, which is on a higher floor". Move what both need
down, or hand it over as an argument.
"""

import ast
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "anipot"

#: Files and folders at the root of the package, the lowest first.
FLOORS = (
    "errors", "version", "units", "elements", "registry", "config", "system", "data", "aev",
    "networks", "potential", "formats", "evaluation", "report", "training", "runs", "experiments",
    "simulation", "studies", "compat", "cli",
)  # fmt: skip

#: The package's face.
FACE = ("__init__", "__main__")

#: (importing file, imported file): why it may import upwards.
EXCEPTIONS = {
    ("potential/base", "potential/calculator"): "Potential.calculator(): a short way to it",
    ("potential/base", "formats/anipot_format"): "Potential.save(): a short way to it",
    ("potential/base", "formats/torchani_format"): "Potential.to_torchani(): a short way to it",
}

LONGEST_FILE = 400


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported_by(source):
    """Dotted names (module, name) of imports that run."""
    found = []

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.extend((node.module, alias.name) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def graph_of(sources):
    """Imports within the package: file -> files, each without its suffix."""
    graph = {}
    for name, source in sources.items():
        graph[name] = set()
        for module, leaf in imported_by(source):
            if module.split(".")[0] != "anipot":
                continue
            target = "/".join(module.split(".")[1:])
            for candidate in (f"{target}/{leaf}".lstrip("/") if leaf else target, target):
                if candidate in sources and candidate != name:
                    graph[name].add(candidate)
                    break
    return graph


@cache
def sources():
    return {name_of(p): p.read_text(encoding="utf-8") for p in sorted(PACKAGE.rglob("*.py"))}


def upward(graph):
    """Imports that do not point down, in words."""
    order = {name: floor for floor, name in enumerate(FLOORS)}
    return [
        f"{name}.py imports {target}.py, which is on a higher floor"
        for name, targets in graph.items()
        if name not in FACE
        for target in sorted(targets)
        if order[target.split("/")[0]] > order[name.split("/")[0]]
        and (name, target) not in EXCEPTIONS
    ]


def siblings(graph):
    """For each folder: its files and folders, and which of them import which."""
    levels = {}
    for name, targets in graph.items():
        for target in targets:
            if (name, target) in EXCEPTIONS or name in FACE or target in FACE:
                continue
            a, b = name.split("/"), target.split("/")
            shared = 0
            while shared < min(len(a), len(b)) and a[shared] == b[shared]:
                shared += 1
            if shared < len(a) and shared < len(b):
                level = levels.setdefault("/".join(a[:shared]), {})
                level.setdefault(a[shared], {})[b[shared]] = f"{name}.py imports {target}.py"
    return levels


def circles(level):
    """One circle of imports a start, in words; empty if there is none."""
    found, done = [], set()

    def walk(node, path):
        if node in path:
            circle = [*path[path.index(node) :], node]
            found.append("; ".join(level[a][b] for a, b in pairwise(circle)))
            return
        if node not in done:
            for target in level.get(node, ()):
                walk(target, [*path, node])
            done.add(node)

    for node in level:
        walk(node, [])
    return found


def test_every_import_points_down():
    assert not upward(graph_of(sources()))


def test_no_circles_of_files_or_folders():
    levels = siblings(graph_of(sources()))
    found = {folder: circles(level) for folder, level in levels.items()}
    assert not {folder: words for folder, words in found.items() if words}


def test_exceptions_are_still_needed():
    graph = graph_of(sources())
    assert [pair for pair in EXCEPTIONS if pair[1] not in graph[pair[0]]] == []


def test_the_root_holds_the_floors_alone():
    entries = {
        p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert entries == {*FLOORS, *FACE}
    assert sum((PACKAGE / f"{name}.py").exists() for name in FLOORS) <= 6


@pytest.mark.parametrize("name", sources())
def test_no_file_is_too_long(name):
    assert sources()[name].count("\n") <= LONGEST_FILE


def test_turned_round_imports_are_found_and_named():
    turned = {
        "errors": "",
        "data/a": "from anipot.data import b",
        "data/b": "def f():\n    from anipot.data.a import x",
        "data/c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import anipot.cli",
        "cli": "",
        "system/d": "import anipot.data.a",
    }
    graph = graph_of(turned)
    assert upward(graph) == ["system/d.py imports data/a.py, which is on a higher floor"]
    (words,) = circles(siblings(graph)["data"])
    assert words == "data/a.py imports data/b.py; data/b.py imports data/a.py"
