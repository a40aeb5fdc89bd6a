"""Arrows run down: what a file imports, at its top or in a function, lies in a lower room, and no circle closes."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import groundprune as gp
from groundprune.families import families
from groundprune.pruners import pruner_class

PACKAGE = Path(gp.__file__).parent
# From the ground up. A room imports rooms below its own; those that share a line know nothing of each other.
ORDER = (
    ("version", "errors", "caches"),
    ("tokens", "boxes", "pocket", "smol"),
    ("signals",),
    ("models",),
    ("families",),
    ("probes",),
    ("pruners",),
    ("pruning",),
    ("exactness", "checkpoints"),
    ("answers", "data", "audits"),
    ("evaluation",),
    ("report",),
    ("studies",),
    ("integrations", "app"),
    ("cli",),
    ("__main__", "__init__"),
)
# Of these less than what lies below.
KNOWS = {
    "tokens": {"errors"},
    "boxes": {"errors"},
    "pocket": set(),
    "smol": {"errors", "caches"},
    "signals": {"errors", "tokens"},
    "models": {"version", "errors", "boxes"},
    "families": {"errors", "tokens", "signals", "models"},
    "probes": {"errors", "tokens", "signals"},
    "pruners": {"errors", "tokens", "signals"},
    "pruning": {"errors", "tokens", "signals", "families", "probes", "pruners"},
}


def imports_of(package: Path) -> dict[str, set[str]]:
    """Per module, those of the package that it imports, in functions too, but not what type checkers alone read."""
    files = sorted(package.rglob("*.py"))
    modules = {_name(package, file): file for file in files}
    found: dict[str, set[str]] = {}
    for name, file in modules.items():
        home = name if file.stem == "__init__" else name.rpartition(".")[0]
        named = [x for node in _running(ast.parse(file.read_text("utf-8"))) for x in _imported(node, home)]
        # `from a import b` imports the module a.b where there is one, else something in a.
        known = (x if x in modules else x.rpartition(".")[0] for x in named)
        found[name] = {x for x in known if x in modules and x != name}
    return found


def _name(package: Path, file: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from _running(other)
        else:
            yield from _running(child)


def _imported(node: ast.AST, home: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    up = home.split(".")[: len(home.split(".")) - node.level + 1] if node.level else []
    source = ".".join([*up, *filter(None, [node.module])])
    return [f"{source}.{alias.name}" for alias in node.names]


def circle(imports: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, empty where there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def room(module: str) -> str:
    return (module.split(".")[1:] or ["__init__"])[0]


def upward(imports: dict[str, set[str]]) -> list[str]:
    """The arrows that do not run down."""
    rung = {name: i for i, names in enumerate(ORDER) for name in names}
    return [
        f"{module} -> {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if room(module) != room(other)
        and (rung[room(other)] >= rung[room(module)] or room(other) not in KNOWS.get(room(module), rung))
    ]


@pytest.fixture(scope="module")
def imports():
    return imports_of(PACKAGE)


def test_every_room_has_its_place(imports):
    rooms = {room(module) for module in imports}
    assert rooms == {name for names in ORDER for name in names}


def test_no_imports_run_in_a_circle(imports):
    assert not circle(imports)


def test_arrows_run_down(imports):
    assert not upward(imports)


def test_pruning_names_no_family_and_no_method(imports):
    names = [*families(), *gp.pruner_names()]
    named = {type(family).__module__ for family in families().values()}
    named |= {pruner_class(name).__module__ for name in gp.pruner_names()}
    below = ("tokens", "signals", "probes", "pruning")
    for module, others in imports.items():
        assert room(module) not in below or not others & named, module
    for file in (PACKAGE / "pruning").glob("*.py"):
        words = {
            node.value for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Constant)
        }
        assert not words & set(names), file


def test_the_package_imports_nothing_of_what_stays_in_the_repository():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            assert not {name.split(".")[0] for name in _imported(node, "groundprune")} & {"tools", "tests"}, file


# What the tests above would find


def _package(folder: Path, files: dict[str, str]) -> dict[str, set[str]]:
    for name, text in {"__init__.py": "", **files}.items():
        (folder / "groundprune" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groundprune" / name).write_text(text)
    return imports_of(folder / "groundprune")


def test_a_circle_through_a_function_is_found(tmp_path):
    files = {"pruning/a.py": "from groundprune.pruning import b", "pruning/b.py": "def f():\n    from .a import g"}
    assert {"groundprune.pruning.a", "groundprune.pruning.b"} == set(circle(_package(tmp_path, files)))


def test_what_only_type_checkers_import_is_no_circle(tmp_path):
    later = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import groundprune.pruning.a"
    files = {"pruning/a.py": "from groundprune.pruning import b", "pruning/b.py": later}
    assert not circle(_package(tmp_path, files))
    assert circle(_package(tmp_path, {**files, "pruning/b.py": later + "\nelse:\n    import groundprune.pruning.a"}))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokens/layout.py", "import groundprune.signals"),
        ("tokens/layout.py", "from groundprune.version import __version__"),
        ("tokens/layout.py", "from groundprune import boxes"),
        ("pruners/base.py", "def f():\n    from groundprune.pruning import inputs"),
        ("pruners/base.py", "from groundprune.families import base"),
        ("evaluation/runner.py", "import groundprune"),
        ("integrations/app/page.py", "from ...cli import console"),
    ],
)
def test_an_arrow_that_runs_up_is_found(tmp_path, file, text):
    names = ("signals", "version", "boxes", "pruning/inputs", "families/base", "cli/console")
    files = {f"{name}.py": "" for name in names} | {"boxes/__init__.py": "", "cli/__init__.py": ""}
    files |= {"pruning/__init__.py": "", "families/__init__.py": ""}
    del files["boxes.py"]
    (arrow,) = upward(_package(tmp_path, {**files, file: text}))
    assert arrow.startswith(f"groundprune.{file.removesuffix('.py').replace('/', '.')} -> ")
