"""Qwen3.5: what is exact where most layers are linear attention, and what is refused there."""

import contextlib
from dataclasses import dataclass

import pytest
import torch
from transformers import DynamicCache

import groundprune as gp
from groundprune.cli import main
from groundprune.exactness import oracle
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs
from groundprune.exactness.verify import relative_difference
from groundprune.families import families
from groundprune.families.linear import linear_layers
from groundprune.pruning import turns
from support.families import PROMPTS, experts, model_of
from support.generating import CONTROL, GREEDY, PRUNER, TOLERANCE, generate
from tools.linear_attention import PAIRS, differences

LINEAR, FULL = [0, 2], [1, 3]  # layers of the tiny model


@pytest.fixture(scope="module")
def model():
    return model_of("qwen3_5")


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, PROMPTS)  # one, two and one images, left-padded; of the second row one is a video


def test_it_is_a_hybrid_in_which_linear_layers_stand_behind_full_ones(model):
    assert linear_layers(model.config) == LINEAR
    assert [hasattr(layer, "self_attn") for layer in model.get_decoder().layers] == [i in FULL for i in range(4)]
    assert linear_layers(families()["qwen3_5"].tiny_config(layers=8, interval=4)) == [0, 1, 2, 4, 5, 6]
    assert not linear_layers(model_of("qwen3_vl").config)


# What is exact


@torch.no_grad()
def compact_reference(model, inputs, prompt, steps):
    """Per step Float[B, V]: the stock LLM on the embeddings of the kept columns, each row on its own.

    Position ids are those that the stock model makes of the unpruned prompt, and decoding goes on from its length.
    """
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
    base = model.model
    position, deltas = base.get_rope_index(**{name: inputs[name] for name in names if name in inputs})
    embeds = []
    hook = base.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    rows = []
    for b, row in enumerate(prompt.rows):
        cache = DynamicCache(config=model.config.get_text_config())
        states, ids = embeds[0][b : b + 1, row.column], position[:, b : b + 1, row.column]
        following = int(inputs["attention_mask"][b].sum() + deltas[b])
        rows.append([])
        for step in range(steps):
            out = base.language_model(inputs_embeds=states, position_ids=ids, past_key_values=cache, use_cache=True)
            rows[-1].append(model.lm_head(out.last_hidden_state[:, -1]))
            states = model.get_input_embeddings()(rows[-1][-1].argmax(-1))[:, None]
            ids = torch.full((3, 1, 1), following + step)
    return [torch.cat(step) for step in zip(*rows, strict=True)]


def greedy(model, inputs):
    return model.generate(**inputs, max_new_tokens=5, **GREEDY)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_5"])
def test_pruning_equals_the_stock_llm_on_the_kept_tokens_with_their_own_ids(name):
    """In full attention that is what the masked oracle gives; in linear attention it is what "exact" means."""
    model = model_of(name)
    # The times of Qwen2.5-VL's videos run ahead of the text, which goes on from its own last id.
    # The last row is longer than the 64 tokens that stock code takes at a time through linear attention.
    prompts = [*PROMPTS, (2, 30, 20)]
    inputs = tiny_inputs(model, prompts, modality="image" if name == "qwen2_5_vl" else None)
    short = gp.prune_inputs(model, inputs, PRUNER)
    wanted = compact_reference(model, inputs, short.prompt, 5)
    pruned, control = greedy(model, short), greedy(model, gp.prune_inputs(model, inputs, PRUNER, "reassigned"))
    with hide(model, hidden_columns(short.prompt)):
        masked = greedy(model, inputs)
    assert relative_difference(pruned.logits, wanted) < TOLERANCE
    assert relative_difference(masked.logits, wanted) < TOLERANCE
    assert relative_difference(control.logits[:1], wanted[:1]) > CONTROL


