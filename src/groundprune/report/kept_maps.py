"""Which visual tokens a setting kept, found again: result files count them and do not list them.

A pruner's choice needs the prefill alone, so a page of samples takes seconds and no answer is generated again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from groundprune.boxes import make_frame
from groundprune.checkpoints.load import checkpoint_folder, grounding_of, load
from groundprune.checkpoints.prompts import framed, prompt_for
from groundprune.data import Sample, scene_samples
from groundprune.errors import GroundPruneError
from groundprune.evaluation.identity import files_fingerprint, pruner_files, samples_fingerprint, weights_fingerprint
from groundprune.evaluation.specs import Setting
from groundprune.pruning.context import prune
from groundprune.report.overlay import KeptMap

_BATCH = 16


def samples_of(run: Mapping[str, Any]) -> dict[str, Sample]:
    """The samples of a run by id, drawn again. run: `Summary.run`.

    Raises GroundPruneError where they cannot be had, or would be others than those that were answered.
    """
    if run.get("data") != "scenes":
        raise GroundPruneError(f"samples of {run.get('data')!r} cannot be had again")
    try:
        samples = list(scene_samples(int(run["scenes"]), int(run["seed"]), str(run["split"])))
    except KeyError as error:
        raise GroundPruneError(f"the results do not say which scenes they are about ({error} is missing)") from error
    if samples_fingerprint(samples) != run.get("samples"):
        raise GroundPruneError("this version draws other scenes than those that were answered")
    return {sample.id: sample for sample in samples}


def kept_maps(
    run: Mapping[str, Any],
    setting: Setting,
    samples: Sequence[Sample],
    device: str | None = None,
) -> dict[str, KeptMap]:
    """What the model named in `run` keeps of these samples under `setting`, by sample id.

    A sample that the model sees as more than one grid is left out. Raises GroundPruneError where the model cannot
    be loaded, or where it or the pruner is not the one that answered.
    """
    source, pruner, name = str(run.get("model")), setting.make_pruner(), setting.pruner or ""
    if any(run.get("pruner_files", {}).get(file) != digest for file, digest in pruner_files([name]).items()):
        raise GroundPruneError(f"{name} is not what it was when the model answered")
    dtype = str(run.get("dtype", "auto")).removeprefix("torch.")  # another one would be other weights
    model, processor = load(source, device=device, dtype=dtype)
    # Another engine loads the weights itself; of these runs the files are known.
    here = files_fingerprint(checkpoint_folder(source)) if run.get("engine") else weights_fingerprint(model)
    if here != run.get("weights"):
        raise GroundPruneError(f"the model at {source!r} has other weights now than when it answered")
    grounding = grounding_of(model)
    found: dict[str, KeptMap] = {}
    for start in range(0, len(samples), _BATCH):
        chunk = samples[start : start + _BATCH]
        inputs = processor(
            text=[prompt_for(processor, grounding, s.kind, s.text) for s in chunk],
            images=[framed(processor, grounding, s.image) for s in chunk],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(model.device, model.dtype)
        texts = [s.text for s in chunk]
        pruning = prune(model, pruner, setting.policy(pruner, model.config), texts, run.get("text_tower"))
        with torch.inference_mode(), pruning as pruned:
            model(**inputs, logits_to_keep=1)
        for sample, layout, kept in zip(chunk, pruned.layout, pruned.kept, strict=True):
            mask = layout.mask(kept)
            if mask is not None:
                found[sample.id] = KeptMap(mask.numpy(), make_frame(grounding.frame, *sample.image.size))
    return found
