"""Padding, halves, eager attention, merged features, masks that drop, patches that stay, models that are none."""

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from support.families import inputs_of, model_of
from support.planted import PLANTS, call, gathered, hooked, inside_attention, kept_columns, visual_columns
from support.planted import before as planted_before


def forward(model, inputs):
    model(**inputs)


def pruned(pruner, policy="preserved"):
    def run(model, inputs):
        with gp.prune(model, pruner, policy):
            model(**inputs)

    return run


def test_padding_on_either_side_is_no_token():
    model = model_of("llava")
    inputs = inputs_of("llava")
    for flipped in (False, True):
        given = dict(inputs)
        if flipped:
            length = inputs["attention_mask"].sum(1)
            for name in ("input_ids", "attention_mask"):
                rows = [row.roll(int(n)) for row, n in zip(inputs[name], length, strict=True)]
                given[name] = torch.stack(rows)
        found = gp.audit(forward, model, given)
        assert found.verdict == "nothing pruned"
        assert [row.stages[0].slots for row in found.rows] == given["attention_mask"].sum(1).tolist()
        assert [row.tokens for row in found.rows] == [36, 72, 36]
    assert found.difference is None
    assert "padded on the right" in found.oracle


def test_a_row_that_moved_together_is_preserved():
    """Stock `generate` counts from the first real token, a bare forward from the first column."""
    found = gp.audit(lambda m, i: m.generate(**i, max_new_tokens=2), model_of("llava"), inputs_of("llava"))
    assert found.verdict == "nothing pruned"
    length = inputs_of("llava")["attention_mask"].shape[1]
    assert [row.together for row in found.rows] == [row.stages[0].slots - length for row in found.rows]
    assert "moved by -32 together" in str(found)


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_bfloat16(family):
    model = tiny_model(family).bfloat16()
    inputs = tiny_inputs(model, [(1, 5, 7)])
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    for name in ("ids gathered", "between layers, recomputed", "a step off by one"):
        plant, visual, verdict = PLANTS[name]
        found = gp.audit(call(plant()), model, inputs)
        assert found.rows[0].stages[-1].visual == visual
        assert verdict in found.verdict
        assert gp.audit(call(plant(move=1)), model, inputs).rows[0].stages[-1].visual.startswith("other: ")


def test_eager_attention_is_named_and_read():
    model = tiny_model("llava")
    model.set_attn_implementation("eager")
    found = gp.audit(pruned(gp.Random(keep=0.5), "reassigned"), model, tiny_inputs(model, [(1, 5, 7)]))
    assert found.kernels == (("eager",),) * 4
    assert found.verdict.startswith("not preserved: visual ids renumbered")


def test_rows_that_are_computed_beside_a_kernel_are_not_eager_attention(monkeypatch):
    kernel = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def beside(module, query, key, value, *args, **kwargs):
        torch.matmul(query[:, :, -1:], key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(2, 3))
        return kernel(module, query, key, value, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", beside)
    model = model_of("llava")
    found = gp.audit(pruned(gp.Random(keep=0.5)), model, tiny_inputs(model, [(1, 5, 7)]))
    assert found.eager_layers == ()
    assert found.kernels == (("sdpa", "rows"),) * 4
    assert found.verdict == "preserved"


@pytest.mark.parametrize("pruner", [gp.VisionZip(keep=0.5), gp.PruMerge(keep=0.5)], ids=lambda p: p.label)
def test_merged_features_are_counted_and_their_ids_judged(pruner):
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    found = gp.audit(pruned(pruner), model, inputs)
    (stage,) = found.rows[0].stages
    assert stage.merged > 0
    assert len(stage.kept) + stage.merged == 18
    assert found.verdict == "preserved"
    assert "merged features" in found.oracle
    for policy, name in (("reassigned", "renumbered"), ("reassigned-image", "renumbered per image")):
        assert gp.audit(pruned(pruner, policy), model, inputs).rows[0].stages[0].visual == name


def test_tokens_that_a_mask_hides_are_dropped():
    """As the first FastV does: the sequence stays, and from a layer on a mask hides a part of it."""
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    kept = kept_columns(model, inputs)

    def masked(model, inputs):
        length = inputs["input_ids"].shape[1]
        seen = torch.zeros(length, dtype=torch.bool)
        seen[kept] = True
        mask = (seen & torch.ones(length, length, dtype=torch.bool).tril() | torch.eye(length, dtype=torch.bool))[
            None, None
        ]
        with (
            hooked(model.get_decoder().layers[2], lambda kwargs: {**kwargs, "attention_mask": mask}),
            hooked(model.get_decoder().layers[3], lambda kwargs: {**kwargs, "attention_mask": mask}),
        ):
            model(**inputs)

    found = gp.audit(masked, model, inputs)
    assert [(stage.first, stage.slots) for stage in found.rows[0].stages] == [(0, 48), (2, len(kept))]
    assert found.verdict == "preserved"
    assert found.difference < 1e-5


def test_a_tower_that_computes_in_another_way_is_matched():
    """Attention rows of the tower in eager mode: features are equal up to rounding."""
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])

    kept = kept_columns(model, inputs)

    def jitter(kwargs):
        states = kwargs["inputs_embeds"]
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
        noise[:, ~visual_columns(model, inputs)[kept]] = 0
        return {**kwargs, "inputs_embeds": states * (1 + 1e-6 * noise)}

    def run(model, inputs):
        with planted_before(gathered)(model, inputs), hooked(model.get_decoder(), jitter):  # in this order
            model(**inputs)

    found = gp.audit(run, model, inputs)
    assert found.rows[0].stages[0].merged == 0
    assert found.verdict == "preserved"


