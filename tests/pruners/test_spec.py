"""A pruner in text and in data: what is printed is read back, and what cannot be is refused by name."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import groundprune as gp
from groundprune.evaluation.results import Results, read_summary
from groundprune.evaluation.specs import Setting, compare_settings
from groundprune.pruners import Spec, pruner_class, pruner_names
from groundprune.pruners.option import options_of
from groundprune.pruners.spec import short_name, spec_of, split_outside_quotes

STORED = Path(__file__).parents[2] / "results" / "compare" / "seed0" / "summary.json"


KINDS_FILE = f"{Path(__file__).parents[1] / 'support' / 'kinds_of_options.py'}:Kinds"
Kinds = pruner_class(KINDS_FILE)
MARKS = st.text(alphabet='ab:,=" ', min_size=1)
VALUES = st.fixed_dictionaries(
    {
        "share": st.floats(allow_nan=False),
        "count": st.none() | st.integers(),
        "flag": st.booleans(),
        "word": st.text() | MARKS | st.sampled_from(["none", "None", 'a:b,c="d"', " x ", "", '"']),
        "maybe": st.none() | st.text() | MARKS | st.sampled_from(["none", ":", "true"]),
    }
)
BUDGETS = st.sampled_from([{"keep": "0.25"}, {"keep": "1/3"}, {"tokens": "64"}])


@given(VALUES, BUDGETS)
def test_what_is_printed_is_read_back(options, budget):
    pruner = Kinds(**options, **budget)
    spec = spec_of(pruner)
    assert Spec.parse(str(spec)).make_pruner() == pruner
    assert spec_of(Spec.parse(str(spec)).make_pruner()) == spec
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))).make_pruner() == pruner
    assert split_outside_quotes(f"random,{spec},spatial", ",") == ["random", str(spec), "spatial"]


@given(MARKS, MARKS, st.text())
def test_a_path_and_a_value_of_any_text_are_read_back(path, value, other):
    spec = Spec(f"{path}.py:Mine", keep="0.5", options={"one": value, "two": other})
    assert Spec.parse(str(spec)) == spec
    assert Spec.parse(str(spec)).file == f"{path}.py"


def test_what_a_class_says_of_its_options_is_told():
    told = {o.name: (o.type, o.default, o.meaning) for o in options_of(Kinds)}
    assert told["count"] == ("int | None", None, "A whole number, or none.")
    assert told["share"] == ("float", 0.5, "A number.")
    assert list(told) == ["share", "count", "flag", "word", "maybe"]


@pytest.mark.parametrize("name", pruner_names())
def test_every_method_is_made_from_its_own_text_and_says_what_its_options_mean(name):
    pruner = pruner_class(name)(tokens=64)
    assert str(spec_of(pruner)) == f"{name}:tokens=64"
    options = options_of(type(pruner))
    text = ":".join([name, "tokens=64", *(f"{o.name}={str(o.default).lower()}" for o in options)])
    assert gp.make_pruner(text) == gp.make_pruner(name, tokens="64")
    assert {o.name for o in options} == {f.name for f in fields(pruner) if f.init} - {"keep", "tokens"}
    assert all(o.meaning for o in options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hired:alpah=0.3", "unknown option of hired 'alpah'; did you mean 'alpha'"),
        ("coverage:sprd=0.3", r"known: anchors, spread, text"),
        ("spatial:alpha=1", "spatial has no options, but its budget"),
        ("hired:alpha=high", r"hired: alpha must be a number \(got 'high'\)"),
        ("hired:alpha=0", "alpha must be above 0"),
        ("coverage:text=perhaps", "text must be true or false"),
        ("random:seed=1.5", r"seed must be a whole number \(got '1.5'\)"),
        ("dart:layer=two", "layer must be a whole number or none"),
        ('dart:layer="none"', "layer must be a whole number or none"),
        ("hired:alpha", r"an option of a pruner is name=value \(got 'alpha'"),
        ("hired:alpha=1:alpha=1", "alpha is given twice"),
        ('hired:alpha="1', "a quote is open"),
        ("hired:keep=0.25", "keep is given beside the pruner"),
        ("hired:tokens=4", "keep is given beside the pruner"),
        ("hird:alpha=0.3", "did you mean 'hired'"),
    ],
)
def test_what_says_no_pruner_is_refused_in_one_line(text, message):
    with pytest.raises(gp.GroundPruneError, match=f"{message}[^\n]*$"):
        gp.make_pruner(text, keep=0.5)


def test_options_come_from_text_or_from_python():
    assert gp.make_pruner("hired:alpha=0.3:keep=0.25") == gp.HiRED(keep="0.25", alpha=0.3)
    assert gp.make_pruner("hired", keep=0.25, alpha=0.3) == gp.HiRED(keep=0.25, alpha=0.3)
    assert gp.make_pruner("fastv:layer=none", keep=0.5) == gp.FastV(keep=0.5)
    with pytest.raises(gp.GroundPruneError, match="alpha is given beside"):
        gp.make_pruner("hired:alpha=0.3", keep=0.25, alpha=0.3)
    with pytest.raises(gp.GroundPruneError, match="unknown option of hired 'beta'"):
        gp.make_pruner("hired", keep=0.25, beta=1)
    with pytest.raises(gp.GroundPruneError, match="no pruner in data"):
        Spec.from_dict({"pruner": "hired", "alpha": 1})


def test_a_class_in_a_file_takes_options(tmp_path):
    file = tmp_path / "a:b,c=d.py"
    file.write_text(
        "from dataclasses import dataclass\nimport groundprune as gp\n\n\n"
        "@dataclass(frozen=True)\nclass Norm(gp.Pruner):\n    power: int = 2\n"
        "    def score(self, signals, layout, stage):\n        return signals.projected.norm(self.power, dim=-1)\n"
    )
    text = f'"{file}":Norm:power=3'
    pruner = gp.make_pruner(text, keep=0.5)
    assert pruner.power == 3
    assert spec_of(pruner) == Spec(f"{file}:Norm", keep="0.5", options={"power": 3})
    assert Setting.of(text, "0.5").make_pruner().power == 3
    assert Setting.of(text, "0.5").label == "Norm:power=3 0.5, preserved"


def test_a_name_that_no_text_can_say_is_refused():
    with pytest.raises(gp.GroundPruneError, match="is a word without"):
        gp.register(type("Odd", (gp.Pruner,), {"name": "a:b"}))


class TestSettings:
    def test_ids_without_options_are_those_of_old_results(self):
        stored = [entry["setting"] for entry in json.loads(STORED.read_text())["settings"]]
        assert len(stored) > 30
        made = [Setting.of(s["pruner"], s["keep"], s["tokens"], s["positions"]) for s in stored]
        assert made == [Setting(**s) for s in stored]
        assert [s.id for s in compare_settings()] == [s.id for s in made]
        assert made[1].id == "random/keep=0.75/preserved"
        assert Setting.of("random:seed=0", "0.5").id == "random/keep=0.5/preserved"

    def test_an_old_folder_resumes_without_a_new_answer(self, tmp_path):
        shutil.copy(STORED, tmp_path)
        stored, settings = read_summary(STORED), compare_settings()
        old = {"sample": "a", "kind": "vqa", "type": "count", "answer": "2", "correct": True}
        rows = [
            {"setting": entry.setting.id, **old, "iou": None, "box": None, "kept": 9} for entry in stored.settings
        ]
        samples = tmp_path / "samples.jsonl"
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
        before = samples.read_text()
        now = {"protocol": "native", "source": None, **stored.run}  # as `compare` says it today
        with Results(tmp_path, now, stored.about, settings, 1) as results:
            assert all(results.done(setting) == {"a"} for setting in settings)
            assert results.settings == settings
            assert results.save().complete
            assert results.done(Setting.of("random:seed=1", "0.75")) == set()
        assert samples.read_text() == before

    def test_options_are_part_of_a_setting_in_their_shortest_form(self):
        setting = Setting.of("hired:alpha=.30", "0.50", positions="official")
        assert setting.id == "hired:alpha=0.3/keep=0.5/official"
        assert setting.make_pruner() == gp.HiRED(keep="0.5", alpha=0.3)
        assert Setting.of("hired:keep=1/2:alpha=0.3", positions="official") == setting
        assert short_name(setting.pruner) == "hired:alpha=0.3"
        assert short_name("some/mine.py:Mine:a=1") == "Mine:a=1"

    def test_a_budget_in_the_text_is_the_only_one(self):
        found = compare_settings(["hired:alpha=0.3:tokens=9", "spatial"], ["0.5", "0.25"], ["preserved"])
        assert [s.id for s in found] == [
            "unpruned", "hired:alpha=0.3/tokens=9/preserved", "spatial/keep=0.5/preserved",
            "spatial/keep=0.25/preserved",
        ]  # fmt: skip

    def test_official_positions_follow_the_options(self):
        setting = Setting.of("sparsevlm:version=2.0", "0.5", positions="official")
        assert setting.make_pruner().official_positions == "preserved"
