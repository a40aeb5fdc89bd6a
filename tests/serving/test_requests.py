"""One engine answers requests at several budgets, each as an engine of that budget alone does."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import groundprune as gp
from support.engines import (
    TOLERANCE,
    asked,
    by_transformers,
    by_vllm,
    difference,
    engine,
    photo,
    prompt,
    save_checkpoint,
    say,
)
from support.sparing import sparing

SIZES = {
    "llava": [(48, 48), (30, 60)], "qwen2_5_vl": [(48, 32), (64, 48)], "idefics3": [(64, 64), (64, 32)],
    "internvl": [(64, 32), (96, 64)],
}  # fmt: skip
FAMILIES = sparing(SIZES, ["internvl"])
WORDS = "the red circle " * 25  # so that the block in which a prompt ends holds no image
# What a request says, and the pruner and the policy that it means where the server keeps all.
ASKED = [
    (None, gp.ClsVisual(keep=1), "preserved"),
    ({"keep": 0.5}, gp.ClsVisual(keep=0.5), "preserved"),
    ({"keep": "1/4"}, gp.ClsVisual(keep=0.25), "preserved"),
    ({"keep": 0.25, "positions": "reassigned"}, gp.ClsVisual(keep=0.25), "reassigned"),
    ({"positions": "reassigned"}, gp.ClsVisual(keep=1), "reassigned"),
    ({"pruner": "random", "options": {"seed": 3}, "keep": 0.5}, gp.Random(keep=0.5, seed=3), "preserved"),
    ({"pruner": "spatial", "keep": 0.5}, gp.Spatial(keep=0.5), "preserved"),
    ({"pruner": "divprune", "tokens": 2}, gp.DivPrune(tokens=2), "preserved"),
]
STEPS = 4
REACH = 1024  # positions of the tiny models


def saying(request, words):
    """A prompt with settings of its own."""
    given = asked(*request)
    return given if words is None else {**given, "mm_processor_kwargs": {"groundprune": words}}


def about(family, processor, text=WORDS):
    """Prompts with one image and with two."""
    one, two = (photo(i, *size) for i, size in enumerate(SIZES[family]))
    return [(prompt(processor, 1, text), [one]), (prompt(processor, 2, f"w30 {text}"), [two, one])]


# Engines of their own, before one of them serves the rest of the file: an engine's end takes along what another has.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_request_says_what_an_engine_of_its_budget_says(family, checkpoint):
    folder, _, processor = checkpoint(family)
    (request, _) = about(family, processor, "the red circle w20")
    with engine(folder, gp.ClsVisual(keep=1)) as llm:
        found = say(llm, [saying(request, {"keep": keep}) for keep in (1, 0.5, 0.25)])
    for keep, said in zip((1, 0.5, 0.25), found, strict=True):
        with engine(folder, gp.ClsVisual(keep=keep)) as llm:
            expected = by_vllm(llm, [request])
        assert difference([said], expected) < TOLERANCE
        assert said.ids == expected[0].ids


def watch_batches(model):
    """From now on, how many images the tower sees at a time."""
    model.batches, stock = [], model.vision_tower.forward

    def forward(pixels, *args, **kwargs):
        model.batches.append(len(pixels))
        return stock(pixels, *args, **kwargs)

    model.vision_tower.forward = forward


def test_the_tower_sees_no_more_images_at_a_time_than_there_is_memory_for(checkpoint):
    """A step of 80 tokens holds two images of 36; with 9 tokens each, five prompts would be in it."""
    folder, model, processor = checkpoint("llava")
    text = prompt(processor, 1, "the red circle")
    given = [(text, [photo(seed)]) for seed in range(6)]
    with engine(folder, gp.ClsVisual(keep=1), max_num_batched_tokens=80, enable_chunked_prefill=True) as llm:
        llm.apply_model(watch_batches)
        found = say(llm, [saying(request, {"keep": 0.25}) for request in given], STEPS)
        (batches,) = llm.apply_model(lambda model: model.batches)
    assert sum(batches) == len(given)
    assert max(batches) == 2
    expected = by_transformers(model, processor, given, gp.ClsVisual(keep=0.25), steps=STEPS)
    assert difference(found, expected) < TOLERANCE


def test_a_model_with_a_window_ends_there(tmp_path):
    """A window counts slots: the first of a longer prompt would leave it before they should."""
    from transformers import MistralConfig
    from vllm import SamplingParams

    from groundprune.families import families

    config = families()["llava"].tiny_config()
    text = config.text_config.to_dict() | {"model_type": "mistral", "sliding_window": 96}
    config.text_config = MistralConfig(**{key: value for key, value in text.items() if key != "architectures"})
    folder = save_checkpoint("llava", tmp_path / "mistral", config)
    _, processor = gp.load(folder)
    image = photo(0)
    given = (prompt(processor, 1, "w20 " * 20), [image])
    unpruned = len(processor(text=[given[0]], images=[[image]])["input_ids"][0])
    with engine(folder, gp.ClsVisual(keep=1), max_model_len=96, limit_mm_per_prompt={"image": 1}) as llm:
        long = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
        (said,) = llm.generate([saying(given, {"keep": 0.25})], long, use_tqdm=False)
    assert len(said.outputs[0].token_ids) == 96 - unpruned


@pytest.fixture(scope="module", params=FAMILIES)
def served(request, checkpoint):
    """(family, engine, model, processor); the engine keeps all."""
    folder, model, processor = checkpoint(request.param)
    with engine(folder, gp.ClsVisual(keep=1), max_model_len=REACH) as llm:
        yield request.param, llm, model, processor


def test_requests_of_several_budgets_run_together_each_as_by_itself(served):
    """Once more, all images lie in cached blocks, and vLLM has dropped their pixels."""
    family, llm, model, processor = served
    both = about(family, processor)
    # A count is per image, and of two images the whole prompt's there.
    cases = [(*case, request) for case in ASKED for request in (both[:1] if case[1].tokens else both)]
    expected = [
        by_transformers(model, processor, [request], pruner, positions, STEPS)[0]
        for _, pruner, positions, request in cases
    ]
    prompts = [saying(request, words) for words, _, _, request in cases]
    llm.reset_prefix_cache()
    for cached in (False, True):
        found = say(llm, prompts, STEPS)
        assert [said.columns for said in found] == [said.columns for said in expected]
        assert difference(found, expected) < TOLERANCE
        assert [said.ids for said in found] == [said.ids for said in expected]
        assert all(said.cached > 0 for said in found) or not cached
    of_one = [said for (*_, request), said in zip(cases, found, strict=True) if request == both[0]]
    quarter, renumbered = of_one[2:4]
    assert difference([quarter], [renumbered]) > 1  # they are not all alike


def test_a_bad_request_fails_alone(served):
    family, llm, _, processor = served
    (request, _) = about(family, processor)
    before = say(llm, [saying(request, {"keep": 0.5})], STEPS)
    for words in ({"keep": 2}, {"pruner": "fastv"}, {"positions": "stretched"}, {"kep": 1}, "half"):
        with pytest.raises(gp.GroundPruneError, match="mm_processor_kwargs, groundprune: "):
            say(llm, [saying(request, words)], STEPS)
    after = say(llm, [saying(request, {"keep": 0.5})], STEPS)
    assert difference(before, after) < TOLERANCE


def test_an_answer_ends_where_the_models_positions_do(served):
    """The unpruned prompt's answer ends there, too: of the slots that are left, none is used."""
    from vllm import SamplingParams

    family, llm, model, processor = served
    image = photo(0, *SIZES[family][0])
    empty = len(processor(text=[prompt(processor, 1, "")], images=[[image]])["input_ids"][0])
    left = 6 if family == "llava" else None  # M-RoPE's images move what follows by less than their tokens
    given = (prompt(processor, 1, "w20 " * (REACH - empty - (left or 80))), [image])
    unpruned = len(processor(text=[given[0]], images=[[image]])["input_ids"][0])
    long = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    (said,) = llm.generate([saying(given, {"keep": 0.25})], long, use_tqdm=False)
    answer = said.outputs[0]
    if left is None:
        assert len(answer.token_ids) == 60
        return
    assert len(answer.token_ids) == REACH - unpruned < 60
    assert answer.finish_reason == "length"
    steps = len(answer.token_ids)
    expected = by_transformers(model, processor, [given], gp.ClsVisual(keep=0.25), steps=steps)
    assert difference(say(llm, [saying(given, {"keep": 0.25})], steps), expected) < TOLERANCE
    beyond = (f"{given[0]} {'w21 ' * left}", [image])
    with pytest.raises(gp.GroundPruneError, match=f"those of the model end at {REACH - 1}"):
        say(llm, [saying(beyond, {"keep": 0.25})], 1)
    assert len(say(llm, [saying(beyond, {"keep": 0.25, "positions": "reassigned"})], 9)[0].ids) == 9


