"""What cannot work is refused before an engine starts, and the message names the option."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

import groundprune as gp
from groundprune.families import families
from groundprune.integrations.vllm import versions
from groundprune.integrations.vllm.running import why_ended
from groundprune.integrations.vllm.stored_proofs import SWITCH, UNPROVEN, installation
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
)

SPECULATIVE = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
REFUSED = [
    ("llava", gp.ClsVisual(keep=0.5), {"pipeline_parallel_size": 2}, "pipeline_parallel_size"),
    ("qwen2_5_vl", gp.DivPrune(keep=0.5), {"pipeline_parallel_size": 2}, "pipeline_parallel_size"),
    ("llava", gp.Spatial(keep=0.5), {"speculative_config": SPECULATIVE}, "speculative_config"),
    ("llava", gp.Spatial(keep=0.5), {"enable_mm_embeds": True}, "enable_mm_embeds"),
    ("qwen2_5_vl", gp.Spatial(keep=0.5), {"video_pruning_rate": 0.5}, "video_pruning_rate"),
    ("llava", gp.Spatial(keep=0.5), {"enable_prompt_embeds": True}, "enable_prompt_embeds"),
    ("qwen2_5_vl", gp.ClsVisual(keep=0.5), {"mm_encoder_tp_mode": "data", "tensor_parallel_size": 2}, "tp_mode"),
    ("llava", gp.Spatial(keep=0.5), {"mm_processor_kwargs": {"groundprune": {"keep": 0.25}}}, "has hf_overrides"),
    # 36 tokens, 18 of them kept, and a table of 1,024
    ("llava", gp.Spatial(keep=0.5), {"max_model_len": 1007, "limit_mm_per_prompt": {"image": 1}}, "max_model_len"),
    ("llava", gp.Spatial(keep=0.5), {"max_model_len": 989}, "limit_mm_per_prompt"),
    # Two images of 13 tiles of 16 tokens, half of them kept
    ("internvl", gp.Spatial(keep=0.5), {"max_model_len": 817}, "limit_mm_per_prompt"),
]
ALLOWED = [
    ("llava", gp.Spatial(keep=0.5), {"pipeline_parallel_size": 2}),
    ("llava", gp.ClsVisual(keep=1), {"pipeline_parallel_size": 2}),
    ("llava", gp.Spatial(keep=0.5), {"max_model_len": 1006, "limit_mm_per_prompt": {"image": 1}}),
    ("llava", gp.Spatial(keep=0.5), {"max_model_len": 988}),
    ("llava", gp.Spatial(keep=1), {"max_model_len": 1024, "limit_mm_per_prompt": {"image": 99}}),
    ("internvl", gp.Spatial(keep=0.5), {"max_model_len": 816}),
    ("qwen3_vl", gp.ClsVisual(keep=0.5), {"mm_device_do_normalize": True}),
]


def configure(folder, overrides, **options):
    """All that vLLM checks before it starts a process."""
    from vllm.engine.arg_utils import EngineArgs

    given = {"dtype": "float32", "max_model_len": 512, "limit_mm_per_prompt": {"image": 2}, "enforce_eager": True}
    given |= {"mm_device_do_normalize": False, **options}
    try:
        return EngineArgs(model=str(folder), hf_overrides=overrides, **given).create_engine_config()
    except Exception as error:
        raise why_ended(error) from error


@pytest.mark.parametrize(("family", "pruner", "options", "named"), REFUSED)
def test_an_option_that_cannot_work_is_named(family, pruner, options, named, checkpoint):
    folder = checkpoint(family)[0]
    with pytest.raises(gp.GroundPruneError, match=named):
        configure(folder, gp.vllm_overrides(folder, pruner), **options)


@pytest.mark.parametrize(("family", "pruner", "options"), ALLOWED)
def test_what_works_is_let_through(family, pruner, options, checkpoint):
    folder = checkpoint(family)[0]
    configure(folder, gp.vllm_overrides(folder, pruner), **options)


def test_a_second_runner_that_cannot_run_is_refused_in_one_line(checkpoint, monkeypatch):
    """PyPI's Triton has no backend for CPUs; unless asked for it, vLLM takes its first runner."""
    folder = checkpoint("llava")[0]
    overrides = gp.vllm_overrides(folder, gp.ClsVisual(keep=0.5))
    assert not configure(folder, overrides).use_v2_model_runner
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with pytest.raises(gp.GroundPruneError, match=r"\AvLLM ended: .*Model Runner V2 requires Triton[^\n]*\Z"):
        configure(folder, overrides)


