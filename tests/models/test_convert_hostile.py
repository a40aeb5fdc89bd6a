"""Files and options that nothing can be made of: refused in one line, whatever is wrong, and nothing is left."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundprune.cli import main
from groundprune.errors import GroundPruneError
from support.converting import minigpt_into, refused, shikra_into

CONFIGS = [
    ("delta", {"hidden_size": "many"}, r"hidden_size must be a whole number above 0 \(got 'many'\)"),
    ("delta", {"num_attention_heads": 7}, r"num_attention_heads must divide hidden_size \(got 7 and 64\)"),
    ("delta", {"num_attention_heads": 0}, "num_attention_heads must be a whole number above 0"),
    ("delta", {"num_hidden_layers": True}, "num_hidden_layers must be a whole number"),
    ("delta", {"rms_norm_eps": float("nan")}, r"rms_norm_eps must be a number above 0 \(got nan\)"),
    ("delta", {"rope_theta": "1e4"}, "rope_theta must be a number"),
    ("delta", {"rope_scaling": {"type": "none such", "factor": -1}}, "Shikra|Llama|model"),
    ("delta", {"hidden_act": "none such"}, "the configs make no model"),
    ("delta", {"num_key_value_heads": 3}, "model|shape"),
    ("delta", {"mm_vision_select_layer": "last"}, r"mm_vision_select_layer must be one .* \(got 'last'\)"),
    ("delta", {"mm_vision_select_layer": -9}, r"tower's 4 blocks, 1 to 4 or -4 to -1 \(got -9\)"),
    ("delta", {"mm_vision_select_layer": 5}, r"\(got 5\)"),
    ("delta", {"mm_vision_select_layer": 0}, r"\(got 0\)"),
    ("delta", {"mm_vision_select_layer": -1.5}, r"\(got -1\.5\)"),
    ("delta", {"mm_vision_select_layer": [-2]}, r"\(got \[-2\]\)"),
    ("delta", {"mm_vision_select_layer": None}, r"\(got None\)"),
    ("llama", {"vocab_size": "many"}, "says a vocabulary of many"),
    ("clip", {"hidden_size": "many"}, "hidden_size must be a whole number"),
    ("clip", {"num_attention_heads": 7}, "num_attention_heads must divide"),
    ("clip", {"patch_size": 0}, "patch_size must be a whole number above 0"),
    ("clip", {"patch_size": 448}, "an image holds no patch"),
    ("clip", {"layer_norm_eps": float("inf")}, "layer_norm_eps must be a number above 0"),
    ("clip", {"hidden_act": 3}, "CLIP config|no model"),
    ("clip", {"vision_config": 3}, "no CLIP config|do not make"),
]


@pytest.mark.parametrize(("folder", "change", "says"), CONFIGS)
def test_configs(files, folder, change, says):
    file = files / "shikra" / folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    refused(files, shikra_into, says)


@pytest.mark.parametrize("content", ["{}", "[]", "3", "nonsense", '{"version": "1.0", "model": {}}', ""])
@pytest.mark.parametrize("name", ["shikra", "minigpt"])
def test_tokenizers(files, content, name):
    (files / name / "llama" / "tokenizer.json").write_text(content)
    refused(files, {"shikra": shikra_into, "minigpt": minigpt_into}[name], r"tokenizer\.json")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 0, -16, True, "many"])
@pytest.mark.parametrize("where", ["option", "checkpoint"])
def test_alphas(files, alpha, where):
    given = {"lora_alpha": alpha} if where == "option" else {}
    if not given:
        file = files / "minigpt" / "minigptv2_checkpoint.pth"
        content = torch.load(file, weights_only=True)
        torch.save({**content, "config": {"model": {"lora_alpha": alpha}}}, file)
    refused(files, lambda files: minigpt_into(files, **given), "lora_alpha must be a number above 0")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize(
    ("file", "name"),
    [("llama/model.safetensors", "model.norm.weight"), ("clip/model.safetensors", "vision_model.pre_layrnorm.bias")],
)
def test_weights_that_are_no_numbers(files, file, name, value):
    """1e6 is one, and infinite in the half precision of the result."""
    path = files / "shikra" / file
    tensors = load_file(path)
    tensors[name] = tensors[name].float()
    tensors[name][1] = value
    save_file(tensors, path)
    refused(files, shikra_into, r"(norm\.weight|layrnorm\.bias).* holds 1 values of \d+ that are NaN or infinite")


@pytest.mark.parametrize("tensor", [torch.tensor(3.0), torch.zeros(0), torch.ones(2, 2, 2, 2, 2)])
@pytest.mark.parametrize("name", ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.q_bias"])
def test_odd_shapes_in_the_tower(files, name, tensor):
    path = files / "minigpt" / "eva_vit_g.pth"
    torch.save({**torch.load(path, weights_only=True), name: tensor}, path)
    refused(files, minigpt_into, "MiniGPT|shape|must|no model")


def test_nan_and_integers_in_the_lora_and_the_tower(files):
    path = files / "minigpt" / "minigptv2_checkpoint.pth"
    whole = torch.load(path, weights_only=True)
    for change, says in ((float("nan"), "NaN or infinite"), (None, "quantised")):
        weights = {name: tensor.clone() for name, tensor in whole["model"].items()}
        name = next(name for name in weights if "lora_B" in name)
        if change is None:
            weights[name] = weights[name].to(torch.int8)
        else:
            weights[name][0, 0] = change
        torch.save({**whole, "model": weights}, path)
        refused(files, minigpt_into, rf"lora_B.*{says}")
    torch.save(whole, path)
    minigpt_into(files)  # what was refused is not in the way


def test_on_the_command_line(files, capsys):
    folder = files / "minigpt"
    words = [
        "convert", "minigpt-v2", "--checkpoint", folder / "minigptv2_checkpoint.pth",
        "--eva", folder / "eva_vit_g.pth", "--llama", folder / "llama", "--image-size", 112, "--tower-depth", 3,
        "--tower-heads", 4, "--lora-alpha", "nan", files / "out",
    ]  # fmt: skip
    assert main([*map(str, words)]) == 2
    assert capsys.readouterr().err == "groundprune: lora_alpha must be a number above 0 (got nan)\n"
    with pytest.raises(GroundPruneError):
        minigpt_into(files, lora_alpha=float("nan"))
