"""The server, as a user starts it, on the embedded model."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image

import groundprune as gp
from groundprune.answers import answer
from groundprune.families import family_of
from groundprune.pocket.scenes import TEST_SEEDS, make_scene
from support.server import PATIENCE, chat, is_there, serving

EXPRESSION = "the red circle"
HALF = ["--keep", "0.5", "--pruner", "cls-visual"]


@pytest.fixture(scope="module")
def scene():
    return Image.fromarray(make_scene(TEST_SEEDS[7]).image)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("serve"), *HALF) as started:
        yield started


def test_the_server_gives_the_box_of_the_transformers_path_for_half_of_the_tokens(server, scene):
    model, processor = gp.load("pocket")
    expected = answer(model, processor, scene, EXPRESSION, "rec", gp.ClsVisual(keep=0.5))
    said = chat(server[1], scene, f"locate {EXPRESSION}")
    assert expected.box is not None
    assert said["choices"][0]["message"]["content"].strip() == expected.text
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"locate {EXPRESSION}"}]}],
        add_generation_prompt=True,
    )
    ids = processor(images=[[scene]], text=[text])["input_ids"][0]
    tokens = ids.count(family_of(model.config).token_ids(model.config)["image"])
    assert said["usage"]["prompt_tokens"] == len(ids) - tokens // 2
    assert expected.kept_tokens == tokens // 2


def test_it_goes_on_after_a_repeated_prompt_and_a_thin_image(server):
    image, text = Image.effect_noise((96, 96), 50).convert("RGB"), "the red circle " * 25
    said = [chat(server[1], image, asked) for asked in (text, text, f"{text} the red circle")]
    assert said[0]["choices"][0]["message"] == said[1]["choices"][0]["message"]
    began = time.monotonic()
    assert chat(server[1], Image.new("RGB", (12000, 10), "red"), "locate the red circle")["usage"]
    assert time.monotonic() - began < 5
    assert is_there(server[1])


def test_sigterm_ends_it_cleanly(server):
    process, address, _ = server
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert not is_there(address)


def test_an_engine_that_is_killed_is_an_error(tmp_path):
    with serving(tmp_path, *HALF) as (process, address, log):
        (core,) = [child for child in psutil.Process(process.pid).children() if "EngineCore" in child.name()]
        core.kill()
        assert process.wait(timeout=60) == 2
        assert not is_there(address)
        assert "groundprune: vLLM ended: its engine was killed" in log.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}'], "speculative_config"),
        pytest.param(["--max-model-len", "1000"], "max_model_len", marks=pytest.mark.thorough),
        pytest.param(["--pruner", "fastv"], "prunes between layers of the LLM", marks=pytest.mark.thorough),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line(options, message):
    ended = started_in_vain(*options)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert message in ended.stderr.strip().splitlines()[-1]


@pytest.mark.thorough
def test_more_memory_than_is_free_names_the_option():
    """The engine's processes log why, before."""
    ended = started_in_vain("--gpu-memory-utilization", "1", "--enforce-eager")
    assert ended.returncode == 2
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("groundprune: vLLM ended"))
    assert "Available memory" in line
    assert "--gpu-memory-utilization" in line


def started_in_vain(*options):
    command = [sys.executable, "-m", "groundprune", "serve", "pocket", "--keep", "0.5", *options]
    # Where the cache's size is given vLLM does not look at how much is free.
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
