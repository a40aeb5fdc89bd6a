"""From the published files to a checkpoint: exact sums, and nothing where the files do not fit."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import groundprune as gp
from groundprune.cli import main
from groundprune.models.convert import result
from groundprune.models.convert.weights import Weights
from support.converting import minigpt_into, refused, shikra_into, weights
from support.originals import MINIGPT, SHIKRA


class TestShikra:
    def test_sums_are_those_of_the_authors_script_to_the_bit(self, shikra):
        wanted = load_file(SHIKRA / "expected_merged_fp16.safetensors")
        found = weights(shikra.folder)
        for name, tensor in wanted.items():
            new = name.replace("model.mm_projector.", "model.multi_modal_projector.")
            if new == name and not name.startswith("lm_head"):
                new = name.replace("model.", "model.language_model.", 1)
            assert found[new].dtype == torch.float16
            assert found.pop(new).equal(tensor), name
        assert all(name.startswith("model.vision_tower.") for name in found)

    def test_says_what_was_loaded(self, files):
        said = "\n".join(shikra_into(files).lines)
        assert "21 tensors added to the base, 2 of the projector taken as they are, 2 rotary tables" in said
        assert "71 tensors of CLIP" in said

    def test_a_tower_as_transformers_5_saves_it(self, files):
        file = files / "shikra" / "clip" / "model.safetensors"
        bare = {name.removeprefix("vision_model."): tensor for name, tensor in load_file(file).items()}
        save_file(bare, file)
        shikra_into(files)
        assert (files / "out" / "config.json").is_file()

    def test_a_base_of_another_vocabulary(self, files):
        file = files / "shikra" / "llama" / "model.safetensors"
        tensors = load_file(file)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
        save_file(tensors, file)
        refused(files, shikra_into, r"\(421, 64\).*needs \(420, 64\).*version 1")

    def test_a_tokenizer_of_another_base(self, files):
        file = files / "shikra" / "llama" / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "vocab_size": 421}))
        refused(files, shikra_into, "vocabulary of 421, tokenizer.json holds 420")

    def test_extra_tokens_elsewhere(self, files):
        (files / "shikra" / "delta" / "added_tokens.json").write_text('{"<im_patch>": 421}')
        refused(files, shikra_into, "added_tokens.json")

    def test_a_truncated_shard(self, files):
        file = files / "shikra" / "delta" / "pytorch_model-00002-of-00002.bin"
        os.truncate(file, file.stat().st_size // 2)
        refused(files, shikra_into, "pytorch_model-00002-of-00002.bin: cannot be read as weights")

    def test_a_missing_shard(self, files):
        (files / "shikra" / "delta" / "pytorch_model-00002-of-00002.bin").unlink()
        refused(files, shikra_into, "no file of its folder")

    def test_a_missing_tower(self, files):
        (files / "shikra" / "clip" / "model.safetensors").unlink()
        refused(files, shikra_into, "clip: no weights there")

    def test_a_tower_without_a_layer(self, files):
        file = files / "shikra" / "clip" / "model.safetensors"
        tensors = load_file(file)
        del tensors["vision_model.encoder.layers.1.mlp.fc1.bias"]
        save_file(tensors, file)
        refused(files, shikra_into, r"lack 1 of the model's weights.*layers\.1\.mlp\.fc1\.bias")

    def test_an_index_that_leads_out_of_its_folder(self, files):
        file = files / "shikra" / "delta" / "pytorch_model.bin.index.json"
        index = json.loads(file.read_text())
        index["weight_map"]["lm_head.weight"] = "../clip/model.safetensors"
        file.write_text(json.dumps(index))
        refused(files, shikra_into, r"names '\.\./clip/model\.safetensors', which is no file of its folder")


class TestMiniGPTv2:
    def test_lora_is_merged_with_the_runs_own_scale(self, minigpt):
        trained = torch.load(MINIGPT / "minigptv2_checkpoint.pth", weights_only=True)["model"]
        base = load_file(MINIGPT / "llama" / "model.safetensors")
        found = weights(minigpt.folder)
        for layer in range(2):
            for kind in "qv":
                name = f"model.layers.{layer}.self_attn.{kind}_proj"
                a, b = (trained[f"llama_model.base_model.model.{name}.lora_{side}.weight"] for side in "AB")
                wanted = base[f"{name}.weight"].float() + 16 / 4 * (b @ a)
                assert found[name.replace("model.", "model.language_model.", 1) + ".weight"].equal(wanted)
        for kind in ("k_proj", "o_proj"):
            kept = found[f"model.language_model.layers.0.self_attn.{kind}.weight"]
            assert kept.equal(base[f"model.layers.0.self_attn.{kind}.weight"])

    def test_says_what_was_loaded(self, files):
        said = "\n".join(minigpt_into(files).lines)
        assert "LoRA merged into 4 (rank 4, scale 4)" in said
        assert "3 of 4 blocks" in said

    def test_alpha_can_be_given(self, files):
        assert "scale 2)" in minigpt_into(files, lora_alpha=8).lines[0]

    def test_alpha_is_16_where_no_one_says(self, files):
        file = files / "minigpt" / "minigptv2_checkpoint.pth"
        torch.save({"model": torch.load(file, weights_only=True)["model"]}, file)
        assert "scale 4)" in minigpt_into(files).lines[0]

    def test_names_of_newer_peft(self, files):
        minigpt_into(files, "old")
        self.rename(
            files, lambda name: name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")
        )
        minigpt_into(files, "new")
        old, new = weights(files / "old"), weights(files / "new")
        assert old.keys() == new.keys()
        assert all(old[name].equal(new[name]) for name in old)

    def test_without_lora(self, files):
        self.rename(files, lambda name: None if "lora" in name else name)
        refused(files, minigpt_into, "no LoRA weights")

    def test_with_half_of_a_lora(self, files):
        self.rename(files, lambda name: None if "layers.1.self_attn.q_proj.lora_B" in name else name)
        refused(files, minigpt_into, r"half of the LoRA of model\.layers\.1\.self_attn\.q_proj\.weight is missing")

    def test_with_lora_in_one_layer_only(self, files):
        self.rename(files, lambda name: None if "layers.1.self_attn.v_proj" in name else name)
        refused(files, minigpt_into, r"none for model\.layers\.1\.self_attn\.v_proj\.weight")

    def test_unknown_weights(self, files):
        self.rename(files, lambda name: name.replace("lora_A", "lora_a"))
        refused(files, minigpt_into, "unknown weights.*lora_a")

    def test_without_projector(self, files):
        self.rename(files, lambda name: None if name == "llama_proj.bias" else name)
        refused(files, minigpt_into, r"lacks llama_proj\.bias")

    def test_of_another_base(self, files):
        file = files / "minigpt" / "llama" / "model.safetensors"
        tensors = load_file(file)
        name = "model.layers.0.self_attn.v_proj.weight"
        save_file({**tensors, name: tensors[name][:32].contiguous()}, file)
        refused(files, minigpt_into, r"has shape \(32, 64\).*LoRA is for \(64, 64\): another base")

    def test_a_tower_of_fewer_blocks(self, files):
        refused(files, lambda files: minigpt_into(files, tower_depth=5), r"lack 12 of.*layers\.4")

    def test_unknown_weights_in_the_tower(self, files):
        file = files / "minigpt" / "eva_vit_g.pth"
        torch.save({**torch.load(file, weights_only=True), "blocks.0.gamma_1": torch.ones(64)}, file)
        refused(files, minigpt_into, r"unknown weights \(the first: blocks\.0\.gamma_1\)")

    def test_a_missing_tower(self, files):
        (files / "minigpt" / "eva_vit_g.pth").unlink()
        refused(files, minigpt_into, r"eva_vit_g\.pth: no weights there")

    def test_a_truncated_checkpoint(self, files):
        os.truncate(files / "minigpt" / "minigptv2_checkpoint.pth", 40_000)
        refused(files, minigpt_into, r"minigptv2_checkpoint\.pth: cannot be read as weights")

    def test_a_file_that_runs_code_is_not_read(self, files):
        class Runs:
            def __reduce__(self):
                return print, ("code ran",)

        torch.save({"model": Runs()}, files / "minigpt" / "minigptv2_checkpoint.pth")
        refused(files, minigpt_into, "cannot be read as weights")

    def test_a_tower_without_a_bias(self, files):
        file = files / "minigpt" / "eva_vit_g.pth"
        tensors = torch.load(file, weights_only=True)
        del tensors["blocks.1.attn.v_bias"]
        torch.save(tensors, file)
        refused(files, minigpt_into, r"lacks blocks\.1\.attn\.v_bias")

    def test_heads_that_do_not_divide_the_tower(self, files):
        refused(files, lambda files: minigpt_into(files, tower_heads=7), "must divide the tower's width of 64")

    def test_an_image_size_that_no_strips_fit(self, files):
        refused(files, lambda files: minigpt_into(files, image_size=126), "multiple of 56 pixels")

    @staticmethod
    def rename(files, change):
        """Rewrite the checkpoint under other names; None drops a tensor."""
        file = files / "minigpt" / "minigptv2_checkpoint.pth"
        found = torch.load(file, weights_only=True)
        found["model"] = {change(name): tensor for name, tensor in found["model"].items() if change(name)}
        torch.save(found, file)


class TestShards:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(result, "SHARD_BYTES", 60_000)

    def test_an_interrupted_conversion_goes_on_where_it_was(self, files):
        def stop(done, of):
            assert of > 3
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            shikra_into(files, progress=stop)
        assert not (files / "out").exists()
        with pytest.raises(gp.GroundPruneError):
            gp.load(files / "out.partial")
        first, second = sorted((files / "out.partial").glob("*.safetensors"))
        before = (first.stat().st_mtime_ns, second.stat().st_mtime_ns)
        shikra_into(files)
        assert not (files / "out.partial").exists()
        after = [(files / "out" / file.name).stat().st_mtime_ns for file in (first, second)]
        assert before == tuple(after)
        shikra_into(files, "at-once")
        there, wanted = weights(files / "out"), weights(files / "at-once")
        assert there.keys() == wanted.keys()
        assert all(there[name].equal(wanted[name]) for name in wanted)
        gp.load(files / "out")

    def test_one_begun_from_other_files_is_not_gone_on_with(self, files):
        def stop(done, of):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            minigpt_into(files, progress=stop)
        with pytest.raises(gp.GroundPruneError, match="begun from other files or settings"):
            minigpt_into(files, lora_alpha=8)

    def test_a_shard_is_no_larger_than_said_unless_one_tensor_is(self, files):
        shikra_into(files)
        for file in (files / "out").glob("*.safetensors"):
            tensors = load_file(file)
            assert sum(t.nbytes for t in tensors.values()) <= 60_000 or len(tensors) == 1

    def test_a_folder_that_exists_is_left_alone(self, files):
        (files / "out").mkdir()
        with pytest.raises(gp.GroundPruneError, match="exists already"):
            shikra_into(files)
        assert not list((files / "out").iterdir())


def test_torch_files_from_before_archives_are_read(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert Weights(tmp_path / "old.pth").read("a").tolist() == [0, 1, 2]


class TestCommandLine:
    @pytest.mark.parametrize(
        ("name", "words", "box"),
        [
            # 83 x 57 pixels, padded to 83 x 83 with 13 rows above.
            ("shikra", "Answer: [0.250,0.250,0.500,0.500] .", [20.75, 7.75, 41.5, 28.5]),
            ("minigpt", "{<10><20><50><60>}", [6.1, 8.6, 30.5, 25.8]),
        ],
    )
    def test_convert_and_ground(self, files, capsys, monkeypatch, name, words, box):
        monkeypatch.chdir(files)
        folder = files / name
        sources = {
            "shikra": ["shikra", "--delta", folder / "delta", "--base", folder / "llama", "--clip", folder / "clip"],
            "minigpt": [
                "minigpt-v2", "--checkpoint", folder / "minigptv2_checkpoint.pth", "--eva", folder / "eva_vit_g.pth",
                "--llama", folder / "llama", "--image-size", 112, "--tower-depth", 3, "--tower-heads", 4,
            ],
        }  # fmt: skip
        assert main(["convert", *map(str, sources[name]), "out"]) == 0
        assert "wrote  out" in capsys.readouterr().out
        settings = files / "out" / "generation_config.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "max_new_tokens": 3}))
        command = ["ground", str(folder / "image.png"), "man in red", "--model", "out", "--json"]
        assert main([*command, "--pruner", "cls-visual", "--keep", "0.25"]) in (0, 1)
        found = json.loads(capsys.readouterr().out)
        total = {"shikra": 256, "minigpt": 16}[name]
        assert found["visual_tokens"] == {"kept": total // 4, "total": total}
        monkeypatch.setattr("groundprune.models.tokenization.SegmentProcessor.decode", lambda *_, **__: words)
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["box"] == pytest.approx(box, abs=0.01)

    def test_verify(self, shikra, minigpt, capsys):
        for golden in (shikra, minigpt):
            assert main(["verify", "--model", str(golden.folder), "--pruner", "cls-visual"]) == 0
            assert "FAILED" not in capsys.readouterr().out

    def test_a_refusal_is_one_line(self, tmp_path, capsys):
        code = main(["convert", "shikra", "--delta", "a", "--base", "b", "--clip", "c", str(tmp_path / "out")])
        assert code == 2
        assert capsys.readouterr().err == (
            "groundprune: a: no weights there (looked for model.safetensors, pytorch_model.bin, "
            "model.safetensors.index.json, pytorch_model.bin.index.json)\n"
        )
