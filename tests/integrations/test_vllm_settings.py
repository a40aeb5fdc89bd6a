"""The parts of the vLLM plugin that need no vLLM: what is chosen, where it stood, how long a prompt may be."""

import json
import logging
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import PixtralVisionConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

import groundprune as gp
from groundprune.checkpoints.prompts import chat_prompt
from groundprune.cli import main
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import families
from groundprune.integrations.vllm import check_version
from groundprune.integrations.vllm.image_pruning import ImagePruning, pack, unpack
from groundprune.integrations.vllm.limits import (
    check_positions,
    encoder_share,
    largest_length,
    most_dropped,
    rotary_length,
)
from groundprune.integrations.vllm.running import KILLED, cause_of_end, note_cause, why_ended
from groundprune.integrations.vllm.server import serve_arguments
from groundprune.integrations.vllm.settings import ARCHITECTURES, Settings
from groundprune.integrations.vllm.spans import Span, columns, unpruned
from groundprune.pocket import checkpoint_path
from groundprune.pocket.scenes import TEST_SEEDS, make_scene
from groundprune.pocket.wide_heads import WIDE, write_wide_heads
from groundprune.pruners import make_pruner
from groundprune.signals import Need
from support.closeness import assert_near

SERVED = ["random", "spatial", "cls-visual", "divprune", "coverage"]


def configured(family, pruner, positions="preserved", **text):
    config = families()[family].tiny_config()
    for name, value in text.items():
        setattr(config.text_config, name, value)
    config.groundprune = vars(Settings.of(pruner, positions))
    return config


def same(found, pruner):
    """But for the words in which the budget is said."""
    of = [{**vars(each), "keep": None, "tokens": None} for each in (found, pruner)]
    return type(found) is type(pruner) and of[0] == of[1]


# Settings


@pytest.mark.parametrize(
    "pruner",
    [gp.ClsVisual(keep="1/3"), gp.Random(tokens=9, seed=4), gp.Coverage(keep=0.5, spread=0.25), gp.Spatial(keep=1)],
)
def test_settings_survive_json_and_make_the_same_pruner(pruner):
    words = json.loads(json.dumps(vars(Settings.of(pruner, "reassigned"))))
    found = Settings.read(SimpleNamespace(groundprune=words))
    assert same(found.make_pruner(), pruner)
    assert found.positions == "reassigned"
    assert found.identity == Settings.of(pruner, "reassigned").identity


def test_a_pruner_file_that_changes_makes_another_identity(tmp_path):
    file = tmp_path / "mine.py"
    names = []
    for text in ("a", "b", "a"):
        file.write_text(f"# {text}\n")
        names.append(Settings(f"{file}:Mine", keep="0.5").identity)
    assert names[0] == names[2] != names[1]


def test_settings_that_differ_have_other_identities():
    each = [
        Settings.of(gp.ClsVisual(keep=0.5)),
        Settings.of(gp.ClsVisual(keep=0.25)),
        Settings.of(gp.ClsVisual(tokens=4)),
        Settings.of(gp.Coverage(keep=0.5)),
        Settings.of(gp.Coverage(keep=0.5, spread=0.5)),
        Settings.of(gp.ClsVisual(keep=0.5), "reassigned"),
    ]
    assert len({settings.identity for settings in each}) == len(each)


@pytest.mark.parametrize("words", [None, 1, {}, {"pruner": "spatial", "kep": "0.5"}])
def test_words_that_are_not_ours_are_refused(words):
    with pytest.raises(gp.GroundPruneError, match="not what vllm_overrides makes"):
        Settings.read(SimpleNamespace(groundprune=words))


def test_a_pruner_that_no_name_leads_to_is_refused(tmp_path):
    class Mine(gp.Pruner):
        pass

    with pytest.raises(gp.GroundPruneError, match="Mine is no registered pruner"):
        Settings.of(Mine(keep=0.5))
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nimport groundprune as gp\n\n\n"
        "class First(gp.Pruner):\n    def score(self, signals, layout, stage):\n"
        "        return -torch.arange(len(layout)).float()\n"
    )
    name = f"{file}:First"
    pruner = make_pruner(name, 0.5)
    assert same(Settings.of(pruner, name=name).make_pruner(), pruner)
    assert gp.vllm_overrides("pocket", pruner, name=name)["groundprune"]["pruner"] == name


def test_overrides_name_the_class_and_for_one_axis_a_table():
    found = gp.vllm_overrides("pocket", gp.ClsVisual(keep=0.5))
    assert found["architectures"] == [ARCHITECTURES["llava"][0]]
    assert found["rope_parameters"]["mrope_section"] == [1, 1, 1]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("family", "pruner", "message"),
    [
        ("llava", gp.FastV(keep=0.5), "between layers of the LLM"),
        ("llava", gp.VisionZip(keep=0.5), "merges tokens"),
        ("llava", gp.TextVisual(keep=0.5), "'clip_patches' is not read"),
        ("qwen2_5_vl", gp.FasterVLM(keep=0.5), "needs a tower with a CLS token"),
        ("gemma3", gp.Spatial(keep=0.5), "gemma3 is not served"),
    ],
)
def test_what_vllm_cannot_run_is_refused_with_what_it_can(family, pruner, message, tmp_path):
    families()[family].tiny_config().save_pretrained(tmp_path)
    with pytest.raises(gp.Unservable, match=message) as raised:
        gp.vllm_overrides(tmp_path, pruner)
    assert ("coverage" in str(raised.value)) == (family != "gemma3")


