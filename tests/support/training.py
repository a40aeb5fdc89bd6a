"""Labelled prompts, and the gradients of a loss, for the tests of training."""

import torch

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.families import family_of

IGNORED = -100
PROMPTS = [(1, 5, 7), (2, 2, 4), (1, 9, 3)]  # rows of one, two and one images


def padded_right(inputs):
    """A left-padded batch with its padding on the right, as collators for training make it."""
    lengths = inputs["attention_mask"].sum(1)
    gap = inputs["input_ids"].shape[1] - lengths
    moved = {name: value for name, value in inputs.items() if name in ("input_ids", "attention_mask", *TYPES)}
    rolled = {n: torch.stack([row.roll(-int(k)) for row, k in zip(v, gap, strict=True)]) for n, v in moved.items()}
    return {**inputs, **rolled}


TYPES = ("token_type_ids", "mm_token_type_ids")


def visual(model, ids):
    """Bool[B, L]: placeholders of images and videos."""
    return torch.isin(ids, torch.tensor(list(family_of(model.config).token_ids(model.config).values())))


def words_labelled(model, inputs):
    """All words but the one behind an image, which the oracle predicts from a token that may be hidden."""
    ids, image = inputs["input_ids"], visual(model, inputs["input_ids"])
    behind = image.roll(1, 1)
    behind[:, 0] = False
    return {**inputs, "labels": ids.masked_fill(~inputs["attention_mask"].bool() | image | behind, IGNORED)}


def without_first_words(inputs):
    """Stock code predicts a row's first word from the padding before it, if there is any."""
    first = inputs["attention_mask"].cumsum(1) == 1
    return {**inputs, "labels": inputs["labels"].masked_fill(first, IGNORED)}


def gradient(model, loss):
    """[P], of all weights."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(w) if g is None else g).flatten() for w, g in zip(weights, found, strict=True)]
    )


def by_inputs(model, inputs, pruner, positions="preserved"):
    """Loss, gradient and what became of the prompt, by `gp.prune_inputs`."""
    short = gp.prune_inputs(model, inputs, pruner, positions)
    loss = model(**short).loss
    return loss.detach(), gradient(model, loss), short.prompt


def by_context(model, inputs, pruner, positions="preserved"):
    """The same by `gp.prune`; the backward pass comes after it, as it may."""
    with gp.prune(model, pruner, positions) as run:
        loss = model(**inputs).loss
    return loss.detach(), gradient(model, loss), run.prompt


def by_oracle(model, inputs, prompt):
    """Loss and gradient of the unpruned model that hides what a prompt lost."""
    with hide(model, hidden_columns(prompt)):
        loss = model(**inputs).loss
        return loss.detach(), gradient(model, loss)
