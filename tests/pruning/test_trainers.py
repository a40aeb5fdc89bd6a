"""transformers' Trainer and TRL's SFTTrainer train pruned models as they are; nothing of it stays."""

import contextlib
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

import groundprune as gp
from groundprune.boxes import Box, make_codec
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from support.closeness import assert_apart, assert_near
from support.generating import CONTROL, TOLERANCE, snapshot
from support.inside import LastRow
from support.training import gradient, words_labelled

RATE = 0.1
PRUNER, RANDOM = gp.ClsVisual(keep=0.4), gp.Random(keep=0.5)
state = pytest.importorskip("accelerate.state")


@pytest.fixture(autouse=True, scope="module")
def _accelerates_state():
    """What accelerate knows of a process, its precision among it, is that process's."""
    yield
    state.AcceleratorState._reset_state(reset_partial_state=True)


class Rows(Dataset):
    """Prompts of one length, of which the first has more words to predict than the others."""

    def __init__(self, model, count=4):
        made = [words_labelled(model, tiny_inputs(model, [(1, 5, 7)], seed=seed)) for seed in range(count)]
        for row in made[1:]:
            row["labels"][:, :-3] = -100
        self.rows = made

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def collated(rows):
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def arguments(folder, **options):
    """One step over four rows in four micro-batches, by plain descent: the weights move by the gradient."""
    settings = {
        "max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "optim": "sgd",
        "learning_rate": RATE, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_strategy": "no",
    }  # fmt: skip
    quiet = {"use_cpu": True, "remove_unused_columns": False, "report_to": [], "disable_tqdm": True}
    return TrainingArguments(output_dir=str(folder), **{**settings, **quiet, **options})


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def oracles_step(pruner):
    """[P]: by how much a step of the masked oracle moves the weights; a word counts as much in every micro-batch."""
    model = tiny_model("llava", layers=3)
    total, words = 0, 0
    for row in Rows(model):
        with torch.no_grad(), gp.prune(model, pruner) as run:
            model(**row)
        with hide(model, hidden_columns(run.prompt)):
            count = int((row["labels"][:, 1:] != -100).sum())
            total, words = total + model(**row).loss * count, words + count
    return -RATE * gradient(model, total / words)