def test_a_llava_with_a_packed_tower_is_refused(tmp_path):
    config = families()["llava"].tiny_config()
    config.vision_config = PixtralVisionConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config.vision_feature_select_strategy = "full"
    config.save_pretrained(tmp_path)
    with pytest.raises(gp.Unservable, match="its tower, 'pixtral', packs images"):
        gp.vllm_overrides(tmp_path, gp.Spatial(keep=0.5))


def test_windows_in_the_last_block_of_a_tower_are_refused(tmp_path):
    config = families()["qwen2_5_vl"].tiny_config()
    config.vision_config.fullatt_block_indexes = [0]
    config.save_pretrained(tmp_path)
    with pytest.raises(gp.Unservable, match="attends within windows"):
        gp.vllm_overrides(tmp_path, gp.ClsVisual(keep=0.5))


def test_other_policies_are_refused():
    with pytest.raises(gp.GroundPruneError, match="'stretched'"):
        gp.vllm_overrides("pocket", gp.Spatial(keep=0.5), "stretched")


# Images


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("name", SERVED)
def test_one_image_loses_what_gp_prune_drops_of_a_prompt_with_it_alone(family, name):
    model, pruner = tiny_model(family), make_pruner(name, 0.5)
    inputs = tiny_inputs(model, [(1, 3, 4)])
    seen = []

    class Watched(type(pruner)):
        def __call__(self, signals, layout, stage):
            seen.append((signals.projected, {n: v[0] for n, v in signals._record.values.items()}))
            return super().__call__(signals, layout, stage)

    watched = Watched(keep=0.5)
    with gp.prune(model, watched) as run:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    (projected, values), layout = seen[0], run.layout[0]
    pruning = ImagePruning(configured(family, pruner))
    names = [n for n in ("pixel_values", "image_sizes", "image_grid_thw") if n in inputs]
    (unit,) = pruning.units({n: inputs[n] for n in names})
    kept = pruning.kept(unit, projected, values)
    assert kept.equal(run.kept[0])
    assert pruning.count(unit) == len(kept)
    assert pruning.settled == (name == "spatial")
    assert pruning.offsets(unit, kept).equal(layout.position[:, kept] - layout.position[:, :1])


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


# The embedded model, wider


def test_the_wider_pocket_is_the_same_function(tmp_path):
    narrow, wide = checkpoint_path(), write_wide_heads(checkpoint_path(), tmp_path / "wide")
    model, processor = gp.load(narrow)
    other, _ = gp.load(wide)
    assert other.config.text_config.head_dim == WIDE
    scene = Image.fromarray(make_scene(TEST_SEEDS[7]).image)
    text = chat_prompt(processor, "locate the red circle")
    inputs = processor(text=[text], images=[[scene]], return_tensors="pt")
    with torch.no_grad():
        first, second = model(**inputs).logits, other(**inputs).logits
    assert_near(second, first)
    assert first.argmax(-1).equal(second.argmax(-1))
    assert write_wide_heads(narrow, wide) == wide  # there already


# The command line


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def option(arguments, name):
    return arguments[arguments.index(name) + 1]


def test_a_served_model_may_hold_one_image_and_is_as_long_as_that_allows():
    found = serve_arguments("pocket", gp.ClsVisual(keep=0.5))
    assert found[0] == "serve"
    assert option(found, "--served-model-name") == "pocket"
    assert json.loads(option(found, "--limit-mm-per-prompt")) == {"image": 1}
    assert option(found, "--max-model-len") == str(1024 - 72)
    assert option(found, "--dtype") == "float32"
    two = serve_arguments("pocket", gp.ClsVisual(keep=0.5), extra=["--limit_mm_per_prompt", '{"image": 2}'])
    assert option(two, "--max-model-len") == str(1024 - 2 * 72)
    assert two.count("--limit-mm-per-prompt") == 1
    counted = serve_arguments(
        "pocket", gp.ClsVisual(keep=0.5), extra=["--limit-mm-per-prompt", '{"image": {"count": 2}}']
    )
    assert option(counted, "--max-model-len") == str(1024 - 2 * 72)
    others = serve_arguments("pocket", gp.ClsVisual(keep=0.5), extra=['--limit-mm-per-prompt={"video": 0}'])
    assert json.loads(option(others, "--limit-mm-per-prompt")) == {"image": 1, "video": 0}
    assert "--max-model-len" not in serve_arguments("pocket", gp.ClsVisual(keep=1))


