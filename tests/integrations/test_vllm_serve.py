"""The embedded model for vLLM, and the command line that serves it; no vLLM is needed."""

import json
import logging
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

import groundprune as gp
from groundprune.checkpoints.prompts import chat_prompt
from groundprune.cli import main
from groundprune.integrations.vllm import check_version
from groundprune.integrations.vllm.running import KILLED, cause_of_end, note_cause, why_ended
from groundprune.integrations.vllm.server import serve_arguments
from groundprune.pocket import checkpoint_path
from groundprune.pocket.scenes import TEST_SEEDS, make_scene
from groundprune.pocket.wide_heads import WIDE, write_wide_heads
from support.closeness import assert_near
from support.engines import save_checkpoint


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


def option(arguments, name):
    return arguments[arguments.index(name) + 1]


def test_a_served_model_may_hold_one_image_and_is_as_long_as_that_allows():
    found = serve_arguments("pocket", gp.ClsVisual(keep=0.5))
    assert found[0] == "serve"
    assert option(found, "--served-model-name") == "pocket"
    assert json.loads(option(found, "--limit-mm-per-prompt")) == {"image": 1}
    assert option(found, "--max-model-len") == str(1024 - 72)
    assert option(found, "--dtype") == "float32"
    assert option(found, "--middleware") == "groundprune.integrations.vllm.front.Front"
    two = serve_arguments("pocket", gp.ClsVisual(keep=0.5), extra=["--limit_mm_per_prompt", '{"image": 2}'])
    assert option(two, "--max-model-len") == str(1024 - 2 * 72)
    assert two.count("--limit-mm-per-prompt") == 1
    counted = serve_arguments(
        "pocket", gp.ClsVisual(keep=0.5), extra=["--limit-mm-per-prompt", '{"image": {"count": 2}}']
    )
    assert option(counted, "--max-model-len") == str(1024 - 2 * 72)
    of_a_size = ["--limit-mm-per-prompt", '{"image": {"width": 9}}']
    sized = serve_arguments("pocket", gp.ClsVisual(keep=0.5), extra=of_a_size)
    assert json.loads(option(sized, "--limit-mm-per-prompt")) == {"image": {"count": 1, "width": 9}}  # not vLLM's 999
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


def test_of_mistrals_files_those_of_transformers_are_read(tmp_path):
    folder = str(save_checkpoint("mistral3", tmp_path / "mistral3"))
    found = serve_arguments(folder, gp.ClsVisual(keep=0.5), extra=["--tokenizer_mode=mistral"])
    assert [option(found, name) for name in ("--config-format", "--load-format")] == ["hf", "hf"]
    assert "--tokenizer-mode" not in found


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
        (["--max-model", "500"], "--max-model: write --max-model-len in full"),  # vLLM takes it, and then ours
        (["--limit-mm-per-prompt", '{"image": "2"}'], "a whole number of at least 0"),
        (["--limit-mm-per-prompt", '{"image": {"count": null}}'], "a whole number of at least 0"),
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
