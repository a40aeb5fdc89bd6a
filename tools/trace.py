"""Which of the package's files run between a call and its result, and how many lines they hold.

    python -m tools.trace            LLaVA pruned by cls-visual, gp.prune_inputs to what stock generate takes
    python -m tools.trace fastv      LLaVA pruned by fastv, gp.prune around stock generate

A file counts where a line of a function's body ran; all its lines count.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model

PACKAGE = Path(gp.__file__).parent


def files_run(call: Any) -> dict[Path, int]:
    """The package's files in which `call` ran a line of a function's body, with their numbers of lines."""
    call()  # what is imported, or cached, at the first time is not read on the way
    seen: set[CodeType] = set()

    def tracer(frame: FrameType, event: str, argument: Any) -> None:
        seen.add(frame.f_code)

    sys.setprofile(tracer)
    try:
        call()
    finally:
        sys.setprofile(None)
    found: dict[Path, int] = {}
    for code in seen:
        path = Path(code.co_filename)
        if PACKAGE in path.parents and code.co_name not in ("<module>", *_class_names(path)):
            found[path] = len(path.read_text(encoding="utf-8").splitlines())
    return dict(sorted(found.items()))


def _class_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def traced(pruner: str) -> dict[Path, int]:
    """The files that run for a tiny LLaVA: with "cls-visual" the pure function, with any other name the context."""
    model = tiny_model("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    chosen = gp.make_pruner(pruner, keep=0.5)
    if not chosen.inside:
        return files_run(lambda: gp.prune_inputs(model, inputs, chosen))

    def generate() -> None:
        with gp.prune(model, chosen):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)

    return files_run(generate)


def main() -> None:
    """Print the files, most lines last, and the sums."""
    found = traced(sys.argv[1] if len(sys.argv) > 1 else "cls-visual")
    for path, lines in sorted(found.items(), key=lambda pair: pair[1]):
        print(f"{lines:5}  {path.relative_to(PACKAGE)}")
    print(f"{sum(found.values()):5}  lines in {len(found)} files")


if __name__ == "__main__":
    main()
