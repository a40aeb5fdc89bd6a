"""Conversations on a kept cache through `gp.prune_inputs(..., after=...)`, in every family."""

import copy
import functools

import pytest
import torch
from transformers import DynamicCache

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs
from groundprune.exactness.verify import relative_difference
from groundprune.families import families, family_of
from groundprune.families.linear import linear_layers
from support.families import model_of
from support.generating import CONTROL, PRUNER, TOLERANCE, generate

BY_COLUMN = ("token_type_ids", "mm_token_type_ids")
each_family = pytest.mark.parametrize("name", families())


class Conversation:
    """Three turns of one family: an image, then `second` (an image or words), then words."""

    def __init__(self, model, rows, second):
        self.model = model
        self.first = tiny_inputs(model, [(1, 5, 7), (1, 3, 4)][:rows])
        words = torch.randint(10, 60, (rows, 6), generator=torch.Generator().manual_seed(4))
        self.words = {"input_ids": words, "attention_mask": torch.ones_like(words)}
        self.second = tiny_inputs(model, [(1, 3, 4), (1, 3, 4)][:rows], seed=5) if second == "image" else self.words

    def grown(self, book, said, turn):
        """The columns of a conversation: what was asked and said, then the turn."""
        new = said.shape[1] - book["input_ids"].shape[1]
        grown = {"input_ids": torch.cat([said, turn["input_ids"]], 1)}
        blank = torch.ones_like(said[:, :new])
        grown["attention_mask"] = torch.cat([book["attention_mask"], blank, turn["attention_mask"]], 1)
        for name in BY_COLUMN:
            if name in book:
                mine = turn.get(name, torch.zeros_like(turn["input_ids"]))
                grown[name] = torch.cat([book[name], 0 * blank, mine], 1)
        return grown

    def pixels(self, turn):
        return {k: v for k, v in turn.items() if k not in ("input_ids", "attention_mask", *BY_COLUMN)}

    def run(self, prune):
        """Logits by turn, and what `prune(inputs, earlier)` gave of each."""
        cache = DynamicCache(config=self.model.config.get_text_config())
        book, pixels, earlier, logits, shorts = self.first, self.pixels(self.first), None, [], []
        for turn in (self.second, self.words, None):
            short = prune({**book, **pixels}, earlier, cache)
            out = generate(self.model, short, past_key_values=cache, max_new_tokens=3)
            logits.append(out.logits)
            shorts.append(short)
            earlier, said = short, short.restore(out.sequences)
            if turn is not None:
                book, pixels = self.grown(book, said, turn), self.pixels(turn)
        return logits, shorts


@each_family
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("second", ["words", "image"])
def test_three_turns_on_a_kept_cache_equal_the_oracle(name, rows, second):
    model = model_of(name)
    if rows > 1 and second == "image" and linear_layers(model.config):
        pytest.skip("refused, with padding between turns: test_qwen3_5.py")
    conversation = Conversation(model, rows, second)

    def pruned(policy, inputs, earlier, cache):
        return gp.prune_inputs(model, inputs, PRUNER, policy, after=earlier and (earlier, cache))

    logits, shorts = conversation.run(functools.partial(pruned, "preserved"))
    with hide(model, hidden_columns(shorts[-1].prompt)):
        # Nothing pruned, nothing hidden from its own turn's position ids: the columns of each turn, unpruned.
        wanted, _ = conversation.run(functools.partial(unpruned, model))
    control, _ = conversation.run(functools.partial(pruned, "reassigned"))
    for turn in range(3):
        assert relative_difference(logits[turn], wanted[turn]) < TOLERANCE
        assert relative_difference(control[turn][:1], wanted[turn][:1]) > CONTROL


def unpruned(model, inputs, earlier, cache):
    """The same turn with keep=1: ids and masks of the unpruned conversation."""
    return gp.prune_inputs(model, inputs, gp.ClsVisual(keep=1), after=earlier and (earlier, cache))


@each_family
def test_unpruned_turns_are_those_of_the_stock_model(name):
    """What the oracle of turns stands on: with keep=1 ids, masks and images of a turn are what stock code makes."""
    model = model_of(name)
    conversation = Conversation(model, 1, "image")
    first, words = conversation.first, conversation.words
    _, shorts = conversation.run(functools.partial(unpruned, model))
    cache = DynamicCache(config=model.config.get_text_config())
    said = generate(model, first, past_key_values=cache, max_new_tokens=3).sequences
    stock = generate(model, conversation.grown(first, said, words), past_key_values=cache, max_new_tokens=3)
    cache = DynamicCache(config=model.config.get_text_config())
    short = unpruned(model, first, None, None)
    said = short.restore(generate(model, short, past_key_values=cache, max_new_tokens=3).sequences)
    turn = unpruned(model, conversation.grown(first, said, words), short, cache)
    assert relative_difference(generate(model, turn, max_new_tokens=3).logits, stock.logits) < TOLERANCE
    whole = first if family_of(model.config).position_axes == 1 else None
    if whole is not None:  # with one axis the ids of an image are the columns'
        columns = [short.prompt.compaction.length for short in shorts]
        assert int(shorts[1]["position_ids"][0, -1]) == columns[1] - 1


@each_family
def test_all_images_of_a_conversation_give_what_the_new_ones_alone_give(name):
    model = model_of(name)
    first, second = tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(1, 3, 4)], seed=5)
    conversation = Conversation(model, 1, "image")
    cache = DynamicCache(config=model.config.get_text_config())
    short = gp.prune_inputs(model, first, PRUNER)
    said = short.restore(generate(model, short, past_key_values=cache, max_new_tokens=3).sequences)
    book, pixels = conversation.grown(first, said, second), conversation.pixels(second)
    both = {}
    for key, value in pixels.items():
        other = first[key]
        if name in ("idefics3", "smolvlm"):
            both[key] = torch.cat([other, value], 1)  # crops of a row lie side by side
        elif key == "pixel_values" and value.shape[1:] != other.shape[1:]:
            pytest.skip("images of two sizes cannot be stacked")
        else:
            both[key] = torch.cat([other, value])
    with_new = gp.prune_inputs(model, {**book, **pixels}, PRUNER, after=(short, cache))
    with_all = gp.prune_inputs(model, {**book, **both}, PRUNER, after=(short, cache))
    assert with_all["input_ids"].equal(with_new["input_ids"])
    assert with_all["position_ids"].equal(with_new["position_ids"])
    assert with_all.kept[0].equal(with_new.kept[0])
    wanted = generate(model, with_new, past_key_values=copy.deepcopy(cache), max_new_tokens=2).logits
    assert relative_difference(generate(model, with_all, max_new_tokens=2).logits, wanted) < TOLERANCE
