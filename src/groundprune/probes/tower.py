"""Record what pruners need while the vision tower runs, once, as the model itself runs it."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from groundprune.errors import GroundPruneError, Unservable
from groundprune.probes import attention, readers
from groundprune.probes.states import block_at, fingerprint, keep_output
from groundprune.signals import CLIP_PATCHES, FINGERPRINT, TOWER_HIDDEN, Need, TowerRecord

if TYPE_CHECKING:
    from groundprune.families.base import Family
    from groundprune.families.towers import Tower

RECORD_ATTRIBUTE = "groundprune_record"
MODALITIES = {"image": "pixel_values", "video": "pixel_values_videos"}  # and the encoder's main argument
_LOCKS: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()
_thread = threading.local()


def recordable(needs: Iterable[Need]) -> frozenset[Need]:
    """What must be recorded from the tower so that `needs` can be served."""
    found = {need for need in needs if need.signal.startswith("tower") or need == FINGERPRINT}
    if CLIP_PATCHES in needs:
        found.add(TOWER_HIDDEN)
    return frozenset(found)


def record_of(output: Any) -> TowerRecord:
    """The record that `encode` attached to an output of get_image_features.

    Raises Unservable where there is none: the layout of the tokens is not known then.
    """
    record = getattr(output, RECORD_ATTRIBUTE, None)
    if record is None:
        raise Unservable(
            "these mm_encoder_outputs were encoded elsewhere: where their tokens lie is not known; give pixels, or "
            "encode with gp.encode(..., pruners=[...])"
        )
    return record


def encode(base: Any, family: Family, modality: str, arguments: dict[str, Any], needs: frozenset[Need]) -> Any:
    """What get_image_features (get_video_features) gives for `arguments`, with a TowerRecord as an attribute.

    The attribute travels with the output. One tower is read by one thread at a time: a hook does not know whose pass
    it sees.
    """
    encoder = getattr(base, f"get_{modality}_features")
    known = {name: value.cpu() if _is_size(value) else value for name, value in arguments.items()}
    units = family.units(base, modality, known)
    raw: dict[Need, Tensor] = {}
    _thread.encoding = True
    try:
        with _lock_of(base), _recorder(base, family, needs, raw):
            output = encoder(**{**arguments, "return_dict": True})
    finally:
        _thread.encoding = False
    record = TowerRecord(
        units,
        {need: _of_units(family, base, need, v, len(units), modality, known) for need, v in raw.items()},
        [fingerprint(unit.pixels) for unit in units] if FINGERPRINT in needs else [],
    )
    setattr(output, RECORD_ATTRIBUTE, record)
    return output


def _is_size(value: Any) -> bool:
    """Sizes, grids and counts are read many times, and from a device each time would wait."""
    return isinstance(value, Tensor) and not value.is_floating_point() and value.ndim < 3


def is_encoding() -> bool:
    """Whether this thread is inside of `encode`."""
    return getattr(_thread, "encoding", False)


def _lock_of(base: Any) -> threading.Lock:
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(base, threading.Lock())


@contextlib.contextmanager
def _recorder(base: Any, family: Family, needs: frozenset[Need], raw: dict[Need, Tensor]) -> Iterator[None]:
    """Fills `raw` while the tower runs; see `Family.to_tokens` for the shapes."""
    if not needs - {FINGERPRINT}:
        yield
        return
    kind = family.tower_kind(base.config)
    blocks = list(family.tower(base).get_submodule(kind.layers).children())
    targets: dict[nn.Module, dict[Any, attention.Reader]] = {}
    with contextlib.ExitStack() as stack:
        for need in needs - {FINGERPRINT}:
            block = blocks[block_index(family, base.config, need, len(blocks))]
            if need.signal == "tower_hidden":
                stack.callback(block.register_forward_hook(keep_output(raw, need, kind.packed)).remove)
            else:
                targets.setdefault(block.get_submodule(kind.attention), {})[need] = reader_of(need, kind)
        found = stack.enter_context(attention.probe(targets)) if targets else {}
        yield
    for need, calls in found.items():
        if not calls:
            raise Unservable(f"'{need}' cannot be read: this tower's attention bypasses transformers' registry")
        raw[need] = torch.cat(calls, dim=1)[0] if kind.packed else torch.cat(calls)


def reader_of(need: Need, kind: Tower) -> attention.Reader:
    """What is kept of the attention of a tower of this kind, for a need of its attention or keys."""
    if need.signal == "tower_keys":
        return readers.keys
    if need.kind == "cls-joint":
        return readers.cls_row_joint
    by_cls = need.kind == "cls" or (need.kind == "salient" and kind.cls)
    return attention.cls_row if by_cls else readers.received


def block_index(family: Family, config: Any, need: Need, count: int) -> int:
    """Which of the tower's `count` blocks a need names."""
    index = family.feature_layer(config) if need.layer is None else need.layer
    if isinstance(index, Fraction):
        index = block_at(index, config, need, count)
    if not -count <= index < count:
        raise GroundPruneError(f"the tower has {count} layers; the pruner asks for '{need}'")
    return index


def _of_units(family: Family, base: Any, need: Need, value: Tensor, units: int, modality: str, arguments: Any) -> Any:
    """Per unit what a pruner gets of a tower block: over its tokens, or the CLS token's."""
    if need.kind != "cls" or need.signal != "tower_hidden":
        return family.to_tokens(base, value, modality, arguments)
    if len(value) != units:
        raise Unservable(f"'{need}' is served where the tower sees each image once; this one saw {len(value)} crops")
    return list(value[:, :1].clone())