def test_what_images_keep_and_lose_is_counted_once_for_a_request(served):
    from vllm import SamplingParams

    from groundprune.integrations.vllm.counters import counted

    family, llm, _, processor = served
    request, two = about(family, processor, "the red circle w21")
    whole = {name: len_of(llm, name_of) for name, name_of in (("one", request), ("two", two))}
    before = counted()
    several = SamplingParams(temperature=1, n=3, max_tokens=2, seed=0)
    for _ in range(2):  # the second time it is cached
        llm.generate([saying(request, {"pruner": "spatial", "tokens": 2})], several, use_tqdm=False)
    say(llm, [saying(two, {"pruner": "spatial", "keep": 0.5})], 1)
    say(llm, [asked(prompt(processor, 0, "the red circle"), [])], 1)
    after = counted()
    kept, dropped = (after[kind].get("spatial", 0) - before[kind].get("spatial", 0) for kind in ("kept", "dropped"))
    assert kept == 2 * 2 + whole["two"] // 2
    assert dropped == 2 * (whole["one"] - 2) + whole["two"] // 2
    assert after["kept"].keys() == before["kept"].keys() | {"spatial"}


def len_of(llm, request):
    """Visual tokens of a prompt, unpruned."""
    from support.engines import image_token

    output = llm.generate([asked(*request)], use_tqdm=False)[0]
    return output.prompt_token_ids.count(image_token(llm.model_config.hf_config))


