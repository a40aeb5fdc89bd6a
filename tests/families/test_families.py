"""Facts that hold for every family, on a left-padded batch of prompts with one, two and one images."""

from __future__ import annotations

import copy
import functools
import inspect
import math

import pytest
import torch

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.families import families, family_of
from groundprune.probes.tower import MODALITIES
from groundprune.signals import FINGERPRINT, Need
from support.closeness import assert_near
from support.families import BETWEEN_LAYERS, PROMPTS, encoded, inputs_of, model_of, signals_of
from support.generating import CONTROL, generate
from support.hands import HANDS
from support.inside import Staged

FAMILIES = list(families())
BY_HAND = ["idefics3", "internvl", "llava", "llava_next", "llava_onevision", "smolvlm"]  # the others: test_NAME.py
OF_ROW = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")

each_family = pytest.mark.parametrize("name", FAMILIES)
each_by_hand = pytest.mark.parametrize("name", BY_HAND)
each_pruner = pytest.mark.parametrize("pruner", [gp.ClsVisual, gp.Random, gp.Spatial])


@functools.cache
def visuals_of(name):
    """`tiny_inputs` goes through the kinds in turn."""
    kinds, done = [], 0
    for images, _, _ in PROMPTS:
        kinds.append([(done + i) % len(HANDS[name].crops) for i in range(images)])
        done += images
    return HANDS[name].visuals(kinds)


def in_row(name, row):
    return [visual for visual in visuals_of(name) if visual.row == row]


@each_family
@pytest.mark.parametrize(
    "pruner", [gp.ClsVisual(keep=0.5), gp.Random(keep=0.25), gp.Spatial(keep=0.25)], ids=lambda pruner: pruner.name
)
def test_pruning_is_exact_and_the_control_is_not(name, pruner):
    found = gp.verify(model_of(name), inputs_of(name), pruner, steps=4)
    assert found.passed, found
    assert found.control > CONTROL


@each_family
@pytest.mark.parametrize("policy", ["preserved", "reassigned", "reassigned-image", "stretched"])
def test_keep_1_is_the_stock_model_bit_for_bit(name, policy):
    """Before the LLM, and in stages between its layers."""
    model, inputs = model_of(name, layers=4), inputs_of(name)
    stock = stock_logits(name)
    short = generate(model, gp.prune_inputs(model, inputs, gp.ClsVisual(keep=1), policy), max_new_tokens=3)
    with gp.prune(model, Staged(keep=1) if name in BETWEEN_LAYERS else gp.ClsVisual(keep=1), policy):
        inside = generate(model, inputs, max_new_tokens=3)
    for whole in (short, inside):
        assert all(a.equal(b) for a, b in zip(whole.logits, stock, strict=True))


@functools.cache
def stock_logits(name):
    return generate(model_of(name, layers=4), inputs_of(name), max_new_tokens=3).logits


@each_family
@torch.no_grad()
def test_half_precision_costs_no_more_than_it_costs_the_oracle(name):
    """Error: mean absolute difference of the prefill's last logits, all rows, from those of the fp32 oracle."""
    exact, half = model_of(name), copy.deepcopy(model_of(name)).to(torch.bfloat16)
    rounded = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs_of(name).items()}
    same = {k: v.float() if v.is_floating_point() else v for k, v in rounded.items()}
    pruner = gp.ClsVisual(keep=0.5)
    with gp.prune(half, pruner) as run:
        pruned = half(**rounded).logits[:, -1]
    hidden = hidden_columns(run.prompt)
    with hide(half, hidden):
        oracle = half(**rounded).logits[:, -1]
    with hide(exact, hidden):
        wanted = exact(**same).logits[:, -1]
    with gp.prune(half, pruner, "reassigned"):
        control = half(**rounded).logits[:, -1]
    errors = [float((logits.float() - wanted).abs().mean()) for logits in (pruned, oracle, control)]
    assert errors[0] <= 1.5 * errors[1] < errors[2], errors


@each_by_hand
def test_the_layout_says_which_crop_a_token_comes_from_and_which_shows_the_whole(name):
    """Crops count through one image; the overview is first in LLaVA's families, last in those of a unit per crop."""
    hand, found = HANDS[name], encoded(name, inputs_of(name))
    for row, layout in enumerate(found.layouts):
        for image, visual in enumerate(in_row(name, row)):
            mine = ((layout.image == image) & layout.is_patch).nonzero().squeeze(1)
            assert mine.numel()
            count = hand.crops[visual.kind]
            whole = count - 1 if name in ("internvl", "idefics3", "smolvlm") else 0
            for token in mine.tolist():
                place = [int(field[token]) for field in (layout.tile, layout.row, layout.col)]
                weights = hand.patches(visual.kind, *place)
                crops: dict[int, float] = {}
                for (crop, _, _), weight in weights.items():
                    crops[crop] = crops.get(crop, 0) + weight
                crop = int(layout.crop[token])
                assert crops[crop] == max(crops.values())
                assert bool(layout.overview[token]) == (visual.kind in hand.videos or crop == whole)
        assert (layout.crop[~layout.is_patch] == -1).all()
        assert not layout.overview[~layout.is_patch].any()
        kept = torch.arange(0, len(layout), 2)
        assert layout.subset(kept).crop.equal(layout.crop[kept])
        assert layout.subset(kept).overview.equal(layout.overview[kept])


