"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: three position axes, windows, videos, DeepStack."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache, Qwen2VLImageProcessorPil

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from groundprune.families import family_of
from groundprune.families.qwen import TINY_GRIDS
from support.closeness import assert_near
from support.families import PROMPTS
from support.generating import MODES, PRUNER, TOLERANCE, generate, oracle
from support.proofs import (
    changed_places,
    encode,
    log_eager,
    own_loop,
    received,
    use_flash,
)

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
WINDOW = 2  # tokens: the side of a window of the tiny Qwen2.5-VL
ALL_KINDS = [(3, 2, 2)]  # both images, then the video, then less text than the video's times run ahead


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def windowed():
    return tiny_model("qwen2_5_vl")


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, PROMPTS)  # the second row: an image and a video


@pytest.mark.parametrize("mode", ["greedy", "beams", "no cache"])
def test_behind_a_video_every_way_to_generate_equals_the_masked_oracle(model, mode):
    inputs = tiny_inputs(model, ALL_KINDS)
    with gp.prune(model, PRUNER) as run:
        pruned = generate(model, inputs, **MODES[mode])
    wanted = oracle(model, run, inputs, **MODES[mode])
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE


# Positions


def stock_positions(model, inputs):
    """Long[3, B, L]: what the unpruned model hands to its LLM in a plain forward."""
    seen = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_positions_are_those_of_the_unpruned_model(model, seconds):
    inputs = tiny_inputs(model, PROMPTS)
    if seconds is not None:
        inputs["second_per_grid_ts"] = torch.tensor([seconds])
    found = family_of(model.config).positions(model.base_model, inputs)
    wanted = stock_positions(model, inputs)
    assert found.equal(wanted)
    assert int(model.model.rope_deltas.max()) < 0  # more tokens than ids: a count of columns would go wrong
    text = torch.zeros_like(wanted[:1])
    rows = {"four rows": torch.cat([text, wanted]), "three": wanted}
    for given in rows.values():
        assert family_of(model.config).positions(model.base_model, {**inputs, "position_ids": given}).equal(wanted)
    plain = torch.arange(inputs["input_ids"].shape[1])[None]
    given = family_of(model.config).positions(model.base_model, {**inputs, "position_ids": plain})
    assert given.equal(plain.expand(3, len(wanted[0]), -1))


def test_grids_without_token_types_are_refused(model, inputs):
    """Stock `generate` counts columns then: ids are preserved, and not those of the model."""
    lacking = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    refused = pytest.raises(gp.GroundPruneError, match="no mm_token_type_ids")
    for prune in (gp.ClsVisual(keep=0.5), gp.ClsVisual(keep=1)):
        with refused:
            gp.prune_inputs(model, lacking, prune)
        with refused, gp.prune(model, prune):
            model.generate(**lacking, max_new_tokens=1)
    position = family_of(model.config).positions(model.base_model, inputs)
    given = gp.prune_inputs(model, {**lacking, "position_ids": position}, gp.ClsVisual(keep=0.5))
    assert given["position_ids"].equal(gp.prune_inputs(model, inputs, gp.ClsVisual(keep=0.5))["position_ids"])


def test_a_plain_forward_equals_the_oracle(model, inputs):
    with torch.no_grad(), gp.prune(model, gp.ClsVisual(keep=0.5)) as run:
        pruned = model(**inputs).logits
    with torch.no_grad(), hide(model, hidden_columns(run.prompt)):
        wanted = model(**inputs).logits
    for b, row in enumerate(run.rows):
        assert relative_difference([pruned[b, -len(row.column) :]], [wanted[b, row.column]]) < 1e-5


def test_a_loop_of_ones_own_goes_on_where_the_stock_models_does(model):
    """Behind a video whose times run ahead of the text a stock loop counts on from the largest id."""
    inputs = tiny_inputs(model, ALL_KINDS)
    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        pruned = own_loop(model, inputs)
    with hide(model, hidden_columns(run.prompt)):
        assert own_loop(model, inputs).equal(pruned)