MEANINGS = st.sampled_from(
    [
        ("own", [None, {}, {"keep": 1}, {"keep": "1.0", "pruner": "cls-visual"}]),
        ("half", [{"keep": 0.5}, {"keep": "1/2"}, {"positions": "preserved", "keep": "0.50"}]),
        ("half, renumbered", [{"keep": 0.5, "positions": "reassigned"}]),
        ("18", [{"tokens": 18}, {"tokens": "18"}]),
        ("random", [{"pruner": "random", "keep": 0.5}, {"keep": "2/4", "options": {"seed": 0}, "pruner": "random"}]),
        ("random, 1", [{"pruner": "random", "keep": 0.5, "options": {"seed": 1}}]),
    ]
).flatmap(lambda found: st.tuples(st.just(found[0]), st.sampled_from(found[1])))
IMAGES = st.tuples(st.integers(0, 3), st.sampled_from([(48, 48), (30, 60)]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.tuples(MEANINGS, IMAGES), second=st.tuples(MEANINGS, IMAGES))
def test_an_image_has_one_name_for_each_meaning(served, first, second):
    """Other settings or another image, another name, in all of vLLM's caches; the same, the same."""
    _, llm, _, _ = served
    processor = llm.llm_engine.renderer.mm_processor

    def name(asked_for):
        (_, words), (seed, size) = asked_for
        items = processor.info.parse_mm_data({"image": photo(seed, *size)})
        options = None if words is None else {"groundprune": words}
        text = llm.get_tokenizer().encode(prompt_of_one, add_special_tokens=False)
        (found,) = processor(text, items, hf_processor_mm_kwargs=options)["mm_hashes"]["image"]
        return found

    prompt_of_one = prompt(served[3], 1, "w20")
    same = (first[0][0], first[1]) == (second[0][0], second[1])
    assert (name(first) == name(second)) == same
