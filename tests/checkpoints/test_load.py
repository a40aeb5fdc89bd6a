import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

import groundprune as gp
from groundprune.checkpoints.load import grounding_of, load
from groundprune.checkpoints.prompts import chat_prompt
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.pocket import checkpoint_path
from groundprune.probes.clip_text import ClipTextTower
from support.checkpoints import save_tiny_llava


@pytest.fixture(scope="module")
def pocket():
    return load()


def test_the_pocket_loads_with_its_own_way_to_ask(pocket):
    model, processor = pocket
    assert grounding_of(model).rec_prompt == "locate {expression}"
    prompt = chat_prompt(processor, "locate the red circle")
    assert prompt.count(processor.image_token) == 1
    assert model.dtype == torch.float32


def test_the_processor_pads_to_the_square_that_boxes_are_measured_in(pocket):
    _, processor = pocket
    image = Image.fromarray(np.full((20, 60, 3), 255, dtype=np.uint8))
    pixels = processor(images=image, text=chat_prompt(processor, "x"), return_tensors="pt")["pixel_values"][0]
    side = pixels.shape[-1]
    top, middle = pixels[:, 2, side // 2], pixels[:, side // 2, side // 2]
    # White stands in the middle third; above lies the padding, the mean colour, which is normalised to about 0.
    assert (middle > 1.5).all()
    assert top.abs().max() < 0.05
    assert (pixels[:, side // 2, 1] > 1.5).all()  # the sides of the image are not cropped away


def test_text_visual_finds_its_text_tower_in_the_checkpoint(pocket):
    model, processor = pocket
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (144, 144, 3), dtype=np.uint8))
    inputs = processor(images=image, text=chat_prompt(processor, "locate the star"), return_tensors="pt")
    found = {}
    for text in ("red circle", "blue star"):
        with gp.prune(model, gp.TextVisual(keep=0.25), text=[text]) as run, torch.no_grad():
            model(**inputs)
        found[text] = run.kept[0]
        clip = CLIPModel.from_pretrained(checkpoint_path() / "clip", dtype=torch.float32)
        hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
        states = hidden.hidden_states[model.config.vision_feature_layer][0, 1:]
        patches = clip.visual_projection(clip.vision_model.post_layernorm(states))
        words = ClipTextTower(checkpoint_path() / "clip").text(text)
        scores = torch.nn.functional.cosine_similarity(patches, words)
        assert run.kept[0].equal(scores.topk(36).indices.sort().values)
    assert not found["red circle"].equal(found["blue star"])


def test_cdpruner_averages_segments_of_77_tokens_and_others_cut():
    """Against the official arithmetic: ids in one row, zeros behind, folded; each row's pooled state projected."""
    folder = checkpoint_path() / "clip"
    tower, clip = ClipTextTower(folder), CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limit = clip.config.text_config.max_position_embeddings
    short, long = "the red circle", "the red circle left of the blue star " * limit
    assert tower.segments(short).equal(tower.text(short))
    given = tokenizer(long, return_tensors="pt", verbose=False)
    count = -(-given["input_ids"].shape[1] // limit)
    assert count > 1
    rest = count * limit - given["input_ids"].shape[1]
    folded = {
        k: torch.nn.functional.pad(given[k], (0, rest)).view(count, limit) for k in ("input_ids", "attention_mask")
    }
    with torch.no_grad():
        wanted = clip.text_projection(clip.text_model(**folded).pooler_output)
    torch.testing.assert_close(tower.segments(long), wanted)
    assert tower.text(long).shape == (1, wanted.shape[1])
    assert not torch.allclose(wanted, wanted[:1].expand_as(wanted), atol=1e-3)


def test_what_stands_behind_77_tokens_counts_in_cdpruner_alone(pocket):
    model, processor = pocket
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (144, 144, 3), dtype=np.uint8))
    inputs = processor(images=image, text=chat_prompt(processor, "locate the star"), return_tensors="pt")
    kept = {}
    for pruner in (gp.CDPruner, gp.Trim, gp.TextVisual):
        for end in ("yellow triangle", "blue star"):
            text = "the red circle " * 40 + f"the {end} " * 40
            with gp.prune(model, pruner(keep=0.25), text=[text]) as run, torch.no_grad():
                model(**inputs)
            kept[pruner, end] = run.kept[0]
    same = {p: kept[p, "yellow triangle"].equal(kept[p, "blue star"]) for p, _ in kept}
    assert same == {gp.CDPruner: False, gp.Trim: True, gp.TextVisual: True}