def test_padding_that_is_not_hidden_from_linear_layers_is_caught(model, inputs):
    """A row that keeps fewer tokens than another is padded: seen as tokens, padding changes convolution and state."""
    short = gp.prune_inputs(model, inputs, PRUNER)
    wanted = compact_reference(model, inputs, short.prompt, 1)[0]
    padded = ~short["attention_mask"].bool().all(1)
    assert padded.any()
    assert not padded.all()
    seen = []
    for layer in LINEAR:
        mixer = model.get_decoder().layers[layer].linear_attn
        seen.append(
            mixer.register_forward_pre_hook(
                lambda module, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
            )
        )
    with torch.no_grad():
        blind = model(**short).logits[:, -1]
    for hook in seen:
        hook.remove()
    assert relative_difference([blind[~padded]], [wanted[~padded]]) < TOLERANCE
    assert relative_difference([blind[padded]], [wanted[padded]]) > CONTROL


@torch.no_grad()
def test_linear_layers_read_no_positions_and_full_ones_do(model):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    found = []
    for policy in ("preserved", "reassigned"):
        short = gp.prune_inputs(model, inputs, PRUNER, policy)
        found.append(model(**short, output_hidden_states=True).hidden_states[1:])
    preserved, reassigned = found
    assert preserved[0].equal(reassigned[0])
    assert relative_difference([reassigned[1]], [preserved[1]]) > CONTROL


def test_a_mask_does_not_say_what_is_exact(model):
    """Zeros in place of dropped tokens, stock code's way to treat padding, are another thing than no tokens."""
    apart = {name: differences(name, seed=0) for name in ("Qwen3-VL", "Qwen3.5")}
    reassigned, _, gaps = PAIRS
    assert apart["Qwen3-VL"][gaps] < TOLERANCE < 1e-2 < apart["Qwen3.5"][gaps]
    assert 0 < apart["Qwen3.5"][reassigned] < apart["Qwen3-VL"][reassigned]


def test_verify_says_what_it_compared_with(model, capsys):
    found = gp.verify(model, tiny_inputs(model, [(1, 5, 7)]), gp.Spatial(keep=0.5), steps=2)
    assert found.passed, found
    assert found.oracle.startswith("masked oracle undefined: linear attention in layers 0, 2;")
    assert main(["verify", "--family", "qwen3_5", "--pruner", "spatial"]) == 0
    assert "\nqwen3_5: masked oracle undefined: linear attention in layers 0, 2;" in capsys.readouterr().out
    other = model_of("qwen3_vl")
    found = gp.verify(other, tiny_inputs(other, [(1, 5, 7)]), gp.Spatial(keep=0.5), steps=2)
    assert found.oracle == "the unpruned prompt under a mask"


def test_an_oracle_that_does_not_step_over_what_is_dropped_is_another(model, inputs, monkeypatch):
    short = gp.prune_inputs(model, inputs, PRUNER)
    monkeypatch.setattr(oracle, "stepping_over", lambda *_: contextlib.nullcontext())
    with torch.no_grad():
        pruned = model(**short).logits[:, -1]
        with hide(model, hidden_columns(short.prompt)):
            seen = model(**inputs).logits[:, -1]
    assert relative_difference([pruned], [seen]) > CONTROL


def test_experts_are_served_too():
    model = experts("qwen3_5")
    found = gp.verify(model, tiny_inputs(model, [(1, 5, 7), (2, 2, 4)]), PRUNER, steps=3)
    assert found.passed, found


# What is refused


@dataclass(frozen=True)
class Inside(gp.Pruner):
    """Between layers, by nothing that a layer would have to give."""

    name = "inside"

    def stages(self, n_layers):
        return [gp.Stage(2, self.budget)]

    def score(self, signals, layout, stage):
        return torch.arange(len(layout.column), dtype=torch.float)


@pytest.mark.parametrize("pruner", [gp.FastV(keep=0.5), gp.PyramidDrop(keep=0.6), Inside(keep=0.5)])
def test_stages_between_layers_are_refused_with_the_reason(model, pruner):
    refused = pytest.raises(gp.Unservable, match="layers of linear attention: no attention rows to score by")
    with refused, gp.prune(model, pruner):
        pytest.fail("refused too late")


