"""The name smol: a model that is put together on one's own machine, and the scenes that go with it."""

import pytest

import groundprune as gp
from groundprune import smol
from groundprune.cli import main
from groundprune.data import open_data
from groundprune.errors import GroundPruneError
from groundprune.evaluation import compare
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


@pytest.mark.parametrize("ask", [gp.load, lambda name: open_data(name), lambda name: compare(name, 1)])
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


def test_its_scenes_are_as_many_of_each_kind_as_are_asked_for(made):
    assert [sample.text for sample in open_data("smol", scenes=2).samples] == [
        "thing 0", "thing 1", "which 0?", "which 1?"
    ]  # fmt: skip
    assert [sample.text for sample in open_data("smol:held-out", limit=1).samples] == ["thing 0", "which 0?"]
    with pytest.raises(GroundPruneError, match=r"unknown split 'novel-pair'; did you mean 'novel-picture'"):
        open_data("smol:novel-pair")


def test_compare_and_studies_ask_it_about_its_own_scenes(made, tmp_path):
    summary = compare("smol", 2, pruners=["random"], keeps=[0.5], positions=["preserved"], progress=False)
    assert (summary.run["data"], summary.run["split"]) == ("smol", "held-out")
    assert list(samples_of(summary.run)) == ["thing-0", "thing-1", "4", "5"]
    asked = Asked({"smol": "smol"}, "smol", limit=1)
    run_study(study_of("one-percent"), asked, tmp_path / "studies", progress=False)
    assert '"sample": "thing-0"' in (tmp_path / "studies" / "one-percent" / "smol" / "samples.jsonl").read_text()
