"""What the tests of several families measure on a tiny model."""

import inspect
import sys

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import groundprune as gp
from groundprune.families import family_of
from groundprune.probes import tower
from groundprune.probes.tower import record_of, recordable
from groundprune.signals import TOWER_HIDDEN


def own_loop(model, inputs, steps=6, **extra):
    """Long[B, steps]: greedy tokens of a loop without `generate`. extra: of each decode step."""
    tokens = []
    with torch.no_grad():
        out = model(**inputs)
        for _ in range(steps):
            tokens.append(out.logits[:, -1].argmax(-1, keepdim=True))
            out = model(input_ids=tokens[-1], past_key_values=out.past_key_values, **extra)
    return torch.cat(tokens, 1)


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
