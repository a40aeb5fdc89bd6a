"""What would go wrong, or wait, on a GPU: see `support.elsewhere`. In a process of its own: torch stays changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groundprune.exactness.tiny import tiny_model
from groundprune.pruners import make_pruner

backend = pytest.importorskip("torch.utils.backend_registration")
if not hasattr(backend, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch knows no device written in Python", allow_module_level=True)

# What needs no text tower, on the family that serves all of it.
ALL = [
    "cls-visual", "fastv", "coverage", "dart", "divprune", "fastervlm", "feather", "hiprune", "hired", "ivc-prune",
    "nuwa", "prumerge", "prumerge+", "pyramiddrop", "random", "sparsevlm", "spatial", "tome", "v2drop", "vidcom2",
    "visionzip", "vispruner",
]  # fmt: skip
TESTS = Path(__file__).parents[1]
SOME = ["cls-visual", "fastv"]
FAMILIES = {"llava": ALL, **dict.fromkeys(("qwen3_vl", "llava_next", "gemma3"), SOME)}
ON_VIDEOS = {"qwen2_5_vl@video": ["evs", "vidcom2"], "llava_onevision@video": ["evs", "vidcom2"]}
EVERY = {**FAMILIES, **ON_VIDEOS}
IDS = "prefill.py"  # of the prompt, in one copy before the tower runs
SIZES = "tower.py"  # of images, likewise
CHOICE = "settling.py"  # of all rows: one copy per stage
# Pruners and families that wait for more, and how often per row: for the words that an image is about, for its pixels
# before the tower runs, and in stock code that packs scores as it packs features.
MORE = {
    "sparsevlm": ("sparsevlm.py", 3), "random": ("states.py", 1),
    "qwen3_vl": ("left.py", 1), "llava_next": ("modeling_llava_next.py", 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    wishes = [f"{family}:{','.join(names)}" for family, names in EVERY.items()]
    run = subprocess.run(
        [sys.executable, "-m", "support.device_run", *wishes],
        capture_output=True,
        text=True,
        cwd=TESTS,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("family", EVERY)
def test_answers_are_those_of_the_cpu(family, found):
    """Nothing mixes devices: contexts, inputs, policies, beams, images encoded ahead, a second turn, the proof."""
    cases = {name: apart for name, apart in found[family].items() if not isinstance(apart, dict)}
    assert len(cases) >= len(EVERY[family]) + (10 if family in FAMILIES else 0)
    wrong = {name: apart for name, apart in cases.items() if isinstance(apart, str) or apart > 1e-5}
    assert not wrong


def more_than_stock(family, name, found, what):
    """Waits by file that the stock model does not have, by how many more."""
    stock, lines = found[family]["stock"][what], {}
    for line, count in found[family][name][what].items():
        file = line.partition(":")[0].rpartition("/")[2]
        lines[file] = lines.get(file, 0) + count - stock.get(line, 0)
    return {file: count for file, count in lines.items() if count > 0}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in EVERY.items() for name in names])
def test_a_prefill_waits_for_its_ids_and_once_for_each_choice(family, name, found):
    waits, rows = more_than_stock(family, name, found, "prefill"), 2
    for more in (MORE.get(name), MORE.get(family)):
        if more is not None:
            assert waits.pop(more[0], 0) <= rows * more[1]
    assert waits.pop(SIZES, 0) <= 1
    assert waits.pop(IDS) == 1
    config = tiny_model(family.partition("@")[0]).config
    stages = make_pruner(name, "0.5").stages(config.get_text_config().num_hidden_layers)
    assert waits.pop(CHOICE, 0) <= len(stages)
    assert not waits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_before_the_llm_waits_as_often_as_a_stock_one_and_once_more_behind_stages(family, found):
    assert not more_than_stock(family, "cls-visual", found, "steps")
    assert sum(more_than_stock(family, "fastv", found, "steps").values()) <= 4


def test_the_device_refuses_what_a_gpu_does():
    """The control: without these refusals the tests above would pass whatever the code does."""
    code = """
import torch
from support.elsewhere import elsewhere
with elsewhere() as waits:
    there = torch.arange(3.0).to("elsewhere")
    for wrong in (lambda: there + torch.ones(3), lambda: torch.cat([there, torch.ones(1)])):
        try:
            wrong()
        except RuntimeError as error:
            assert "two devices" in str(error)
        else:
            raise SystemExit("mixed")
    waits.clear()
    assert (there * 2 + there.sum()).shape == (3,) and not waits
    looks = (lambda: bool(there.any()), lambda: there[there > 1], there.cpu, there.tolist, there.nonzero)
    for number, look in enumerate(looks, 1):
        look()
        assert sum(waits.values()) == number, (number, waits)
    torch.ones(2).to("elsewhere", non_blocking=True)
    assert sum(waits.values()) == len(looks)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_device_this_process_knows_none():
    assert torch._C._get_privateuse1_backend_name() == "privateuseone"
