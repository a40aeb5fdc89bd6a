"""Pruners of videos: against plain loops in double precision, on tiny models with videos, and what they refuse."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

import groundprune as gp
from groundprune.cli import main
from groundprune.evaluation import compare
from groundprune.exactness.tiny import tiny_inputs
from groundprune.pruners import make_pruner
from groundprune.pruners.evs import select_evs
from groundprune.pruners.frames import frames_of
from groundprune.pruners.vidcom2 import select_vidcom2
from support.families import model_of

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision"]
SIZES = [(2, 3, 4), (5, 6, 8), (8, 12, 6)]  # frames, tokens of each, channels


# The formulas, in loops over plain numbers


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def direction(a):
    length = math.sqrt(dot(a, a))
    return [x / length for x in a]


def mean(rows):
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def first_largest(values, count):
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])


def evs_by_hand(video, count):
    size, score = len(video[0]), []
    for t, frame in enumerate(video):
        for p, token in enumerate(frame):
            same = t > 0 and token == video[t - 1][p]
            change = 0.0 if same else 1 - dot(direction(token), direction(video[t - 1][p]))
            score.append(255.0 if t == 0 else change)
    assert len(score) == size * len(video)
    return first_largest(score, count)


def weights_by_hand(video):
    """(what each frame is due of an even share, how unlike frame and video its tokens are)."""
    tokens = [token for frame in video for token in frame]
    centre = mean(tokens)
    varies = [math.fsum((t[c] - centre[c]) ** 2 for t in tokens) for c in range(len(centre))]
    calm = sorted(sorted(range(len(varies)), key=lambda c: (varies[c], c))[: len(varies) // 2])
    video = [[direction([token[c] for c in calm]) for token in frame] for frame in video]
    centre = mean([token for frame in video for token in frame])

    def likeness(token, other):
        away = math.fsum((a - b) ** 2 for a, b in zip(token, other, strict=True))
        return math.fsum(math.exp(-away / (2 * 2.0**k)) for k in range(-3, 2))

    to_video = [[likeness(token, centre) for token in frame] for frame in video]
    to_frame = [[likeness(token, own) for token in frame] for frame, own in ((f, mean(f)) for f in video)]
    alike = [math.fsum(row) / len(row) for row in to_video]
    parts = [math.exp((min(alike) - one) / 0.01) for one in alike]
    due = [1 + part / math.fsum(parts) - 1 / len(video) for part in parts]
    return due, [[-a - b for a, b in zip(*rows, strict=True)] for rows in zip(to_video, to_frame, strict=True)]


def vidcom2_by_hand(video, count):
    """Token for token to the frame that is owed most, the first round to those that have none."""
    frames, size = len(video), len(video[0])
    due, unlike = weights_by_hand(video)
    owed = [Fraction(round(one, 5)).limit_denominator(100_000) * count / frames for one in due]
    budgets = [0] * frames
    for _ in range(count):
        open_ = [f for f in range(frames) if budgets[f] == min(budgets)] if 0 in budgets else range(frames)
        able = [f for f in open_ if budgets[f] < size]
        budgets[min(able, key=lambda f: (budgets[f] - owed[f], f))] += 1
    return [f * size + p for f in range(frames) for p in first_largest(unlike[f], budgets[f])]


RULES = {
    "evs": (select_evs, evs_by_hand),
    "vidcom2": (select_vidcom2, vidcom2_by_hand),
}
both_rules = pytest.mark.parametrize("name", RULES)


def drawn(seed, frames, size, channels):
    """Frames that hardly change but in a few places, one frame of its own, and some copies of tokens."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(1, size, channels, generator=generator).repeat(frames, 1, 1)
    moved = torch.rand(frames, size, 1, generator=generator) < 0.5
    video = video + moved * torch.randn(frames, size, channels, generator=generator)
    video[seed % frames] = torch.randn(size, channels, generator=generator)
    video[:, -1] = video[0, 0]
    return video


