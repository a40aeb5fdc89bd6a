"""Videos lose inside of vLLM what they lose in the transformers path; text between and behind them stays put."""

import functools
from typing import Any

import pytest
import torch

import groundprune as gp
from groundprune.integrations.vllm import qwen
from groundprune.pruners import make_pruner
from support.engines import (
    TOLERANCE,
    asked,
    by_transformers,
    by_vllm,
    difference,
    engine,
    photo,
    prompt,
    say,
    video,
)
from support.sparing import sparing

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
LIMITS: dict[str, Any] = {"limit_mm_per_prompt": {"image": 1, "video": 2}}
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "qwen2_vl"]
SIZES = {"qwen2_5_vl": {"width": 64, "height": 48}, "qwen3_vl": {"width": 192, "height": 128}}
SIZES["qwen2_vl"] = SIZES["qwen2_5_vl"]
WORDS = "the red circle " * 25  # so that the block in which a prompt ends holds no video
EVERY = [("evs", 0.5), ("evs", 0.25), ("vidcom2", 0.5), ("vidcom2", 0.25)]
EVERY += [(name, 0.5) for name in ("cls-visual", "spatial", "random", "divprune", "coverage")]
PRUNERS = [gp.EVS(keep=0.5), gp.VidCom2(keep=0.25), gp.Spatial(keep=0.5)]
every_family = pytest.mark.parametrize("family", sparing(FAMILIES, ["qwen2_vl"]))


def clip(family, seed, **options):
    return video(seed, **SIZES[family], **options)


def requests(family, processor, stills):
    """One video, two, the same twice, text alone, a still and a video; of the last all counts are even."""
    one, two = clip(family, 0), clip(family, 1, frames=12)
    found = [
        (f"the {VIDEO} red circle", [], [one]),
        (f"w20 {VIDEO} the {VIDEO} w21", [], [two, one]),
        (f"w22 {VIDEO} the {VIDEO} w21", [], [one, one]),
        ("the red w50 w51", [], []),
    ]
    still = (prompt(processor, 1, f"w30 {VIDEO} w31"), [photo(3, **SIZES[family])], [one])
    return [*found, still] if stills else found


@every_family
@pytest.mark.parametrize(("name", "keep"), sparing(EVERY, EVERY[1:3] + EVERY[5:]))
def test_vllm_says_of_videos_what_transformers_says(family, name, keep, checkpoint):
    folder, model, processor = checkpoint(family)
    pruner, given = make_pruner(name, keep), requests(family, processor, name != "evs")
    expected = by_transformers(model, processor, given, pruner)
    with engine(folder, pruner, **LIMITS) as llm:
        found = by_vllm(llm, given)
    assert [said.columns for said in found] == [said.columns for said in expected]
    assert difference(found, expected) < TOLERANCE
    assert [said.ids for said in found] == [said.ids for said in expected]


@every_family
def test_at_keep_1_videos_are_those_of_vllm_itself(family, checkpoint):
    """Also slow ones, of which temporal ids are the largest."""
    folder, _, processor = checkpoint(family)
    given = [*requests(family, processor, True), (f"the {VIDEO} red", [], [clip(family, 2, fps=1.0)])]
    said = {}
    for overrides in ({}, None):
        with engine(folder, gp.VidCom2(keep=1), overrides=overrides, **LIMITS) as llm:
            said[overrides is None] = by_vllm(llm, given)
    assert difference(said[True], said[False]) < TOLERANCE
    assert [of.columns for of in said[True]] == [of.columns for of in said[False]]


def counted_from_the_largest_id(model):
    """Text behind a video counts on from its largest id, as in vLLM; in transformers from a frame's longer side."""
    stock = model.model.get_rope_index

    @functools.wraps(stock)
    def get_rope_index(input_ids, mm_token_type_ids, *args, **options):
        position, _ = stock(input_ids, mm_token_type_ids, *args, **options)
        kinds, found, at = mm_token_type_ids[0], [], 0
        for start, end in zip(*edges(kinds), strict=True):
            run = position[:, :, start:end]
            found.append(run - run.min() + at)
            at = int(found[-1].max()) + 1
        return torch.cat(found, -1), torch.tensor([[at - len(kinds)]])

    return get_rope_index


