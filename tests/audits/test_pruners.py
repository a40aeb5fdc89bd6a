"""Our own pruning under every policy, before the LLM and inside of it, on rows of one and of two images."""

import pytest

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs
from support.families import model_of
from support.inside import LastRow, Staged

# What the ids are called, and those of the words behind; of the last layer, on a prompt of one image.
POLICIES = {
    "preserved": ("preserved", "kept"),
    "reassigned": ("renumbered", "moved up by"),
    "reassigned-image": ("renumbered per image", "kept"),
    "stretched": ("stretched", "kept"),
    "shifted:3": ("shifted by +3", "pushed back by 3"),
    "permuted:1": ("permuted", "kept"),
}
PRUNERS = [gp.Random(keep=0.5), LastRow(keep=0.4), Staged(keep=0.3)]


def pruned(pruner, policy, **options):
    def call(model, inputs):
        with gp.prune(model, pruner, policy):
            model.generate(**{**inputs, "max_new_tokens": 3, "do_sample": False, **options})

    return call


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("family", "pruner"),
    [*(("llava", pruner) for pruner in PRUNERS), ("qwen2_5_vl", PRUNERS[-1]), ("internvl", PRUNERS[-1])],
    ids=lambda each: getattr(each, "label", each),
)
def test_a_policy_is_called_by_its_name(family, policy, pruner):
    model = model_of(family)
    found = gp.audit(pruned(pruner, policy), model, tiny_inputs(model, [(1, 5, 7), (2, 2, 4)]))
    visual, text = POLICIES[policy]
    one, two = found.rows
    # Of the few that the last of three stages leaves, a permutation may leave each its own.
    at = 0 if policy == "permuted:1" and pruner.label == "staged" else -1
    assert one.stages[at].visual == two.stages[at].visual == visual
    if family != "qwen2_5_vl" or policy != "reassigned":  # on three axes what is left may need more ids, not fewer
        assert one.stages[-1].text.startswith(text)
        assert two.stages[-1].text.startswith(text)
    assert found.exit_code == (0 if policy == "preserved" else 1)
    assert (found.difference < 1e-5) == (policy == "preserved")
    firsts = {"random": [0], "last-row": [0, 1], "staged": [0, 1, 3]}[pruner.label]
    assert [stage.first for stage in one.stages] == firsts
    assert all(not stage.merged and stage.ordered for row in found.rows for stage in row.stages)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}, {"use_cache": False},
        {"cache_implementation": "static"}, {"prefill_chunk_size": 16},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
@pytest.mark.parametrize("policy", ["preserved", "reassigned"])
def test_however_one_generates(options, policy):
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    if "prefill_chunk_size" in options:

        def call(model, inputs):
            model.generate(**gp.prune_inputs(model, inputs, gp.Random(keep=0.5), policy), max_new_tokens=3, **options)
    else:
        call = pruned(gp.Random(keep=0.5), policy, **options)  # fmt: skip
    found = gp.audit(call, model, inputs)
    assert found.exit_code == (policy == "reassigned")
    assert {len(row.stages[0].kept) for row in found.rows} == {18}
    visual = "preserved" if policy == "preserved" else "renumbered"
    assert {stage.visual for row in found.rows for stage in row.stages} == {visual}
    said = "continue from the unpruned length" if policy == "preserved" else "moved up by 18"
    assert {row.generated for row in found.rows} <= {said, "none"}
