"""What an answer costs, by formula, against torch's own counter and the tensors of a real cache."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import groundprune as gp
from groundprune.data import scene_samples
from groundprune.evaluation import Runner, Setting
from groundprune.evaluation.accounting import Decoder, Layer, Work, count_new
from groundprune.evaluation.meter import Meter, tower_flops
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import family_of
from groundprune.families.linear import linear_layers
from groundprune.pruners.base import Pruner, Stage
from groundprune.pruning.encoding import encode_inputs
from groundprune.studies.parts.meters import kv_bytes
from groundprune.tokens.budget import Budget
from support.families import BETWEEN_LAYERS, experts

NEW = 5
PROMPT = [(1, 3, 4)]


@dataclass(frozen=True)
class Leading(Pruner):
    """Keeps the first tokens at two layers, and computes nothing for it."""

    needs: ClassVar[frozenset] = frozenset()
    name: ClassVar[str] = "leading"

    def stages(self, n_layers):
        return [Stage(1, Budget.parse("3/4")), Stage(3, Budget.parse("1/4"), number=1)]

    def score(self, signals, layout, stage):
        return -torch.arange(len(layout)).float()


@pytest.fixture(scope="module", params=BETWEEN_LAYERS)
def model(request):
    made = tiny_model(request.param)
    made.set_attn_implementation("eager")  # on a CPU the counter does not see sdpa
    return made


def encoded(model, prompts=PROMPT):
    return encode_inputs(model.base_model, family_of(model.config), tiny_inputs(model, prompts), frozenset())


@torch.no_grad()
def counted(model, inputs):
    """Operations of the LLM in `generate`, and what it gave."""
    with FlopCounterMode(display=False) as counter:
        out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True)
    return counter.get_total_flops(), out


def cost(model, slots):
    row = Work(slots, NEW, None).to_row(Decoder.of(model.config, model.dtype.itemsize))
    return row["prefill_flops"] + row["decode_flops"], row["kv_bytes"]


def test_the_decoder_of_every_family_costs_what_is_counted(model):
    inputs = encoded(model)
    slots = inputs["input_ids"].shape[1]
    assert counted(model, inputs)[0] == cost(model, [(0, slots, slots)])[0]
    with torch.no_grad():
        cache = model(**encoded(model), use_cache=True).past_key_values
    assert kv_bytes(cache) == cost(model, [(0, slots, slots)])[1]
    assert cost(model, [(0, slots + 1, slots + 1)])[0] > cost(model, [(0, slots, slots)])[0]


@pytest.mark.parametrize("made", [tiny_model, experts], ids=["dense", "experts"])
@torch.no_grad()
def test_linear_attention_costs_its_products_and_holds_states_of_one_size(made):
    """Torch counts kernels: here the linear modules of every layer, and all of the others; the rest is by hand."""
    model = made("qwen3_5")
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")  # nor does it see experts that run at once
    inputs = encoded(model)
    slots = inputs["input_ids"].shape[1]
    with FlopCounterMode(display=False) as counter:
        cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
    counted = counter.get_flop_counts()
    kernels = {torch.ops.aten.bmm, torch.ops.aten.convolution}
    mixers = [name for name in counted if name.endswith(".linear_attn")]
    assert len(mixers) == 2
    seen = sum(counted["Global"].values()) - sum(counted[name].get(op, 0) for name in mixers for op in kernels)
    conv, state = (2 * 2 * 16 + 4 * 16) * 4, 4 * 16 * 16  # channels of queries, keys and values; four heads
    products = len(mixers) * slots * (2 * conv + 6 * state)
    decoder = Decoder.of(model.config, 4)
    assert decoder.prefill_flops([slots] * 4) == seen + products
    assert kv_bytes(cache) == decoder.cache_bytes([slots] * 4)
    full = 4 - len(linear_layers(model.config))
    assert decoder.cache_bytes([slots + 1] * 4) - decoder.cache_bytes([slots] * 4) == full * 2 * 2 * 32 * 4


def test_fewer_tokens_from_a_layer_on_cost_what_is_counted(model):
    inputs = tiny_inputs(model, PROMPT)
    with gp.prune(model, Leading(keep=0.5)) as run:
        found, _ = counted(model, encode_inputs(model.base_model, family_of(model.config), inputs, frozenset()))
    slots = run.prompt.slots(0, inputs["input_ids"].shape[1])
    assert [layer for layer, *_ in slots] == [0, 1, 3]
    assert slots[0][1] > slots[1][1] > slots[2][1]
    assert found == cost(model, slots)[0]
    assert found != cost(model, slots[:1])[0]


def test_the_cache_holds_what_is_told_where_earlier_layers_are_cut_too():
    model = tiny_model("llava")
    inputs = tiny_inputs(model, [(1, 3, 4), (1, 3, 9)])
    with torch.no_grad(), gp.prune(model, gp.IVCPrune(keep=0.5)) as run:
        cache = model(**inputs, use_cache=True).past_key_values
    length = inputs["attention_mask"].sum(1).tolist()
    slots = run.prompt.slots(1, length[1])
    assert slots[0][2] < slots[0][1]
    assert kv_bytes(cache) == 2 * cost(model, slots)[1]  # of two rows, of which the second is the longest
    assert run.prompt.slots(0, length[0])[0][1] == length[0]


def test_sliding_layers_hold_and_read_their_window_alone():
    model = tiny_model("gemma3", window=8)
    model.set_attn_implementation("eager")
    inputs = encoded(model)
    slots = inputs["input_ids"].shape[1]
    found, _ = counted(model, inputs)
    assert found == cost(model, [(0, slots, slots)])[0]
    with torch.no_grad():
        cache = model(**encoded(model), use_cache=True).past_key_values
    assert kv_bytes(cache) == cost(model, [(0, slots, slots)])[1]
    wide = tiny_model("gemma3")
    assert found < cost(wide, [(0, slots, slots)])[0]


def test_towers_cost_the_same_whatever_kernel_runs_them(model):
    inputs = tiny_inputs(model, PROMPT)
    found = tower_flops(model, dict(inputs))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encode_inputs(model.base_model, family_of(model.config), dict(inputs), frozenset())
    assert found == counter.get_total_flops() > 0
    model.set_attn_implementation("sdpa")
    try:
        assert tower_flops(model, dict(inputs)) == found
    finally:
        model.set_attn_implementation("eager")


def test_kernels_that_are_not_seen_are_not_counted(monkeypatch):
    model = tiny_model("llava")
    monkeypatch.setattr(model.config.vision_config, "_attn_implementation_internal", "flash_attention_2")
    assert tower_flops(model, dict(tiny_inputs(model, PROMPT))) is None


def test_a_decoder_by_hand():
    decoder = Decoder((Layer(10, 2, 6), Layer(10, 2, 6, window=3)), head=100)
    assert decoder.prefill_flops([4, 2]) == 100 + 4 * (10 + 2 * 4) + 2 * (10 + 2 * 2)
    # Two steps after the first token: they read 5 and 6 keys, and in the second layer 3 each.
    assert decoder.decode_flops([4, 2], 3) == 2 * (100 + 10 + 10) + 2 * (5 + 6) + 2 * (3 + 3)
    assert decoder.decode_flops([4, 2], 1) == 0
    assert decoder.cache_bytes([4, 4]) == 6 * (4 + 2)


def test_new_tokens_end_with_the_first_that_ends_an_answer():
    output = torch.tensor([[5, 6, 2, 2], [5, 6, 7, 8], [3, 0, 0, 0]])
    assert count_new(output, [2, 3]) == [3, 4, 1]
    assert count_new(output, 2) == [3, 4, 4]
    assert count_new(output, None) == [4, 4, 4]


@pytest.fixture(scope="module")
def pocket():
    return gp.load()


def costs_of(pocket, settings, batch_size):
    runner = Runner(*pocket, list(scene_samples(3, seed=7)), batch_size=batch_size)
    runner.prepare(settings)
    return {(r["setting"], r["sample"]): r["cost"] for s in settings for rows in runner.run(s) for r in rows}


def test_costs_are_those_of_a_sample_alone_whatever_is_batched_with_it(pocket):
    settings = [Setting.of(), Setting.of("cls-visual", 0.5), Setting.of("fastv", 0.5)]
    found = costs_of(pocket, settings, 6)
    assert found == costs_of(pocket, settings, 1)
    assert len({cost["slots"][0][1] for (setting, _), cost in found.items() if setting == "unpruned"}) > 1
    for (setting, sample), cost in found.items():
        whole = found["unpruned", sample]
        dropped = whole["slots"][0][1] - cost["slots"][-1][1]
        assert dropped == {"unpruned": 0, "cls-visual/keep=0.5/preserved": 72}.get(setting, 96)
        assert cost["tower_flops"] == whole["tower_flops"] > 0
    fastv, before = (found[s.id, sample] for s in (settings[2], settings[1]) for sample in [next(iter(found))[1]])
    assert fastv["layer_tokens"] == before["layer_tokens"]  # keep is a mean over the layers
    assert fastv["prefill_flops"] > before["prefill_flops"]  # attention is not linear


def test_one_pass_counts_for_all_sizes_that_are_made_equal(pocket, monkeypatch):
    calls = []
    monkeypatch.setattr("groundprune.evaluation.meter.tower_flops", lambda model, inputs: calls.append(1) or 7)
    meter, grounding = Meter(*pocket), Runner(*pocket, []).grounding
    assert [meter.tower_flops(grounding, size) for size in ((96, 96), (200, 50), (96, 96))] == [7, 7, 7]
    assert len(calls) == 1
