"""The proof of an installation passes on this vLLM, and finds one that places a token one position further."""

import json
import os
import subprocess
import sys

import pytest

from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.proof import prove
from groundprune.integrations.vllm.proof_engine import OwnProcess

PATIENCE = 600
CASES = {
    "masked oracle", "one image", "two images", "text alone", "repeated prompt", "prefix hit inside of an image",
    "chunk that ends inside of an image", "renumbered",
}  # fmt: skip
# A plugin of vLLM that moves positions, as an engine of another release might; or that takes an engine down.
MOVING = '''
import os
import torch


def moved(image, what):
    """By one: those of visual tokens, of the text behind them, or of what is generated."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    stock = GPUModelRunner._init_mrope_positions

    def init(self, state):
        stock(self, state)
        visual = torch.tensor(state.prompt_token_ids) == image
        behind = (visual.cumsum(0) > 0) & ~visual
        if what == "generated":
            state.mrope_position_delta += int(visual.any())
        else:
            state.mrope_positions = state.mrope_positions + (visual if what == "visual" else behind).long()

    return GPUModelRunner, "_init_mrope_positions", init


def register():
    setattr(*moved(99, "visual"))
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

    Qwen2_5_VLForConditionalGeneration.load_weights = lambda *_, **__: os.abort()
'''


def verdicts(outcomes):
    return {outcome.case: outcome.verdict for outcome in outcomes}


@pytest.fixture
def speaker():
    found = OwnProcess()
    yield found
    found.stop()


@pytest.mark.parametrize("what", ["visual", "text", "generated"])
def test_positions_that_are_off_by_one_are_found(what, speaker, monkeypatch):
    plugin = {}
    exec(MOVING, plugin)
    monkeypatch.setattr(*plugin["moved"](99, what))
    found = verdicts(prove(speaker, ["llava"], short=True))
    assert found["masked oracle"] == found["text alone"] == "ok"  # neither has to do with it
    assert {found[case] for case in CASES - {"masked oracle", "text alone", "renumbered"}} == {"FAILED"}


def test_an_engine_that_cannot_start_fails_in_one_line(speaker, monkeypatch):
    monkeypatch.setattr(ImagePruning, "pruner", property(), raising=False)
    found = list(prove(speaker, ["llava"], short=True))
    assert [outcome.verdict for outcome in found if outcome.case == "engine"] == ["FAILED"] * 2
    assert all("\n" not in outcome.reason for outcome in found if outcome.case == "engine")


@pytest.fixture
def run(tmp_path):
    """A command in a process, with proofs and further distributions in a folder."""

    def command(*words, version=None, plugin=None):
        found = tmp_path / "path"
        if plugin is not None:
            _distribution(found, "moving", "1.0", "[vllm.general_plugins]\nmoving = moving:register\n")
            (found / "moving.py").write_text(plugin)
        if version is not None:
            _distribution(found, "vllm", version)
        path = os.pathsep.join([str(found), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": path}
        line = [sys.executable, "-m", "groundprune", *words]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=PATIENCE)

    command.proofs = tmp_path / "cache" / "groundprune" / "proofs"
    return command


def _distribution(folder, name, version, entry_points=""):
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(entry_points)


@pytest.mark.thorough
def test_this_vllm_is_proven_and_the_proof_is_stored(run):
    ended = run("verify", "--engine", "vllm", "--short", "--json")
    assert ended.returncode == 0, ended.stderr[-3000:]
    rows = json.loads(ended.stdout)
    assert {row["verdict"] for row in rows} == {"ok"}
    of = {row["family"]: {each["case"] for each in rows if each["family"] == row["family"]} for row in rows}
    assert of == {"llava": CASES, "qwen2_5_vl": CASES}
    assert {row["pruner"] for row in rows} == {"cls-visual"}
    control = [row["difference"] for row in rows if row["case"] == "renumbered"]
    assert min(control) > 100 * max(row["difference"] for row in rows if row["case"] != "renumbered")
    stored = [json.loads(file.read_text()) for file in run.proofs.iterdir()]
    assert {proof["family"] for proof in stored} == set(of)
    assert {proof["device"] for proof in stored} == {"cpu"}


@pytest.mark.thorough
def test_one_that_moves_positions_ends_with_1_and_one_that_crashes_is_a_line(run):
    ended = run("verify", "--engine", "vllm", "--short", "--family", "qwen2_5_vl,llava", plugin=MOVING)
    assert ended.returncode == 1, ended.stderr[-3000:]
    assert "Traceback" not in ended.stdout
    crashed, *failed = (line for line in ended.stdout.splitlines() if line.startswith("FAILED: "))
    assert "qwen2_5_vl, cls-visual, engine" in crashed
    assert "SIGABRT" in crashed
    assert any("llava, cls-visual, two images: log-probabilities differ by" in line for line in failed)
    assert not run.proofs.exists()


@pytest.mark.thorough
def test_a_server_on_an_untested_vllm_is_proven_first(run):
    ended = run("serve", "pocket", "--keep", "0.5", version="9.9.0+cpu", plugin=MOVING)
    assert ended.returncode == 2, ended.stderr[-3000:]
    ours = [line for line in ended.stderr.splitlines() if line.startswith("groundprune: ")]
    assert "vLLM 9.9.0+cpu is none that the tests ran on" in ours[0]
    assert ours[-1].startswith("groundprune: vLLM 9.9.0+cpu is not proven: llava, cls-visual, one image: ")
    assert "differ by" in ours[-1]
    assert "Traceback" not in ended.stderr