def test_a_second_turn_on_the_kept_cache_equals_the_oracle(model):
    inputs = tiny_inputs(model, ALL_KINDS)

    def two_turns():
        cache = DynamicCache(config=model.config.get_text_config())
        first = generate(model, inputs, past_key_values=cache).sequences
        ids = torch.cat([first, torch.tensor([[11, 12, 13]])], 1)
        kinds = family_of(model.config).tiny_visuals(model.config).extra(ids)
        turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **kinds}
        return generate(model, turn, past_key_values=cache)

    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        pruned = two_turns()
    with hide(model, hidden_columns(run.prompt)):
        wanted = two_turns()
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < 1e-5


def test_the_model_keeps_no_more_than_a_stock_call_leaves(model, inputs):
    with torch.no_grad():
        stock = model(**inputs).logits
        for name, options in (("forward", {}), ("generate", {"max_new_tokens": 2})):
            model.model.rope_deltas = None
            with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"):
                getattr(model, name)(**inputs, **options)
            assert model.model.rope_deltas is None
        assert model(**inputs).logits.equal(stock)


@pytest.mark.parametrize(
    ("policy", "prompts", "following"),
    [
        # One image of 3 x 5 tokens behind <6 words, start>: ids 7 to 11. <end> has 12, the words 13 to 16.
        ("preserved", [(1, 6, 4)], 17),
        ("reassigned", [(1, 6, 4)], 7 + 8 + 1 + 4),  # 8 tokens kept, <end> and the words, all consecutive
        ("reassigned-image", [(1, 6, 4)], 17),
        ("stretched", [(1, 6, 4)], 17),
        ("shifted:3", [(1, 6, 4)], 20),
        ("permuted:0", [(1, 6, 4)], 17),
        # <2 words, start> 3 to 7 <end, 2 words, start> 12 to 15 <end, 2 words, start> 20, 24, 28 in time and 20 to 22
        # in space <end, 2 words>: these have 23 to 25.
        ("preserved", ALL_KINDS, 26),
        ("reassigned", ALL_KINDS, 3 + 21 + 4 + 4 + 3),  # 21 of 41 tokens kept
    ],
)
def test_each_policy_runs_in_generate(windowed, policy, prompts, following):
    """The LLM alone, fed the kept embeddings and the ids of the policy, then one id after the other."""
    inputs = tiny_inputs(windowed, prompts)
    with gp.prune(windowed, gp.Spatial(keep=0.5), policy) as run:
        pruned = generate(windowed, inputs)
    row = run.rows[0]
    embeds = windowed.get_input_embeddings()(inputs["input_ids"])
    embeds[0, row.layout.column[row.selection.kept]] = row.features
    embeds, position = embeds[:, row.column], row.position[:, None]
    with torch.no_grad():
        for step, logits in enumerate(pruned.logits):
            states = windowed.model.language_model(inputs_embeds=embeds, position_ids=position).last_hidden_state
            assert relative_difference([logits], [windowed.lm_head(states[:, -1])]) < 1e-5
            embeds = torch.cat([embeds, windowed.get_input_embeddings()(logits.argmax(-1))[:, None]], 1)
            position = torch.cat([position, torch.full((3, 1, 1), following + step)], 2)


# Patches, tokens and scores


def patch_index(grid, time, row, col):
    """Where a patch of a video of time x height x width patches stands: the four of a token side by side."""
    _, height, width = grid
    token = (row // 2) * (width // 2) + col // 2
    return time * height * width + token * 4 + (row % 2) * 2 + col % 2


def test_the_processor_orders_patches_like_that():
    grid = TINY_GRIDS[0][1]
    picture = np.zeros((grid[1] * 4, grid[2] * 4, 3), dtype=np.uint8)
    picture[3 * 4 : 4 * 4, 6 * 4 : 7 * 4] = 255
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, do_resize=False)
    out = processor(picture, return_tensors="pt")
    assert out["image_grid_thw"].tolist() == [list(grid)]
    assert int(out["pixel_values"].sum(1).argmax()) == patch_index(grid, 0, 3, 6)


