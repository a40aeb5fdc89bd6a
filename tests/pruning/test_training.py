"""Training with pruned visual tokens: losses and gradients are the masked oracle's, whoever trains."""

import pytest
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from support.closeness import assert_apart, assert_near
from support.families import model_of
from support.generating import CONTROL, TOLERANCE
from support.inside import LastRow, Staged
from support.training import (
    IGNORED,
    PROMPTS,
    by_context,
    by_inputs,
    by_oracle,
    padded_right,
    visual,
    without_first_words,
    words_labelled,
)

BEFORE = gp.ClsVisual(keep=0.4)
RECOMPUTES = "__call__" in vars(GradientCheckpointingLayer)  # see `pruning.layers`


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma"])
def test_loss_and_gradients_are_the_oracles(name, side):
    """Of all weights, the tower's included; rows of one and two images, and of unequal length."""
    model = model_of(name)
    inputs = tiny_inputs(model, PROMPTS)
    inputs = words_labelled(model, inputs if side == "left" else padded_right(inputs))
    losses, gradients, prompts = zip(*(way(model, inputs, BEFORE) for way in (by_inputs, by_context)), strict=True)
    loss, wanted = by_oracle(model, without_first_words(inputs), prompts[0])
    for mine, found in zip(losses, gradients, strict=True):
        assert_near(mine, loss, TOLERANCE)
        assert_near(found, wanted, TOLERANCE)
    loss_moved, moved, _ = by_inputs(model, inputs, BEFORE, "reassigned")
    assert_apart(loss_moved, loss, 10 * TOLERANCE)
    assert_apart(moved, wanted, CONTROL)


