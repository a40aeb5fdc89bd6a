"""The catalogue: what is registered, from the registries themselves; markdown for the docs, JSON for `list`."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from typing import Any

from groundprune.errors import GroundPruneError
from groundprune.exactness.tiny import tiny_model
from groundprune.families import families
from groundprune.pruners import Pruner, make_pruner, pruner_class, pruner_names, servable
from groundprune.pruners.option import options_of
from groundprune.pruning.context import prune
from groundprune.signals import TextEmbedder

_ARXIV = re.compile(r"arXiv[: ]+(\d{4}\.\d{4,5})")


def pruners_table() -> str:
    """Every registered pruner: its method, the papers that its file names, the signals it reads, its authors' ids."""
    rows = ["| pruner | method | paper | reads | its authors' ids |", "| :-- | :-- | :-- | :-- | :-- |"]
    for name in pruner_names():
        cls = pruner_class(name)
        papers = dict.fromkeys(_ARXIV.findall(inspect.getdoc(sys.modules[cls.__module__]) or ""))
        links = ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers)
        needs = ", ".join(f"`{need}`" for need in sorted(map(str, cls.needs)))
        rows.append(f"| `{name}` | {_cell(method(cls))} | {links} | {needs} | {_official(cls)} |")
    return "\n".join(rows) + "\n"


def _official(cls: type[Pruner]) -> str:
    others = [f"`{policy}` on {model}" for model, policy in cls.official_by_model.items()]
    return ", ".join([f"`{cls.official_positions}`", *others])


def method(cls: type[Pruner]) -> str:
    """The first paragraph of what the method's file says of itself, without the name that it starts with."""
    said = inspect.getdoc(sys.modules[cls.__module__]) or inspect.getdoc(cls) or ""
    return _paragraph(said).removeprefix(f"`{cls.name}`: ").removesuffix(".")


def methods_reference() -> str:
    """Every registered pruner's class, for mkdocstrings to render."""
    classes = [pruner_class(name) for name in pruner_names()]
    places = [f"::: {cls.__module__}.{cls.__qualname__}\n    options:\n      heading_level: 3" for cls in classes]
    return "\n" + "\n\n".join(places) + "\n\n"


def families_table() -> str:
    """Every family: its model types, how its boxes are said, and what its file says of it."""
    rows = ["| family | what it is | model types | codec | frame |", "| :-- | :-- | :-- | :-- | :-- |"]
    for name, family in families().items():
        types = ", ".join(f"`{model_type}`" for model_type in family.model_types)
        about = _cell(_paragraph(inspect.getdoc(sys.modules[type(family).__module__]) or "").removesuffix("."))
        rows.append(f"| `{name}` | {about} | {types} | `{family.grounding.codec}` | `{family.grounding.frame}` |")
    return "\n".join(rows) + "\n"


def served_table() -> str:
    """Pruners x families: what a model of a family can serve, and below it why not, each reason once.

    That is asked of the tiny model of each family (`groundprune.exactness.tiny`); with a text tower at hand.
    """
    refused = {name: _refusals(name) for name in families()}
    reasons = list(dict.fromkeys(reason for of in refused.values() for reason in of.values()))
    letters = {reason: chr(ord("a") + i) for i, reason in enumerate(reasons)}
    rows = [f"| pruner | {' | '.join(refused)} |", f"| :-- |{' :-: |' * len(refused)}"]
    for name in pruner_names():
        cells = [letters[of[name]] if name in of else "✓" for of in refused.values()]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *(f"- **{letter}**: {reason}" for reason, letter in letters.items())]) + "\n\n"


def _refusals(family: str) -> dict[str, str]:
    """By pruner, why a model of the family cannot run it; in words that fit other families and signals too."""
    model, found = tiny_model(family), {}
    for name in pruner_names():
        try:
            with prune(model, make_pruner(name, keep=0.5), text=["the mug"], text_tower=TextEmbedder()):
                continue
        except GroundPruneError as error:
            said = str(error).removeprefix(f"{name}: ")
        said = re.sub(r"; (this model|that of)\b.*|^the signal '[^']*' ", "", said)
        found[name] = said.removeprefix(f"{family} ").replace(f" of {family}", "")
    return found


def _paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def catalogue_file() -> str:
    """What `groundprune list` reads."""
    return json.dumps(catalogue(), indent=1) + "\n"


def catalogue() -> list[dict[str, Any]]:
    """One entry per registered pruner, from what its class says of itself."""
    served = served_by_family()
    return [
        {
            "name": name,
            "summary": summary(cls),
            "paper": cls.paper,
            "year": cls.year,
            "scores_by": cls.scores_by,
            "stage": stage_of(cls),
            "merges": cls.merges_in is not None,
            "official_positions": cls.official_positions,
            "official_by_model": dict(cls.official_by_model),
            "families": [family for family, names in served.items() if name in names],
            "needs": sorted(map(str, cls.needs)),
            "options": [option.to_dict() for option in options_of(cls)],
        }
        for name, cls in ((name, pruner_class(name)) for name in pruner_names())
    ]


def stage_of(cls: type[Pruner]) -> str:
    """Where a pruner acts: "before the LLM", or layers of an LLM of 32."""
    layers = [stage.layer for stage in cls(keep=0.9).stages(32)]
    inside = [str(layer) for layer in layers if layer is not None]
    before = ["before the LLM"] if None in layers else []
    return " and ".join([*before, *([f"layer{'s' * (len(inside) > 1)} {', '.join(inside)} of 32"] if inside else [])])


def served_by_family() -> dict[str, list[str]]:
    """Per registered family the pruners that a model of it can serve, with a CLIP text tower at hand."""
    checks = {name: functools.partial(family.check, family.tiny_config()) for name, family in families().items()}
    return {name: servable(check) for name, check in checks.items()}


def summary(cls: type[Pruner]) -> str:
    """The first line of what the method's file says of itself: "`name`: keep the ..."; else of its class."""
    text = (sys.modules[cls.__module__].__doc__ or "").strip()
    prefix = f"`{cls.name}`: "
    if not text.startswith(prefix):
        text, prefix = (cls.__doc__ or "").strip(), ""
    return text.removeprefix(prefix).split("\n")[0]
