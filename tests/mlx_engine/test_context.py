"""What the context leaves behind, what of mlx-vlm it sets aside, and what it refuses."""

import functools

import mlx.core as mx
import mlx.nn as nn
import pytest
import torch
from mlx_vlm import batch_generate, generate
from mlx_vlm.apc import APCCoordinator, APCManager
from mlx_vlm.generate.ar import BatchGenerator
from mlx_vlm.generate.common import PromptCacheState

import groundprune as gp
import groundprune.integrations.mlx as ours
from support.mlx_engine import REQUESTS, by_mlx

HALF = gp.ClsVisual(keep=0.5)
LIBRARY = [(BatchGenerator, "insert"), (APCCoordinator, "enabled"), (PromptCacheState, "update")]


def traces(model):
    return dict(vars(model)), list(model.vision_tower.blocks), [vars(owner)[name] for owner, name in LIBRARY]


def test_leaving_gives_the_stock_model_back(pair):
    before, stock = traces(pair.mlx), by_mlx(pair.mlx, pair.mlx_processor, REQUESTS)
    with ours.prune(pair.mlx, HALF):
        inside = by_mlx(pair.mlx, pair.mlx_processor, REQUESTS)
    assert traces(pair.mlx) == before
    with pytest.raises(KeyError), ours.prune(pair.mlx, HALF):
        raise KeyError
    assert traces(pair.mlx) == before
    after = by_mlx(pair.mlx, pair.mlx_processor, REQUESTS)
    assert all(torch.equal(a.logprobs, b.logprobs) for a, b in zip(after, stock, strict=True))
    assert not any(torch.equal(a.logprobs, b.logprobs) for a, b in zip(inside, stock, strict=True))


def test_a_tower_that_fails_is_left_as_it_was(pair, monkeypatch):
    before = traces(pair.mlx)
    monkeypatch.setattr(type(pair.mlx.vision_tower.merger), "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), ours.prune(pair.mlx, HALF):
        by_mlx(pair.mlx, pair.mlx_processor, REQUESTS)
    assert traces(pair.mlx) == before


def test_generate(pair):
    text, images = REQUESTS[0]
    with ours.prune(pair.mlx, HALF) as run:
        expected = by_mlx(pair.mlx, pair.mlx_processor, [(text, images)])[0]
        said = generate(pair.mlx, pair.mlx_processor, text, image=images, max_tokens=12, temperature=0.0)
    assert said.token_ids == expected.ids
    assert len(run.kept[0]) == len(run.layout[0]) // 2


def test_no_turn_goes_on_from_the_cache_of_another(pair):
    """mlx-vlm would count the tokens of a pruned prompt as if all were in its cache."""

    def say(text, **options):
        return by_mlx(pair.mlx, pair.mlx_processor, [(text, REQUESTS[0][1])], **options)[0]

    first = REQUESTS[0][0]
    second = f"{first}w21 w22<|im_end|>\n<|im_start|>assistant\n"
    kept, fresh = PromptCacheState(), PromptCacheState()
    stock = say(second)
    with ours.prune(pair.mlx, HALF):
        expected = say(second)
        say(first, prompt_cache_state=kept)
        inside = say(second, prompt_cache_state=kept)
        say(first, prompt_cache_state=kept)
    outside = say(second, prompt_cache_state=kept)
    say(first, prompt_cache_state=fresh)
    with ours.prune(pair.mlx, HALF):
        later = say(second, prompt_cache_state=fresh)
    assert torch.equal(inside.logprobs, expected.logprobs)
    assert torch.equal(outside.logprobs, stock.logprobs)
    assert torch.equal(later.logprobs, expected.logprobs)
    say(first, prompt_cache_state=fresh)
    assert say(second, prompt_cache_state=fresh).cached == stock.columns - 5  # as ever: what follows is new


def test_no_prefix_is_stored_for_other_prompts(pair):
    manager = APCManager(num_blocks=64, block_size=8)
    with ours.prune(pair.mlx, HALF):
        by_mlx(pair.mlx, pair.mlx_processor, REQUESTS, apc_manager=manager)
    assert manager.stats.stores == 0
    by_mlx(pair.mlx, pair.mlx_processor, REQUESTS, apc_manager=manager)
    assert manager.stats.stores > 0


class TestRefused:
    def refused(self, pair, words, call):
        with ours.prune(pair.mlx, HALF), pytest.raises(gp.Unservable, match=words):
            call()

    def test_batches(self, pair):
        image = REQUESTS[0][1][0]
        for prompts in (["the red"], ["the red", "circle"]):
            images = [image] * len(prompts)
            call = functools.partial(batch_generate, pair.mlx, pair.mlx_processor, images=images, prompts=prompts)
            self.refused(pair, "one prompt at a time", call)

    def test_videos(self, pair):
        given = {"pixel_values_videos": mx.zeros((16, 96)), "video_grid_thw": mx.array([[1, 4, 4]])}
        self.refused(pair, "videos", lambda: pair.mlx.get_input_embeddings(mx.array([[1, 98]]), **given))

    @pytest.mark.parametrize(
        ("pruner", "words"),
        [
            (gp.FasterVLM(keep=0.5), "CLS token.*can run: hiprune, cls-visual, coverage, random, "),
            (gp.Trim(keep=0.5), "CLIP"),
            (gp.EVS(keep=0.5), "videos are not pruned"),
            (gp.FastV(keep=0.5), "of layers of the LLM.*can run: hiprune, cls-visual, coverage, random, "),
        ],
    )
    def test_pruners_that_read_what_is_not_there(self, pair, pruner, words):
        with pytest.raises(gp.Unservable, match=words), ours.prune(pair.mlx, pruner):
            pass

    def test_contexts(self, pair):
        within = ours.prune(pair.mlx, HALF)
        with pytest.raises(gp.GroundPruneError, match="pruned already"), ours.prune(pair.mlx, HALF), within:
            pass
        with pytest.raises(gp.Unservable, match=r"Qwen2\.5-VL is served"), ours.prune(nn.Linear(2, 2), HALF):
            pass
        with pytest.raises(gp.GroundPruneError, match="position policy"), ours.prune(pair.mlx, HALF, "kept"):
            pass
        with ours.prune(pair.mlx, HALF) as run, pytest.raises(gp.GroundPruneError, match="nothing was pruned yet"):
            _ = run.kept
