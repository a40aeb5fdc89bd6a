"""vLLM and transformers give the same log-probabilities, token by token, whatever is pruned."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import SiglipVisionConfig

import groundprune as gp
from groundprune.checkpoints.load import read_config
from groundprune.families import families
from groundprune.families.tiny_parts import tiny_siglip
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.limits import rotary_length
from groundprune.integrations.vllm.settings import Settings
from groundprune.pruners import make_pruner
from support.engines import (
    TOLERANCE,
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

# Of each family two images; with other shapes than these a share would be rounded otherwise for both together.
SIZES = {
    "llava": [(48, 48), (30, 60)], "llava_next": [(40, 24), (36, 40)],
    "qwen2_5_vl": [(48, 32), (64, 48)], "qwen3_vl": [(128, 64), (96, 96)],
    "qwen2_vl": [(48, 32), (64, 48)], "llava_onevision": [(64, 32), (48, 32)], "internvl": [(64, 32), (96, 64)],
    "idefics3": [(64, 64), (64, 32)], "smolvlm": [(64, 64), (64, 32)], "mistral3": [(48, 32), (64, 48)],
}  # fmt: skip
EVERY = ["random", "spatial", "cls-visual", "divprune", "coverage", "fastervlm", "vidcom2"]
# Of families that are like another, the pruners that say something new.
FEW = {
    "qwen2_vl": ["random", "spatial", "cls-visual"],
    "llava_onevision": ["random", "spatial", "cls-visual", "divprune"],
    "internvl": ["random", "spatial", "cls-visual", "divprune", "fastervlm"],
}  # fmt: skip
CASES = [("llava", name, keep) for name in EVERY for keep in (0.5, 1)]
CASES += [(family, name, 0.5) for family in SIZES if family != "llava" for name in FEW.get(family, EVERY[:5])]
CASES += [(family, "cls-visual", 1) for family in SIZES if family != "llava"]
CASES += [(family, "spatial", 1) for family in SIZES if family != "llava" and family not in FEW]
LIKE_ANOTHER = [
    (family, name, keep) for family, name, keep in CASES
    if family == "smolvlm"
    or (keep == 1 and name not in (("cls-visual", "spatial") if family in ("llava", "qwen3_vl") else ("cls-visual",)))
    or (keep == 0.5 and name in ("random", "coverage") and family != "llava")
    or (keep == 0.5 and name == "divprune" and family not in ("llava", "qwen3_vl"))
]  # fmt: skip


def rotary_tables(model):
    """Lengths of those of the language model."""
    modules = model.get_language_model().modules()
    return {len(module.cos_sin_cache) for module in modules if hasattr(module, "cos_sin_cache")}


def configured(folder, pruner):
    config = read_config(folder)
    config.groundprune = vars(Settings.of(pruner))
    return config


def watch_addresses(model):
    """From now on, where in memory the language model's positions are."""
    model.addresses, stock = set(), model.language_model.model.forward

    def forward(*args, **kwargs):  # no hook: vLLM's models that can be compiled do not call any
        model.addresses.add((kwargs["positions"] if "positions" in kwargs else args[1]).data_ptr())
        return stock(*args, **kwargs)

    model.language_model.model.forward = forward


def test_positions_are_always_in_the_same_place(checkpoint):
    """A CUDA graph is captured once, and reads what then lies where its inputs were."""
    for family in ("llava", "qwen2_5_vl"):
        folder, _, processor = checkpoint(family)
        with engine(folder, gp.ClsVisual(keep=0.5)) as llm:
            llm.apply_model(watch_addresses)
            by_vllm(llm, requests(family, processor))
            by_vllm(llm, requests(family, processor)[2:])
            (addresses,) = llm.apply_model(lambda model: model.addresses)
        assert len(addresses) == 1


def requests(family, processor):
    """One image, two images, text alone."""
    one, two = (photo(i, *size) for i, size in enumerate(SIZES[family]))
    return [
        (prompt(processor, 1, "the red circle w20"), [one]),
        (prompt(processor, 2, "w30 circle w40 w41 the"), [two, one]),
        (prompt(processor, 0, "the red w50 w51"), []),
    ]


