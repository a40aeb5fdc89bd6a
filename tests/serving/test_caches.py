"""What vLLM keeps, splits or computes again must not move a token: each case says what a fresh run says."""

import math

import pytest

import groundprune as gp
from support.engines import TOLERANCE, asked, by_transformers, by_vllm, difference, engine, image_token, photo, prompt
from support.sparing import PLACED_ALIKE, sparing

BLOCK = 32
PRUNER = gp.ClsVisual(keep=0.5)
# Large enough that their kept tokens span several blocks: 128 of 256, and 32 of 64.
FAMILIES = {
    "llava": (64, 64), "qwen2_5_vl": (64, 64), "qwen3_vl": (256, 256), "llava_onevision": (32, 32),
    "internvl": (48, 48), "idefics3": (64, 64), "mistral3": (64, 64), "llava_next": (32, 32), "qwen2_vl": (64, 64),
    "smolvlm": (64, 64),
}  # fmt: skip
# Of tiny configs: LLaVA with a tower of 16 x 16 patches, LLaVA-OneVision with tiles that are not interpolated.
LARGE = {"llava": {"side": 16}, "llava_onevision": {"tiles": 9}}
every_family = pytest.mark.parametrize("family", sparing(FAMILIES, PLACED_ALIKE))


@pytest.fixture
def large(checkpoint):
    """By family as `checkpoint`."""
    return lambda family: checkpoint(family, **LARGE.get(family, {}))


def request(family, processor, words, *seeds):
    return prompt(processor, len(seeds), words), [photo(seed, *FAMILIES[family]) for seed in seeds]


def image_slots(llm, processor, asked_for):
    """First and last slot of the image tokens in the prompt that the LLM reads."""
    output = llm.generate([asked(*asked_for)], use_tqdm=False)[0]
    slots = [i for i, token in enumerate(output.prompt_token_ids) if token == image_token(llm.model_config.hf_config)]
    return slots[0], slots[-1]


@every_family
def test_a_prefix_hit_may_end_inside_an_image(family, large):
    folder, model, processor = large(family)
    first, second = (request(family, processor, words, 0) for words in ("the red circle", "w20 w21 the circle w22"))
    with engine(folder, PRUNER, enable_prefix_caching=True) as llm:
        start, end = image_slots(llm, processor, first)
        found = by_vllm(llm, [second])
        llm.reset_mm_cache()  # and then the rest of the image has to be encoded again
        again = by_vllm(llm, [request(family, processor, "w30 w21 the circle w22", 0)])
    assert start < found[0].cached <= end  # the first slot that was not reused is still the image's
    assert start < again[0].cached <= end
    assert difference(found, by_transformers(model, processor, [second], PRUNER)) < TOLERANCE
    third = [request(family, processor, "w30 w21 the circle w22", 0)]
    assert difference(again, by_transformers(model, processor, third, PRUNER)) < TOLERANCE


@every_family
def test_a_chunk_of_a_prefill_may_end_inside_an_image(family, large):
    folder, model, processor = large(family)
    given = [request(family, processor, "w20 the red circle", 0, 1), request(family, processor, "w30 circle", 2)]
    chunk = 25  # tokens, of all prompts together
    with engine(folder, PRUNER, max_num_batched_tokens=chunk, max_num_seqs=4, enable_chunked_prefill=True) as llm:
        assert chunk < image_slots(llm, processor, given[1])[1]
        found = by_vllm(llm, given)
    assert difference(found, by_transformers(model, processor, given, PRUNER)) < TOLERANCE


@every_family
def test_a_preempted_request_goes_on_where_it_was(family, large):
    folder, model, processor = large(family)
    given = [request(family, processor, "the red circle", seed) for seed in (0, 1)]
    steps = 60
    with engine(folder, PRUNER) as llm:
        columns = max(said.columns for said in by_vllm(llm, given, 1))
    blocks = math.ceil((columns + steps) / BLOCK)
    small = {
        "num_gpu_blocks_override": 2 * blocks - 2,
        "max_model_len": blocks * BLOCK,
        "enable_prefix_caching": False,
    }
    with engine(folder, PRUNER, **small) as llm:  # one of the blocks is vLLM's own
        found = by_vllm(llm, given, steps)
        assert metric(llm, "vllm:num_preemptions") > 0
    expected = by_transformers(model, processor, given, PRUNER, steps=steps)
    assert difference(found, expected) < TOLERANCE
    assert [said.ids for said in found] == [said.ids for said in expected]


@every_family
@pytest.mark.parametrize("pruner", [PRUNER, gp.Random(keep=0.5)], ids=lambda pruner: pruner.name)
def test_an_image_that_is_there_twice_is_encoded_once_and_pruned_alike(family, pruner, large):
    folder, model, processor = large(family)
    given = [request(family, processor, words, 0) for words in ("the red circle", "w20 circle")]
    given.append(request(family, processor, "w21 the", 0, 0))
    with engine(folder, pruner) as llm:
        found = by_vllm(llm, given)
    assert difference(found, by_transformers(model, processor, given, pruner)) < TOLERANCE


@pytest.mark.parametrize("family", sparing(["llava", "qwen2_5_vl", "qwen3_vl"], ["qwen2_5_vl", "qwen3_vl"]))
def test_the_cache_holds_as_many_blocks_as_tokens_are_left(family, large):
    folder, _, processor = large(family)
    text, images = request(family, processor, "the red circle", 0)
    total = 100
    used = {}
    for keep in (1, 0.5, 0.25):
        one = {"limit_mm_per_prompt": {"image": 1}, "num_gpu_blocks_override": total + 1}
        with engine(folder, gp.ClsVisual(keep=keep), **one) as llm:
            columns = by_vllm(llm, [(text, images)], 1)[0].columns
            llm.reset_prefix_cache()
            llm.llm_engine.add_request("counted", asked(text, images), llm.get_default_sampling_params())
            llm.llm_engine.step()
            used[keep] = round(metric(llm, "vllm:kv_cache_usage_perc") * total)
            assert used[keep] == math.ceil(columns / BLOCK)
    assert sorted(used.values(), reverse=True) == [used[1], used[0.5], used[0.25]]
    assert used[1] > used[0.25]


def metric(llm, name):
    return next(found.value for found in llm.get_metrics() if found.name == name)
