"""`study table1`, and a model in the shape of LLaVA-1.5."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from groundprune.cli import main
from groundprune.errors import GroundPruneError
from groundprune.evaluation import Runner, read_rows, read_summary
from groundprune.exactness.tiny import tiny_of
from groundprune.studies.parts.requirements import MODELS, read_checkpoints
from groundprune.studies.table1 import DATA, plan, settings, table1
from support.checkpoints import save_tiny, save_tiny_llava
from support.official import write_images, write_refcoco


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    write_images(folder / "coco" / "train2014")
    write_refcoco(folder)
    return folder


class TestPlan:
    def test_every_cell_is_there_once(self, tmp_path):
        cells = plan({}, tmp_path)
        assert len({(c.model, c.data, c.setting) for c in cells}) == len(cells) == 5 * 9 * 13
        assert len(settings()) == 13
        assert all(cell.missing for cell in cells)

    def test_published_values_and_no_others(self, tmp_path):
        cells = {(c.model, c.data, c.setting): c.published for c in plan({}, tmp_path)}
        assert cells["llava-1.5-7b", "refcoco:val", "unpruned"] == 56.14
        assert cells["llava-1.5-7b", "refcoco:val", "cls-visual/keep=0.5/reassigned"] == 15.34
        assert cells["llava-1.5-7b", "refcoco:val", "cls-visual/keep=0.5/preserved"] == 51.42
        assert cells["shikra", "refcoco+:testB", "unpruned"] == 72.12
        assert cells["minigpt-v2", "refcocog:test", "unpruned"] == 84.66
        assert sum(value is not None for value in cells.values()) == 2 * 8 + 5 + 2

    def test_what_is_missing_is_named(self, root, tmp_path):
        places = tmp_path / "c.toml"
        places.write_text('[llava-next]\ncheckpoint = "next"\n[shikra]\ncheckpoint = "nowhere"\n')
        save_tiny("llava_next", tmp_path / "next")
        cells = {(c.model, c.data, c.setting): c for c in plan(read_checkpoints(places), root)}
        assert cells["llava-next", "refcoco:val", "unpruned"].missing is None
        assert "text_tower of llava-next" in cells["llava-next", "refcoco:val", "trim/keep=0.5/preserved"].missing
        assert "gqa" in cells["llava-next", "gqa:testdev", "unpruned"].missing
        both = cells["llava-1.5-7b", "gqa:testdev", "trim/keep=0.5/preserved"].missing
        for lack in ("a checkpoint of llava-1.5-7b", "text_tower of llava-1.5-7b", "testdev_balanced", "gqa/images"):
            assert lack in both, "all that a cell lacks is named"
        assert "144 patches" not in (cells["llava-next", "refcoco:val", "unpruned"].warning or "")
        assert str(tmp_path / "nowhere") in cells["shikra", "refcoco:val", "unpruned"].missing
        assert "checkpoint of llava-1.5-13b" in cells["llava-1.5-13b", "refcoco:val", "unpruned"].missing
        # EVA-CLIP has no text side: no checkpoint would help.
        assert "CLIP" in cells["minigpt-v2", "refcoco:val", "text-visual/keep=0.5/preserved"].missing

    def test_hours(self, tmp_path):
        cells = {(c.model, c.data, c.setting): c.hours for c in plan({}, tmp_path)}
        one, other = (cells["llava-1.5-7b", "refcoco:val", s] for s in ("unpruned", "random/keep=0.5/preserved"))
        # 10834 prompts of 636 tokens, 2 x 6.7e9 a token, at 200e12; 10834 / 64 batches of 30 tokens of 13.4e9 bytes.
        assert one == pytest.approx((10834 * 636 * 2 * 6.7e9 / 200e12 + 10834 / 64 * 30 * 13.4e9 / 2e12) / 3600)
        assert 0 < other < one < cells["llava-1.5-13b", "refcoco:val", "unpruned"]
        assert cells["shikra", "gqa:testdev", "unpruned"] is None

    def test_on_the_command_line(self, tmp_path, capsys):
        assert main(["study", "table1", "--plan", "--data-root", str(tmp_path), "--model", "shikra"]) == 0
        out = capsys.readouterr().out
        assert "shikra          0 of 117" in out
        assert "  117  a checkpoint of shikra in the TOML file" in out
        assert main(["study", "table1", "--plan", "--data-root", str(tmp_path)]) == 0
        whole = capsys.readouterr().out
        assert "585 cells, 0 ready; " in whole
        assert whole.count("\n") <= 40, "one screen"
        assert "117 cells, 0 ready; " in out
        assert "estimate, nothing was measured" in out
        assert main(["study", "table1"]) == 2
        assert "--checkpoints" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_what_its_name_says_is_warned_of(root, tmp_path, capsys):
    """Ready, but not LLaVA-1.5-7B; a folder without a checkpoint, and images that are not there, are not ready."""
    save_tiny_llava(tmp_path / "small", side=12)
    save_llava_15(tmp_path / "narrow")
    (tmp_path / "empty").mkdir()
    places = '["llava-1.5-7b"]\ncheckpoint = "small"\n["llava-1.5-13b"]\ncheckpoint = "narrow"\n'
    places += '[llava-next]\ncheckpoint = "small"\n[shikra]\ncheckpoint = "empty"\n'
    (tmp_path / "c.toml").write_text(places)
    words = ["study", "table1", "--plan", "--data-root", str(root), "--data", "refcoco:val", "--checkpoints"]
    assert main([*words, str(tmp_path / "c.toml")]) == 0
    out, err = capsys.readouterr()
    assert "the checkpoint of llava-1.5-7b is not what its name says: 144 patches of an image, not 576" in err
    assert "llava-1.5-13b is not what its name says: an LLM of" in err
    assert "llava-next is not what its name says: model type llava, not llava_next" in err
    assert err.count("\n") == 3
    assert "a checkpoint in its folder (no checkpoint at" in out
    assert main([*words, str(tmp_path / "c.toml"), "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert {c["missing"] for c in cells if (c["model"], c["setting"]) == ("llava-1.5-7b", "unpruned")} == {None}
    shutil.rmtree(root / "coco")
    assert main([*words, str(tmp_path / "c.toml")]) == 0
    assert "coco/train2014" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[llava]\ncheckpoint = 'a'", "unknown model in .*did you mean 'llava-next'"),
        ("[shikra]\n", "give checkpoint"),
        ("shikra = 'a'", "give checkpoint"),
        ("[shikra]\ncheckpoint = 3", "must be text"),
        ("[shikra]\ncheckpoint = 'a'\ntower = 'b'", "give checkpoint"),
        ("[shikra", "is no TOML"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, content, message):
    (tmp_path / "c.toml").write_text(content)
    with pytest.raises(GroundPruneError, match=message):
        read_checkpoints(tmp_path / "c.toml")


def test_what_can_be_run_is_run_and_stands_beside_the_published(root, tmp_path, capsys, monkeypatch):
    save_tiny("llava", tmp_path / "tiny")
    (tmp_path / "c.toml").write_text('["llava-1.5-7b"]\ncheckpoint = "tiny"\n')
    words = ["study", "table1", "--checkpoints", str(tmp_path / "c.toml"), "--data-root", str(root), "--out"]
    words += [str(tmp_path / "out"), "--model", "llava-1.5-7b", "--data", "refcoco:val,gqa:testdev", "--limit", "2"]
    assert main([*words, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    ran = {c["setting"]: c for c in cells if c["ours"] is not None}
    assert len(ran) == 1 + 4 * 2  # the two that read the text have no text tower
    assert {c["data"] for c in ran.values()} == {"refcoco:val"}
    assert {c["samples"] for c in ran.values()} == {2}
    assert ran["unpruned"]["difference"] == round(ran["unpruned"]["ours"] - 56.14, 2)
    assert ran["random/keep=0.5/preserved"]["difference"] is None
    summary = read_summary(tmp_path / "out" / "table1" / "llava-1.5-7b" / "refcoco-val")
    assert (summary.run["protocol"], summary.complete) == ("paper", True)
    monkeypatch.setattr(Runner, "prepare", lambda *given: pytest.fail("nothing was missing"))
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count("unknown") == 2 * 13 - 3
    assert "56.14" in out
    assert "text_tower of llava-1.5-7b" in out
    assert "MiniGPT-v2 on RefCOCO val: the paper has 2.73" in out


def test_unknown_names(tmp_path):
    with pytest.raises(GroundPruneError, match="unknown model of table 1"):
        table1({}, tmp_path, tmp_path, ["qwen"])
    with pytest.raises(GroundPruneError, match="unknown data of table 1"):
        plan({}, tmp_path, MODELS, [*DATA, "refcoco:train"])


def save_llava_15(folder):
    """LLaVA-1.5's image side as it is: CLIP ViT-L/14 at 336 px and the published processor settings; layers are few,
    and the LLM, of LLaMA's vocabulary, is narrow."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=16, image_size=336,
            patch_size=14, projection_dim=768,
        ),
        text_config=LlamaConfig(
            hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2, vocab_size=32064,
            max_position_embeddings=4096, pad_token_id=32001,
        ),
        image_token_index=32000, vision_feature_layer=-2, image_seq_length=576,
    )  # fmt: skip
    model = tiny_of(config)
    model.generation_config.pad_token_id = 32001
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(32000)} | {"<image>": 32000, "<pad>": 32001}
    words = {("<unk>", "<s>", "</s>")[i] if i < 3 else word: i for word, i in words.items()}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left",
    )  # fmt: skip
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}), fast,
        patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template="{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}ASSISTANT:",
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def test_the_shape_of_llava_15_in_both_protocols(root, tmp_path):
    model = save_llava_15(tmp_path / "model")
    words = ["evaluate", "--model", model, "--data", "refcoco:val", "--data-root", str(root), "--limit", "1"]
    words += ["--pruner", "cls-visual", "--keep", "0.5", "--positions", "preserved,reassigned"]
    for protocol in ("native", "paper"):
        out = tmp_path / protocol
        assert main([*words, "--protocol", protocol, "--out", str(out)]) == 0
        rows = read_rows(out / "samples.jsonl").values()
        assert {(row["setting"], row["kept"]) for row in rows} == {
            ("unpruned", 576), ("cls-visual/keep=0.5/preserved", 288), ("cls-visual/keep=0.5/reassigned", 288),
        }  # fmt: skip
        assert all(row["answer"] for row in rows)
        grounding = read_summary(out).run["grounding"]
        assert (grounding["frame"], len(rows)) == ("padded" if protocol == "native" else "original", 3)
        assert (out / "report.html").is_file()
