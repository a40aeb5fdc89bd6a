"""`list`, `verify` and `compare`, and what every command has."""

import json
import re

import pytest

from support.own_pruner import OWN_PRUNER

pytestmark = pytest.mark.usefixtures("beside_a_scene")


def test_list(said):
    _, out, _ = said("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert {"cls-visual", "text-visual", "random", "spatial"} <= set(rows)
    assert rows["cls-visual"]["needs"] == ["tower_attention salient"]
    assert all(row["summary"] and row["official_positions"] and row["scores_by"] for row in rows.values())
    told = rows["visionzip"]
    assert (told["paper"], told["year"], told["stage"], told["merges"]) == (
        "2412.04467", 2024, "before the LLM", True,
    )  # fmt: skip
    assert told["official_positions"] == "reassigned-in-order"
    assert [name for name, row in rows.items() if "llava" not in row["families"]] == ["evs"]
    assert all(name in said("list")[1] for name in rows)


def test_list_of_one_shows_its_options(said, tmp_path):
    _, out, _ = said("list", "hired")
    assert "alpha" in out
    assert "0.5" in out
    assert "Share of the budget that the whole image's crop gets" in out
    (option,) = json.loads(said("list", "hired", "--json")[1])["options"]
    assert (option["name"], option["type"], option["default"]) == ("alpha", "float", 0.5)
    assert "no options" in said("list", "spatial")[1]
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nimport groundprune as gp\n\n\n@dataclass(frozen=True)\n"
        'class Mine(gp.Pruner):\n    """Mine.\n\n    Args:\n        power: Of the norm.\n    """\n\n'
        "    power: int = 2\n"
    )
    assert "Of the norm." in said("list", "mine.py:Mine")[1]
    code, _, err = said("list", "hird")
    assert code == 2
    assert "did you mean 'hired'" in err


def test_options_of_a_pruner_are_given_in_its_text(said):
    said("scene", "scene.png", "--seed", "7")
    _, out, _ = said("ground", "scene.png", "the small purple object", "--pruner", "random:seed=3", "--json")
    _, seeded, _ = said(
        "ground", "scene.png", "the small purple object", "--pruner", "random", "--seed", "3", "--json"
    )
    assert json.loads(out) == json.loads(seeded)
    assert json.loads(out)["settings"]["options"] == {"seed": 3}
    _, out, _ = said("ground", "scene.png", "the small purple object", "--pruner", "coverage:spread=0.5:tokens=9")
    assert "9 of 144 kept (coverage:spread=0.5, 9 tokens, preserved)" in out
    code, _, err = said("ground", "scene.png", "it", "--pruner", "coverage:sprad=0.5")
    assert code == 2
    assert "unknown option of coverage 'sprad'; did you mean 'spread'?" in err
    code, _, err = said("ask", "scene.png", "how many", "--pruner", "spatial:keep=0.5", "--keep", "0.25")
    assert code == 2
    assert "keep is given beside the pruner" in err


def test_a_comparison_of_options(said):
    _, out, _ = said(
        "compare", "--pruner", "random,random:seed=1,coverage:spread=0.5:keep=0.25", "--keep", "0.5",
        "--positions", "preserved", "--scenes", "4", "--json",
    )  # fmt: skip
    assert [entry["id"] for entry in json.loads(out)["settings"]] == [
        "unpruned", "random/keep=0.5/preserved", "random:seed=1/keep=0.5/preserved",
        "coverage:spread=0.5/keep=0.25/preserved",
    ]  # fmt: skip


def test_verify_tiny(said):
    code, out, err = said("verify", "--family", "llava,paligemma", "--stage", "before")
    assert code == 0
    lines = [line.split() for line in out.splitlines() if line.endswith("ok")]
    assert {(line[0], line[1]) for line in lines} >= {("llava", "cls-visual"), ("paligemma", "spatial")}
    assert all("before" in line for line in lines)
    assert "skipped text-visual" in err


def test_verify_json(said):
    code, out, _ = said("verify", "--family", "llava", "--pruner", "random", "--keep", "0.25", "--json")
    (result,) = json.loads(out)
    assert (code, result["passed"], result["kept"]) == (0, True, [[9, 36]])


def test_verify_names_options(said):
    _, out, _ = said("verify", "--family", "llava", "--pruner", "random:seed=1,random:seed=2", "--json")
    assert [found["pruner"] for found in json.loads(out)] == ["random:seed=1", "random:seed=2"]


def test_verify_failure(said, monkeypatch):
    """An inexact answer; a weak control alone is inconclusive."""
    monkeypatch.setattr("groundprune.exactness.verify.relative_difference", lambda *_: 0.5)
    code, out, _ = said("verify", "--family", "llava", "--pruner", "random")
    assert (code, out.count("FAILED")) == (1, 1)


def test_compare(said):
    run = "compare", "--scenes", 2, "--pruner", "spatial", "--keep", "0.5", "--positions", "preserved,reassigned"
    code, out, err = said(*run, "--out", "runs")
    assert (code, err) == (0, "")
    assert "Preserved minus reassigned" in out
    code, out, err = said(*run, "--out", "runs", "--json")
    assert (code, err) == (0, "")
    assert [s["id"] for s in json.loads(out)["settings"]] == [
        "unpruned", "spatial/keep=0.5/preserved", "spatial/keep=0.5/reassigned",
    ]  # fmt: skip


def test_compare_with_a_pruner_of_ones_own(said, tmp_path):
    (tmp_path / "mine.py").write_text(OWN_PRUNER)
    run = "compare", "--scenes", 2, "--keep", "0.25", "--out", "runs", "--json"
    code, out, err = said(*run, "--pruner", "mine.py:FeatureNorm,spatial")
    assert (code, err) == (0, "")
    kept = {s["id"]: s["kept"] for s in json.loads(out)["settings"]}
    assert kept["mine.py:FeatureNorm/keep=0.25/preserved"] == 36
    (tmp_path / "mine.py").write_text(OWN_PRUNER.replace("norm", "mean"))
    code, _, err = said(*run, "--pruner", "mine.py:FeatureNorm,spatial")
    assert code == 2
    assert "pruner_files" in err  # the stored answers are those of another pruner


def test_version_and_help(said):
    assert re.fullmatch(r"groundprune \d+\.\d+\.\d+\n", said("--version")[1])
    code, out, err = said()
    assert (code, err) == (0, "")
    assert all(command in out for command in ("ground", "ask", "scene", "compare", "verify", "list", "pocket"))
    for command in ("ground", "ask", "scene", "compare", "verify", "list"):
        assert "--help" in said(command, "--help")[1]
