"""What the plugin keeps of a video, which slots that takes, and what is refused; no vLLM is needed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import groundprune as gp
from groundprune.data.scenes import scene_samples
from groundprune.evaluation import Setting
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import families
from groundprune.integrations.vllm.answering import EngineRunner
from groundprune.integrations.vllm.limits import most_dropped, rotary_length
from groundprune.integrations.vllm.settings import Settings
from groundprune.integrations.vllm.spans import Span, columns, unpruned
from groundprune.integrations.vllm.video_pruning import VideoPruning, as_image, room_of, video_slots, without_last
from groundprune.pruners import make_pruner

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
SERVED = ["evs", "vidcom2", "random", "spatial", "cls-visual", "divprune", "coverage"]
OWN = 9  # a token of a video


def pruning_of(family, pruner, positions="preserved", **text):
    config = families()[family].tiny_config()
    for name, value in text.items():
        setattr(config.text_config, name, value)
    config.groundprune = vars(Settings.of(pruner, positions))
    return VideoPruning(config)


def video_of(pruning, frames, height=4, width=6):
    grid = torch.tensor([[frames, height, width]])
    video = {"pixel_values_videos": torch.zeros(int(grid.prod()), 0), "video_grid_thw": grid}
    (unit,) = pruning.units(as_image(video))
    return unit


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SERVED)
def test_one_video_loses_what_gp_prune_drops_of_a_prompt_with_it_alone(family, name):
    model, pruner = tiny_model(family), make_pruner(name, 0.5)
    inputs = tiny_inputs(model, [(1, 3, 4)], modality="video")
    seen = []

    class Watched(type(pruner)):
        def __call__(self, signals, layout, stage):
            seen.append((signals.projected, {n: v[0] for n, v in signals._record.values.items()}))
            return super().__call__(signals, layout, stage)

    with torch.no_grad(), gp.prune(model, Watched(keep=0.5)) as run:
        model(**inputs)
    pruning = pruning_of(family, pruner)
    (unit,) = pruning.units(as_image(inputs))
    pruning.check(unit)
    assert pruning.kept(unit, *seen[0]).equal(run.kept[0])
    assert pruning.count(unit) == len(run.kept[0]) < len(run.layout[0])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_slots_hold_the_text_and_as_many_of_the_videos_tokens_as_stay(texts, data):
    """texts: how many tokens of text stand before each of the video's own."""
    tokens = [token for i, text in enumerate(texts) for token in (*range(100 * i + 10, 100 * i + 10 + text), OWN)]
    kept = sorted(data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1)))
    slots = video_slots(tokens, OWN, torch.tensor(kept)).tolist()
    own = [i for i, token in enumerate(tokens) if token == OWN]
    assert slots == [i for i, token in enumerate(tokens) if token != OWN or own.index(i) in kept]
    left = without_last(tokens, OWN, len(texts) - len(kept))
    assert sorted(left) == sorted(tokens[i] for i in slots)
    assert [token for token in left if token != OWN] == [token for token in tokens if token != OWN]


def test_a_prompt_is_put_together_again_with_the_text_between_frames():
    whole = [1, 7, OWN, OWN, 8, OWN, OWN, 2]
    spans = [Span(1, 4, 6, torch.tensor([0, 2, 3, 4]), whole[1:7])]
    assert unpruned([1, 7, OWN, 8, OWN, 2], spans) == (whole, [1])
    assert columns(6, spans).tolist() == [0, 1, 3, 4, 5, 7]


# What is refused


@pytest.mark.parametrize("family", FAMILIES)
def test_evs_is_given_videos_alone_with_frames_to_compare(family):
    pruning = pruning_of(family, gp.EVS(keep=0.25))
    assert pruning.videos_only
    with pytest.raises(gp.Unservable, match="single frame"):
        pruning.check(video_of(pruning, 1))
    with pytest.raises(gp.Unservable, match="the first frame of a video"):
        pruning.check(video_of(pruning, 3))
    pruning.check(video_of(pruning, 4))
    # vLLM measures its memory with what no user may ask for.
    assert pruning.kept(video_of(pruning, 3), torch.zeros(18, 4), {}).tolist() == [0, 1, 2, 3, 4]
    for other in (gp.EVS(keep=1), gp.VidCom2(keep=0.25)):
        pruning = pruning_of(family, other)
        assert not pruning.videos_only
        pruning.check(video_of(pruning, 1))


def test_evs_is_served_by_what_takes_videos(tmp_path):
    for family in (*FAMILIES, "llava"):
        families()[family].tiny_config().save_pretrained(tmp_path / family)
    for family in FAMILIES:
        assert gp.vllm_overrides(tmp_path / family, gp.EVS(keep=0.5))["groundprune"]["pruner"] == "evs"
    with pytest.raises(gp.Unservable, match="llava takes no videos"):
        gp.vllm_overrides(tmp_path / "llava", gp.EVS(keep=0.5))


def test_samples_of_one_image_are_not_asked_with_evs(tmp_path):
    samples = list(scene_samples(2, 0, "held-out"))
    runner = EngineRunner("pocket", samples, 1, "native", {})
    runner.config = families()["qwen2_5_vl"].tiny_config()
    runner.check([Setting.of("vidcom2", 0.5)])
    with pytest.raises(gp.Unservable, match="each sample here is one image"):
        runner.check([Setting.of("evs", 0.5)])


def test_a_video_may_exceed_its_slots_by_what_is_left_of_the_rotary_table():
    pruner, length = gp.EVS(tokens=50), 400
    pruning = pruning_of("qwen3_vl", pruner, max_position_embeddings=1000)
    table = rotary_length(pruning)
    assert table == 1000
    assert room_of(pruning, length, 0, 2) == 300
    assert room_of(pruning, length, 1, 2) == max(0, 600 - most_dropped(pruning)) // 2
    pruning.check_moved(350, 50, 300)
    with pytest.raises(gp.GroundPruneError, match="301 more, where 300 are left"):
        pruning.check_moved(351, 50, 300)
    with pytest.raises(gp.GroundPruneError, match="65537 positions"):
        pruning.check_moved(65_537, 65_000, 1000)
    for free in (pruning_of("qwen3_vl", pruner, "reassigned"), pruning_of("qwen3_vl", gp.EVS(keep=1))):
        free.check_moved(10**6, 50, 0)
