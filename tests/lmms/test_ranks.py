"""Several processes: the same numbers, and an end when one of them dies."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.lmms_tasks import REC, rec_samples

# accelerate starts several processes under this name alone, also where there is no GPU (with --cpu it wants MPI).
LAUNCHERS = {
    "torch": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "{port}", "-m"],
    "accelerate": [
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "{port}", "-m",
    ],
}  # fmt: skip
MODEL_ARGS = "pretrained=pocket,pruner=cls-visual,keep=0.5"
LIMIT = 540  # seconds; a run takes some 30 on two free cores


def launch(launcher, tasks, out, **environment):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    words = [word.format(port=port) for word in LAUNCHERS[launcher]]
    command = [
        sys.executable, "-m", *words, "lmms_eval", "--model", "groundprune", "--model_args",
        MODEL_ARGS, "--tasks", REC, "--include_path", str(tasks), "--batch_size",
        "4", "--log_samples", "--output_path", str(out), "--verbosity", "DEBUG",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)


@pytest.fixture(scope="module")
def alone(evaluated):
    """Of this process: its scores, and its answers by document."""
    results = evaluated([REC], MODEL_ARGS, batch_size=4)
    return results["results"][REC], {each["doc_id"]: each["filtered_resps"][0] for each in results["samples"][REC]}


def found(out):
    (results,) = Path(out).rglob("*_results.json")
    (samples,) = Path(out).rglob("*_samples_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(results.read_text())["results"][REC], {line["doc_id"]: line["filtered_resps"] for line in lines}


@pytest.mark.parametrize("launcher", ["torch", "accelerate"])
def test_two_ranks_give_the_numbers_of_one(launcher, alone, tasks, tmp_path):
    done = launch(launcher, tasks, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Running on rank 1" in done.stdout + done.stderr
    scores, answers = found(tmp_path)
    assert answers == alone[1]
    assert len(answers) == len(rec_samples())
    for name in ("refcoco_ACC@0.5,none", "refcoco_IoU,none"):  # which ranks add up in another order
        assert scores[name] == pytest.approx(alone[0][name], rel=1e-12)


def test_a_rank_that_is_killed_ends_the_run(tasks, tmp_path):
    done = launch("torch", tasks, tmp_path, DIES="1", DIES_AT=rec_samples()[9].text)
    assert done.returncode != 0
    assert "SIGKILL" in done.stdout + done.stderr or "-9" in done.stdout + done.stderr
    assert not list(tmp_path.rglob("*_results.json"))