@each_by_hand
def test_paint_on_a_patch_shows_in_the_token_that_the_layout_says(name):
    hand, inputs = HANDS[name], inputs_of(name)
    before = encoded(name, inputs)
    for place in hand.places:
        visual = next(visual for visual in visuals_of(name) if visual.kind == place[0])
        weights = hand.patches(*place)
        painted = {k: v.clone() for k, v in inputs.items()}
        hand.pixels(painted, visual, max(weights, key=lambda patch: weights[patch])).add_(8)
        change = encoded(name, painted).features[visual.row] - before.features[visual.row]
        token, layout = change.norm(dim=-1).argmax(), before.layouts[visual.row]
        found = [int(field[token]) for field in (layout.image, layout.tile, layout.row, layout.col)]
        assert found == [in_row(name, visual.row).index(visual), *place[1:]]


@each_by_hand
@torch.no_grad()
def test_tower_scores_are_eager_attention_of_the_patches_of_a_token(name):
    model, hand, inputs = model_of(name), HANDS[name], inputs_of(name)
    family = family_of(model.config)
    cls = family.tower_kind(model.config).cls
    kinds = ["received", *["cls"] * cls]
    signals = signals_of(encoded(name, inputs, *(Need("tower_attention", kind=kind) for kind in kinds)))
    tower = family.tower(model.model)
    tower.set_attn_implementation("eager")
    try:
        attention = eager_attention(model.model, inputs, family.feature_layer(model.config))
    finally:
        tower.set_attn_implementation("sdpa")
    for kind in kinds:
        for row, signal in enumerate(signals):
            layout, found = signal.layout, signal.tower_attention(kind=kind)
            for n in layout.patches.tolist():
                visual = in_row(name, row)[layout.image[n]]
                weights = attention["video" if visual.kind in hand.videos else "image"]
                scores = (weights.mean(2) if kind == "received" else weights[:, :, 0])[..., int(cls) :]
                side = math.isqrt(scores.shape[-1])
                patches = hand.patches(visual.kind, int(layout.tile[n]), int(layout.row[n]), int(layout.col[n]))
                wanted = sum(w * scores[visual.crop + i][:, r * side + c] for (i, r, c), w in patches.items())
                assert_near(found[:, n], wanted)


def eager_attention(base, inputs, layer):
    """[crops, H, T, T] by modality, as the tower itself gives it."""
    found = {}
    for modality, main in MODALITIES.items():
        if main in inputs:
            encode = getattr(base, f"get_{modality}_features")
            names = [name for name in inspect.signature(encode).parameters if name in inputs]
            output = encode(**{name: inputs[name] for name in names}, output_attentions=True, return_dict=True)
            found[modality] = output.attentions[layer]
    return found


@each_by_hand
def test_layouts_cover_the_placeholders_and_do_not_depend_on_the_batch(name):
    model, hand, inputs = model_of(name), HANDS[name], inputs_of(name)
    together = encoded(name, inputs, FINGERPRINT)
    assert len(set(together.record.fingerprint)) == len(together.record.units)
    placeholders = torch.tensor(list(family_of(model.config).token_ids(model.config).values()))
    for b, signal in enumerate(signals_of(together)):
        assert signal.layout.column.equal(torch.isin(inputs["input_ids"][b], placeholders).nonzero()[:, 0])
        row = {k: inputs[k][b : b + 1] for k in OF_ROW if k in inputs}
        alone = encoded(name, {**row, **hand.of_row(inputs, in_row(name, b), hand.crops)}, FINGERPRINT)
        for field in ("column", "image", "tile", "row", "col", "is_patch"):
            assert getattr(alone.layouts[0], field).equal(getattr(signal.layout, field)), field
        assert signals_of(alone)[0].fingerprint == signal.fingerprint


@each_by_hand
@each_pruner
def test_tokens_that_are_no_patches_stay_and_do_not_count(name, pruner):
    model, hand = model_of(name), HANDS[name]
    with torch.no_grad(), gp.prune(model, pruner(keep=0.25)) as run:
        model(**inputs_of(name))
    for b, (layout, kept) in enumerate(zip(run.layout, run.kept, strict=True)):
        newlines = sum(hand.newlines[visual.kind] for visual in in_row(name, b)) if hand.newlines else 0
        assert int((~layout.is_patch).sum()) == newlines == int((~layout.is_patch[kept]).sum())
        assert int(layout.is_patch[kept].sum()) == max(1, math.floor(0.25 * len(layout.patches) + 0.5))