def test_the_users_own_options_stay():
    mine = ["-tp", "2", "--max_model_len=500", "--dtype=bfloat16", "--served-model-name", "small"]
    found = serve_arguments("pocket", gp.ClsVisual(keep=0.5), extra=[*mine, "--hf-overrides", '{"a": 1}'])
    assert found[2:4] == ["-tp", "2"]
    assert option(found, "--max-model-len") == "500"
    assert "--dtype" not in found
    assert found.count("--served-model-name") == 1
    overrides = json.loads(option(found, "--hf-overrides"))
    assert overrides["a"] == 1
    assert overrides["groundprune"]["keep"] == "0.5"


def test_chat_prompts_begin_with_the_token_that_the_tokenizer_puts_first():
    """vLLM tokenizes what a chat template gives without special tokens."""
    model, processor = gp.load("pocket")
    file = option(serve_arguments("pocket", gp.ClsVisual(keep=0.5)), "--chat-template")
    template = Path(file).read_text(encoding="utf-8")
    content = [{"type": "image"}, {"type": "text", "text": "locate the red circle"}]
    said = processor.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True,
        bos_token=processor.tokenizer.bos_token,
    )  # fmt: skip
    ids = processor.tokenizer(said, add_special_tokens=False)["input_ids"]
    assert ids == processor.tokenizer(chat_prompt(processor, "locate the red circle"))["input_ids"]
    assert ids[0] == processor.tokenizer.bos_token_id
    assert model.config.image_token_id in ids


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--hf-overrides", "nonsense"], "takes a JSON object"),
        (["--hf-overrides", '{"architectures": ["X"]}'], "may not set"),
        (["--limit-mm-per-prompt", "2"], "takes a JSON object"),
        (["--limit-mm-per-prompt", '{"image": 50}'], "50 images cannot stay"),
        (["--hf-overrides.text_config.rope_theta", "1"], "--hf-overrides as one JSON object"),
        (["--hf-overrides", "{}", "--hf_overrides={}"], "there twice"),
        (["--limit_mm_per_prompt.image", "2"], "--limit-mm-per-prompt as one JSON object"),
        (["--config", "serve.yaml"], "on the command line"),
    ],
)
def test_options_that_make_no_sense_are_refused(extra, message):
    with pytest.raises(gp.GroundPruneError, match=message):
        serve_arguments("pocket", gp.Spatial(tokens=1), extra=extra)


def test_serve_prints_its_command_and_complains_in_one_line(capsys, monkeypatch):
    assert main(["serve", "pocket", "--keep", "0.25", "--dry-run", "--port", "8001"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:2] == ["vllm", "serve"]
    assert option(words, "--port") == "8001"
    monkeypatch.setattr("groundprune.integrations.vllm.versions.DISTRIBUTIONS", ("no-such-distribution",))
    with pytest.raises(gp.GroundPruneError, match="vLLM is not installed"):
        check_version()
    assert main(["serve", "pocket"]) == 2
    assert main(["evaluate", "--engine", "vllm", "--limit", "2"]) == 2
    assert "vLLM is not installed" in capsys.readouterr().err
    assert main(["evaluate", "--tensor-parallel-size", "2"]) == 2
    assert "--tensor-parallel-size needs --engine vllm" in capsys.readouterr().err
    assert main(["evaluate", "--engine", "vllm", "--device", "cuda"]) == 2
    assert "--device needs --engine transformers" in capsys.readouterr().err


def test_why_an_engine_did_not_start_is_one_line():
    ours = gp.GroundPruneError("say it again")
    assert why_ended(ours) is ours

    class Wrapped(ValueError):
        def errors(self):
            return [{"msg": "Value error, wrapped"}, {"msg": "", "ctx": {"error": ours}}]

    assert why_ended(Wrapped()) is ours
    assert str(why_ended(OSError("disk\nfull"))) == "vLLM ended: OSError: disk"
    assert "--gpu-memory-utilization" in str(why_ended(ValueError("too little; Decrease GPU memory utilization.")))
    killed = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'a': -9}")
    assert str(why_ended(killed)) == KILLED


def test_the_first_error_that_ends_an_engine_is_the_cause():
    log = logging.getLogger("vllm.v1.engine.core")
    with cause_of_end() as cause:
        note_cause()
        try:
            for message, text in (
                ("Invocation of a method failed", "0"),
                ("EngineCore failed", "1"),
                ("WorkerProc", "2"),
            ):
                try:
                    raise ValueError(text)
                except ValueError:
                    log.exception(message)
        finally:
            (ours,) = logging.getLogger("vllm").handlers[-1:]
            logging.getLogger("vllm").removeHandler(ours)
        assert str(cause(RuntimeError("see above"))) == "vLLM ended: ValueError: 1"
    with cause_of_end() as cause:
        assert str(cause(RuntimeError("other"))) == "vLLM ended: RuntimeError: other"
