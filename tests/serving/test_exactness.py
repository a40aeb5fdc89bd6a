"""vLLM and transformers give the same log-probabilities, token by token, whatever is pruned."""

import pytest
from engines import TOLERANCE, by_transformers, by_vllm, difference, engine, photo, prompt

import groundprune as gp
from groundprune.pruners import make_pruner

# Of each family two images; with other shapes than these a share would be rounded otherwise for both together.
SIZES = {
    "llava": [(48, 48), (30, 60)], "llava_next": [(40, 24), (36, 40)],
    "qwen2_5_vl": [(48, 32), (64, 48)], "qwen3_vl": [(128, 64), (96, 96)],
}  # fmt: skip
EVERY = ["random", "spatial", "cls-visual", "divprune", "coverage", "fastervlm"]
CASES = [("llava", name, keep) for name in EVERY for keep in (0.5, 1)]
CASES += [
    (family, name, keep)
    for family, pair in {
        "llava_next": ("cls-visual", "spatial"),
        "qwen2_5_vl": ("cls-visual", "coverage"),
        "qwen3_vl": ("cls-visual", "divprune"),
    }.items()
    for name in pair
    for keep in (0.5, 1)
]


def requests(family, processor):
    """One image, two images, text alone."""
    one, two = (photo(i, *size) for i, size in enumerate(SIZES[family]))
    return [
        (prompt(processor, 1, "the red circle w20"), [one]),
        (prompt(processor, 2, "w30 circle w40 w41 the"), [two, one]),
        (prompt(processor, 0, "the red w50 w51"), []),
    ]


@pytest.mark.parametrize(("family", "name", "keep"), CASES)
def test_vllm_says_what_transformers_says(family, name, keep, checkpoint):
    folder, model, processor = checkpoint(family)
    pruner, given = make_pruner(name, keep), requests(family, processor)
    expected = by_transformers(model, processor, given, pruner)
    with engine(folder, pruner) as llm:
        found = by_vllm(llm, given)
    assert [said.columns for said in found] == [said.columns for said in expected]
    assert difference(found, expected) < TOLERANCE
    assert [said.ids for said in found] == [said.ids for said in expected]


@pytest.mark.parametrize("family", SIZES)
def test_a_renumbered_engine_says_something_else(family, checkpoint):
    folder, model, processor = checkpoint(family)
    pruner, given = gp.ClsVisual(keep=0.5), requests(family, processor)
    with engine(folder, pruner, "reassigned") as llm:
        found = by_vllm(llm, given)
    assert difference(found, by_transformers(model, processor, given, pruner, "reassigned")) < TOLERANCE
    preserved = by_transformers(model, processor, given, pruner)
    assert difference(found[:1], preserved[:1]) > 1
    assert difference(found[1:2], preserved[1:2]) > 1
    assert difference(found[2:], preserved[2:]) < TOLERANCE  # without an image there is nothing to renumber
