"""Record what pruners need while the vision tower runs, once, as the model itself runs it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from groundprune.errors import GroundPruneError
from groundprune.hooks import attention
from groundprune.hooks.patching import replaced
from groundprune.signals import CLIP_PATCHES, FINGERPRINT, TOWER_HIDDEN, Need, TowerRecord

if TYPE_CHECKING:
    from groundprune.families.base import Family

_READERS: dict[str | None, attention.Reader] = {
    "cls": attention.cls_row, "cls-joint": attention.cls_row_joint, "received": attention.received,
}  # fmt: skip
RECORD_ATTRIBUTE = "groundprune_record"


def recordable(needs: Iterable[Need]) -> frozenset[Need]:
    """What must be recorded from the tower so that `needs` can be served."""
    found = {need for need in needs if need.signal.startswith("tower") or need == FINGERPRINT}
    if CLIP_PATCHES in needs:
        found.add(TOWER_HIDDEN)
    return frozenset(found)


def record_of(output: Any) -> TowerRecord | None:
    """The record that `recording` attached to an output of get_image_features, if any."""
    return getattr(output, RECORD_ATTRIBUTE, None)


@contextlib.contextmanager
def recording(base: Any, family: Family, config: Any, needs: frozenset[Need]) -> Iterator[None]:
    """While active, outputs of base.get_image_features carry a TowerRecord of `needs` as an attribute.

    The attribute travels with the output object: `generate` encodes before prefill, hands the object on and
    expands it for beams.
    """
    original = base.get_image_features

    # wraps(): `generate` reads the signature to know which of its arguments go to the encoder.
    @functools.wraps(original)
    def get_image_features(*args: Any, **kwargs: Any) -> Any:
        pixels = inspect.signature(original).bind_partial(*args, **kwargs).arguments.get("pixel_values")
        with _recorder(base, family, config, needs) as record:
            output = original(*args, **kwargs)
        if pixels is not None and FINGERPRINT in needs:
            record.fingerprint = [_fingerprint(image) for image in pixels]
        record.images = len(output.pooler_output)
        setattr(output, RECORD_ATTRIBUTE, record)
        return output

    with replaced(base, "get_image_features", get_image_features):
        yield


@contextlib.contextmanager
def _recorder(base: nn.Module, family: Family, config: Any, needs: frozenset[Need]) -> Iterator[TowerRecord]:
    layers = family.tower_layers(base)
    record = TowerRecord(images=0)
    targets: dict[nn.Module, dict[Any, attention.Reader]] = {}
    with contextlib.ExitStack() as stack:
        for need in needs - {FINGERPRINT}:
            layer = _layer(layers, family, config, need)
            if need.signal == "tower_hidden":
                handle = layer.register_forward_hook(functools.partial(_keep_output, record, need))
                stack.callback(handle.remove)
            else:
                reader = attention.keys if need.signal == "tower_keys" else _READERS[need.kind]
                targets.setdefault(family.tower_attention_module(layer), {})[need] = reader
        found = stack.enter_context(attention.probe(targets)) if targets else {}
        yield record
        for need, calls in found.items():
            record.values[need] = torch.cat(calls)


def _layer(layers: Any, family: Family, config: Any, need: Need) -> nn.Module:
    index = family.feature_layer(config) if need.layer is None else need.layer
    if isinstance(index, Fraction):
        index = max(1, math.floor(index * len(layers) + Fraction(1, 2))) - 1
    if not -len(layers) <= index < len(layers):
        raise GroundPruneError(f"the tower has {len(layers)} layers; the pruner asks for '{need}'")
    return layers[index]


def _keep_output(record: TowerRecord, need: Need, module: nn.Module, args: Any, output: Any) -> None:
    states = (output[0] if isinstance(output, tuple) else output).detach()
    record.values[need] = states[:, :1].clone() if need.kind == "cls" else states


def _fingerprint(pixels: Tensor) -> int:
    """A number that depends on the pixels alone: not on the batch, nor on whether they came in half precision."""
    content = pixels.detach().to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "big")
