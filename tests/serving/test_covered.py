"""An image that lies wholly in cached blocks: vLLM drops its pixels, and what follows it goes on where it was."""

from functools import partial

import pytest
import torch

import groundprune as gp
from support.engines import TOLERANCE, asked, by_transformers, by_vllm, difference, engine, photo, prompt
from support.sparing import PLACED_ALIKE, sparing

SIZES = {
    "llava": (48, 48), "llava_next": (40, 24), "qwen2_5_vl": (64, 48), "qwen3_vl": (96, 96), "qwen2_vl": (64, 48),
    "llava_onevision": (40, 24), "internvl": (64, 32), "idefics3": (64, 32), "mistral3": (64, 48),
    "smolvlm": (64, 32),
}  # fmt: skip
PRUNERS = [gp.ClsVisual(keep=0.5), gp.Spatial(keep=0.5), gp.Random(keep=1)]  # the last two are settled early
WORDS = "the red circle " * 25  # so that the block in which a prompt ends holds no image
STEPS = 4


@pytest.fixture(scope="module", params=sparing(SIZES, PLACED_ALIKE))
def family(request):
    return request.param


@pytest.fixture(
    scope="module", params=sparing(PRUNERS, PRUNERS[1:2]), ids=lambda pruner: f"{pruner.name}-{pruner.keep}"
)
def served(request, family, checkpoint):
    """(engine, model, processor, pruner)"""
    folder, model, processor = checkpoint(family)
    with engine(folder, request.param) as llm:
        yield llm, model, processor, request.param


def one_by_one(served, requests):
    """How many columns of each were cached; the answers are those of the transformers path."""
    llm, model, processor, pruner = served
    llm.reset_prefix_cache()
    found = [by_vllm(llm, [request], STEPS)[0] for request in requests]
    assert difference(found, by_transformers(model, processor, requests, pruner, steps=STEPS)) < TOLERANCE
    return [said.cached for said in found]


def test_a_repeated_prompt_and_a_conversation(served, family):
    """Each turn repeats all before it: the second adds words, the third an image, the fourth words."""
    one, two = (photo(seed, *SIZES[family]) for seed in (0, 1))
    ask = partial(prompt, served[2], 1)
    first = ask(WORDS)
    second = f"{first} w20 w21 w22 {WORDS}"
    third = f"{second} w23 {ask(WORDS)}"
    turns = [(first, [one]), (first, [one]), (second, [one]), (third, [one, two]), (f"{third} w24", [one, two])]
    cached = one_by_one(served, turns)
    assert cached[0] == 0 < cached[1] <= cached[2] < cached[3] < cached[4]


def test_a_repeated_prompt_with_two_images(served, family):
    """The third request repeats one of them: the other is encoded."""
    one, two, three = (photo(seed, *SIZES[family]) for seed in range(3))
    text = prompt(served[2], 2, f"w30 {WORDS}")
    cached = one_by_one(served, [(text, [one, two]), (text, [one, two]), (text, [one, three])])
    assert cached[0] < cached[1] > cached[2]


def test_beam_search(served, family):
    """Each of its steps is a request for each beam that repeats the prompt."""
    from vllm.sampling_params import BeamSearchParams

    llm, model, processor, pruner = served
    text, image, beams = prompt(processor, 1, WORDS), photo(0, *SIZES[family]), 3
    (found,) = llm.beam_search([asked(text, [image])], BeamSearchParams(beams, STEPS, ignore_eos=True))
    inputs = processor(text=[text], images=[[image]], return_tensors="pt")
    with gp.prune(model, pruner):
        expected = model.generate(
            **inputs, num_beams=beams, num_return_sequences=beams, max_new_tokens=STEPS, min_new_tokens=STEPS,
            do_sample=False, output_scores=True, return_dict_in_generate=True, length_penalty=0,
        )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    assert [each.tokens[-STEPS:] for each in found.sequences] == expected.sequences[:, length:].tolist()
    sums = torch.tensor([each.cum_logprob for each in found.sequences])
    assert (sums - expected.sequences_scores).abs().max() < TOLERANCE * STEPS
