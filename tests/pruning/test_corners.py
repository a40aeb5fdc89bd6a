"""Corners of the core: where rows, layers or turns differ from each other."""

import pytest
import torch
from transformers import Gemma2Config, GenerationConfig
from transformers.modeling_layers import GradientCheckpointingLayer

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model, tiny_of
from groundprune.exactness.verify import relative_difference
from groundprune.families.tiny_parts import text_sizes
from support.closeness import assert_near
from support.generating import TOLERANCE
from support.inside import LastRow, Staged

ROWS = [(1, 5, 7), (0, 0, 70)]  # the longest row has no image: the batch stays as long as it was


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", layers=4, side=6)


def forward(model, inputs, pruner, **options):
    """A pruned plain forward, and the masked oracle's; and the run."""
    with torch.no_grad():
        with gp.prune(model, pruner) as run:
            pruned = model(**inputs, **options)
        with hide(model, hidden_columns(run.prompt)):
            return pruned, model(**inputs, **options), run


@pytest.mark.parametrize("pruner", [LastRow(keep=0.4), Staged(keep=0.4)], ids=["one", "staged"])
def test_deepstack_finds_its_tokens_where_the_batch_gets_no_shorter(pruner):
    model = tiny_model("qwen3_vl", layers=4)
    pruned, wanted, _ = forward(model, tiny_inputs(model, ROWS), pruner)
    assert relative_difference([pruned.logits[:, -1]], [wanted.logits[:, -1]]) < TOLERANCE


def test_the_loss_finds_its_labels_where_the_batch_gets_no_shorter(model):
    inputs = tiny_inputs(model, ROWS)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -47:-43] = inputs["input_ids"][:, -47:-43]  # words before the image of the first row
    assert model.config.image_token_id not in labels
    pruned, wanted, _ = forward(model, inputs, LastRow(keep=0.4), labels=labels)
    assert_near(pruned.loss, wanted.loss)


def test_a_decode_step_leaves_nothing_for_a_call_of_the_base_model(model):
    inputs, words = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)]), torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        wanted = model.model(input_ids=words).last_hidden_state
        with gp.prune(model, LastRow(keep=0.4)):
            cache = model(**inputs).past_key_values
            model(input_ids=words[:, :1], past_key_values=cache)
            assert model.model(input_ids=words).last_hidden_state.equal(wanted)
            model.generate(**inputs, max_new_tokens=3)
            assert model.model(input_ids=words).last_hidden_state.equal(wanted)


def test_a_generation_config_counts_wherever_it_stands(model):
    """As the second argument too: what is drafted is no prompt, and a prefill in chunks is refused."""
    inputs = tiny_inputs(model, [(1, 5, 7)])
    inputs["input_ids"][0, -6:] = torch.tensor([11, 12, 13, 11, 12, 13])
    config = GenerationConfig(prompt_lookup_num_tokens=3, max_new_tokens=3, do_sample=False, pad_token_id=0)
    with gp.prune(model, LastRow(keep=0.4)) as run:
        model.generate(**inputs, max_new_tokens=3)
        wanted = run.kept[0]
        model.generate(None, config, **inputs)
        assert run.kept[0].equal(wanted)
        with pytest.raises(gp.Unservable, match="prefill_chunk_size"):
            model.generate(None, GenerationConfig(prefill_chunk_size=16), **inputs)


@pytest.mark.parametrize("pruner", [gp.Spatial(keep=0.4), LastRow(keep=0.4)], ids=["before", "inside"])
def test_gradient_checkpointing_changes_no_gradient(model, pruner):
    """Or is refused, where the release runs hooks again in the backward pass."""
    inputs = tiny_inputs(model, [(1, 5, 7)])
    labels = inputs["input_ids"].masked_fill(torch.arange(48) < 45, -100)
    weight = model.model.multi_modal_projector.linear_1.weight

    def gradient():
        with gp.prune(model, pruner):
            model(**inputs, labels=labels, use_cache=False).loss.backward()
        found, weight.grad = weight.grad, None
        return found

    wanted = gradient()
    model.train()
    model.gradient_checkpointing_enable()
    try:
        if "__call__" in vars(GradientCheckpointingLayer) and pruner.inside:
            with pytest.raises(gp.Unservable, match="gradient checkpointing"):
                gradient()
        else:
            assert gradient().equal(wanted)
    finally:
        model.gradient_checkpointing_disable()
        model.zero_grad()
        model.eval()


def test_a_tower_may_be_of_another_precision_than_the_llm():
    model = tiny_model("qwen3_vl", layers=4).to(torch.bfloat16)
    model.model.visual.float()
    inputs = tiny_inputs(model, ROWS)
    with gp.prune(model, LastRow(keep=0.4), "reassigned") as run:
        model.generate(**inputs, max_new_tokens=3)
    assert [len(kept) for kept in run.kept] == [6, 0]


@pytest.mark.parametrize("pruner", [gp.Spatial(keep=0.4), LastRow(keep=0.4)], ids=["before", "inside"])
def test_a_step_behind_padding_on_the_right_equals_the_oracle(model, pruner):
    """Stock code counts the columns of the padding, so the next token's id is the batch's length."""
    left = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    ids, mask = left["input_ids"].clone(), left["attention_mask"]
    ids[1] = ids[1].roll(int(mask[1].sum()))
    mask = torch.stack([mask[0], mask[1].flip(0)])
    word = torch.tensor([[5], [6]])
    grown = torch.cat([mask, torch.ones_like(word)], 1)

    def step():
        cache = model(**{**left, "input_ids": ids, "attention_mask": mask}).past_key_values
        return model(input_ids=word, attention_mask=grown, past_key_values=cache).logits

    with torch.no_grad():
        with gp.prune(model, pruner) as run:
            pruned = step()
        with hide(model, hidden_columns(run.prompt)):
            wanted = step()
    assert relative_difference([pruned], [wanted]) < TOLERANCE


def test_attention_is_read_as_a_soft_cap_leaves_it():
    """Gemma 2, the LLM of PaliGemma 2."""
    config = tiny_model("paligemma").config
    sizes = {**text_sizes(4), "head_dim": 16, "query_pre_attn_scalar": 16}
    config.text_config = Gemma2Config(**sizes, attn_logit_softcapping=3.0)
    config.text_config.num_image_tokens = 25
    model = tiny_of(config)
    model.set_attn_implementation("eager")
    inputs, found = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)]), []

    class Reads(LastRow):
        def score(self, signals, layout, stage):
            found.append(signals.llm(1, "attention"))
            return found[-1].mean((0, 1))

    with torch.no_grad():
        with gp.prune(model, Reads(layer=2, keep=0.5)) as run:
            model(**inputs)
        wanted = model(**inputs, output_attentions=True).attentions[1]
    for b, rows in enumerate(found):
        assert_near(rows, wanted[b, :, -1:, run.layout[b].column])
