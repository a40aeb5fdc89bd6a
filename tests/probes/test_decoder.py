"""What a stage reads of the decoder, against eager attention and plain hooks of the unpruned model."""

import copy

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.signals import Need
from support.closeness import assert_apart, assert_near
from support.inside import LastRow


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", layers=4, side=6)


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, [(1, 5, 7), (2, 2, 4), (1, 9, 3)])


@pytest.fixture(scope="module")
def eager(model, inputs):
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    before = {}
    attention = other.model.language_model.layers[1].self_attn
    for name in ("q_proj", "k_proj", "v_proj"):
        module = getattr(attention, name)
        module.register_forward_hook(lambda m, a, output, name=name: before.__setitem__(name, output))
    with torch.no_grad():
        out = other(**inputs, output_attentions=True, output_hidden_states=True)
    return other, out, before


@pytest.fixture(scope="module")
def read(model, inputs):
    """What a stage at layer 2 reads of layers 1 (kept) and 2 (looked ahead)."""
    found = []

    class Reads(LastRow):
        def score(self, signals, layout, stage):
            rows = torch.tensor([layout.length - 3, layout.length - 1])
            found.append(
                {
                    "last": signals.llm(1, "attention"),
                    "ahead": signals.llm(2, "attention"),
                    "rows": signals.llm(1, "attention", rows=rows),
                    **{kind: signals.llm(1, kind) for kind in ("q", "k", "v")},
                    **{f"{kind} before": signals.llm(1, kind, rope=False) for kind in ("q", "k")},
                    "hidden": signals.llm(2, "hidden"),
                    "normed": signals.llm(2, "normed"),
                    "text": signals.llm(2, "hidden", rows=rows),
                    "layout": layout,
                }
            )
            return signals.llm(1, "attention").mean((0, 1))

    with gp.prune(model, Reads(layer=2, keep=0.5)), torch.no_grad():
        model(**inputs)
    return found


def test_attention_rows(eager, read):
    _, out, _ = eager
    for b, found in enumerate(read):
        columns = found["layout"].column
        assert_near(found["last"], out.attentions[1][b, :, -1:, columns])
        assert_near(found["ahead"], out.attentions[2][b, :, -1:, columns])
        assert_near(found["rows"], out.attentions[1][b, :, [-3, -1]][..., columns])


def test_states(model, eager, read):
    _, out, _ = eager
    for b, found in enumerate(read):
        columns = found["layout"].column
        assert_near(found["hidden"], out.hidden_states[2][b, columns])
        assert_near(found["text"], out.hidden_states[2][b, [-3, -1]])
        assert_near(found["normed"], model.model.language_model.norm(found["hidden"]))


def test_queries_keys_and_values(eager, read):
    _, _, before = eager
    for b, found in enumerate(read):
        columns = found["layout"].column
        for kind in ("q", "k"):
            plain = before[f"{kind}_proj"][b, columns].unflatten(-1, (-1, 16)).transpose(0, 1)
            assert_near(found[f"{kind} before"], plain)
            assert_apart(found[kind], plain, 1e-2)
            assert_near(found[kind].norm(dim=-1), plain.norm(dim=-1))  # a rotation
        value = before["v_proj"][b, columns].unflatten(-1, (-1, 16)).transpose(0, 1)
        assert_near(found["v"], value)


def test_a_layer_that_was_not_kept_is_named(model, inputs):
    class Reads(LastRow):
        def score(self, signals, layout, stage):
            return signals.llm(0, "attention").mean((0, 1))

    with gp.prune(model, Reads(layer=3, keep=0.5)), pytest.raises(gp.Unservable, match="layer 0 was not kept"):
        model(**inputs)


def test_before_the_llm_there_is_none(model, inputs):
    class Early(LastRow):
        needs = frozenset({Need("llm", kind="attention")})

        def stages(self, n_layers):
            return [gp.Stage(None, self.budget)]

        def score(self, signals, layout, stage):
            return signals.llm(0, "attention")

    with gp.prune(model, Early(keep=0.5)), pytest.raises(gp.Unservable, match="acts before the LLM"):
        model(**inputs)
