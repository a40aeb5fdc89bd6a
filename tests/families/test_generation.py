"""Every family in every way to generate, pruned before the LLM and between its layers: equal to the masked oracle."""

import functools

import pytest
import torch
from transformers import StaticCache

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from support.closeness import assert_near
from support.families import BETWEEN_LAYERS
from support.generating import MODES, TOLERANCE, generate
from support.inside import LastRow, Staged

STAGED = Staged(keep=0.4, evict=True)
model_of = functools.cache(functools.partial(tiny_model, layers=4))
each_family = pytest.mark.parametrize("name", BETWEEN_LAYERS)


@each_family
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_with_stages_before_and_inside_of_the_llm(name, mode):
    model = model_of(name)
    inputs = tiny_inputs(model, [(1, 5, 7)] if mode == "drafts" else [(1, 5, 7), (2, 2, 4), (1, 9, 3)])
    if mode == "drafts":
        inputs["input_ids"][0, -6:] = torch.tensor([11, 12, 13, 11, 12, 13])
    pruner = Staged(keep=0.4) if mode == "no cache" else STAGED  # without a cache there is nothing to evict
    with gp.prune(model, pruner) as run:
        pruned = generate(model, inputs, **MODES[mode])
    oracle = {} if mode in ("static", "drafts") else MODES[mode]  # it needs dynamic masks; the answers are the same
    with hide(model, hidden_columns(run.prompt)):
        wanted = generate(model, inputs, **oracle)
    assert pruned.sequences.equal(wanted.sequences)
    if mode != "drafts":
        assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE
    with gp.prune(model, pruner, "reassigned"):
        control = generate(model, inputs, **MODES[mode])
    assert relative_difference(control.logits[:1], wanted.logits[:1]) > 1e-2


@each_family
@pytest.mark.parametrize("layer", [1, 3])
def test_a_static_cache_equals_a_dynamic_one(name, layer):
    """Also in gemma3 at layer 1, where full and sliding layers hold different numbers of tokens."""
    model = model_of(name)
    inputs = tiny_inputs(model, [(1, 5, 7), (2, 2, 4)])
    with gp.prune(model, LastRow(layer=layer, keep=0.4)):
        wanted = generate(model, inputs)
        static = StaticCache(config=model.config.get_text_config(), max_cache_len=160)
        got = generate(model, inputs, past_key_values=static)
    assert got.sequences.equal(wanted.sequences)
    assert relative_difference(got.logits, wanted.logits) < TOLERANCE


@each_family
def test_what_a_stage_reads_is_what_eager_attention_and_hooks_give(name):
    model = model_of(name)
    inputs = tiny_inputs(model, [(1, 5, 7), (2, 2, 4)])
    found, seen = [], {}

    class Reads(LastRow):
        def score(self, signals, layout, stage):
            rows = torch.tensor([layout.length - 3, layout.length - 1])
            kinds = {kind: signals.llm(1, kind, rope=False) for kind in ("q", "k", "v")}
            found.append((layout, signals.llm(1, "attention", rows=rows), signals.llm(2, "hidden"), kinds))
            return signals.llm(1, "attention").mean((0, 1))

    with gp.prune(model, Reads(layer=2, keep=0.5)), torch.no_grad():
        model(**inputs)
    attention = model.get_decoder().layers[1].self_attn
    modules = {kind: getattr(attention, f"{kind}_norm", None) or getattr(attention, f"{kind}_proj") for kind in "qkv"}
    handles = [
        module.register_forward_hook(lambda m, a, output, kind=kind: seen.setdefault(kind, output))
        for kind, module in modules.items()
    ]
    layer = model.get_decoder().layers[2]
    handles.append(layer.register_forward_pre_hook(lambda m, args: seen.setdefault("hidden", args[0])))
    model.get_decoder().set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model(**inputs, output_attentions=True)
    finally:
        model.get_decoder().set_attn_implementation("sdpa")
        for handle in handles:
            handle.remove()
    for b, (layout, rows, hidden, kinds) in enumerate(found):
        columns = layout.column
        assert_near(rows, out.attentions[1][b][:, [-3, -1]][..., columns])
        assert_near(hidden, seen["hidden"][b, columns])
        for kind, value in kinds.items():
            wanted = seen[kind][b]
            if wanted.ndim == 2:
                wanted = wanted.unflatten(-1, (-1, value.shape[-1]))
            wanted = wanted if wanted.shape[0] == len(value) else wanted.transpose(0, 1)
            assert_near(value, wanted[:, columns])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize(
    "policy", ["preserved", "reassigned", "reassigned-image", "stretched", "shifted:5", "permuted:1"]
)
@pytest.mark.parametrize("pruner", [gp.Spatial(keep=0.5), LastRow(keep=0.5)], ids=["before", "inside"])
def test_a_loop_of_ones_own_equals_generate_under_every_policy(name, policy, pruner):
    model = model_of(name)
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with gp.prune(model, pruner, policy), torch.no_grad():
        wanted = generate(model, inputs, suppress_tokens=None).sequences[0, inputs["input_ids"].shape[1] :]
        out, said = model(**inputs), []
        for _ in range(6):
            said.append(out.logits[:, -1:].argmax(-1))
            out = model(input_ids=said[-1], past_key_values=out.past_key_values)
    assert torch.cat(said, 1)[0].equal(wanted)
