"""What a context may touch, which is nothing for good, and what it hands to a pruner: texts, encoded images."""

import copy
from dataclasses import dataclass

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs
from groundprune.pruning.encode_once import EncodedImages
from groundprune.signals import TextEmbedder
from support.closeness import assert_near
from support.generating import generate, oracle, snapshot

PRUNERS = [gp.ClsVisual, gp.Random, gp.Spatial]


def test_leaving_the_context_leaves_nothing_behind(model, inputs):
    generate(model, inputs)  # transformers leaves hooks of its own in the first forward
    before = snapshot(model)
    with gp.prune(model, gp.ClsVisual(keep=0.4)):
        assert snapshot(model) != before
        generate(model, inputs)
    assert snapshot(model) == before


def test_leaving_through_an_exception_in_generate_leaves_nothing_behind(model, inputs):
    @dataclass(frozen=True)
    class Failing(gp.Pruner):
        needs = gp.ClsVisual.needs

        def score(self, signals, layout, stage):
            raise RuntimeError("scoring failed")

    stock, before = generate(model, inputs), snapshot(model)
    with pytest.raises(RuntimeError, match="scoring failed"), gp.prune(model, Failing(keep=0.4)):
        generate(model, inputs)
    assert snapshot(model) == before
    assert generate(model, inputs).sequences.equal(stock.sequences)


def test_the_callers_inputs_are_not_changed(model, inputs):
    encoded = gp.encode(model, inputs, [gp.ClsVisual(keep=0.4)]).select(range(3))
    given = {**{k: v for k, v in inputs.items() if k != "pixel_values"}, "mm_encoder_outputs": encoded}
    before = copy.deepcopy(given)
    with gp.prune(model, gp.ClsVisual(keep=0.4)):
        generate(model, given)
    assert all(given[k].equal(before[k]) for k in ("input_ids", "attention_mask"))
    for a, b in zip(encoded["image"].pooler_output, before["mm_encoder_outputs"]["image"].pooler_output, strict=True):
        assert a.equal(b)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_images_encoded_once_give_what_pixels_give(model, inputs, pruner):
    with gp.prune(model, pruner(keep=0.4)):
        wanted = generate(model, inputs, num_beams=2)
    calls = []
    handle = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    # Rows of one, two and one image.
    first = {"input_ids": inputs["input_ids"][:1], "pixel_values": inputs["pixel_values"][:1]}
    rest = {"input_ids": inputs["input_ids"][1:], "pixel_values": inputs["pixel_values"][1:]}
    halves = [first, rest]
    encoded = EncodedImages.join([gp.encode(model, half, [p(keep=0.4) for p in PRUNERS]) for half in halves])
    words = {k: v for k, v in inputs.items() if k != "pixel_values"}
    with gp.prune(model, pruner(keep=0.4)):
        got = generate(model, {**words, "mm_encoder_outputs": encoded.select(range(3))}, num_beams=2)
    handle.remove()
    assert len(calls) == 2
    assert got.sequences.equal(wanted.sequences)


class Words(TextEmbedder):
    """A text tower whose embedding of a text is drawn from its length."""

    def text(self, text):
        return torch.randn(1, 8, generator=torch.Generator().manual_seed(len(text)))

    def patches(self, hidden):
        return hidden @ torch.randn(hidden.shape[-1], 8, generator=torch.Generator().manual_seed(0))


def test_each_row_is_pruned_by_its_own_text_also_under_beams(model, inputs):
    texts = ["a", "bcd", "efghij"]
    with gp.prune(model, gp.TextVisual(keep=0.4), text=texts, text_tower=Words()) as run:
        generate(model, inputs)
        alone = run.kept
        pruned = generate(model, inputs, num_beams=3)
        assert all(kept.equal(alone[b // 3]) for b, kept in enumerate(run.kept))
    assert pruned.sequences.equal(oracle(model, run, inputs, num_beams=3).sequences)
    with gp.prune(model, gp.TextVisual(keep=0.4), text=texts[::-1], text_tower=Words()) as run:
        generate(model, inputs)
    assert not run.kept[0].equal(alone[0])


def test_merging_in_each_space_feeds_the_mixed_features(model):
    """A pruner that doubles the kept features: in the projected space the LLM reads them doubled."""

    @dataclass(frozen=True)
    class Doubling(gp.Pruner):
        space: str = "projected"
        needs = frozenset({gp.Need("tower_hidden")})

        def select(self, signals, layout, stage):
            kept = torch.arange(0, len(layout), 2)
            weight = torch.zeros(len(kept), len(layout))
            weight[torch.arange(len(kept)), kept] = 2.0
            return gp.Selection(kept, gp.Merge(weight, self.space))

    inputs = tiny_inputs(model, [(1, 5, 7)])
    plain = model.get_image_features(pixel_values=inputs["pixel_values"])
    hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
    wanted = {
        "projected": 2 * plain.pooler_output[0][::2],
        "tower": model.model.multi_modal_projector(2 * hidden[::2]),
    }
    for space, features in wanted.items():
        with gp.prune(model, Doubling(keep=0.5, space=space)) as run:
            generate(model, inputs)
        assert_near(run.rows[0].features, features)
