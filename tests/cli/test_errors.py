"""Whatever a user gets wrong ends in one line on stderr and exit code 2."""

import json

import pytest

from groundprune.cli import main
from support.checkpoints import save_text_model, save_tiny_llava

pytestmark = pytest.mark.usefixtures("beside_a_photo")


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    return save_tiny_llava(tmp_path_factory.mktemp("checkpoints") / "llava")


@pytest.fixture
def refused(capsys):
    """Run a command line that must be refused; returns its one line."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("groundprune: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.mark.parametrize("keep", ["0", "1.5", "-0.5", "nan", "inf", "abc", "", "1/0"])
def test_keep_out_of_range(refused, keep):
    line = refused("ground", "photo.png", "the star", "--pruner", "spatial", "--keep", keep)
    assert f"keep must be a number above 0 and at most 1 (got {keep!r})" in line


@pytest.mark.parametrize("tokens", ["0", "-3", "x", "1.5", ""])
def test_tokens_out_of_range(refused, tokens):
    line = refused("ask", "photo.png", "how many stars", "--pruner", "spatial", "--tokens", tokens)
    assert f"tokens must be a whole number of at least 1 (got {tokens!r})" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pruner", "cls-visul"], "did you mean 'cls-visual'?"),
        (["--pruner", ""], "unknown pruner ''"),
        (["--pruner", "missing.py:Mine"], "no pruner file 'missing.py'"),
        (["--pruner", "spatial", "--positions", "preserve"], "did you mean 'preserved'?"),
        (["--pruner", "spatial", "--positions", "shifted:far"], "malformed position policy"),
        (["--pruner", "spatial", "--positions", ""], "unknown position policy ''"),
        (["--pruner", "spatial", "--keep", "0.5", "--tokens", "3"], "either --keep or --tokens, not both"),
        (["--pruner", "spatial", "--seed", "1"], "--seed means nothing to spatial"),
        (["--pruner", "random", "--seed", "x"], "Invalid value for '--seed'"),
        (["--keep", "0.5"], "--keep needs --pruner"),
        (["--tokens", "5"], "--tokens needs --pruner"),
        (["--positions", "preserved"], "--positions needs --pruner"),
        (["--text-tower", "clip"], "--text-tower needs --pruner"),
        (["--seed", "0"], "--seed needs --pruner"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--device", ""], "device '' cannot be used"),
        (["--out", "missing/overlay.png"], "there is no folder missing"),
        (["--out", "overlay.xyz"], "no image type"),
        (["--out", "."], "is a folder"),
        (["--out", "photo.png"], "is the image itself"),
        (["--no-such-option"], "No such option"),
    ],
)
@pytest.mark.parametrize("command", ["ground", "ask"])
def test_options(refused, command, options, says):
    assert says in refused(command, "photo.png", "the star", *options)


@pytest.mark.parametrize("text", ["", "  "])
def test_nothing_asked(refused, text):
    assert "the text is empty" in refused("ground", "photo.png", text)


def test_the_image_token_in_the_text(refused):
    assert "stands for an image" in refused("ask", "photo.png", "what is <image> here")


@pytest.mark.parametrize("arguments", [["ground"], ["ground", "photo.png"], ["gruond"], ["pocket"], ["scene"]])
def test_usage(refused, arguments):
    assert "--help)" in refused(*arguments)


class TestImages:
    def test_missing(self, refused):
        assert "no.png: no such file" in refused("ground", "no.png", "the star")

    def test_text(self, refused, tmp_path):
        (tmp_path / "text.png").write_text("not an image")
        assert "text.png: not an image" in refused("ground", "text.png", "the star")

    def test_folder(self, refused, tmp_path):
        assert "is a folder, not an image" in refused("ask", tmp_path, "how many stars")

    def test_truncated(self, refused, tmp_path):
        whole = (tmp_path / "photo.png").read_bytes()
        (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
        assert "half.png: damaged or truncated" in refused("ground", "half.png", "the star")


class TestModels:
    def test_no_checkpoint(self, refused, tmp_path):
        assert "no checkpoint at" in refused("ground", "photo.png", "the star", "--model", tmp_path)

    @pytest.mark.parametrize("name", ["no/such-model", "", "a/b/c/d", "../nowhere"])
    def test_no_such_name(self, refused, name):
        assert "no checkpoint at" in refused("ground", "photo.png", "the star", "--model", name)

    def test_text_only(self, refused, tmp_path):
        folder = save_text_model(tmp_path / "llama")
        assert "model type 'llama' has no vision tower" in refused(
            "ground", "photo.png", "the star", "--model", folder
        )

    @pytest.mark.parametrize(
        ("model_type", "says"), [("pix2struct", "unknown model type"), ("gizmo", "no checkpoint at")]
    )
    def test_unknown_type_with_a_tower(self, refused, tmp_path, model_type, says):
        config = {"model_type": model_type, "vision_config": {"hidden_size": 8}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert says in refused("ground", "photo.png", "the star", "--model", tmp_path)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
    def test_a_damaged_part(self, refused, tmp_path, name):
        folder = save_tiny_llava(tmp_path / "llava")
        (folder / name).write_bytes(b"{")
        refused("ground", "photo.png", "the red circle", "--model", folder)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
    def test_a_missing_part(self, refused, tmp_path, name):
        folder = save_tiny_llava(tmp_path / "llava")
        (folder / name).unlink()
        refused("ground", "photo.png", "the red circle", "--model", folder)

    def test_no_text_tower(self, refused, tiny_checkpoint):
        request = ("ground", "photo.png", "the red circle", "--model", tiny_checkpoint, "--pruner", "text-visual")
        assert "pass text_tower=folder or Hub id (on the command line --text-tower)" in refused(*request)
        assert "no CLIP checkpoint at 'nowhere'" in refused(*request, "--text-tower", "nowhere")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ('{"rec_promt": "find {expression}"}', "unknown keys ['rec_promt']"),
            ("[1]", "grounding.json"),
            ("{", "is no JSON object"),
            ('{"codec": 5}', "must be text"),
            ('{"codec": "lava"}', "did you mean 'llava'?"),
            ('{"frame": "paded"}', "did you mean 'padded'?"),
            ('{"rec_prompt": "find it"}', "has no {expression}"),
        ],
    )
    def test_grounding_file(self, refused, tmp_path, content, says):
        folder = save_tiny_llava(tmp_path / "llava")
        (folder / "grounding.json").write_text(content)
        assert says in refused("ground", "photo.png", "the red circle", "--model", folder)


class TestOtherCommands:
    @pytest.mark.parametrize("seed", ["-1", "9000000", "x"])
    def test_scene_seed(self, refused, seed):
        refused("scene", "scene.png", "--seed", seed)

    def test_scene_file(self, refused):
        assert "no image type" in refused("scene", "scene")

    def test_verify(self, refused):
        assert "did you mean 'llava'?" in refused("verify", "--family", "lava")
        assert "did you mean 'random'?" in refused("verify", "--pruner", "randm")
        assert "is empty" in refused("verify", "--pruner", "random,")
        assert "dropped nothing" in refused("verify", "--family", "llava", "--pruner", "spatial", "--keep", "1")
        assert "--text-tower" in refused("verify", "--family", "llava", "--pruner", "text-visual")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--pruner", "spatail"], "did you mean 'spatial'?"),
            (["--pruner", ","], "is empty"),
            (["--keep", "0.5,2"], "keep must be a number"),
            (["--keep", ""], "is empty"),
            (["--tokens", "0"], "tokens must be a whole number"),
            (["--positions", "strechted"], "did you mean 'stretched'?"),
            (["--scenes", "0"], "scenes must be"),
            (["--batch-size", "0"], "batch size must be"),
            (["--split", "novel"], "unknown split"),
            (["--model", "nowhere"], "no checkpoint at 'nowhere'"),
        ],
    )
    def test_compare(self, refused, options, says):
        assert says in refused("compare", "--scenes", "1", *options)


def test_ctrl_c(capsys, monkeypatch):
    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("groundprune.answers.answer", press)
    assert main(["ground", "photo.png", "the star"]) == 130
    assert capsys.readouterr() == ("", "groundprune: interrupted\n")