@both_rules
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_a_rule_keeps_what_plain_loops_keep(name, shape, seed):
    select, by_hand = RULES[name]
    video = drawn(seed, *shape)
    total = shape[0] * shape[1]
    for count in sorted({1, shape[0] - 1, shape[0], shape[1], total // 3, total // 2, total - 2, total - 1}):
        found = select(video.flatten(0, 1), shape[0], count).tolist()
        assert found == by_hand(video.tolist(), count), count


@both_rules
def test_the_order_of_channels_does_not_matter(name):
    video = drawn(3, 6, 10, 16).flatten(0, 1)
    turned = video[:, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    for count in range(12, 60, 7):
        assert RULES[name][0](video, 6, count).equal(RULES[name][0](turned, 6, count))


def test_budgets_are_those_of_rounding_where_rounding_meets_the_count():
    """As the authors' code has them: each frame's due, rounded by itself, at least 1 and at most the frame."""
    agreed = 0
    for seed in range(4):
        video = drawn(seed, 6, 20, 12)
        due, _ = weights_by_hand(video.tolist())
        for count in range(20, 90):
            rounded = [min(20, max(1, round(count / 6 * one))) for one in due]
            if sum(rounded) == count:
                agreed += 1
                found = select_vidcom2(video.flatten(0, 1), 6, count)
                assert torch.bincount(found // 20, minlength=6).tolist() == rounded
    assert agreed > 40


def test_of_a_static_video_evs_keeps_the_first_frame_then_the_earlier_patches():
    still = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).repeat(4, 1)
    for count in (7, 8, 13, 27):
        assert select_evs(still, 4, count).tolist() == list(range(count))


def test_of_a_static_video_vidcom2_gives_every_frame_the_same():
    still = torch.randn(7, 6, generator=torch.Generator().manual_seed(1)).repeat(4, 1)
    found = select_vidcom2(still, 4, 14)
    assert torch.bincount(found // 7).tolist() == [4, 4, 3, 3]  # what is left over goes to the earlier ones
    assert (found[found < 7]).equal(found[(found >= 7) & (found < 14)] - 7)


def test_vidcom2_gives_a_frame_of_its_own_more_than_the_others():
    video = drawn(2, 8, 12, 16)
    kept = torch.bincount(select_vidcom2(video.flatten(0, 1), 8, 40) // 12, minlength=8)
    assert int(kept.argmax()) == 2
    assert int(kept[2]) > 40 / 8


# On models


def videos(family, prompts=((1, 3, 4), (2, 2, 3))):
    return tiny_inputs(model_of(family), list(prompts), modality="video")


def kept_by(family, pruner, inputs):
    with torch.no_grad(), gp.prune(model_of(family), pruner) as run:
        model_of(family)(**inputs)
    return run.layout, run.kept


@pytest.mark.parametrize("family", FAMILIES)
@both_rules
def test_preserved_equals_the_masked_oracle_and_reassigned_does_not(family, name):
    found = gp.verify(model_of(family), videos(family), make_pruner(name, 0.6), steps=2)
    assert found.passed, found
    one, two = found.kept
    assert two[1] == 2 * one[1]


@pytest.mark.parametrize("family", FAMILIES)
@both_rules
def test_each_of_several_videos_is_pruned_by_itself(family, name):
    together = videos(family, [(2, 2, 3)])
    layout, (kept,) = kept_by(family, make_pruner(name, tokens=7), together)
    pixels = together["pixel_values_videos"]
    alone = videos(family, [(1, 2, 3)])
    half = len(pixels) // 2
    found = [kept[layout[0].image[kept] == i] - i * (len(layout[0]) // 2) for i in (0, 1)]
    for mine, part in zip(found, (pixels[:half], pixels[half:]), strict=True):
        assert mine.equal(kept_by(family, make_pruner(name, tokens=7), {**alone, "pixel_values_videos": part})[1][0])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_what_changed_in_a_video_is_kept(family):
    """Three frames of 2 x 3 tokens, the last of which differs in one: the first frame and that token stay."""
    inputs = videos(family, [(1, 2, 3)])
    frame = inputs["pixel_values_videos"][:24].clone()
    for token in range(6):
        pixels = frame.repeat(3, 1)
        pixels[48 + 4 * token : 52 + 4 * token] *= -1
        _, (kept,) = kept_by(family, gp.EVS(tokens=7), {**inputs, "pixel_values_videos": pixels})
        assert kept.tolist() == [*range(6), 12 + token]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_authors_do_to_ids(family):
    config = model_of(family).config
    assert gp.EVS(keep=0.5).official(config) == "preserved"
    assert gp.VidCom2(keep=0.5).official(config) == ("preserved" if family != "llava_onevision" else "reassigned")


# Stills, and other prompts that hold no frames to compare


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mixed", [False, True])
def test_evs_refuses_still_images_and_vidcom2_takes_them_for_one_frame(family, mixed):
    model = model_of(family)
    inputs = tiny_inputs(model, [(3 if mixed else 1, 2, 3)], modality=None if mixed else "image")
    said = rf"evs compares the frames of a video; of this prompt's {3 if mixed else 1} images and videos number 1"
    with pytest.raises(gp.Unservable, match=said):
        kept_by(family, gp.EVS(keep=0.5), inputs)
    layout, (kept,) = kept_by(family, gp.VidCom2(keep=0.5), inputs)
    frames = frames_of(layout[0])
    assert frames[:1] == [1]
    assert (frames[-1] > 1) == mixed
    patches = layout[0].patches
    assert len(kept) - len(layout[0].separators) == (len(patches) + 1) // 2
    for image in layout[0].groups("image"):
        assert abs(2 * int(torch.isin(image, kept).sum()) - len(image)) <= 2
    short = gp.prune_inputs(model, inputs, gp.EVS(keep=1))  # nothing to drop, nothing to compare
    assert len(short.kept[0]) == len(layout[0])


def test_a_still_seen_in_crops_is_one_frame():
    for family in ("llava_next", "internvl", "idefics3", "llava_onevision"):
        layout, (kept,) = kept_by(family, gp.VidCom2(keep=0.5), tiny_inputs(model_of(family), [(1, 2, 3)]))
        assert len(layout[0].groups()) > 1
        assert frames_of(layout[0]) == [1]
        assert len(kept) < len(layout[0])


def test_a_model_that_takes_no_videos_refuses_evs_before_any_work():
    model = model_of("llava")
    with pytest.raises(gp.Unservable, match="evs: llava takes no videos; this model can run: "):
        gp.prune_inputs(model, {}, gp.EVS(keep=0.5))


def test_less_than_a_first_frame_is_refused_with_the_smallest_budget():
    inputs = videos("qwen2_vl", [(1, 2, 3)])
    with pytest.raises(gp.Unservable, match=r"at least 6 of the 18 .* tokens=6 and keep=6/18"):
        kept_by("qwen2_vl", gp.EVS(tokens=5), inputs)
    assert kept_by("qwen2_vl", gp.EVS(tokens=6), inputs)[1][0].tolist() == list(range(6))


@pytest.mark.parametrize("pruner", [gp.EVS(keep=0.5), gp.VidCom2(keep=0.5)])
def test_frames_of_different_sizes_are_refused(pruner):
    layout, _ = kept_by("qwen2_vl", gp.Spatial(keep=0.5), videos("qwen2_vl", [(1, 2, 3)]))
    odd = layout[0].tile.clone()
    odd[6] = 0
    with pytest.raises(gp.Unservable, match="3 frames of a video differ in size"):
        pruner(None, replace(layout[0], tile=odd), gp.Stage(None, pruner.budget))


def test_verify_gives_evs_a_video_of_a_tiny_model(capsys):
    assert main(["verify", "--family", "qwen2_vl,llava_onevision", "--pruner", "evs", "--keep", "0.6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["pruner"], each["passed"], each["kept"]) for each in found] == [
        ("evs", True, [[11, 18]]), ("evs", True, [[6, 9]]),
    ]  # fmt: skip


def test_a_comparison_on_images_skips_evs_with_the_reason():
    summary = compare(
        scenes=1, pruners=["evs", "vidcom2"], keeps=["0.5"], positions=["preserved"], progress=False
    )  # fmt: skip
    (why,) = summary.skipped.values()
    assert why.startswith("evs: llava takes no videos")
    assert {r.setting.pruner for r in summary.settings if r.setting.id not in summary.skipped} == {None, "vidcom2"}
