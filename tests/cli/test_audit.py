"""`audit`: exit codes, data, the page; of code in a file, and of recordings."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from groundprune.audits.recordings import read_recording
from support.pages import Page

STORED = Path(__file__).parents[1] / "audits" / "old" / "llava-4.37.2.audit"
OLD = Path(os.environ.get("RECORDING", STORED))  # `make test-old` makes one anew
FORK = """
import sys

import torch

import groundprune as gp


def renumbers(model, inputs):
    print("noise")
    with gp.prune(model, gp.Random(keep=0.5), "reassigned"):
        model(**inputs)


def preserves(model, inputs):
    with gp.prune(model, gp.Random(keep=0.5)):
        model(**inputs)


def stock(model, inputs):
    model(**inputs)


def blurs(model, inputs):
    rotary = model.get_decoder().rotary_emb
    rotary.forward = lambda x, position_ids: [torch.rand(1, position_ids.shape[1], 16, generator=torch.manual_seed(i)) for i in (0, 1)]
    try:
        model(**inputs)
    finally:
        del rotary.forward


def breaks(model, inputs):
    raise TypeError("unexpected <b>argument</b>")


def leaves(model, inputs):
    sys.exit(0)


def nothing(model, inputs):
    pass
"""  # noqa: E501


@pytest.fixture(autouse=True)
def fork(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fork.py").write_text(FORK)


@pytest.mark.parametrize(
    ("function", "code", "verdict"),
    [
        ("stock", 0, "nothing pruned"), ("preserves", 0, "preserved"),
        ("renumbers", 1, "not preserved: visual ids renumbered; text behind them moved up by 18"),
        ("blurs", 3, "could not tell: "),
    ],
)  # fmt: skip
def test_exit_codes(said, function, code, verdict):
    found, out, _ = said("audit", f"fork.py:{function}")
    assert found == code
    assert out.startswith(verdict)
    assert len(out.splitlines()) < 24


def test_data_is_alone_on_stdout(said):
    code, out, err = said("audit", "fork.py:renumbers", "--model", "internvl", "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == 1
    assert told["model"] == "InternVLForConditionalGeneration"
    assert "noise" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fork.py:breaks"], "fork.py:breaks failed: TypeError: unexpected <b>argument</b>"),
        (["fork.py:leaves"], "fork.py:leaves failed: SystemExit"),
        (["fork.py:nothing"], "no decoder layer ran in the 'audited' run"),
        (["fork.py:missing"], "has no function 'missing' (found: renumbers, preserves"),
        (["other.py:run"], "no file 'other.py'"),
        (["fork.py"], "name the function, too: fork.py:FUNCTION"),
        (["run.audit"], "no recording 'run.audit'"),
        (["fork.py:stock", "--model", "lava"], "unknown model 'lava'; did you mean 'llava'"),
        (["fork.py:stock", "--report", "nowhere/page.html"], "there is no folder nowhere"),
    ],
)
def test_wrong_use_is_one_line(said, arguments, message):
    code, out, err = said("audit", *arguments)
    assert code == 2
    assert message in err
    assert not out
    assert len([line for line in err.splitlines() if line.startswith("groundprune: ")]) == 1


def test_a_recording_of_an_old_transformers(said):
    assert OLD.stat().st_size < 200_000
    assert read_recording(OLD)["facts"]["transformers"] == "4.37.2"
    code, out, _ = said("audit", OLD)
    assert code == 1
    assert out.startswith(
        "not preserved: visual ids renumbered; text behind them moved up by 9; generated tokens moved up by 9\n"
    )
    assert "layers 0 to 2: 7 of 16 visual tokens" in out
    told = json.loads(said("audit", OLD, "--json")[1])
    assert told["rows"][0]["stages"][0]["kept"] == [0, 3, 4, 6, 9, 11, 13]


def test_the_page_shows_each_stage(said):
    shutil.copy("fork.py", "<i>fork.py")
    code, out, _ = said("audit", "<i>fork.py:renumbers", "--report", "page.html", "--model", "qwen2_5_vl")
    assert code == 1
    assert out.rstrip().endswith("report page.html")
    html = Path("page.html").read_text()
    page = Page(html)
    said_there = page.said()
    assert "<i>fork.py:renumbers" in said_there  # as text
    assert "Visual ids renumbered." in said_there
    assert not re.search(r"<script|https?://|src=", html)
    # Unpruned ids of height and width first; then three axes that all moved, 8 of 15 tokens left.
    labels = [figure["aria-label"] for figure in page.all("svg")]
    assert labels == [
        f"ids {axis}, {when}" for when in ("unpruned", "layers 0 to 3") for axis in ("time", "height", "width")
    ]
    cells = [text for tag, text in page.text if tag == "text"]
    assert len(cells) == 3 * (15 + 8)
    assert cells[15:30] == [str(6 + row) for row in range(3) for _ in range(5)]
    assert cells[45:53] == [str(6 + i) for i in range(8)]
    assert len(re.findall(r"token \d+: dropped", said_there)) == 3 * 7
    assert html.count('class="moved"') > 8
    said("audit", "fork.py:preserves", "--report", "page.html")
    again = Path("page.html").read_text()
    assert 'class="moved"' not in again
    assert "<h1>Preserved</h1>" in again
