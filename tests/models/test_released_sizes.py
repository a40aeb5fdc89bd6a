"""Names and shapes of the 7B files (zeros that take no room) against the models of that size; none is written."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import CLIPVisionConfig, CLIPVisionModel

from groundprune.models.convert import convert_minigpt_v2, convert_shikra, result
from groundprune.models.minigpt_v2 import MiniGPTv2Config
from groundprune.models.shikra import ShikraConfig

LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}


class Planned(Exception):
    pass


@pytest.fixture
def planned(monkeypatch):
    """planned(convert, *paths): what `convert` would write, after all of its checks."""

    def write(plan, partial, progress):
        raise Planned(plan)

    def run(convert, *paths):
        with pytest.raises(Planned) as found:
            convert(*paths)
        return found.value.args[0]

    monkeypatch.setattr(result.Result, "_write", write)
    return run


def save(file, shapes):
    file.parent.mkdir(exist_ok=True)
    zero = torch.zeros(1, dtype=torch.float16)
    found = {name: zero.expand(shape) for name, shape in shapes.items()}
    torch.save({"model": found} if file.name == "minigpt.pth" else found, file)


def llama_files(folder, vocabulary, **config):
    d, m = 4096, 11008
    shapes = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (vocabulary, d))
    shapes["model.norm.weight"] = (d,)
    for i in range(32):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}self_attn.{k}_proj.weight": (d, d) for k in "qkvo"}
        shapes |= {f"{layer}{k}_layernorm.weight": (d,) for k in ("input", "post_attention")}
        shapes |= {f"{layer}mlp.{k}_proj.weight": (m, d) for k in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": (d, m), f"{layer}self_attn.rotary_emb.inv_freq": (64,)}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, "vocab_size": vocabulary, **config}))
    words = ["<unk>", "<s>", "</s>", *(f"\u2581w{i}" for i in range(3, 32000))]
    tokenizer = Tokenizer(models.Unigram([(word, 0.0) for word in words], unk_id=0))
    tokenizer.normalizer = normalizers.Prepend("\u2581")
    tokenizer.save(str(folder / "tokenizer.json"))
    return shapes


def test_shikra(tmp_path, planned):
    base, delta, clip = (tmp_path / name for name in ("base", "delta", "clip"))
    shapes = llama_files(base, 32000)
    save(base / "pytorch_model.bin", shapes)
    shapes = llama_files(delta, 32003, model_type="shikra", pad_token_id=-1, mm_vision_select_layer=-2)
    projector = {"model.mm_projector.weight": (4096, 1024), "model.mm_projector.bias": (4096,)}
    save(delta / "pytorch_model.bin", shapes | projector)
    clip.mkdir()
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
    )
    vision.save_pretrained(clip)
    with torch.device("meta"):
        tower = {f"vision_model.{n}": t.shape for n, t in CLIPVisionModel(vision).state_dict().items()}
    unused = {"text_model.embeddings.position_ids": (1, 77), "logit_scale": (1,)}
    save(clip / "pytorch_model.bin", tower | unused)
    plan = planned(convert_shikra, delta, base, clip, tmp_path / "out")
    assert len(plan.parts) == 291 + 2 + 391
    assert sum(torch.Size(p.shape).numel() for p in plan.parts.values()) == pytest.approx(7.05e9, rel=0.01)
    text = plan.config.text_config
    assert (text.vocab_size, text.pad_token_id, text.bos_token_id, text.eos_token_id) == (32003, 0, 1, 2)
    assert plan.config.to_dict() == ShikraConfig().to_dict() | {
        name: plan.config.to_dict()[name] for name in ("text_config", "vision_config")
    }


def test_minigpt_v2(tmp_path, planned):
    shapes = llama_files(tmp_path / "llama", 32000, rms_norm_eps=1e-5, max_position_embeddings=4096)
    save(tmp_path / "llama" / "pytorch_model.bin", shapes)
    trained = {"llama_proj.weight": (4096, 5632), "llama_proj.bias": (4096,)}
    for i in range(32):
        for k in "qv":
            lora = f"llama_model.base_model.model.model.layers.{i}.self_attn.{k}_proj.lora_"
            trained |= {f"{lora}A.weight": (64, 4096), f"{lora}B.weight": (4096, 64)}
    assert len(trained) == 130
    save(tmp_path / "minigpt.pth", trained)
    w, m = 1408, 6144
    tower = {"cls_token": (1, 1, w), "pos_embed": (1, 257, w), "norm.weight": (w,), "norm.bias": (w,)}
    tower |= {"patch_embed.proj.weight": (w, 3, 14, 14), "patch_embed.proj.bias": (w,)}
    for i in range(40):
        block = {"attn.q_bias": (w,), "attn.v_bias": (w,), "attn.qkv.weight": (3 * w, w), "mlp.fc1.bias": (m,)}
        block |= {f"{k}.{part}": (w,) for k in ("norm1", "norm2") for part in ("weight", "bias")}
        block |= {"attn.proj.weight": (w, w), "attn.proj.bias": (w,), "mlp.fc2.bias": (w,)}
        block |= {"mlp.fc1.weight": (m, w), "mlp.fc2.weight": (w, m)}
        tower |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    save(tmp_path / "eva_vit_g.pth", tower)
    files = (tmp_path / "minigpt.pth", tmp_path / "eva_vit_g.pth", tmp_path / "llama", tmp_path / "out")
    plan = planned(convert_minigpt_v2, *files)
    assert len(plan.parts) == 291 + 4 + 39 * 12 + 4
    assert plan.settings["lora_alpha"] == 16
    assert plan.config.to_dict() == MiniGPTv2Config().to_dict() | {
        name: plan.config.to_dict()[name] for name in ("text_config", "vision_config")
    }
    assert plan.config.vision_config.to_dict() == MiniGPTv2Config().vision_config.to_dict()
