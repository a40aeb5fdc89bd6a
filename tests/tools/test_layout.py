"""What is a checkout's alone stays out of the package."""

import ast
from pathlib import Path

import groundprune

PACKAGE = Path(groundprune.__file__).parent
TOOLS = Path(__file__).parents[2] / "tools"


def imported(file):
    """Names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def importers(folder, package):
    return [
        str(f.relative_to(folder)) for f in folder.rglob("*.py") if package in {m.split(".")[0] for m in imported(f)}
    ]


def test_the_package_imports_no_tool():
    assert importers(PACKAGE, "tools") == []
    assert importers(TOOLS, "tools")  # so an import would be found
    assert importers(TOOLS, "groundprune")


def test_one_checkpoint_ships():
    assert {file.parent.relative_to(PACKAGE / "pocket") for file in PACKAGE.rglob("*.safetensors")} == {
        Path("checkpoint"), Path("checkpoint", "clip"),
    }  # fmt: skip
