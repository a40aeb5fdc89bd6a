"""What the files of the methods say of their authors' code and papers: the sentences that name them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from groundprune.pruners import pruner_class, pruner_names

_SAID = re.compile(r"official code|formula|own definition|\bhere it is\b")
_OPTION = re.compile(r"(?:^|(?<=\.) )(?=[a-z_]+: )")  # where an option's entry begins
_SENTENCE = re.compile(r"(?<=\.) (?=[A-Z])")


def deviations_list() -> str:
    """One item per method that has something to say, with its sentences in the order of its file."""
    files: dict[Path, list[str]] = {}
    for name in pruner_names():
        files.setdefault(Path(sys.modules[pruner_class(name).__module__].__file__ or ""), []).append(name)
    found = {", ".join(f"`{name}`" for name in names): list(notes(file)) for file, names in files.items()}
    items = [f"- {names}: {' '.join(said)}" for names, said in found.items() if said]
    return "\n" + "\n".join(items) + "\n\n"


def notes(file: Path) -> Iterator[str]:
    """Sentences and options of a method's file, and of one beside it that holds its rule, about code or paper."""
    seen: set[str] = set()
    for each in (file, file.with_name(f"{file.stem}_rule.py")):
        if each.is_file():
            for said in _said(ast.parse(each.read_text(encoding="utf-8"))):
                if said not in seen:
                    seen.add(said)
                    yield said


def _said(module: ast.Module) -> Iterator[str]:
    """Of the file itself, its registered classes and its functions."""
    about, *rest = (ast.get_docstring(module) or "").split("\n\n")[1:] or [""]
    for paragraph in (about, *rest):
        whole = not paragraph.startswith("Paper:")  # then all of it is about what the paper leaves open
        if _SAID.search(paragraph):
            yield from (s for s in _SENTENCE.split(" ".join(paragraph.split())) if whole or _SAID.search(s))
    for node in module.body:
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.ClassDef) and len(node.decorator_list) > 1):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                for entry in _OPTION.split(" ".join(paragraph.removeprefix("Args:\n").split())):
                    option, colon, meaning = entry.partition(": ")
                    if colon and option.isidentifier() and _SAID.search(entry):
                        yield f"`{option}`: {meaning}"
                    elif not (colon and option.isidentifier()):
                        yield from filter(_SAID.search, _SENTENCE.split(entry))