@pytest.fixture
def without_tower():
    return tiny_model("llava", side=6)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    """transformers would fill them in at random and go on."""
    folder = tmp_path / "pocket"
    shutil.copytree(checkpoint_path(), folder)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "q_proj" in name)
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(gp.GroundPruneError, match="lacks 1 of the model's weights"):
        load(folder)


def test_text_visual_without_a_text_tower_is_refused_with_the_option_to_give(without_tower):
    with (
        pytest.raises(gp.Unservable, match="--text-tower"),
        gp.prune(without_tower, gp.TextVisual(keep=0.5), text=["a"]),
    ):
        pass


def test_text_visual_without_text_is_refused(without_tower):
    with pytest.raises(gp.Unservable, match=r"text=\["), gp.prune(without_tower, gp.TextVisual(keep=0.5)):
        pass


def test_a_text_tower_of_another_vision_tower_is_refused(without_tower, pocket):
    model = without_tower
    inputs = tiny_inputs(model, [(1, 2, 2)])
    with (
        gp.prune(model, gp.TextVisual(keep=0.5), text=["a"], text_tower=checkpoint_path() / "clip"),
        pytest.raises(gp.GroundPruneError, match=r"width 128.* 32"),
    ):
        model(**inputs)


def test_a_folder_without_a_clip_checkpoint_is_named(tmp_path):
    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(gp.GroundPruneError, match="no CLIP checkpoint at"):
        ClipTextTower(tmp_path)


def test_grounding_json_with_an_unknown_key_names_the_allowed(tmp_path, without_tower):
    without_tower.config._name_or_path = str(tmp_path)
    (tmp_path / "grounding.json").write_text(json.dumps({"rec_promt": "x"}))
    with pytest.raises(gp.GroundPruneError, match=r"rec_promt.*rec_prompt"):
        grounding_of(without_tower)
    (tmp_path / "grounding.json").write_text("[")
    with pytest.raises(gp.GroundPruneError, match="no JSON object"):
        grounding_of(without_tower)


class TestDtypeAndDevice:
    """One rule for `gp.load` and the command line."""

    @pytest.fixture
    def checkpoint(self, tmp_path):
        folder = save_tiny_llava(tmp_path / "half")
        load(folder)[0].to(torch.bfloat16).save_pretrained(folder)
        return folder

    @pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
    def test_fp32_on_a_cpu_and_what_is_asked_for(self, checkpoint):
        assert load(checkpoint)[0].dtype == torch.float32
        assert load(checkpoint, "cpu", "auto")[0].dtype == torch.float32
        for dtype in ("bfloat16", torch.float16):
            assert str(load(checkpoint, dtype=dtype)[0].dtype).endswith(str(dtype).removeprefix("torch."))

    def test_the_gpu_and_the_checkpoints_own_dtype_where_there_is_one(self, checkpoint, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        moved = []
        monkeypatch.setattr(torch.nn.Module, "to", lambda self, place, *_, **__: (moved.append(place), self)[1])
        model, _ = load(checkpoint)
        assert model.dtype == torch.bfloat16
        assert moved[-1] == torch.device("cuda")

    @pytest.mark.parametrize(("options", "says"), [
        ({"dtype": "float23"}, "did you mean 'float32'"), ({"device": "warp:9"}, "device 'warp:9' cannot be used"),
        ({"device": "meta"}, "device 'meta' cannot be used"),
    ])  # fmt: skip
    def test_what_there_is_not(self, checkpoint, options, says):
        with pytest.raises(gp.GroundPruneError, match=says):
            load(checkpoint, **options)


def test_a_hub_out_of_reach_is_asked_once(monkeypatch):
    asked = []

    def head(*_, **__):
        asked.append(1)
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=head))
    with pytest.raises(
        gp.GroundPruneError, match="no checkpoint at 'nobody/nothing': no such folder, and the Hub is"
    ):
        load("nobody/nothing")
    assert len(asked) == 1