@pytest.mark.parametrize(
    ("way", "pruner"), [("context", PRUNER), ("context", LastRow(keep=0.4)), ("compute_loss", PRUNER)],
    ids=["context", "between layers", "compute_loss"],
)  # fmt: skip
def test_a_step_of_the_trainer_is_a_step_of_the_oracle(tmp_path, way, pruner):
    """With micro-batches of unequal numbers of words."""
    model = tiny_model("llava", layers=3)

    class Pruned(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return super().compute_loss(model, gp.prune_inputs(model, inputs, pruner), *args, **kwargs)

    start = weights(model)
    trainer = (Trainer if way == "context" else Pruned)(
        model, arguments(tmp_path), data_collator=collated, train_dataset=Rows(model)
    )
    if way == "context":
        with gp.prune(model, pruner):
            trainer.train()
    else:
        trainer.train()
    moved, wanted = weights(model) - start, oracles_step(pruner)
    assert_near(moved, wanted, 1e-4)  # the difference of weights that are larger than the step
    assert_apart(wanted, oracles_step(gp.Spatial(keep=0.4)), CONTROL)


def test_checkpoints_evaluation_and_what_is_left(tmp_path):
    """Checkpoints of a run under `gp.prune` are stock ones; its evaluations are pruned."""
    model = tiny_model("llava")
    rows = Rows(model)
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    settings = arguments(tmp_path / "run", max_steps=2, **options)
    with torch.no_grad():
        stock = model(**rows[0]).logits
    trainer = Trainer(model, settings, data_collator=collated, train_dataset=rows, eval_dataset=rows)
    before, names = snapshot(model), {*vars(model), "_is_accelerate_prepared"}
    with gp.prune(model, PRUNER) as run:
        trainer.train()
        assert len(run.kept[0]) < len(run.layout[0])
    assert snapshot(model)[1] == before[1]
    assert set(vars(model)) == names
    saved = tmp_path / "run" / "checkpoint-2"
    model.eval()
    model.save_pretrained(tmp_path / "after")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((saved / file).read_text()) == json.loads((tmp_path / "after" / file).read_text())
    again = AutoModelForImageTextToText.from_pretrained(saved)
    assert load_file(saved / "model.safetensors").keys() == load_file(tmp_path / "after" / "model.safetensors").keys()
    with torch.no_grad():
        assert_near(again(**rows[0]).logits, model(**rows[0]).logits, TOLERANCE)
        assert again(**rows[0]).logits.shape == stock.shape  # unpruned
        pruned = model(**gp.prune_inputs(model, collated(list(rows)), PRUNER)).loss
    told = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert_near(told[1], pruned, TOLERANCE)
    assert_apart(told[0], pruned, CONTROL)


def test_autocast_that_a_trainer_lays_around_the_model_outlasts_the_context(tmp_path):
    """And what it unwraps to is the stock model."""
    model = tiny_model("llava")
    rows = Rows(model)
    stock = model.forward
    trainer = Trainer(model, arguments(tmp_path, bf16=True), data_collator=collated, train_dataset=rows)
    with gp.prune(model, PRUNER) as run:
        trainer.train()
        assert len(run.kept[0]) < len(run.layout[0])
    model.eval()
    with torch.no_grad():
        rounded = model(**rows[0]).logits
        assert rounded.shape[1] == rows[0]["input_ids"].shape[1]
        plain = type(model).forward(model, **rows[0]).logits
        assert_apart(rounded, plain, 1e-4)  # it runs in bfloat16, as it did in training
        unwrapped = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        assert unwrapped(**rows[0]).logits.equal(plain)
        with gp.prune(model, PRUNER):
            assert unwrapped(**rows[0]).logits.shape[1] < plain.shape[1]
    assert stock.__func__ is type(model).forward


class TestTRL:
    """Its collator labels every column of a completion, its head takes labels to what the layers leave."""

    @pytest.fixture(scope="class")
    @staticmethod
    def train(tmp_path_factory):
        """train(positions, pruner, overridden) gives the losses of two steps on drawn scenes."""
        trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
        scenes = [gp.scene(seed) for seed in range(4)]
        codec = make_codec("llava")
        rows = [
            {
                "images": [scene.image],
                "prompt": [{"role": "user", "content": f"locate {text}"}],
                "completion": [{"role": "assistant", "content": codec.encode(Box(*(edge / 144 for edge in box)))}],
            }
            for scene in scenes
            for text, box in list(scene.expressions.items())[:1]
        ]
        settings = trl.SFTConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")), max_steps=2, per_device_train_batch_size=2,
            max_length=None, learning_rate=1e-3, use_cpu=True, bf16=False, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_steps=1, gradient_checkpointing=False,
        )  # fmt: skip

        class Pruned(trl.SFTTrainer):
            def compute_loss(self, model, inputs, *args, **kwargs):
                return super().compute_loss(model, gp.prune_inputs(model, inputs, RANDOM), *args, **kwargs)

        def losses(positions="preserved", pruner=RANDOM, overridden=False):
            model, processor = gp.load("pocket", dtype="float32")
            trainer = (Pruned if overridden else trl.SFTTrainer)(
                model, settings, train_dataset=datasets.Dataset.from_list(rows), processing_class=processor
            )
            with contextlib.nullcontext() if overridden else gp.prune(model, pruner, positions):
                trainer.train()
            return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

        return losses

    def test_both_ways_learn_the_same_and_ids_matter(self, train):
        preserved, renumbered = train(), train("reassigned")
        assert_near(train(overridden=True), preserved, 1e-4)
        assert renumbered[0] > 2 * preserved[0]  # the pocket reads places by ids

    def test_pruning_between_layers_is_refused(self, train):
        with pytest.raises(gp.Unservable, match="fused_lm_head"):
            train(pruner=gp.FastV(keep=0.5))