def edges(kinds):
    inner = (kinds.diff() != 0).nonzero().squeeze(1) + 1
    return [0, *inner.tolist()], [*inner.tolist(), len(kinds)]


def test_a_slow_video_moves_what_follows_as_the_unpruned_one_does_in_vllm(checkpoint, monkeypatch):
    """Its temporal ids, in seconds, are far above its rows and columns."""
    folder, model, processor = checkpoint("qwen2_5_vl")
    pruner = gp.EVS(keep=0.5)
    given = [
        (f"w20 {VIDEO} the {VIDEO} w21", [], [clip("qwen2_5_vl", s, fps=fps) for s, fps in ((1, 0.7), (2, 2.0))])
    ]
    other = by_transformers(model, processor, given, pruner)
    monkeypatch.setattr(model.model, "get_rope_index", counted_from_the_largest_id(model))
    with engine(folder, pruner, **LIMITS) as llm:
        found = by_vllm(llm, given)
    assert difference(found, by_transformers(model, processor, given, pruner)) < TOLERANCE
    assert difference(found, other) > 100 * TOLERANCE


@every_family
def test_other_ids_say_something_else(family, checkpoint, monkeypatch):
    folder, model, processor = checkpoint(family)
    pruner, given = gp.EVS(keep=0.5), requests(family, processor, False)[:1]
    expected = by_transformers(model, processor, given, pruner)
    with engine(folder, pruner, "reassigned", **LIMITS) as llm:
        renumbered = by_vllm(llm, given)
    assert difference(renumbered, by_transformers(model, processor, given, pruner, "reassigned")) < TOLERANCE
    assert difference(renumbered, expected) > 1
    stock = qwen.pack
    monkeypatch.setattr(qwen, "pack", lambda features, offsets: stock(features, later(offsets)))
    with engine(folder, pruner, **LIMITS) as llm:
        assert difference(by_vllm(llm, given), expected) > 100 * TOLERANCE


def later(offsets):
    """All but the first frame one step later."""
    return offsets + torch.tensor([[1], [0], [0]]) * (offsets[:1] > 0)


@pytest.fixture(scope="module", params=sparing(FAMILIES, ["qwen2_vl"]))
def family(request):
    return request.param


@pytest.fixture(scope="module", params=sparing(PRUNERS, PRUNERS[2:]), ids=str)
def served(request, family, checkpoint):
    """(engine, model, processor, pruner)"""
    folder, model, processor = checkpoint(family)
    chunked: dict[str, Any] = {"max_num_batched_tokens": 25, "max_num_seqs": 4, "enable_chunked_prefill": True}
    with engine(folder, request.param, **LIMITS, **chunked) as llm:
        yield llm, model, processor, request.param


def one_by_one(served, given):
    """How many columns of each were cached; the answers are those of the transformers path."""
    llm, model, processor, pruner = served
    found = [by_vllm(llm, [request], 4)[0] for request in given]
    assert difference(found, by_transformers(model, processor, given, pruner, steps=4)) < TOLERANCE
    return [said.cached for said in found]


def test_a_video_in_chunks_in_a_conversation_and_covered(served, family):
    """A chunk has 25 tokens, so that each video is split. Each turn repeats all before it."""
    llm, one, two = served[0], clip(family, 0, frames=12), clip(family, 1, frames=12)
    llm.reset_prefix_cache()
    first = f"the {VIDEO} {WORDS}"
    turns = [(first, [], [one]), (first, [], [one]), (f"{first} w20 {VIDEO} {WORDS}", [], [one, two])]
    turns.append((f"{turns[-1][0]} w21", [], [one, two]))
    cached = one_by_one(served, turns)
    assert cached[0] == 0 < cached[1] <= cached[2] < cached[3]


def test_a_video_of_many_small_frames(served, family, monkeypatch):
    """Of Qwen3-VL's most slots are text, and a step's budget of 25 is less than all: as much as it needs is there."""
    if family == "qwen2_vl":  # whose ids of time count frames, here the largest
        monkeypatch.setattr(served[1].model, "get_rope_index", counted_from_the_largest_id(served[1]))
    llm, given = served[0], [(f"the {VIDEO} red", [], [video(5, frames=60, width=32, height=16, fps=500.0)])]
    llm.reset_prefix_cache()
    assert one_by_one(served, given) == [0]


