"""Accuracies that others published, in percent: what a reproduction is held against. What is not here is unknown.

Unpruned: Shikra (arXiv 2306.15195) and MiniGPT-v2 (2310.09478) from their own papers, in their own protocols;
LLaVA-1.5-7B in the protocol "paper". Pruned: GAP (2506.21873), half of the tokens of LLaVA-1.5 removed; that the
pruner was CLS-visual is not verified.
"""

from __future__ import annotations

REC_SPLITS = (
    "refcoco:val", "refcoco:testA", "refcoco:testB", "refcoco+:val", "refcoco+:testA", "refcoco+:testB",
    "refcocog:val", "refcocog:test",
)  # fmt: skip
_SHIKRA = (87.01, 90.61, 80.24, 81.60, 87.36, 72.12, 82.27, 82.19)
_MINIGPT_V2 = (88.69, 91.65, 85.33, 79.97, 85.12, 74.45, 84.44, 84.66)

# (model, data, id of the setting)
PUBLISHED: dict[tuple[str, str, str], float] = {
    **{("shikra", data, "unpruned"): value for data, value in zip(REC_SPLITS, _SHIKRA, strict=True)},
    **{("minigpt-v2", data, "unpruned"): value for data, value in zip(REC_SPLITS, _MINIGPT_V2, strict=True)},
    ("llava-1.5-7b", "refcoco:val", "unpruned"): 56.14,
    ("llava-1.5-7b", "refcoco:testA", "unpruned"): 64.4,
    ("llava-1.5-7b", "refcoco+:testA", "unpruned"): 59.43,
    ("llava-1.5-7b", "refcoco+:testB", "unpruned"): 38.88,
    ("llava-1.5-7b", "refcocog:test", "unpruned"): 48.50,
    ("llava-1.5-7b", "refcoco:val", "cls-visual/keep=0.5/reassigned"): 15.34,
    ("llava-1.5-7b", "refcoco:val", "cls-visual/keep=0.5/preserved"): 51.42,
}
NOTES = (
    "LLaVA-1.5-7B's 15.34 and 51.42: that the paper's pruner was CLS-visual is not verified.",
    "MiniGPT-v2 on RefCOCO val: the paper has 2.73 (reassigned) and 68.91 (preserved), of a pruner and a share that "
    "are not known here.",
)  # fmt: skip
