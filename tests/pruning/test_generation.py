"""Pruning before the LLM in every way to generate, against the masked oracle."""

import pytest
import torch

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs
from groundprune.exactness.verify import relative_difference
from support.closeness import assert_near
from support.generating import TOLERANCE, generate, oracle
from support.versions import needs_chunks

PRUNERS = [gp.ClsVisual, gp.Random, gp.Spatial]


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize(
    ("options", "copies"),
    [
        ({}, 1),
        ({"num_beams": 3}, 3),
        ({"use_cache": False}, 1),
        ({"num_return_sequences": 2, "do_sample": True, "top_k": 20}, 2),
    ],
    ids=["greedy", "beams", "no cache", "samples"],
)
def test_every_way_to_generate_equals_the_masked_oracle(model, inputs, pruner, options, copies):
    torch.manual_seed(3)
    with gp.prune(model, pruner(keep=0.4)) as run:
        pruned = generate(model, inputs, **options)
    assert [len(k) for k in run.kept[::copies]] == [14, 29, 14]
    torch.manual_seed(3)
    wanted = oracle(model, run, inputs, **options)
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE
    torch.manual_seed(3)
    with gp.prune(model, pruner(keep=0.4), "reassigned"):
        control = generate(model, inputs, **options)
    assert relative_difference(control.logits[:1], wanted.logits[:1]) > 1e-2


def test_hidden_states_at_all_retained_columns_equal_the_oracles(model, inputs):
    with torch.no_grad():
        with gp.prune(model, gp.ClsVisual(keep=0.5)) as run:
            pruned = model(**inputs).logits
        with hide(model, hidden_columns(run.prompt)):
            # A plain forward counts positions from the left edge, padding included; so does the pruned one.
            wanted = model(**inputs).logits
    for b, row in enumerate(run.rows):
        kept = pruned[b, -len(row.column) :]
        assert relative_difference([kept], [wanted[b, row.column]]) < TOLERANCE


def test_reassigned_is_what_code_does_that_renumbers(model):
    """The forks hand the kept embeddings to the LLM without position ids: consecutive ids, short cache."""
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with gp.prune(model, gp.Spatial(keep=0.5), "reassigned") as run:
        pruned = generate(model, inputs)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with torch.no_grad():
        features = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        embeds[0, run.layout[0].column] = features
        embeds = embeds[:, run.rows[0].column]
        for step in range(6):
            hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state[:, -1]
            logits = model.lm_head(hidden)
            assert relative_difference([pruned.logits[step]], [logits]) < TOLERANCE
            embeds = torch.cat([embeds, model.get_input_embeddings()(logits.argmax(-1))[:, None]], 1)


@pytest.mark.parametrize("policy", ["shifted:16", "permuted:0"])
def test_positions_can_change_without_pruning(model, inputs, policy):
    stock = generate(model, inputs)
    with gp.prune(model, gp.Spatial(keep=1), policy) as run:
        moved = generate(model, inputs)
    assert all(len(kept) == len(layout) for kept, layout in zip(run.kept, run.layout, strict=True))
    assert relative_difference(moved.logits[:1], stock.logits[:1]) > 1e-3


def test_a_common_shift_of_all_ids_changes_nothing_since_rope_is_relative(model):
    """Where the image stands first, shifting it and all that follows moves every id: RoPE cannot tell."""
    inputs = tiny_inputs(model, [(1, 0, 6)])
    stock = generate(model, inputs)
    with gp.prune(model, gp.Spatial(keep=1), "shifted:16"):
        moved = generate(model, inputs)
    assert relative_difference(moved.logits, stock.logits) < 1e-4


def test_a_loop_of_ones_own_equals_generate(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned") as run, torch.no_grad():
        wanted = generate(model, inputs, suppress_tokens=None).sequences[:, inputs["input_ids"].shape[1] :]
        mask = inputs["attention_mask"]
        # Positions as `generate` derives them; a plain forward would count the padding.
        out = model(**inputs, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        for step in range(6):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            assert token[:, 0].equal(wanted[:, step])
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            out = model(input_ids=token, attention_mask=mask, past_key_values=out.past_key_values)
    assert len(run.rows) == 3


def test_a_draft_model_changes_nothing(model):
    """Assisted decoding: several tokens per step, and a cache that is cropped behind the prompt."""
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        drafted = model.generate(**inputs, prompt_lookup_num_tokens=3, max_new_tokens=8, do_sample=False)
    assert drafted.equal(oracle(model, run, inputs, max_new_tokens=8).sequences)


def test_static_cache_equals_dynamic_cache(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4)):
        dynamic = generate(model, inputs)
        static = generate(model, inputs, cache_implementation="static", disable_compile=True)
    assert static.sequences.equal(dynamic.sequences)
    assert relative_difference(static.logits, dynamic.logits) < TOLERANCE


def test_prompts_without_an_image_are_left_alone(model):
    words = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    stock = generate(model, words)
    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        assert generate(model, words).sequences.equal(stock.sequences)
    with pytest.raises(gp.GroundPruneError, match="nothing was pruned"):
        _ = run.kept


def test_a_batch_may_mix_rows_with_and_without_an_image(model):
    inputs = tiny_inputs(model, [(1, 5, 7), (0, 0, 6)])
    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        pruned = generate(model, inputs)
    assert [len(k) for k in run.kept] == [14, 0]
    assert pruned.sequences.equal(oracle(model, run, inputs).sequences)


def test_the_loss_is_that_of_the_labels_that_stayed(model):
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    # An answer's tokens, as in training. (The word right after an image is predicted from the image's last token,
    # which pruning may drop.)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    with torch.no_grad():
        with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
            pruned = model(**inputs, labels=labels).loss
        with hide(model, hidden_columns(run.prompt)):
            wanted = model(**inputs, labels=labels).loss
    assert_near(pruned, wanted)


@needs_chunks
def test_a_prefill_in_chunks_changes_nothing(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4)):
        wanted = generate(model, inputs)
        chunks = generate(model, inputs, prefill_chunk_size=16)
    assert chunks.sequences.equal(wanted.sequences)
    assert relative_difference(chunks.logits, wanted.logits) < TOLERANCE