def test_a_patch_that_stays_keeps_the_oracle_from_running():
    model = tiny_model("llava")

    def stays(model, inputs):
        plant = planted_before(gathered)(model, inputs)
        plant.__enter__()
        opened.append(plant)
        model(**inputs)

    opened = []
    found = gp.audit(stays, model, tiny_inputs(model, [(1, 5, 7)]))
    assert found.difference is None
    assert found.oracle == "not measured: the model is still patched"
    assert found.verdict == "preserved"


def test_what_cannot_be_audited_is_said():
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with pytest.raises(gp.GroundPruneError, match="no decoder layer ran in the 'audited' run"):
        gp.audit(lambda model, inputs: None, model, inputs)
    with pytest.raises(gp.GroundPruneError, match="holds no visual token"):
        gp.audit(forward, model, {name: inputs[name][:, -7:] for name in ("input_ids", "attention_mask")})
    with pytest.raises(gp.GroundPruneError, match="give the whole model"):
        gp.audit(forward, nn.Linear(1, 1), inputs)


def test_data_and_text_of_an_audit():
    model = model_of("qwen2_5_vl")
    found = gp.audit(call(PLANTS["between layers, recomputed"][0]()), model, tiny_inputs(model, [(1, 5, 7)]))
    told = found.to_json()
    assert told["exit_code"] == 1
    assert [stage["first"] for stage in told["rows"][0]["stages"]] == [0, 2]
    assert len(told["rows"][0]["stages"][1]["positions"][0]) == 3
    text = str(found)
    assert text.splitlines()[0] == found.verdict
    assert "layers 0 to 1: 15 of 15 visual tokens" in text
    assert "layers 2 to 3: 7 of 15 visual tokens" in text
    assert len(text.splitlines()) < 24
    assert max(map(len, text.splitlines()[1:])) < 140


def test_parts_of_a_layer_that_someone_runs_beside_it_are_no_pass_of_it():
    """Before the layer, as pruners do that score by its own keys, and after it."""
    model = model_of("llava")
    layer = model.get_decoder().layers[1]

    def project():
        layer.self_attn.k_proj(layer.input_layernorm(torch.randn(1, 3, 64)))

    def beside(model, inputs):
        handles = [
            layer.register_forward_pre_hook(lambda m, args: project()),
            layer.register_forward_hook(lambda m, args, out: project()),
        ]
        try:
            forward(model, inputs)
        finally:
            for handle in handles:
                handle.remove()

    found = gp.audit(beside, model, tiny_inputs(model, [(1, 5, 7)]))
    assert found.verdict == "nothing pruned"
    assert found.passes == 1
    assert found.kernels == (("sdpa",),) * 4


def test_a_step_that_rotates_the_whole_cache_anew_is_found():
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    found = gp.audit(call(inside_attention(whole=True)), model, inputs)
    assert {stage.visual for stage in found.rows[0].stages} == {"preserved"}
    # All that stands behind the first dropped token: the 28 less five words and the first visual one.
    assert (
        found.verdict
        == "not preserved: generated tokens read 22 cached keys that pass 1 rotates anew, to other positions"
    )