@pytest.mark.parametrize("pruner", [LastRow(keep=0.4), Staged(keep=0.4)], ids=["one stage", "three stages"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_the_same_between_layers(name, pruner):
    model = tiny_model(name, layers=4)
    inputs = words_labelled(model, padded_right(tiny_inputs(model, PROMPTS)))
    loss, found, prompt = by_context(model, inputs, pruner)
    wanted_loss, wanted = by_oracle(model, inputs, prompt)
    assert_near(loss, wanted_loss, TOLERANCE)
    assert_near(found, wanted, TOLERANCE)
    _, moved, _ = by_context(model, inputs, pruner, "reassigned")
    assert_apart(moved, wanted, CONTROL)


@pytest.mark.parametrize("way", [by_inputs, by_context])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_word_is_predicted_from_the_last_kept_token_before_it(way, side):
    """Also the word behind an image; labels of what was dropped are gone, and no word is predicted from padding."""
    model = model_of("llava")
    inputs = tiny_inputs(model, PROMPTS)
    inputs = inputs if side == "left" else padded_right(inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    loss, _, prompt = way(model, {**inputs, "labels": ids.masked_fill(~mask, IGNORED)}, BEFORE)
    with torch.no_grad():
        logits = model(**gp.prune_inputs(model, inputs, BEFORE)).logits
    wanted = []
    for b, row in enumerate(prompt.rows):
        mine = logits[b, prompt.compaction.mask[b]]
        wanted.append(nn.functional.cross_entropy(mine[:-1], ids[b, row.column[1:]], reduction="none"))
    assert_near(loss, torch.cat(wanted).mean(), TOLERANCE)
    assert len(torch.cat(wanted)) < int(mask.sum()) - len(ids)


def test_the_loss_of_a_row_is_the_same_in_every_batch():
    """Of rows that lose unequal shares, some of which stand behind padding then."""
    model = model_of("llava")
    rows = [tiny_inputs(model, [prompt], seed=seed) for seed, prompt in enumerate(PROMPTS)]
    length = max(row["input_ids"].shape[1] for row in rows)

    def padded(name, fill):
        return torch.cat([nn.functional.pad(r[name], (0, length - r[name].shape[1]), value=fill) for r in rows])

    batch = {"input_ids": padded("input_ids", 0), "attention_mask": padded("attention_mask", 0)}
    batch["pixel_values"] = torch.cat([row["pixel_values"] for row in rows])
    labels = [row["input_ids"].masked_fill(visual(model, row["input_ids"]), IGNORED) for row in rows]
    batch["labels"] = torch.cat(
        [nn.functional.pad(each, (0, length - each.shape[1]), value=IGNORED) for each in labels]
    )
    with torch.no_grad(), gp.prune(model, BEFORE):
        one = model(**batch, num_items_in_batch=1).loss
        alone = [model(**r, labels=each, num_items_in_batch=1).loss for r, each in zip(rows, labels, strict=True)]
        half = model(**batch, num_items_in_batch=torch.tensor(2)).loss
    assert_near(one, sum(alone), TOLERANCE)
    assert_near(2 * half, one, TOLERANCE)


def test_no_gradient_passes_through_a_dropped_token():
    model = model_of("llava")
    inputs = words_labelled(model, padded_right(tiny_inputs(model, PROMPTS)))
    given = []
    hook = model.model.multi_modal_projector.register_forward_hook(lambda _, __, out: given.append(out))
    try:
        short = gp.prune_inputs(model, inputs, BEFORE)
    finally:
        hook.remove()
    (features,) = given
    (found,) = torch.autograd.grad(model(**short).loss, [features])
    reached = found.flatten(0, 1).abs().amax(1) > 0
    kept = torch.zeros_like(reached)
    start = 0
    for mine, layout in zip(short.kept, short.layout, strict=True):
        kept[start + mine] = True
        start += len(layout)
    assert reached.equal(kept)


@pytest.mark.parametrize("pruner", [gp.VisionZip(keep=0.4), gp.ToMe(keep=0.4)], ids=lambda pruner: pruner.name)
def test_gradients_of_merged_tokens_are_the_slope_of_the_loss(pruner):
    """Of the projector, which the choice and the weights of a merge do not depend on."""
    model = tiny_model("llava")
    inputs = words_labelled(model, padded_right(tiny_inputs(model, PROMPTS)))
    weight, step = model.model.multi_modal_projector.linear_1.weight, 1e-3
    loss = model(**gp.prune_inputs(model, inputs, pruner)).loss
    (found,) = torch.autograd.grad(loss, [weight])
    direction = found / found.norm()

    @torch.no_grad()
    def moved(by):
        weight.add_(by * direction)
        value = model(**gp.prune_inputs(model, inputs, pruner)).loss.double()
        weight.sub_(by * direction)
        return value

    assert_near((moved(step) - moved(-step)) / (2 * step), found.norm(), 1e-2)


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])
@pytest.mark.parametrize(
    ("way", "pruner"), [(by_inputs, BEFORE), (by_context, BEFORE), (by_context, Staged(keep=0.4))],
    ids=["inputs", "context", "between layers"],
)  # fmt: skip
def test_gradient_checkpointing_recomputes_what_was_pruned(way, pruner, reentrant):
    """The tower too, whose attention a pruner read."""
    model = tiny_model("llava", layers=4)
    inputs = words_labelled(model, padded_right(tiny_inputs(model, PROMPTS)))
    if pruner.inside and RECOMPUTES:
        pytest.skip("refused by this transformers: tests/pruning/test_corners.py")

    def weights_gradient():
        if way is by_inputs:
            model(**gp.prune_inputs(model, inputs, pruner), use_cache=False).loss.backward()
        else:
            with gp.prune(model, pruner):
                loss = model(**inputs, use_cache=False).loss
            loss.backward()
        found = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
        model.zero_grad(set_to_none=True)
        return found

    wanted = weights_gradient()
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    forwards = []
    for layers in (model.model.vision_tower.encoder.layers, model.model.language_model.layers):
        layers[0].self_attn.register_forward_pre_hook(lambda *_: forwards.append(1))
    assert_near(weights_gradient(), wanted, TOLERANCE)
    assert len(forwards) == 4  # both were recomputed


def test_an_engine_that_shards_in_a_way_of_its_own_is_refused():
    wrapped = type("FullyShardedDataParallel", (nn.Sequential,), {})(model_of("llava"))  # a stand-in for FSDP 1
    says = "fully_shard.*DistributedDataParallel or DeepSpeed; got a FullyShardedDataParallel$"
    with pytest.raises(gp.GroundPruneError, match=says):
        gp.prune_inputs(wrapped, {}, BEFORE)
    with pytest.raises(gp.GroundPruneError, match=says), gp.prune(wrapped, BEFORE):
        pass


def test_trls_fused_head_is_refused_where_labels_would_not_fit():
    """It takes labels to what the layers leave; before the LLM labels are pruned with the columns."""
    model = model_of("llava")
    inputs = words_labelled(model, tiny_inputs(model, PROMPTS))
    with gp.prune(model, LastRow(keep=0.4)), pytest.raises(gp.Unservable, match="fused_lm_head takes labels of all"):
        model(**inputs, fused_lm_head=True)
