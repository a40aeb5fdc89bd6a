"""The model card: its data as they were measured, and the text made from them."""

import platform
from pathlib import Path

import torch
import transformers

from groundprune.evaluation import compare
from groundprune.evaluation.summary import Share, Task
from groundprune.pocket.scenes import HELD_OUT_PAIRS

SPLIT_SIZES = {"held-out": 600, "novel-pair": 300, "novel-template": 300}  # expressions, and as many questions


def measure(folder: Path, device: str, sizes: dict[str, int] = SPLIT_SIZES, seed: int = 0) -> dict[str, dict]:
    """Unpruned accuracy of a checkpoint by split, kind and type of question, as `groundprune compare` measures it.

    Returns by split `{"rec": {"right": .., "asked": .., "accuracy": percent}, "rec/extreme": .., "vqa": .., ..}`.
    """
    found = {}
    for split, size in sizes.items():
        summary = compare(folder, size, seed, [], positions=["preserved"], split=split, device=device)
        (unpruned,) = summary.settings
        found[split] = {**_by_type("rec", unpruned.rec), **_by_type("vqa", unpruned.vqa)}
    return found


def _by_type(kind: str, task: Task) -> dict[str, dict]:
    shares = {kind: task.total} | {f"{kind}/{type}": share for type, share in task.types.items()}
    return {name: _entry(share) for name, share in shares.items()}


def _entry(share: Share) -> dict:
    return {"right": share.correct, "asked": share.n, "accuracy": round(100 * share.accuracy, 2)}


def versions() -> dict[str, str]:
    """Of what the numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def card_text(card: dict) -> str:
    """Markdown for people, from the numbers in card.json."""
    language, tower = card["language"], card["tower"]
    pairs = ", ".join(sorted(" ".join(pair) for pair in HELD_OUT_PAIRS))
    return f"""# The pocket model

A small vision-language model that comes with the package, so that experiments on positions run without a
download. It is a stock `LlavaForConditionalGeneration` of {card["parameters"]:,} parameters, trained from nothing
on drawn scenes of coloured shapes. It is not LLaVA: it knows {language["vocabulary"]} words and no photographs.
Results on it show a mechanism, not what a large model would score.

## What it does
- Boxes: `locate the red circle left of the star` is answered by `[0.12, 0.34, 0.56, 0.78]`, shares of the side.
- Words: questions of colour, shape, size, number, existence and place are answered by one word.
- Images are {card["image_size"]} pixels square and give 12 x 12 = 144 visual tokens.

## How it was trained
- Tower: a small CLIP, seed {tower["seed"]}, {tower["steps"]:,} steps of {tower["batch"]} scenes
  ({tower["minutes"]:.0f} minutes), then frozen. Its image half is the tower; the whole of it is in `clip/`,
  for the similarity of texts and patches.
- Projector and language model: seed {language["seed"]}, {language["steps"]:,} steps of {language["batch"]} scenes,
  {language["questions"]:,} questions ({language["minutes"]:.0f} minutes).
- Both on {card["device"]}, processes: {card["processes"]}.
- Every scene is drawn once, from its own seed. What stands before the image varies: system sentences, earlier turns,
  and up to 64 unused positions. No token was ever pruned in training, and nothing was tuned on results with pruning.
- The tower has no position embedding. The paper's probe finds that the layer which feeds the language model of LLaVA
  carries almost no position information; here it carries only what the contents of an image give away. The places of
  things reach the language model through position ids alone.

## Accuracy, unpruned
A box is right when it overlaps the true one by at least half (Acc@0.5), a word when it is the very word.
In brackets: how many were asked.

{_table(card["accuracy"])}

- `held-out`: scenes that training never drew.
- `novel-pair`: the question is about an object whose colour and shape never came together in training ({pairs}).
- `novel-template`: a size word on what is sought by a relation ("the small star above the cross") or asked to exist
  ("is there a large star"). Every word was trained, the combination was not.

## Limits
Six colours, five shapes, two sizes, two to seven objects that do not overlap, one kind of background. English in a
fixed grammar. Images start at positions up to about 100 in training; longer prompts are outside of what it has seen.
"""


def _table(splits: dict) -> str:
    rows = ["| question | " + " | ".join(splits) + " |", "|---|" + "---|" * len(splits)]
    keys = sorted({key for results in splits.values() for key in results}, key=lambda key: (key[:3] != "rec", key))
    for key in keys:
        cells = [
            f"{results[key]['accuracy']:.1f} ({results[key]['asked']})" if key in results else ""
            for results in splits.values()
        ]
        rows.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
