"""A decoder whose windows are shorter than the prompt: what they count is the caller's choice."""

import functools

import pytest
import torch
from transformers import MistralConfig
from transformers.masking_utils import create_sliding_window_causal_mask

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model, tiny_of
from groundprune.exactness.verify import relative_difference
from groundprune.families.tiny_parts import IMAGE, text_sizes
from support.generating import GREEDY, TOLERANCE
from support.inside import LastRow, Staged

STAGED = [LastRow(keep=0.4), Staged(keep=0.4)]
IDS = ["one", "staged"]


@functools.cache
def windowed(implementation="sdpa"):
    config = tiny_model("llava").config
    config.text_config = MistralConfig(**text_sizes(4), sliding_window=20)
    model = tiny_of(config)
    model.set_attn_implementation(implementation)
    return model


def generate(model, inputs, **options):
    return model.generate(**inputs, **{"max_new_tokens": 12, "suppress_tokens": [IMAGE], **GREEDY, **options})


@pytest.mark.parametrize("pruner", [gp.ClsVisual(keep=0.4), *STAGED], ids=["before", *IDS])
def test_windows_that_count_positions_equal_the_oracle(pruner):
    model = windowed()
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    with gp.prune(model, pruner) as run:
        pruned = generate(model, inputs)
    with hide(model, hidden_columns(run.prompt)):
        wanted = generate(model, inputs)
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE
    with gp.prune(model, pruner, window="tokens"):
        further = generate(model, inputs)
    assert relative_difference(further.logits, wanted.logits) > 1e-3


def test_windows_that_count_tokens_are_those_of_stock_code_on_the_shorter_prompt():
    """The kept embeddings and their ids, handed to the stock decoder."""
    model = windowed()
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with gp.prune(model, gp.ClsVisual(keep=0.4), window="tokens") as run, torch.no_grad():
        pruned = model(**inputs).logits
    row = run.rows[0]
    embedded = model.get_input_embeddings()(inputs["input_ids"][0, row.column])
    embedded[torch.isin(row.column, row.layout.column)] = row.features
    with torch.no_grad():
        states = model.model.language_model(
            inputs_embeds=embedded[None], position_ids=row.position, attention_mask=torch.ones(1, len(row.column))
        )
        wanted = model.lm_head(states.last_hidden_state)
    assert relative_difference([pruned], [wanted]) < TOLERANCE


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_windows_that_count_tokens_count_in_each_layer_those_that_are_left_in_it(implementation):
    """Behind a stage the layers are those of stock code, on the states and ids that are left."""
    model = windowed(implementation)
    inputs = tiny_inputs(model, [(1, 5, 27)])
    with gp.prune(model, LastRow(layer=2, keep=0.4), window="tokens") as run, torch.no_grad():
        pruned = model(**inputs).logits
        segment = run.prompt.segments[-1]
    decoder, (index,), ids = model.get_decoder(), segment.compaction.index, segment.position[0]
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[2][:, index]
        rotary = decoder.rotary_emb(states, ids)
        mask = create_sliding_window_causal_mask(decoder.config, states, torch.ones(1, len(index)), None)
        assert not mask[0, 0, -1].all()  # the window acts on what is left
        for layer in decoder.layers[2:]:
            states = layer(states, attention_mask=mask, position_embeddings=rotary)
        wanted = model.lm_head(decoder.norm(states))
    assert relative_difference([pruned], [wanted]) < TOLERANCE


@pytest.mark.parametrize("window", ["positions", "tokens"])
@pytest.mark.parametrize("pruner", STAGED, ids=IDS)
def test_decoding_counts_what_prefill_counts(window, pruner):
    """Without a cache every step is a prefill."""
    model = windowed()
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    with gp.prune(model, pruner, window=window):
        with_cache = generate(model, inputs)
        without = generate(model, inputs, use_cache=False)
    assert with_cache.sequences.equal(without.sequences)
    assert relative_difference(with_cache.logits, without.logits) < TOLERANCE


@pytest.mark.parametrize("window", ["positions", "tokens"])
@pytest.mark.parametrize("pruner", STAGED, ids=IDS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_several_tokens_at_once_see_what_each_would_alone(window, pruner, cache):
    """A later turn of text: the first of its tokens sees further back than the last."""
    model = windowed()
    inputs = tiny_inputs(model, [(1, 5, 7)])
    more = torch.tensor([[11, 12, 13, 14, 15, 16]])
    told = {"cache_implementation": "static"} if cache == "static" else {}
    with gp.prune(model, pruner, window=window), torch.no_grad():
        first = [generate(model, inputs, max_new_tokens=2, **told).past_key_values for _ in range(2)]
        at_once = model(input_ids=more, past_key_values=first[0]).logits
        alone = [model(input_ids=token, past_key_values=first[1]).logits for token in more.split(1, dim=1)]
    assert relative_difference([at_once], [torch.cat(alone, 1)]) < TOLERANCE


def test_an_unknown_choice_is_named():
    with pytest.raises(gp.GroundPruneError, match="positions"), gp.prune(windowed(), STAGED[0], window="columns"):
        pass