def test_a_prefix_hit_may_end_inside_a_video(served, family):
    llm, one = served[0], clip(family, 0, frames=12)
    llm.reset_prefix_cache()
    before = "w20 " * (4 if family == "qwen2_5_vl" else 20)  # so that a block of 32 slots ends within it
    given = [(f"{before} {VIDEO} {words}", [], [one]) for words in ("the red circle", "w30 w31", "w40 circle")]
    start = len(before.split()) + 1
    llm.generate([asked(*given[0])], use_tqdm=False)
    cached = one_by_one(served, given[1:2])
    llm.reset_mm_cache()  # and then the rest of the video has to be encoded again
    cached += one_by_one(served, given[2:])
    (output,) = llm.generate([asked(*given[2])], use_tqdm=False)
    ends = (
        len(output.prompt_token_ids)
        - 1
        - [*output.prompt_token_ids][::-1].index(llm.model_config.hf_config.vision_end_token_id)
    )
    assert all(start < count < ends for count in cached)


def test_settings_of_a_request_do_not_go_by_a_video(checkpoint):
    """It would be pruned by the server's, unsaid; also where the server knows it already."""
    folder, model, processor = checkpoint("qwen3_vl")
    one = (f"the {VIDEO} red", [], [clip("qwen3_vl", 0)])
    still, words = (prompt(processor, 1, "w30 w31"), [photo(3, **SIZES["qwen3_vl"])]), {"groundprune": {"keep": 0.25}}
    with engine(folder, gp.ClsVisual(keep=0.5), **LIMITS) as llm:
        for _ in range(2):
            with pytest.raises(gp.GroundPruneError, match="a video is pruned by the server's own settings"):
                say(llm, [{**asked(*one), "mm_processor_kwargs": words}])
            say(llm, [asked(*one)], 1)
        with pytest.raises(gp.GroundPruneError, match="evs compares frames"):
            say(llm, [{**asked(*still), "mm_processor_kwargs": {"groundprune": {"pruner": "evs"}}}])
        found = say(llm, [asked(*one)]) + say(llm, [{**asked(*still), "mm_processor_kwargs": words}])
    expected = by_transformers(model, processor, [one], gp.ClsVisual(keep=0.5))
    expected += by_transformers(model, processor, [still], gp.ClsVisual(keep=0.25))
    assert difference(found, expected) < TOLERANCE


@every_family
def test_what_evs_cannot_compare_is_refused_and_the_engine_goes_on(family, checkpoint):
    from vllm.exceptions import VLLMValidationError

    folder, model, processor = checkpoint(family)
    pruner, good = gp.EVS(keep=0.25), requests(family, processor, False)[:1]
    bad = {
        "At most 0 image": (prompt(processor, 1, "the"), [photo(0)], []),
        "number 1 is a single frame": (f"the {VIDEO} red", [], [clip(family, 0, frames=2)]),
        "the first frame of a video": (f"the {VIDEO} red", [], [clip(family, 0, frames=4)]),
    }
    with engine(folder, pruner, **LIMITS) as llm:
        for message, request in bad.items():
            with pytest.raises((gp.Unservable, VLLMValidationError), match=message):
                say(llm, [asked(*request)])
        found = by_vllm(llm, good)
    assert difference(found, by_transformers(model, processor, good, pruner)) < TOLERANCE


def test_a_video_past_the_rotary_table_is_refused(checkpoint):
    """It is four times as long as the model's limit, here 1024; of 512 slots the rest is for two videos."""
    folder, _, _ = checkpoint("qwen2_5_vl")
    with engine(folder, gp.EVS(keep=0.5), **LIMITS) as llm:
        say(llm, [asked(f"the {VIDEO} red", [], [clip("qwen2_5_vl", 0, fps=0.02)])], 1)
        with pytest.raises(gp.GroundPruneError, match="1792 are left on the rotary table"):
            say(llm, [asked(f"the {VIDEO} red", [], [clip("qwen2_5_vl", 0, fps=0.01)])], 1)