def row_of(inputs, b):
    """One row of a batch whose rows hold one visual each."""
    found = {name: inputs[name][b : b + 1] for name in ("input_ids", "mm_token_type_ids")}
    found["attention_mask"] = torch.ones_like(found["input_ids"])
    for pixels, grid in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if pixels in inputs:
            found[pixels] = inputs[pixels].split(inputs[grid].prod(-1).tolist())[b]
            found[grid] = inputs[grid][b : b + 1]
    return found


def second_turn(model, first, second):
    """Logits [B, V] behind a second turn with a visual, and the mask over what was pruned."""
    short = gp.prune_inputs(model, first, PRUNER)
    out = generate(model, short, past_key_values=DynamicCache(config=model.config.get_text_config()))
    blank = torch.zeros_like(out.sequences[:, short["input_ids"].shape[1] :])
    turn = {k: v for k, v in second.items() if "grid" in k or "pixel" in k}
    turn["input_ids"] = torch.cat([short.restore(out.sequences), second["input_ids"]], 1)
    turn["attention_mask"] = torch.cat([first["attention_mask"], blank + 1, second["attention_mask"]], 1)
    turn["mm_token_type_ids"] = torch.cat([first["mm_token_type_ids"], blank, second["mm_token_type_ids"]], 1)
    pruned = gp.prune_inputs(model, turn, PRUNER, after=(short, out.past_key_values))
    return generate(model, pruned, max_new_tokens=1).logits[0], pruned["attention_mask"].bool()


@pytest.mark.parametrize("modality", ["video", "image"])
def test_rows_of_a_later_turn_that_keep_different_numbers_are_refused(model, monkeypatch, modality):
    """Padding would stand between turns, where a state goes on: videos are of one length here, images of two."""
    prompts = [(1, 3, 4), (1, 3, 4)]
    first = tiny_inputs(model, prompts, modality="video")
    second = tiny_inputs(model, prompts, seed=5, modality=modality)
    if modality == "image":
        with pytest.raises(gp.Unservable, match="keep different numbers of tokens, and linear attention"):
            second_turn(model, first, second)
        monkeypatch.setattr(turns, "linear_layers", lambda config: [])
    found, seen = second_turn(model, first, second)
    alone = [second_turn(model, row_of(first, b), row_of(second, b))[0][0] for b in range(len(prompts))]
    for b, wanted in enumerate(alone):
        difference = relative_difference([found[b]], [wanted])
        assert difference < TOLERANCE if seen[b].all() else difference > CONTROL
    assert bool(seen.all()) == (modality == "video")


def test_drafted_tokens_are_refused_by_stock_code(model):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    short = gp.prune_inputs(model, inputs, PRUNER)
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        generate(model, short, prompt_lookup_num_tokens=3)
    with pytest.raises(ValueError, match="stateful"), gp.prune(model, PRUNER):
        generate(model, inputs, prompt_lookup_num_tokens=3)


# What an audit says


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        ("preserved", "preserved"),
        ("reassigned", "not preserved: visual ids renumbered; text behind them pushed back"),
    ],
)
def test_an_audit_reads_full_attention_and_says_that_linear_layers_have_no_positions(model, policy, verdict):
    def pruned(model, inputs):
        model.generate(**gp.prune_inputs(model, inputs, PRUNER, policy), max_new_tokens=3, do_sample=False)

    found = gp.audit(pruned, model, tiny_inputs(model, [(1, 5, 7)]))
    assert found.verdict.startswith(verdict)
    assert [stage.layers for stage in found.rows[0].stages] == ["layers 1 to 3"]
    assert found.kernels == (("linear",), ("sdpa",), ("linear",), ("sdpa",))
    assert "Linear attention in layers 0, 2: no positions to read there." in str(found)
    assert "linear attention on the kept tokens alone" in found.oracle
    assert (found.difference < TOLERANCE) == (policy == "preserved")
