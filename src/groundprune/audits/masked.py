"""The masked oracle of an audited run: the unpruned prompt, in which what was dropped is hidden from all others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from groundprune.audits.matching import MERGED
from groundprune.audits.reading import LayerRow
from groundprune.audits.result import EXACT
from groundprune.audits.verdicts import Judged
from groundprune.errors import GroundPruneError
from groundprune.exactness.oracle import Hidden, hide
from groundprune.exactness.verify import relative_difference
from groundprune.families.linear import linear_layers


@torch.no_grad()
def against_oracle(model: Any, inputs: dict[str, Any], judged: Judged, stock: Tensor) -> tuple[float | None, str]:
    """(relative difference of the last prompt token's logits, what it means), or (None, why it was not measured).

    stock: [B, V], those logits of the unpruned run before the audited code ran.
    """
    rows = judged.rows
    mask = inputs.get("attention_mask")
    if [row for row, _ in rows] != list(range(len(stock))):
        return None, "not measured: the rows of the batch are not those of the unpruned run"
    if mask is not None and not bool(mask[:, -1].all()):
        return None, "not measured: rows are padded on the right"
    if any(bool((layer.column == MERGED).any()) for _, layers in rows for layer in layers):
        return None, "not measured: slots hold merged features"
    said = _last_logits(judged)
    if said is None:
        return None, "not measured: no logits were seen"
    if not torch.equal(_logits(model, inputs), stock):
        return None, "not measured: the model is still patched"
    try:
        with hide(model, _hidden(model, inputs, rows)):
            expected = _logits(model, inputs)
    except GroundPruneError as error:
        return None, f"not measured: {error}"
    difference = relative_difference([said], [expected])
    same = difference <= EXACT
    linear = "; linear attention on the kept tokens alone" if linear_layers(model.config) else ""
    return difference, f"{'the same' if same else 'other'} logits, {difference:.1e} apart" + (
        f" ({EXACT:g} counts as the same){linear}"
    )


def _logits(model: Any, inputs: dict[str, Any]) -> Tensor:
    return model(**inputs).logits[:, -1].float().cpu()


def _last_logits(judged: Judged) -> Tensor | None:
    """Of the pass that took the last of the prompt."""
    held, end = judged.rows[0][1][0].column, 0
    last = int((held >= 0).nonzero().max()) if bool((held >= 0).any()) else -1
    for each in judged.passes:
        end += each["layers"][0]["entering"].shape[1]
        if end > last and each["logits"] is not None and len(each["logits"]) == len(judged.rows):
            return each["logits"]
    return None


def _hidden(model: Any, inputs: dict[str, Any], rows: list[tuple[int, list[LayerRow]]]) -> list[Hidden]:
    ids = inputs["input_ids"]
    found: list[Hidden] = []
    for index in range(len(rows[0][1])):
        gone = []
        for b, (_, layers) in enumerate(rows):
            column = torch.arange(ids.shape[1])
            dropped = ~torch.isin(column, layers[index].column)
            if inputs.get("attention_mask") is not None:
                dropped &= inputs["attention_mask"][b].cpu() != 0
            gone.append(column[dropped].to(ids.device))
        found.append(Hidden(index, gone, gone))
    return found
