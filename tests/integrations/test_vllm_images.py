"""What the plugin keeps of an image, where it stood, and how long a prompt may be; no vLLM is needed."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import families
from groundprune.integrations.vllm.image_pruning import ImagePruning, pack, unpack
from groundprune.integrations.vllm.limits import (
    check_positions,
    encoder_share,
    largest_length,
    most_dropped,
    most_slots,
    most_tokens,
    rotary_length,
)
from groundprune.integrations.vllm.settings import ARCHITECTURES, Settings
from groundprune.integrations.vllm.spans import Span, columns, shortened, unpruned
from groundprune.integrations.vllm.spelled import IDS, SpelledImage
from groundprune.integrations.vllm.tiled import TILES
from groundprune.pruners import make_pruner
from groundprune.signals import Need

SERVED = ["random", "spatial", "cls-visual", "divprune", "coverage", "vidcom2"]
SPELLED = ("idefics3", "smolvlm", "mistral3")  # text stands between the tokens of an image
WORDS_BEFORE, WORDS_BEHIND = 3, 4


def configured(family, pruner, positions="preserved", **text):
    config = families()[family].tiny_config()
    for name, value in text.items():
        setattr(config.text_config, name, value)
    config.groundprune = vars(Settings.of(pruner, positions))
    return config


# Images


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("name", SERVED)
def test_one_image_loses_what_gp_prune_drops_of_a_prompt_with_it_alone(family, name):
    model, pruner = tiny_model(family), make_pruner(name, 0.5)
    inputs = tiny_inputs(model, [(1, WORDS_BEFORE, WORDS_BEHIND)])
    seen = []

    class Watched(type(pruner)):
        def __call__(self, signals, layout, stage):
            seen.append((signals.projected, {n: torch.cat(v) for n, v in signals._record.values.items()}))
            return super().__call__(signals, layout, stage)

    watched = Watched(keep=0.5)
    with gp.prune(model, watched) as run:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    (projected, values), layout = seen[0], run.layout[0]
    pruning = ImagePruning(configured(family, pruner))
    names = [n for n in ("pixel_values", "image_sizes", "image_grid_thw") if n in inputs]
    tiles = {TILES: torch.tensor([len(inputs["pixel_values"])])} if family == "internvl" else {}
    ids = inputs["input_ids"][0, WORDS_BEFORE:-WORDS_BEHIND]
    text = {IDS: [ids]} if family in SPELLED else {}
    (unit,) = pruning.units({n: inputs[n] for n in names} | tiles | text)
    kept = pruning.kept(unit, projected, values)
    assert kept.equal(run.kept[0])
    assert pruning.settled == (name == "spatial")
    if not isinstance(unit, SpelledImage):
        assert pruning.count(unit) == len(kept)
        assert pruning.offsets(unit, kept).equal(layout.position[:, kept] - layout.position[:, :1])
        return
    # The whole of it, marks and breaks included, less what was dropped.
    dropped = {i for i in range(len(layout)) if i not in kept.tolist()}
    gone = {int(layout.column[i]) - WORDS_BEFORE for i in dropped}
    left = [i for i in range(len(ids)) if i not in gone]
    assert unit.slots(kept).tolist() == left
    assert pruning.offsets(unit, unit.slots(kept)).tolist() == [left]
    assert pruning.count(unit) == len(left)
    assert sorted(unit.prompt(len(left))) == sorted(ids[left].tolist())
    if pruning.settled:
        assert pruning.settled_kept(unit).tolist() == left


def test_a_merge_of_a_pruner_of_ones_own_is_refused():
    class Merging(gp.Spatial):
        def select(self, signals, layout, stage):
            found = super().select(signals, layout, stage)
            return gp.Selection(found.kept, gp.Merge(torch.ones(len(found.kept), len(layout))))

    pruning = ImagePruning(configured("llava", gp.Spatial(keep=0.5)))
    pruning.pruner = Merging(keep=0.5)
    (unit,) = pruning.units({"pixel_values": torch.zeros(1, 3, 24, 24)})
    with pytest.raises(gp.Unservable, match="merges"):
        pruning.kept(unit, torch.zeros(36, 8), {})


def test_images_of_tiles_are_told_apart_and_placed_without_their_pixels():
    """vLLM drops the pixels of an image that lies in cached blocks, and keeps how many tiles it is."""
    pruning = ImagePruning(configured("internvl", gp.Spatial(keep=0.5)))
    two = pruning.units({"pixel_values": torch.zeros(4, 3, 24, 24), TILES: torch.tensor([3, 1])})
    assert [len(image) for image in two] == [27, 9]
    (alone,) = pruning.units(pruning.arguments_of({TILES: SimpleNamespace(data=torch.tensor(3))}))
    assert len(alone) == 27
    assert pruning.settled_kept(alone).equal(pruning.settled_kept(two[0]))
    assert pruning.count(alone) == 14


def test_needs_of_the_tower_are_asked_for_where_something_is_dropped():
    attention = Need("tower_attention", kind="salient")
    assert ImagePruning(configured("llava", gp.ClsVisual(keep=0.5))).tower_needs == [attention]
    assert ImagePruning(configured("llava", gp.ClsVisual(keep=1))).tower_needs == []
    assert ImagePruning(configured("llava", gp.Random(keep=0.5))).tower_needs == []


@given(
    st.integers(1, 3),
    st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=5), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_offsets_survive_half_precision(axes, items, dtype):
    offsets = [torch.tensor(item).repeat(axes, 1) + torch.arange(axes)[:, None] * 0 for item in items]
    features = [torch.randn(len(item), 4, dtype=dtype) for item in items]
    packed = [pack(f, o) for f, o in zip(features, offsets, strict=True)]
    assert all(p.dtype == dtype for p in packed)
    bodies, found = unpack(packed, axes)
    assert found.equal(torch.cat(offsets, dim=1))
    assert all(a.equal(b) for a, b in zip(bodies, features, strict=True))


def test_axes_are_not_mixed_up():
    offsets = torch.tensor([[1, 2], [300, 4], [5, 60_000]])
    bodies, found = unpack([pack(torch.zeros(2, 3), offsets)], 3)
    assert found.equal(offsets)
    assert bodies[0].shape == (2, 3)


# Prompts


@given(st.data())
def test_the_columns_of_what_is_left_are_those_of_the_whole_prompt(data):
    """Against a whole prompt that is written down token by token, and marked where something was dropped."""
    whole, left, spans, at = [], [], [], 0
    for image in range(data.draw(st.integers(0, 3))):
        words = [1000 + len(whole) + i for i in range(data.draw(st.integers(0, 4)))]
        total = data.draw(st.integers(1, 6))
        kept = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
        left += [len(whole) + i for i in range(len(words))]
        whole += words
        spans.append(Span(len(left), len(kept), total, torch.tensor(kept)))
        left += [len(whole) + i for i in kept]
        whole += [image] * total
        at = len(whole)
    tail = data.draw(st.integers(0, 3))
    whole += [2000 + i for i in range(tail)]
    left += list(range(at, len(whole)))
    tokens = [whole[column] for column in left]
    found, starts = unpruned(tokens, spans)
    assert found == whole
    assert columns(len(tokens), spans).tolist() == left
    assert [whole[start] for start in starts] == list(range(len(spans)))


def test_text_around_an_images_placeholders_stays():
    @dataclass
    class Details:  # as vLLM's PromptUpdateDetails
        full: list[int]
        is_embed: Callable[[list[int]], torch.Tensor] | None

    before = Details([7, 99, 99, 8, 99, 9], lambda full: torch.tensor(full) == 99)
    found = shortened(before, 2)
    assert found.full == [7, 99, 99, 8, 9]
    assert found.is_embed(found.full).tolist() == [False, True, True, False, False]
    assert before.full == [7, 99, 99, 8, 99, 9]
    assert shortened(Details([99] * 4, None), 3) == Details([99] * 3, None)
    assert shortened([99] * 4, 1) == [99]


def test_where_only_the_tower_knows_slots_stand_at_the_first():
    spans = [Span(2, 3, 10, None), Span(6, 1, 4, None)]
    assert columns(9, spans).tolist() == [0, 1, 2, 2, 2, 12, 13, 17, 18]


# Lengths


def test_the_longest_prompt_is_the_one_whose_positions_end_with_the_table():
    """By trial: of every number of images that fits, where the last position would be."""
    pruning = ImagePruning(configured("llava", gp.ClsVisual(keep=0.5), max_position_embeddings=200))
    assert rotary_length(pruning) == 200
    assert most_dropped(pruning) == 18
    for images in (1, 2, 5, 99):
        length = largest_length(pruning, images, 200)
        last = {n: n + min(images, n // 18) * 18 for n in range(1, 201)}
        assert last[length] <= 200
        assert all(last[n] > 200 for n in range(length + 18, 201))
        check_positions(pruning, length, images)
        with pytest.raises(gp.GroundPruneError, match="max_model_len"):
            check_positions(pruning, 200, images)


def test_what_drops_or_keeps_no_position_needs_no_room():
    for pruner, positions in ((gp.ClsVisual(keep=1), "preserved"), (gp.ClsVisual(keep=0.1), "reassigned")):
        pruning = ImagePruning(configured("llava", pruner, positions))
        assert largest_length(pruning, 9, 4096) == 4096


@pytest.mark.parametrize("pruner", [gp.ClsVisual(keep=0.5), gp.ClsVisual(keep=0.1), gp.ClsVisual(tokens=8)])
def test_no_image_of_three_axes_moves_what_follows_by_more_than_is_thought(pruner):
    """An image moves the text by the longer side of its grid; the grids are those of Qwen's own resizing."""
    pruning = ImagePruning(configured("qwen2_5_vl", pruner))
    moved = []
    for height in (*range(28, 120, 3), 300, 900):
        for ratio in (1, 20, 100, 150, 199, 200):
            found = smart_resize(height, height * ratio, factor=28, min_pixels=56 * 56, max_pixels=16_384 * 28 * 28)
            rows, cols = (side // 28 for side in found)
            moved.append(max(rows, cols) - pruner.budget.count(rows * cols))
    assert 0 < max(moved) <= most_dropped(pruning)
    assert most_dropped(ImagePruning(configured("qwen2_5_vl", gp.ClsVisual(keep=1)))) == 0


def test_the_tower_is_given_as_much_as_before():
    """vLLM counts the tokens that are left; of the tower's work that would be twice as much at half of them."""
    assert encoder_share(ImagePruning(configured("llava", gp.ClsVisual(keep=0.5)))) == 0.5
    assert encoder_share(ImagePruning(configured("llava_next", gp.ClsVisual(tokens=20)))) == 0.25
    assert encoder_share(ImagePruning(configured("qwen3_vl", gp.ClsVisual(tokens=16)))) == 16 / 16_384


def test_tiles_count():
    pruning = ImagePruning(configured("llava_next", gp.ClsVisual(keep=0.5)))
    assert most_dropped(pruning) == 16 * 5 // 2  # the image and 2 x 2 tiles of 16 patches
    pruning = ImagePruning(configured("internvl", gp.ClsVisual(keep=0.5)))
    assert most_dropped(pruning) == 13 * 9 // 2  # 12 tiles and the image


def test_no_grid_of_tiles_has_more_patches_than_is_thought():
    """LLaVA-OneVision interpolates it, but only where it is much larger than its limit."""
    config = families()["llava_onevision"].tiny_config(tiles=9)
    crop = config.vision_config.image_size
    config.image_grid_pinpoints = [[rows * crop, cols * crop] for rows in range(1, 7) for cols in range(1, 7)]
    config.groundprune = vars(Settings.of(gp.Spatial(keep=0.5)))
    pruning, pixels = ImagePruning(config), torch.empty(1, 37, 0, 0, 0)

    def patches(*size):
        (unit,) = pruning.units({"pixel_values": pixels, "image_sizes": torch.tensor([size])})
        return int(unit.is_patch.sum())

    found = [patches(height, width) for height in range(4, 100, 6) for width in range(4, 100, 3)]
    assert 0.9 * most_tokens(config) < max(found) <= most_tokens(config)
    pruning = ImagePruning(configured("idefics3", gp.ClsVisual(tokens=20)))
    assert most_dropped(pruning) == 9 * 17 - 20  # the image and 4 x 4 tiles of 3 x 3 tokens
    pruning = ImagePruning(configured("mistral3", gp.ClsVisual(keep=0.5)))
    assert most_dropped(pruning) == 8 * 8 // 2


def test_no_image_of_tiles_takes_more_slots_than_is_thought():
    """Of few tokens that stay a tall image, whose newlines are many, takes the most."""
    for family, options in (("llava_next", {}), ("llava_onevision", {"tiles": 9})):
        config = families()[family].tiny_config(**options)
        crop = config.vision_config.image_size
        config.image_grid_pinpoints = [[rows * crop, cols * crop] for rows in (1, 2, 3) for cols in (1, 2, 3)]
        for budget in ({"tokens": 5}, {"keep": 0.04}, {"keep": 0.5}, {"keep": 1}):
            config.groundprune = vars(Settings.of(gp.Spatial(**budget)))
            pruning, pixels = ImagePruning(config), torch.empty(1, 10, 0, 0, 0)
            found = {}
            for size in itertools.product(range(4, 100, 8), repeat=2):
                (unit,) = pruning.units({"pixel_values": pixels, "image_sizes": torch.tensor([size])})
                found[size] = pruning.count(unit)
            assert 0.8 * most_slots(pruning) < max(found.values()) <= most_slots(pruning)


def test_an_image_whose_features_do_not_fill_its_placeholders_is_refused():
    pruning = ImagePruning(configured("idefics3", gp.Spatial(keep=0.5)))
    ids = torch.tensor([80, 81, *[99] * 18, 80])
    with pytest.raises(gp.GroundPruneError, match="18 placeholders in its prompt and 9 features"):
        pruning.units({"pixel_values": torch.ones(1, 1, 3, 24, 24), IDS: [ids]})