@pytest.mark.parametrize(
    ("kind", "time", "row", "col"),
    [(0, 0, 1, 6), (0, 0, 5, 9), (0, 0, 4, 0), (1, 0, 6, 1), (2, 1, 2, 5), (2, 2, 0, 2)],
)
def test_a_painted_patch_is_found_where_the_layout_says(model, kind, time, row, col):
    inputs = tiny_inputs(model, ALL_KINDS)
    modality, grid = TINY_GRIDS[kind]
    name = {"image": "pixel_values", "video": "pixel_values_videos"}[modality]
    first = TINY_GRIDS[0][1][1] * TINY_GRIDS[0][1][2] if kind == 1 else 0  # patches of the image before
    painted = inputs[name].clone()
    painted[first + patch_index(grid, time, row, col)] += 5.0
    places = changed_places(model, inputs, {**inputs, name: painted}, modality, kind % 2)
    assert places == {(time, row // 2, col // 2)}


def test_the_layout_of_a_prompt_names_frames_as_tiles(model):
    inputs = tiny_inputs(model, ALL_KINDS)
    with gp.prune(model, gp.Spatial(keep=1)) as run, torch.no_grad():
        model(**inputs)
    layout = run.layout[0]
    assert [(layout.grid(group), int(layout.image[group[0]])) for group in layout.groups()] == [
        ((3, 5), 0), ((4, 2), 1), ((2, 3), 2), ((2, 3), 2), ((2, 3), 2),
    ]  # fmt: skip
    assert layout.position.shape == (3, 41)
    # Height and width count up from the same id, and place each token within its frame.
    for group in layout.groups():
        start = layout.position[1:, group[0]].min()
        assert layout.position[1, group].equal(start + layout.row[group])
        assert layout.position[2, group].equal(start + layout.col[group])


def tower_order(model, modality, layer):
    """(unit, tile, row, col) of the tokens in the order in which a tower block sees them."""
    windows = model.config.model_type == "qwen2_5_vl"
    side = WINDOW if windows else 1000
    places = []
    for unit, (_, (time, height, width)) in enumerate(grid for grid in TINY_GRIDS if grid[0] == modality):
        rows, cols = height // 2, width // 2
        for tile in range(time):
            for top in range(0, rows, side):
                for left in range(0, cols, side):
                    places += [
                        (unit, tile, row, col)
                        for row in range(top, min(top + side, rows))
                        for col in range(left, min(left + side, cols))
                    ]
    return places


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize("layer", [0, None])  # of Qwen2.5-VL within windows, and within frames
def test_scores_are_the_attention_that_a_tokens_patches_receive(model, monkeypatch, modality, layer, attention):
    inputs, tower = tiny_inputs(model, ALL_KINDS), model.model.visual
    with monkeypatch.context() as patched:
        weights = log_eager(patched, tower, tower.blocks[-1 if layer is None else layer].attn)
        encode(model, inputs, modality)
    patches = torch.cat([call[0].mean(1) for call in weights], 1)  # [heads, patches]; one call a frame or window
    if model.config.model_type == "qwen2_5_vl" and layer == 0:
        assert max(call.shape[-1] for call in weights) == 4 * WINDOW**2
    if attention == "eager":
        monkeypatch.setattr(tower.config, "_attn_implementation", "eager")
    if attention == "flash":
        use_flash(monkeypatch, tower)
    _, record = encode(model, inputs, modality, received(layer))
    for token, (unit, *place) in enumerate(tower_order(model, modality, layer)):
        layout = record.units[unit]
        at = (torch.stack([layout.tile, layout.row, layout.col]) == torch.tensor(place)[:, None]).all(0)
        found = record.values[received(layer)][unit][at]
        assert_near(found[0], patches[:, 4 * token : 4 * token + 4].mean(1))


def test_a_kept_token_keeps_its_own_deepstack_features():
    model = tiny_model("qwen3_vl")
    inputs = tiny_inputs(model, [(2, 2, 2), (1, 3, 2)])
    given = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["deepstack_visual_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
        with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
            model(**inputs)
    handle.remove()
    start, kept = 0, []
    for row in run.rows:
        kept.append(start + row.selection.kept)
        start += len(row.layout)
    for whole, pruned in zip(*given, strict=True):
        assert pruned.equal(whole[torch.cat(kept)])
