"""Under `official` a run equals the authors' plain sequence fed to the stock model: the order too, not the ids alone.

The oracle knows nothing of slots: it joins text, what the method emits, and text, numbers them from 0 (from 1 on
PaliGemma) and runs stock code, layer by layer where the method acts between layers.
"""

import functools

import pytest
import torch
from embedder import Embedder
from inside import Staged

import groundprune as gp
from groundprune.families import families, family_of
from groundprune.pruners import make_pruner, pruner_class, pruner_names
from groundprune.tiny import tiny_inputs, tiny_model
from groundprune.verification import relative_difference
from test_hooks_before_llm import GREEDY

IN_ORDER = [name for name in pruner_names() if pruner_class(name).official_positions == "reassigned-in-order"]
BEFORE = [name for name in IN_ORDER if not make_pruner(name, 0.5).inside]
TEXTS = {"text": ["a cup", "the red cup"], "text_tower": Embedder()}
TOLERANCE = 1e-5


@functools.cache
def model(family, layers=4):
    return tiny_model(family, layers=layers)


def plain_rows(tiny, inputs, run):
    """Per row [S, D]: the embeddings of text as it stands, and of each image what the method emits, in its order."""
    rows = []
    for ids, mask, row in zip(inputs["input_ids"], inputs["attention_mask"], run.rows, strict=True):
        kept, order = row.selection.kept, row.selection.order
        emitted = iter(row.features if order is None else row.features[order])
        stays = set(row.layout.column[kept].tolist())
        parts, visual = [], set(row.layout.column.tolist())
        for column in mask.bool().nonzero().squeeze(1).tolist():
            if column not in visual:
                parts.append(tiny.get_input_embeddings()(ids[column]))
            elif column in stays:  # of each image as many as stay, whichever they are
                parts.append(next(emitted))
        rows.append(torch.stack(parts))
    return rows


@torch.no_grad()
def stock(tiny, row, steps):
    """Logits after the sequence, and greedy tokens: stock code, a cache, ids that are just counted."""
    axes = family_of(tiny.config).position_axes
    embeds, cache, logits, tokens, past = row[None], None, [], [], 0
    for _ in range(steps):
        ids = torch.arange(past, past + embeds.shape[1])[None] + family_of(tiny.config).first_position
        ids = ids if axes == 1 else ids.expand(3, 1, -1)
        out = tiny.model.language_model(
            inputs_embeds=embeds, position_ids=ids, past_key_values=cache, use_cache=True,
            attention_mask=torch.ones(1, past + embeds.shape[1], dtype=torch.long),
        )  # fmt: skip
        cache, past = out.past_key_values, past + embeds.shape[1]
        logits.append(tiny.lm_head(out.last_hidden_state[:, -1]))
        tokens.append(logits[-1].argmax(-1))
        embeds = tiny.get_input_embeddings()(tokens[-1])[None]
    return logits, torch.cat(tokens)


def official(tiny, inputs, pruner, steps=4, positions="official"):
    with gp.prune(tiny, pruner, positions, **{**TEXTS, "text": TEXTS["text"][: len(inputs["input_ids"])]}) as run:
        out = tiny.generate(**inputs, max_new_tokens=steps, **GREEDY)
    return run, out


def served(name):
    for family, each in families().items():
        needs = pruner_class(name).needs
        try:
            config = each.tiny_config()
            for need in needs:
                each.check(config, need)
        except gp.GroundPruneError:
            continue
        # Qwen3-VL adds deepstack features between layers; bidirectional prompts need their token types. See below.
        if family not in ("qwen3_vl", "gemma3", "paligemma"):
            yield family


@pytest.mark.parametrize(("name", "family"), [(name, family) for name in BEFORE for family in served(name)])
def test_before_the_llm(name, family):
    tiny = model(family)
    inputs = tiny_inputs(tiny, [(1, 3, 4), (2, 2, 3)])
    run, out = official(tiny, inputs, make_pruner(name, 0.4))
    for b, row in enumerate(plain_rows(tiny, inputs, run)):
        assert run.rows[b].selection.order.diff().lt(0).any(), "nothing was permuted"
        logits, tokens = stock(tiny, row, 4)
        assert relative_difference([step[b : b + 1] for step in out.logits], logits) < TOLERANCE
        assert out.sequences[b, -4:].equal(tokens)
    _, raster = official(tiny, inputs, make_pruner(name, 0.4), positions="reassigned")
    assert relative_difference(raster.logits[:1], out.logits[:1]) > 1e-2


def test_every_method_that_leaves_the_raster_says_so():
    """And only those: what gives an order under any policy has an official sequence of its own."""
    tiny = model("llava", 16)
    inputs = tiny_inputs(tiny, [(1, 3, 4)])
    for name in pruner_names():
        run, _ = official(tiny, inputs, make_pruner(name, 0.6), steps=1, positions="preserved")
        order = run.rows[0].selection.order
        permuted = order is not None and order.diff().lt(0).any()
        assert not permuted or name in IN_ORDER, name
    assert {"visionzip", "prumerge", "prumerge+", "trim", "tome", "sparsevlm"} <= set(IN_ORDER)