@pytest.mark.parametrize(("family", "name", "keep"), sparing(CASES, LIKE_ANOTHER))
def test_vllm_says_what_transformers_says(family, name, keep, checkpoint):
    folder, model, processor = checkpoint(family)
    pruner, given = make_pruner(name, keep), requests(family, processor)
    expected = by_transformers(model, processor, given, pruner)
    with engine(folder, pruner) as llm:
        found = by_vllm(llm, given)
    assert [said.columns for said in found] == [said.columns for said in expected]
    assert difference(found, expected) < TOLERANCE
    assert [said.ids for said in found] == [said.ids for said in expected]


@pytest.mark.parametrize("family", SIZES)
def test_a_renumbered_engine_says_something_else(family, checkpoint):
    folder, model, processor = checkpoint(family)
    pruner, given = gp.ClsVisual(keep=0.5), requests(family, processor)
    with engine(folder, pruner, "reassigned") as llm:
        found = by_vllm(llm, given)
        (tables,) = llm.apply_model(rotary_tables)
    assert tables == {rotary_length(ImagePruning(configured(folder, pruner)))}
    assert difference(found, by_transformers(model, processor, given, pruner, "reassigned")) < TOLERANCE
    preserved = by_transformers(model, processor, given, pruner)
    assert difference(found[:1], preserved[:1]) > 1
    assert difference(found[1:2], preserved[1:2]) > 1
    assert difference(found[2:], preserved[2:]) < TOLERANCE  # without an image there is nothing to renumber


def test_a_tower_without_a_cls_token(tmp_path):
    config = families()["llava"].tiny_config()
    config.vision_config = SiglipVisionConfig(**tiny_siglip(6))
    config.vision_feature_select_strategy = "full"
    folder = save_checkpoint("llava", tmp_path / "siglip", config)
    about = json.loads((folder / "processor_config.json").read_text())
    about |= {"num_additional_image_tokens": 0, "vision_feature_select_strategy": "full"}
    (folder / "processor_config.json").write_text(json.dumps(about))
    model, processor = gp.load(folder)
    pruner, given = gp.Coverage(keep=0.5), requests("llava", processor)
    with engine(folder, pruner) as llm:
        found = by_vllm(llm, given)
    assert difference(found, by_transformers(model, processor, given, pruner)) < TOLERANCE


def with_older_names(folder, target):
    """A copy whose SigLIP tower is named as before transformers 5, which is what vLLM's own classes load."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    older = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    save_file(older, target / "model.safetensors")
    return target


@pytest.mark.parametrize("family", ["llava_onevision", "internvl"])
def test_videos_lose_nothing(family, checkpoint, tmp_path):
    """Against vLLM's own class; the image of the second prompt loses nothing either."""
    # vLLM's own class knows no other limit of tiles than LLaVA-OneVision's 9.
    folder, _, processor = checkpoint(family, **({"tiles": 9} if family == "llava_onevision" else {}))
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    about = {"fps": 2.0, "duration": 2.0, "total_num_frames": 4, "frames_indices": list(range(4)),
             "video_backend": "opencv", "do_sample_frames": False}  # fmt: skip
    alone = {"prompt": "the <video> red circle", "multi_modal_data": {"video": [(frames, about)]}}
    image = prompt(processor, 1, "w20 <video> circle")
    both = {"prompt": image, "multi_modal_data": {"image": [photo(0)], "video": [(frames, about)]}}
    said = {}
    for keep, overrides in (("stock", {}), (0.5, None), (1, None)):
        pruner = gp.ClsVisual(keep=1 if overrides is not None else keep)
        limits = {"image": 1, "video": 1}
        stock = family == "llava_onevision" and overrides is not None
        named = with_older_names(folder, tmp_path / "older") if stock else folder
        with engine(named, pruner, overrides=overrides, limit_mm_per_prompt=limits) as llm:
            said[keep] = say(llm, [alone, both])
    assert difference(said[0.5][:1], said["stock"][:1]) < TOLERANCE
    assert difference(said[1], said["stock"]) < TOLERANCE
    assert said[0.5][1].columns < said[1][1].columns
