"""What vLLM is told of a pruner, and what it cannot run; no vLLM is needed."""

import json
from types import SimpleNamespace

import pytest
from transformers import PixtralVisionConfig

import groundprune as gp
from groundprune.families import families
from groundprune.integrations.vllm.settings import ARCHITECTURES, Settings
from groundprune.pruners import make_pruner


def same(found, pruner):
    """But for the words in which the budget is said."""
    of = [{**vars(each), "keep": None, "tokens": None} for each in (found, pruner)]
    return type(found) is type(pruner) and of[0] == of[1]


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


def test_where_a_pruner_file_lies_is_told_to_nobody(tmp_path):
    settings = Settings(f"{tmp_path}/mine.py:Mine", keep="0.5")
    assert settings.public == {**settings.to_dict(), "pruner": "mine.py:Mine"}
    assert Settings("cls-visual", keep="0.5").public["pruner"] == "cls-visual"


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
        ("llava_onevision", gp.FasterVLM(keep=0.5), "needs a tower with a CLS token"),
        ("llava_onevision", gp.EVS(keep=0.5), "videos, and inside of vLLM those of llava_onevision lose nothing"),
        ("minigpt-v2", gp.Spatial(keep=0.5), "minigpt-v2 is not served"),
        ("paligemma", gp.Spatial(keep=0.5), "paligemma reads images in both directions; "),
        ("gemma3", gp.Spatial(keep=0.5), "gemma3 reads images in both directions and through sliding windows"),
    ],
)
def test_what_vllm_cannot_run_is_refused_with_what_it_can(family, pruner, message, tmp_path):
    families()[family].tiny_config().save_pretrained(tmp_path)
    with pytest.raises(gp.Unservable, match=message) as raised:
        gp.vllm_overrides(tmp_path, pruner)
    assert ("coverage" in str(raised.value)) == (family in ARCHITECTURES)


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


def test_an_earlier_layer_of_a_tower_that_vllm_reads_at_its_end_is_refused(tmp_path):
    config = families()["internvl"].tiny_config()
    config.save_pretrained(tmp_path / "last")
    gp.vllm_overrides(tmp_path / "last", gp.FasterVLM(keep=0.5))
    config.vision_feature_layer = -2
    config.save_pretrained(tmp_path / "earlier")
    with pytest.raises(gp.Unservable, match=r"read at the end \(vision_feature_layer -2\)"):
        gp.vllm_overrides(tmp_path / "earlier", gp.Spatial(keep=0.5))


def test_other_policies_are_refused():
    with pytest.raises(gp.GroundPruneError, match="'stretched'"):
        gp.vllm_overrides("pocket", gp.Spatial(keep=0.5), "stretched")
