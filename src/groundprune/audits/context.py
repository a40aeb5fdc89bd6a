"""`gp.audit`, `gp.auditing`, `gp.check`: a stock run of the model, then the code in question, under one recorder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from groundprune.audits.masked import against_oracle
from groundprune.audits.recorder import Recorder
from groundprune.audits.result import Audit
from groundprune.audits.verdicts import judge
from groundprune.errors import GroundPruneError
from groundprune.families import family_of
from groundprune.pruning.encoding import Encoded, encode_inputs
from groundprune.pruning.wrapped import unwrapped
from groundprune.tokens.layout import VisualLayout


class NotPreserved(GroundPruneError):
    """Code does not keep positions, or nobody can tell whether it does; `audit` says what was found."""

    def __init__(self, audit: Audit) -> None:
        super().__init__(audit.verdict)
        self.audit = audit


class Auditing:
    """What goes on inside of `gp.auditing`."""

    def __init__(self) -> None:
        self._result: Audit | None = None

    @property
    def result(self) -> Audit:
        """What was found. Raises GroundPruneError inside of the context, and where it was left by an error."""
        if self._result is None:
            raise GroundPruneError("the audit is there when the `gp.auditing` context has been left")
        return self._result


@contextlib.contextmanager
def auditing(model: Any, inputs: dict[str, Any]) -> Iterator[Auditing]:
    """Audit what is called inside of this context: forwards or `generate` of the model, by whatever code.

    On entering, the model runs `inputs` as it is, which is what later runs are measured by: enter before anything is
    patched. Positions are read in every decoder layer from the rotation of its keys; calls of threads are not seen.

    Args:
        model: a transformers model with rotary positions, or a wrapper of one; it need be of no known family.
        inputs: what the processor gives; the code inside runs them too.

    Yields:
        Auditing, whose `result` is there after the context.

    Raises:
        GroundPruneError: the model has no decoder that is understood, the inputs hold no visual token, or nothing was
            called inside.
    """
    model, found = unwrapped(model), Auditing()
    try:
        recorder = Recorder(model, ALL_ATTENTION_FUNCTIONS)
    except ValueError as error:
        raise GroundPruneError(f"this model cannot be audited: {error}") from error
    with torch.no_grad(), recorder.recording("reference"):
        stock = model(**inputs).logits[:, -1].float().cpu()
    layouts = _layouts(model, inputs)
    with recorder.recording("audited"):
        yield found
    audit, judged = judge(recorder.recorded(), _placeholders(model.config), layouts)
    difference, said = against_oracle(model, inputs, judged, stock)
    found._result = replace(audit, difference=difference, oracle=said)


def audit(call: Callable[[Any, dict[str, Any]], Any], model: Any, inputs: dict[str, Any]) -> Audit:
    """What does this code do to positions?

    Args:
        call: takes (model, inputs) and runs the code in question: patches, prunes, calls forward or `generate`. What
            it patches it should undo, or the masked oracle cannot be run.
        model: a transformers model with rotary positions, or a wrapper of one, as it is before `call`.
        inputs: what the processor gives, with at least one image.

    Returns:
        Audit, whose `verdict` is "preserved", "nothing pruned", "not preserved: ..." or "could not tell: ...".

    Raises:
        GroundPruneError: see `auditing`. What `call` raises goes through.
    """
    with auditing(model, inputs) as found:
        call(model, inputs)
    return found.result


def check(call: Callable[[Any, dict[str, Any]], Any], model: Any, inputs: dict[str, Any]) -> Audit:
    """`audit` for a test suite: one line that fails where positions are not kept.

    Args:
        call: see `audit`.
        model: see `audit`.
        inputs: see `audit`.

    Returns:
        Audit.

    Raises:
        NotPreserved: positions are not kept, or that could not be told; the message is the verdict.
    """
    found = audit(call, model, inputs)
    if not found.preserved:
        raise NotPreserved(found)
    return found


def _placeholders(config: Any) -> list[int]:
    """Also of a model of no known family."""
    try:
        return list(family_of(config).token_ids(config).values())
    except GroundPruneError:
        names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
        return [int(getattr(config, name)) for name in names if getattr(config, name, None) is not None]


@torch.no_grad()
def _layouts(model: Any, inputs: dict[str, Any]) -> Sequence[VisualLayout] | None:
    """Where visual tokens lie in the image, where the family says so."""
    try:
        family = family_of(model.config)
        position = family.positions(model.base_model, inputs)
        outputs = encode_inputs(model.base_model, family, inputs, frozenset()).get("mm_encoder_outputs") or {}
        return Encoded(family, model.config, outputs, inputs["input_ids"], position).layouts
    except (GroundPruneError, KeyError):
        return None
