"""`--explain` of ground and ask: a sheet, or one line that says why there is none."""

import os

import pytest

import groundprune as gp
from groundprune.cli import main

TEXT = "the small purple object"

pytestmark = pytest.mark.usefixtures("beside_a_scene")


def test_written(capsys, tmp_path):
    assert (
        main(["ground", "scene.png", TEXT, "--explain", "sheet.svg", "--keep", "0.25", "--positions", "stretched"])
        == 0
    )
    out, err = capsys.readouterr()
    assert out.endswith("sheet    sheet.svg\n")
    assert "144 of 144 kept (unpruned)" in out
    assert err == ""
    assert (tmp_path / "sheet.svg").stat().st_size > 10_000


def test_the_named_pruner_and_policy_lead(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("groundprune.report.sheet.write_sheet", lambda found, path: seen.append(found))
    run = ["--pruner", "random", "--seed", "3", "--tokens", "40", "--positions", "official", "--json"]
    assert main(["ground", "scene.png", TEXT, "--explain", "sheet.png", *run]) in (0, 1)
    assert '"sheet": "sheet.png"' in capsys.readouterr().out
    (found,) = seen
    assert found.asked == gp.Random(tokens="40", seed=3)
    assert list(found.answers) == ["unpruned", "preserved", "reassigned", "official"]
    assert {s.label: s.kept_tokens for s in found.scored}["random"] == 40
    assert {s.label for s in found.scored} | set(found.refused) == set(gp.pruner_names())


def test_all_pruners_share_the_budget_that_stands_in_the_text_of_one(monkeypatch):
    seen = []
    monkeypatch.setattr("groundprune.report.sheet.write_sheet", lambda found, path: seen.append(found))
    assert main(["ground", "scene.png", TEXT, "--explain", "sheet.png", "--pruner", "random:tokens=40"]) in (0, 1)
    assert {s.kept_tokens for s in seen[0].scored if s.label in ("random", "cls-visual", "spatial")} == {40}


def test_unknown_words_are_said_once(capsys):
    main(["ground", "scene.png", "the mug", "--explain", "sheet.png"])
    assert capsys.readouterr().err.count("does not know") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--explain", "sheet.pdf"], "a sheet is a .png or an .svg (got '.pdf')"),
        (["--explain", "sheet"], "a sheet is a .png or an .svg (got '')"),
        (["--explain", "missing/sheet.png"], "there is no folder missing"),
        (["--explain", "scene.png/sheet.png"], "there is no folder scene.png"),
        (["--explain", "scene.png"], "is the image itself"),
        (["--explain", "o.png", "--out", "o.png"], "or the overlay"),
        (["--explain", "folder.svg"], "is a folder"),
        (["--explain", "s.png", "--keep", "2"], "keep must be a number"),
        (["--explain", "s.png", "--positions", "strechted"], "did you mean 'stretched'?"),
        (["--explain", "s.png", "--keep", "0.5", "--tokens", "3"], "either --keep or --tokens, not both"),
        (["--explain", "s.png", "--seed", "3"], "--seed needs --pruner"),
    ],
)
def test_refused_before_the_model_is_loaded(capsys, monkeypatch, tmp_path, options, says):
    (tmp_path / "folder.svg").mkdir()
    monkeypatch.setattr("groundprune.checkpoints.load.load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert main(["ground", "scene.png", TEXT, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_no_permission(capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)
    assert main(["ground", "scene.png", TEXT, "--explain", "sheet.png"]) == 2
    assert "no permission" in capsys.readouterr().err
