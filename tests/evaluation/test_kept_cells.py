"""Rows say which cells of the image were kept, and read back they are what the model kept."""

import json

import numpy as np
import pytest
import torch

import groundprune as gp
from groundprune.checkpoints.prompts import model_inputs, prompt_for
from groundprune.data import scene_samples
from groundprune.errors import GroundPruneError
from groundprune.evaluation import Runner, Setting, compare, evaluate, kept_grids, read_rows
from groundprune.evaluation.rows import KeptCells
from groundprune.evaluation.runner import prune as in_context
from support.checkpoints import save_tiny

NEW = {"grids", "kept_cells"}
QUICK = {"pruners": ["random", "fastv"], "keeps": [0.5], "positions": ["preserved"], "progress": False}
SETTINGS = [Setting.of("random", 0.5), Setting.of("fastv", 0.75), Setting.of("spatial", 0.25, positions="reassigned")]


def lines(folder, without=()):
    rows = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    return sorted(json.dumps({k: v for k, v in row.items() if k not in without}) for row in rows)


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl", "gemma3"])
def test_the_cells_are_those_of_the_kept_tokens(family, tmp_path):
    """In one grid, in tiles with newlines, behind windows; asked about one by one, from pixels."""
    model, processor = gp.load(save_tiny(family, tmp_path))
    samples = list(scene_samples(2, seed=3))
    runner = Runner(model, processor, samples, batch_size=2)
    runner.prepare(SETTINGS)
    for setting in SETTINGS:
        rows = {row["sample"]: row for part in runner.run(setting) for row in part}
        for sample in samples:
            prompt = prompt_for(processor, runner.grounding, sample.kind, sample.text)
            inputs = model_inputs(processor, runner.grounding, [sample.image], [prompt])
            with torch.no_grad(), gp.prune(model, setting.make_pruner(), setting.positions) as run:
                model(**inputs.to(model.device, model.dtype))
            layout, kept = run.layout[0], run.kept[0]
            grids = kept_grids(rows[sample.id])
            assert grids is not None
            assert [grid.shape for grid in grids] == [layout.grid(group) for group in layout.groups()]
            tiles = layout.image * 1000 + layout.tile
            number = {tile: i for i, tile in enumerate(tiles[layout.is_patch].unique().tolist())}
            expected = [np.zeros_like(grid) for grid in grids]
            for token in kept[layout.is_patch[kept]].tolist():
                expected[number[int(tiles[token])]][layout.row[token], layout.col[token]] = True
            assert all((a == b).all() for a, b in zip(grids, expected, strict=True))
            assert len(kept) == rows[sample.id]["kept"]


def test_unpruned_rows_say_nothing(tmp_path):
    compare(out=tmp_path, scenes=1, **QUICK)
    rows = read_rows(tmp_path / "samples.jsonl")
    assert all(list(row)[-3:] == ["grids", "kept_cells", "cost"] for row in rows.values())
    assert {setting for (setting, _), row in rows.items() if kept_grids(row) is None} == {"unpruned"}


@pytest.mark.parametrize("shapes", [[], [(1, 1)], [(3, 5)], [(2, 3), (7, 2), (1, 9)]])
def test_written_and_read_back(shapes):
    random = np.random.default_rng(0)
    cells = KeptCells([random.random(shape) < 0.5 for shape in shapes])
    read = kept_grids(json.loads(json.dumps(cells.to_row())))
    assert read is not None
    assert [grid.tolist() for grid in read] == [grid.tolist() for grid in cells.grids]


def test_digits_are_cells_row_after_row():
    cells = KeptCells([np.array([[True, False, False], [False, True, False]]), np.array([[True, True, True]])])
    assert cells.to_row() == {"grids": [[2, 3], [1, 3]], "kept_cells": "8b80"}


@pytest.mark.parametrize("kept", ["8", "8b", "xyz0", 12])
def test_nonsense_is_named(kept):
    with pytest.raises(GroundPruneError, match="sample a: no kept cells"):
        kept_grids({"sample": "a", "grids": [[3, 4]], "kept_cells": kept})


def test_a_folder_of_an_older_compare_goes_on(tmp_path):
    """It held no cells, and did not say protocol and source; `evaluate` on as many scenes is the same run."""
    whole, old = tmp_path / "whole", tmp_path / "old"
    compare(out=whole, scenes=2, **QUICK)
    old.mkdir()
    rows = [{k: v for k, v in row.items() if k not in NEW} for row in map(json.loads, lines(whole))]
    (old / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-3]))
    summary = json.loads((whole / "summary.json").read_text())
    summary["run"] = {k: v for k, v in summary["run"].items() if k not in ("protocol", "source", "limit")}
    (old / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(GroundPruneError, match="protocol: 'native' there, 'paper' here"):
        evaluate(data="scenes", limit=2, protocol="paper", out=old, **QUICK)
    with pytest.raises(GroundPruneError, match="scenes: 2 there, 3 here"):
        compare(out=old, scenes=3, **QUICK)
    assert evaluate(data="scenes", limit=2, out=old, **QUICK).complete
    assert compare(out=old, scenes=2, **QUICK).complete
    assert lines(old, NEW) == lines(whole, NEW)
    assert set(lines(whole)) & set(lines(old))


def test_before_the_llm_no_context_is_entered(monkeypatch):
    """The pure function answers, and where layers prune or windows count positions the context does."""
    entered = []

    def enter(*given):
        entered.append(given[1].label)
        return in_context(*given)

    monkeypatch.setattr("groundprune.evaluation.generating.prune", enter)
    runner = Runner(*gp.load("pocket"), list(scene_samples(1)))
    runner.prepare(SETTINGS)
    for setting in SETTINGS:
        list(runner.run(setting))
    assert set(entered) == {"fastv"}
