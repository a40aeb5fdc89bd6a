"""What the tests of several families measure on a tiny model."""

import inspect
import sys

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.verify import relative_difference
from groundprune.families import family_of
from groundprune.families.tiny_parts import IMAGE, VIDEO
from groundprune.probes import tower
from groundprune.probes.tower import record_of, recordable
from groundprune.signals import TOWER_HIDDEN

PROMPTS = [(1, 5, 7), (2, 2, 4), (1, 9, 3)]  # left padded; see tiny_inputs
PRUNERS = [gp.ClsVisual, gp.Random, gp.Spatial]
GREEDY = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 6}


def exact(model, inputs, pruner):
    """All facts of gp.verify; shown where one fails."""
    found = gp.verify(model, inputs, pruner)
    assert found.passed, found
    assert found.control > 1e-2


def equals_oracle(model, inputs, pruner, **options):
    """Generation with the pruner is that of the masked oracle, and with reassigned positions it is not."""
    # A random model may say a placeholder, which a prefill of all columns (no cache) would take for an image.
    settings = {**inputs, **GREEDY, "suppress_tokens": [VIDEO, IMAGE], **options}
    with gp.prune(model, pruner) as run:
        pruned = model.generate(**settings)
    with hide(model, hidden_columns(run.prompt)):
        wanted = model.generate(**settings)
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < 1e-5
    with gp.prune(model, pruner, "reassigned"):
        control = model.generate(**settings)
    assert relative_difference(control.logits[:1], wanted.logits[:1]) > 1e-2


def own_loop(model, inputs, steps=6, **extra):
    """Long[B, steps]: greedy tokens of a loop without `generate`. extra: of each decode step."""
    tokens = []
    with torch.no_grad():
        out = model(**inputs)
        for _ in range(steps):
            tokens.append(out.logits[:, -1].argmax(-1, keepdim=True))
            out = model(input_ids=tokens[-1], past_key_values=out.past_key_values, **extra)
    return torch.cat(tokens, 1)


def loop_equals_generate(model, inputs, positions):
    """A loop of one's own inside of the context gives the tokens of `generate`."""
    with gp.prune(model, gp.ClsVisual(keep=0.4), positions):
        wanted = model.generate(**{**inputs, **GREEDY}).sequences[:, inputs["input_ids"].shape[1] :]
        assert own_loop(model, inputs).equal(wanted)


def encode(model, inputs, modality, *needs):
    """Per unit the features that the LLM reads, and the record."""
    base = model.base_model
    encoder = getattr(base, f"get_{modality}_features")
    names = [name for name in inspect.signature(encoder).parameters if name in inputs]
    arguments = {name: inputs[name] for name in names}
    with torch.no_grad():
        output = tower.encode(base, family_of(model.config), modality, arguments, recordable(needs))
    return list(output.pooler_output), record_of(output)


def changed_places(model, before, after, modality, unit):
    """{(tile, row, col)} of the token of a unit that differs most between two inputs.

    By what the LLM reads, and by what the tower's last block gives: one place where both agree.
    """
    (stock, record), (painted, other) = (encode(model, x, modality, TOWER_HIDDEN) for x in (before, after))
    layout, places = record.units[unit], set()
    for values in ((stock, painted), (record.values[TOWER_HIDDEN], other.values[TOWER_HIDDEN])):
        worst = int((values[1][unit] - values[0][unit]).norm(dim=-1).argmax())
        places.add((int(layout.tile[worst]), int(layout.row[worst]), int(layout.col[worst])))
    return places


def received(layer=None):
    """What the scores of a tower without a CLS token are made of."""
    return gp.Need("tower_attention", layer, "received")


def log_eager(monkeypatch, tower, attention):
    """Eager attention from here on; the list fills with the weights of one module, [B, H, Q, L] a call."""
    modeling = sys.modules[type(attention).__module__]
    original, found = modeling.eager_attention_forward, []

    def logged(module, *args, **kwargs):
        output = original(module, *args, **kwargs)
        if module is attention:
            found.append(output[1].detach())
        return output

    monkeypatch.setattr(tower.config, "_attn_implementation", "eager")
    monkeypatch.setattr(modeling, "eager_attention_forward", logged)
    return found


def use_flash(monkeypatch, tower):
    """The tower calls flash attention from here on: all sequences at once, apart by cu_seq_lens_q. sdpa plays it."""

    def packed(module, query, key, value, attention_mask, cu_seq_lens_q, scaling, **kwargs):
        assert attention_mask is None
        lengths = cu_seq_lens_q.diff().tolist()
        parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
        outputs = [torch.nn.functional.scaled_dot_product_attention(*part, scale=scaling) for part in parts]
        return torch.cat(outputs, 2).transpose(1, 2), None

    monkeypatch.setattr(tower.config, "_attn_implementation", "flash_attention_2")
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", packed)
