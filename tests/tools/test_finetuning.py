"""Fine-tuning under pruning: what is trained on, that a killed run goes on, and what the docs say of its results."""

import json
from dataclasses import asdict

import pytest

import groundprune as gp
from groundprune.evaluation.statistics import wilson
from groundprune.pocket.scenes import IMAGE_SIZE, TEST_SEEDS, VALIDATION_SEEDS
from tools.docs.finetuning import accuracy, bought_back, finetuning_figure, finetuning_table
from tools.finetuning import ARMS, SETTINGS, Plan
from tools.finetuning.__main__ import QUICK, main
from tools.finetuning.scenes import FIRST_RUN, IGNORED, Collator, Conversations
from tools.pocket_training.runtime import scene_seed


def rows(reassigned_after):
    """By seed the right of 100 under reassigned ids after training with them; all else is the same."""
    before = dict.fromkeys(SETTINGS, 80) | {name: 20 for name in SETTINGS if "reassigned" in name}
    found = [("before", 0, before)]
    for seed, right in enumerate(reassigned_after):
        found += [(arm, seed, before) for arm in ARMS if arm != "reassigned"]
        found.append(("reassigned", seed, dict.fromkeys(SETTINGS, right)))
    return [
        {"arm": arm, "seed": seed, "seconds": 90, "rec": {n: {"right": r, "asked": 100} for n, r in right.items()}}
        for arm, seed, right in found
    ]


def results(*reassigned_after):
    versions = {"torch": "2.13.0", "transformers": "5.23.0"}
    return {"plan": asdict(Plan()), "about": {"versions": versions}, "rows": rows(reassigned_after)}


class TestScenes:
    def test_answers_are_what_is_learnt_and_where_the_objects_are(self):
        _, processor = gp.load("pocket")
        examples = [Conversations(0, 4, 3)[index] for index in range(4)]
        batch = Collator(processor)(examples)
        for b, example in enumerate(examples):
            ids, labels = batch["input_ids"][b], batch["labels"][b]
            answers = [message["content"] for message in example["messages"] if message["role"] == "assistant"]
            words = processor.tokenizer("".join(f"{answer} </s>" for answer in answers), add_special_tokens=False)
            assert answers
            assert ids[labels != IGNORED].tolist() == words["input_ids"]
            assert labels[labels != IGNORED].equal(ids[labels != IGNORED])
        assert batch["pixel_values"].shape == (4, 3, IMAGE_SIZE, IMAGE_SIZE)

    def test_every_seed_has_scenes_of_its_own_that_nothing_is_measured_on(self):
        first, second = (Conversations(seed, 1, 2)[0] for seed in (0, 1))
        assert first["images"][0].tobytes() != second["images"][0].tobytes()
        assert first["images"][0].tobytes() == Conversations(0, 9, 2)[0]["images"][0].tobytes()
        seed = scene_seed(FIRST_RUN, 1, 0)
        assert seed not in TEST_SEEDS
        assert seed not in VALIDATION_SEEDS


class TestRun:
    def test_a_run_that_was_killed_goes_on_and_is_a_function_of_its_seeds(self, tmp_path, capsys):
        out = tmp_path / "results.json"
        words = ["--quick", "--seeds", "1", "--out", str(tmp_path)]
        assert main(words) == 0
        found = json.loads(out.read_text())
        assert [(row["arm"], row["seed"]) for row in found["rows"]] == [("before", 0), *((arm, 0) for arm in ARMS)]
        assert all(row["rec"].keys() == SETTINGS.keys() for row in found["rows"])
        losses = {row["arm"]: row["loss"][0] for row in found["rows"] if "loss" in row}
        assert losses["unpruned"] < losses["preserved"] < losses["reassigned"]  # of the same boxes, before any step
        out.write_text(json.dumps({**found, "rows": found["rows"][:2]}))
        capsys.readouterr()
        assert main(words) == 0
        assert "unpruned, seed 0" not in capsys.readouterr().out
        again = json.loads(out.read_text())["rows"]
        assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in found["rows"]]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--seeds", "0"], "--seeds must be at least 1"),
            ([], "of another plan"),
            (["--seeds", "x"], "invalid int"),
        ],
    )
    def test_mistakes_end_in_one_line(self, tmp_path, capsys, words, says):
        (tmp_path / "results.json").write_text(json.dumps({"plan": asdict(QUICK), "rows": []}))
        assert main([*words, "--out", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert said.count("\n") == 1


class TestDocs:
    def test_what_was_bought_back_is_a_share_of_what_was_taken(self):
        found = results(35, 35, 35)
        assert bought_back(found, "random").value == pytest.approx(0.25)  # 15 of the 60 points
        assert accuracy(found, "before", "random preserved").low == wilson(80, 100)[0]
        spread = accuracy(results(20, 35, 50), "reassigned", "random reassigned")
        assert (spread.value, spread.n) == (pytest.approx(0.35), 3)
        assert spread.high - spread.value == pytest.approx(4.303 * 0.15 / 3**0.5)

    def test_the_table_and_the_figure(self):
        found = results(35, 35, 35)
        table = finetuning_table(found)
        assert "| pruned, reassigned ids | 35.0 [35.0, 35.0] |" in table
        assert "35.0 [35.0, 35.0] with reassigned ids after training with them, which is 25.0 [25.0, 25.0]%" in table
        figure = finetuning_figure(found)
        numbers = [text.get_text() for text in figure.axes[0].texts]
        assert numbers == ["80", "80", "80", "35", "80", "80", "80", "35", "20", "20", "20", "35"]
