"""The name smol: a model that is put together on one's own machine, and the scenes that go with it."""

import pytest

import groundprune as gp
from groundprune import smol
from groundprune.app.asking import Bench as App
from groundprune.boxes import Box
from groundprune.cli import main
from groundprune.data import open_data
from groundprune.data.sources import scenes_of
from groundprune.errors import GroundPruneError
from groundprune.evaluation import compare, evaluate
from groundprune.report.gallery import samples_of
from groundprune.studies.running import Asked, run_study
from groundprune.studies.study import study_of
from support.smol_home import put_together


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return smol.home()


@pytest.fixture
def made(home):
    return put_together()


@pytest.mark.parametrize("ask", [gp.load, open_data, lambda name: compare(name, 1)])
def test_before_it_is_made_its_name_says_how_it_is_made(home, ask):
    with pytest.raises(GroundPruneError, match=r"smol is not at .*`make smol`"):
        ask("smol")


def test_the_command_line_says_so_in_one_line(home, capsys):
    assert main(["compare", "--model", "smol", "--scenes", "1"]) == 2
    told = capsys.readouterr().err
    assert "make smol" in told
    assert "Traceback" not in told


def test_it_loads_by_its_name(made):
    model, _ = gp.load("smol")
    assert model.config.model_type == "llava"


@pytest.mark.parametrize("ask", [gp.load, open_data])
def test_half_of_it_or_what_was_made_of_other_weights_is_made_anew(made, ask):
    (made / smol.MADE_OF).write_text("of an older file")
    with pytest.raises(GroundPruneError, match=r"was made of another file than .*`make smol`"):
        ask("smol")
    (made / smol.MADE_OF).unlink()  # an interruption leaves none
    with pytest.raises(GroundPruneError, match=r"smol is not at .*`make smol`"):
        ask("smol")


def test_without_a_checkout_nothing_is_there_to_compare_it_with(made, tmp_path, monkeypatch):
    (made / smol.MADE_OF).write_text("of some file")
    monkeypatch.setattr(smol, "PACKED", tmp_path / "none")
    gp.load("smol")


def test_its_folder_is_asked_about_its_scenes_too(made):
    assert scenes_of("smol") == scenes_of(made / "checkpoint") == scenes_of(str(made / "checkpoint")) == "smol"
    assert scenes_of("pocket") == scenes_of(made) == "scenes"
    summary = evaluate("smol", pruners=["random"], keeps=[0.5], positions=["preserved"], limit=1, progress=False)
    assert summary.run["data"] == "smol"


def test_its_scenes_are_as_many_of_each_kind_as_are_asked_for(made):
    assert [sample.text for sample in open_data("smol", scenes=2).samples] == [
        "thing 0", "thing 1", "which 0?", "which 1?"
    ]  # fmt: skip
    assert [sample.text for sample in open_data("smol:held-out", limit=1).samples] == ["thing 0", "which 0?"]
    assert len(open_data("smol", scenes=9).samples) == 8 + 2, "no more than there are"
    for refused, options in {
        "unknown split 'novel-pair'; did you mean 'novel-picture'": {"spec": "smol:novel-pair"},
        r"at least 1 \(got 0\)": {"scenes": 0},
        r"at least 1 \(got -1\)": {"scenes": -1},
        "seed must be 0 for smol": {"seed": 5},
    }.items():
        with pytest.raises(GroundPruneError, match=refused):
            open_data(**{"spec": "smol", **options})
    (made / "tests" / "held-out.jsonl").write_text("")
    with pytest.raises(GroundPruneError, match="smol holds no samples"):
        open_data("smol")


def test_the_app_offers_its_scenes(made):
    bench = App(*gp.load("smol"), name="smol")
    assert bench.picture("scene:7").requests["rec"] == {"thing 7": Box(0, 0, 9, 9)}
    for number in (8, -1):
        with pytest.raises(GroundPruneError, match=rf"smol has scenes 0 to 7 \(got {number}\)"):
            bench.picture(f"scene:{number}")


def test_compare_and_studies_ask_it_about_its_own_scenes(made, tmp_path):
    summary = compare("smol", 2, pruners=["random"], keeps=[0.5], positions=["preserved"], progress=False)
    assert (summary.run["data"], summary.run["split"]) == ("smol", "held-out")
    assert list(samples_of(summary.run)) == ["thing-0", "thing-1", "9", "10"]
    asked = Asked({"smol": "smol"}, "smol", limit=1)
    run_study(study_of("one-percent"), asked, tmp_path / "studies", progress=False)
    assert '"sample": "thing-0"' in (tmp_path / "studies" / "one-percent" / "smol" / "samples.jsonl").read_text()