def test_pixels_that_are_drawn_by_are_those_of_transformers(checkpoint):
    """Qwen3-VL's would be normalised on the device otherwise, which vLLM's engines do by default."""
    folder, model, processor = checkpoint("qwen3_vl")
    pruner = gp.Random(keep=0.5)
    config = configure(folder, gp.vllm_overrides(folder, pruner), mm_device_do_normalize=True)
    assert not config.model_config.multimodal_config.mm_device_do_normalize
    given = [(prompt(processor, 1, "the red circle"), [photo(0, 96, 64)])]
    with engine(folder, pruner, mm_device_do_normalize=True) as llm:
        found = by_vllm(llm, given)
    assert difference(found, by_transformers(model, processor, given, pruner)) < TOLERANCE


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_positions_that_are_renumbered_go_with_pipelines(family, checkpoint):
    folder = checkpoint(family)[0]
    overrides = gp.vllm_overrides(folder, gp.ClsVisual(keep=0.5), "reassigned")
    configure(folder, overrides, pipeline_parallel_size=2)


def test_the_tower_gets_no_more_images_at_a_time_than_unpruned(checkpoint):
    folder = checkpoint("llava")[0]
    budgets = [
        configure(
            folder, gp.vllm_overrides(folder, gp.Spatial(keep=keep))
        ).scheduler_config.max_num_encoder_input_tokens
        for keep in (1, 0.5, 0.25)
    ]
    assert budgets == [budgets[0], budgets[0] // 2, budgets[0] // 4]


def test_a_tall_image_of_few_tokens_and_many_newlines_is_encoded(tmp_path):
    """vLLM measures the image of the most tokens, of 2 x 2 tiles; what takes more slots than that never runs."""
    from vllm import SamplingParams

    config = families()["llava_next"].tiny_config()
    crop = config.vision_config.image_size
    config.image_grid_pinpoints = [[2 * crop, 2 * crop], [3 * crop, crop]]
    folder = save_checkpoint("llava_next", tmp_path / "tall", config)
    model, processor = gp.load(folder)
    pruner, given = gp.ClsVisual(tokens=12), (prompt(processor, 1, "the red circle"), [photo(0, crop, 3 * crop)])
    small = {"max_num_batched_tokens": 64, "max_num_seqs": 2, "enable_chunked_prefill": True}
    with engine(folder, pruner, **small) as llm:
        llm.llm_engine.add_request("tall", asked(*given), SamplingParams(max_tokens=1))
        said = [output for _ in range(10) for output in llm.llm_engine.step()]  # a request that waits ends no loop
        assert said
        assert difference(by_vllm(llm, [given]), by_transformers(model, processor, [given], pruner)) < TOLERANCE


def test_the_longest_prompt_that_is_let_through_stays_on_the_table(checkpoint):
    folder, model, processor = checkpoint("llava")
    limit = {"max_model_len": 988, "limit_mm_per_prompt": {"image": 2}}
    pruner = gp.Spatial(keep=0.5)
    words = "w20 " * 900
    given = [(prompt(processor, 2, words.strip()), [photo(0), photo(1)])]
    with engine(folder, pruner, **limit) as llm:
        found = by_vllm(llm, given)
    assert difference(found, by_transformers(model, processor, given, pruner)) < TOLERANCE


def test_a_tower_of_another_kind_is_refused(tmp_path):
    config = families()["llava"].tiny_config()
    config.vision_feature_select_strategy = "full"
    folder = save_checkpoint("llava", tmp_path / "full", config)
    with pytest.raises(gp.Unservable, match="vision_feature_select_strategy 'full'"):
        gp.vllm_overrides(folder, gp.Spatial(keep=0.5))
    config.vision_feature_select_strategy = "default"
    ours = gp.vllm_overrides(save_checkpoint("llava", tmp_path / "default", config), gp.Spatial(keep=0.5))
    with pytest.raises(gp.Unservable, match="'full'"):  # also where the words were made for another checkpoint
        configure(folder, ours)


def test_a_sliding_window_that_would_act_is_refused(tmp_path):
    from transformers import MistralConfig

    config = families()["llava"].tiny_config()
    text = config.text_config.to_dict() | {"model_type": "mistral", "sliding_window": 256}
    config.text_config = MistralConfig(**{key: value for key, value in text.items() if key != "architectures"})
    folder = save_checkpoint("llava", tmp_path / "mistral", config)
    ours = gp.vllm_overrides(folder, gp.Spatial(keep=0.5))
    with pytest.raises(gp.GroundPruneError, match="sliding window of 256"):
        configure(folder, ours, max_model_len=512)
    configure(folder, ours, max_model_len=238)


@pytest.fixture
def untested(monkeypatch, tmp_path):
    """A vLLM that calls itself 0.33, and an empty folder of proofs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Not in importlib.metadata itself: vLLM asks it which platform it is built for.
    metadata = SimpleNamespace(version=lambda name: "0.33.0", PackageNotFoundError=PackageNotFoundError)
    monkeypatch.setattr(versions, "importlib", SimpleNamespace(metadata=metadata))


def test_an_untested_vllm_needs_a_proof_of_the_family_and_the_runner(untested, checkpoint, caplog):
    folder = checkpoint("llava")[0]
    ours = gp.vllm_overrides(folder, gp.Spatial(keep=0.5))
    here = installation(configure(folder, {}))
    here.remember("qwen3_vl")
    replace(here, runner="v2").remember("llava")
    command = rf"`{SWITCH}=0 groundprune verify --engine vllm --family llava`"
    with pytest.raises(gp.GroundPruneError, match=rf"vLLM 0.33.0 .* model runner v1: run {command}"):
        configure(folder, ours)
    assert not any("0.33.0" in message for message in caplog.messages)
    here.remember("llava")
    configure(folder, ours)
    (said,) = (message for message in caplog.messages if "0.33.0" in message)
    assert "groundprune verify --engine vllm" in said
    here.forget("llava")
    with pytest.raises(gp.GroundPruneError, match="no proof of llava"):
        configure(folder, ours)


def test_an_untested_vllm_runs_where_the_user_goes_without_a_proof(untested, checkpoint, monkeypatch):
    folder = checkpoint("llava")[0]
    monkeypatch.setenv(UNPROVEN, "1")
    configure(folder, gp.vllm_overrides(folder, gp.Spatial(keep=0.5)))


def test_an_untested_vllm_runs_what_is_not_ours(untested, checkpoint):
    configure(checkpoint("llava")[0], {})


def test_models_without_our_words_are_not_ours(checkpoint):
    """The plugin is loaded, but nobody asked for it."""
    config = configure(checkpoint("llava")[0], {})
    assert config.model_config.architecture == "LlavaForConditionalGeneration"


@pytest.mark.parametrize(("family", "edge", "most"), [("idefics3", 5 * 32, 16 * 17), ("mistral3", 2 * 64, 64)])
def test_an_image_larger_than_positions_were_counted_for_is_refused(family, edge, most, checkpoint):
    from vllm.multimodal import MULTIMODAL_REGISTRY

    folder = checkpoint(family)[0]
    config = configure(folder, gp.vllm_overrides(folder, gp.Spatial(keep=0.5))).model_config
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    items = processor.info.parse_mm_data({"image": photo(0, 200, 200)})
    ids = processor([1, 99, 5], items)["prompt_token_ids"]
    assert ids.count(99) <= most // 2
    with pytest.raises(gp.GroundPruneError, match=f"served with at most {most}"):
        processor([1, 99, 5], items, hf_processor_mm_kwargs={"size": {"longest_edge": edge}})


def test_an_image_has_another_name_under_another_pruner_or_share(checkpoint):
    from vllm.multimodal import MULTIMODAL_REGISTRY

    folder = checkpoint("llava")[0]

    def name(pruner, positions="preserved"):
        config = configure(folder, gp.vllm_overrides(folder, pruner, positions)).model_config
        processor = MULTIMODAL_REGISTRY.create_processor(config)
        items = processor.info.parse_mm_data({"image": photo(0)})
        return processor([1, 99, 5], items)["mm_hashes"]["image"][0]

    names = [
        name(gp.ClsVisual(keep=0.5)), name(gp.ClsVisual(keep=0.25)), name(gp.ClsVisual(tokens=18)),
        name(gp.Coverage(keep=0.5)), name(gp.Coverage(keep=0.5, spread=0.5)), name(gp.Random(keep=0.5, seed=1)),
        name(gp.ClsVisual(keep=0.5), "reassigned"),
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert name(gp.ClsVisual(keep=0.5)) == names[0]
    assert len({name.partition("-")[0] for name in names}) == 1  # it is one image
