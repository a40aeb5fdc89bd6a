"""Every pruner under every position policy, on three kinds of model: a CLS tower, M-RoPE, and tiles."""

import functools

import pytest
import torch

import groundprune as gp
from groundprune.exactness import replay
from groundprune.exactness import verify as verification
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import families
from groundprune.pruners import make_pruner, pruner_class, pruner_names, servable
from groundprune.tokens.positions import Reassigned, parse_policy
from support.embedder import Embedder
from support.families import ON_STILLS
from support.generating import GREEDY, snapshot

PROMPTS = [(1, 3, 4), (2, 2, 3)]
FAMILIES = ("llava", "qwen2_5_vl", "internvl")


@functools.cache
def model(family):
    return tiny_model(family)


@functools.cache
def inputs(family):
    return tiny_inputs(model(family), PROMPTS)


@functools.cache
def stock(family):
    return forward(family)


def served(family):
    return servable(functools.partial(families()[family].check, families()[family].tiny_config()))


CASES = [(family, name) for family in FAMILIES for name in served(family) if name in ON_STILLS]
every_case = pytest.mark.parametrize(("family", "name"), CASES)


def pruning(family, pruner, positions="preserved"):
    return gp.prune(model(family), pruner, positions, text=["a cup", "the red cup"], text_tower=Embedder())


def generate(family, steps=3, **options):
    return model(family).generate(**inputs(family), **{"max_new_tokens": steps, **GREEDY, **options})


def forward(family):
    with torch.no_grad():
        return model(family)(**inputs(family)).logits[:, -1]


def verify(family, pruner, steps=2):
    texts = {"text": ["a cup", "the red cup"], "text_tower": Embedder()}
    return gp.verify(model(family), inputs(family), pruner, **texts, steps=steps)


def test_each_family_is_served_by_most_and_llava_by_all():
    assert served("llava") == ON_STILLS
    assert {family: len(served(family)) >= 14 for family in FAMILIES} == dict.fromkeys(FAMILIES, True)


@every_case
def test_preserved_equals_the_masked_oracle_and_reassigned_does_not(family, name):
    found = verify(family, make_pruner(name, 0.6))
    assert found.passed, found


@every_case
def test_generated_tokens_continue_as_the_policy_says(family, name):
    """By the rotary embedding of the last layer, whose tokens are the fewest."""
    decoder = model(family).get_decoder()
    seen = []
    hook = decoder.layers[-1].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_embeddings"][0]), with_kwargs=True
    )
    try:
        generate(family, 2)
        for positions in ("preserved", "reassigned", "official"):
            with pruning(family, make_pruner(name, 0.6), positions) as run:
                generate(family, 2)
            segment = run.prompt.segments[-1]
            policy = parse_policy(positions, make_pruner(name, 0.6).official(model(family).config))
            if isinstance(policy, Reassigned):
                length = segment.compaction.mask.sum(1, keepdim=True)
                ids = length.expand(3, -1, -1) if len(segment.position) == 3 else length
                wanted = decoder.rotary_emb(torch.empty(0), ids)[0]
            else:
                wanted = seen[1]  # the stock model's
            assert seen[-1].equal(wanted.expand_as(seen[-1])), positions
    finally:
        hook.remove()


@every_case
def test_kept_tokens_stay_in_raster_order_and_only_become_fewer(family, name):
    with pruning(family, make_pruner(name, 0.6)) as run:
        forward(family)
    for b, layout in enumerate(run.layout):
        before = set(range(len(layout)))
        for _, left in run.stages:
            kept = left[b].tolist()
            assert kept == sorted(set(kept))
            assert set(kept) <= before
            before = set(kept)
        assert len(before) < len(layout)
        segment = run.prompt.segments[-1]
        columns, ids = segment.compaction.index[b], segment.position[:, b]
        slots = torch.isin(columns, layout.column[run.kept[b]]) & segment.compaction.mask[b]
        assert ids[:, slots].equal(layout.position[:, run.kept[b]])


@pytest.mark.parametrize(
    ("family", "name"), [("llava", "cls-visual"), ("qwen2_5_vl", "tome"), ("internvl", "sparsevlm")]
)
def test_nothing_is_left_behind_even_after_an_exception(family, name):
    # In this order: the first stock forward leaves transformers' own hooks in the tower.
    wanted, before = stock(family), snapshot(model(family))

    def fail(*_):
        raise RuntimeError("interrupted")

    hook = model(family).get_decoder().layers[-1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="interrupted"), pruning(family, make_pruner(name, 0.6)):
        forward(family)
    hook.remove()
    assert snapshot(model(family)) == before
    assert forward(family).equal(wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_draws_by_seed_and_image_whatever_the_beams(family):
    once, again, other, beams = (
        drawn(family, inputs(family), seed, num_beams=beams) for seed, beams in ((3, 1), (3, 1), (4, 1), (3, 2))
    )
    assert once == again
    assert once != other
    assert beams == [row for row in once for _ in range(2)]


def test_random_draws_by_the_image_alone_never_by_its_place_or_the_row():
    given = inputs("llava")
    turned = {"pixel_values": given["pixel_values"][[1, 2, 0]]}
    turned |= {name: given[name].flip(0) for name in ("input_ids", "attention_mask")}
    once = drawn("llava", given, 3)
    assert drawn("llava", turned, 3) == once[::-1]
    twice = drawn("llava", given | {"pixel_values": given["pixel_values"][[0, 0, 0]]}, 3)
    of_image = [[i % 36 for i in twice[1] if i // 36 == image] for image in (0, 1)]
    assert of_image[0] == of_image[1]
    assert of_image[0] not in [[i % 36 for i in row if i // 36 == 1] for row in once]


def drawn(family, given, seed, **options):
    with gp.prune(model(family), gp.Random(keep=0.5, seed=seed)) as run:
        model(family).generate(**given, max_new_tokens=1, do_sample=False, **options)
    return [kept.tolist() for kept in run.kept]


@pytest.mark.parametrize("name", [name for name in pruner_names() if pruner_class(name).merges_in])
def test_the_oracle_of_a_merger_fails_without_the_merged_features(name, monkeypatch):
    monkeypatch.setattr(replay, "_with_features", lambda encoder, *_: encoder)
    monkeypatch.setattr(verification, "merged_states", lambda *_: [])
    found = verify("llava", make_pruner(name, 0.6))
    assert found.keep_all_exact
    assert found.difference > 1e-3


def test_stages_that_renumber_do_so_one_after_another():
    """PyramidDrop's code counts anew at each stage, SparseVLM's too, its clusters last; FastV's never."""
    for method, renumbers in ((gp.PyramidDrop, True), (gp.SparseVLM, True), (gp.FastV, False)):
        with pruning("llava", method(keep=0.6), "official") as run:
            generate("llava", 1)
        assert len(run.prompt.segments) > 1
        for segment in run.prompt.segments:
            for b in range(len(PROMPTS)):
                ids = segment.position[0, b, segment.compaction.mask[b]].sort().values
                counted = ids.equal(torch.arange(len(ids)))
                assert counted == (renumbers or segment.layer == 0), (method.name, segment.layer)
