"""What an engine prunes with: words in `hf_overrides`, which reach every process of vLLM."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from groundprune.checkpoints.load import read_config
from groundprune.errors import GroundPruneError, Unservable, unknown
from groundprune.evaluation.identity import pruner_files
from groundprune.families.base import family_of
from groundprune.pruners import Pruner, make_pruner, pruner_names
from groundprune.pruners.spec import Spec, spec_of
from groundprune.signals import CLS_ATTENTION, FINGERPRINT, SALIENT, VIDEO
from groundprune.version import __version__

KEY = "groundprune"  # of the settings in a model's config
POSITIONS = ("preserved", "reassigned")
SERVED_NEEDS = frozenset({SALIENT, CLS_ATTENTION, FINGERPRINT, VIDEO})
# By family: the name under which vLLM knows the pruned model, and where its class is.
ARCHITECTURES = {
    "llava": ("GroundpruneLlavaForConditionalGeneration", "llava:PrunedLlava"),
    "llava_next": ("GroundpruneLlavaNextForConditionalGeneration", "llava_next:PrunedLlavaNext"),
    "qwen2_5_vl": ("GroundpruneQwen2_5_VLForConditionalGeneration", "qwen:PrunedQwen25VL"),
    "qwen3_vl": ("GroundpruneQwen3VLForConditionalGeneration", "qwen:PrunedQwen3VL"),
    "qwen2_vl": ("GroundpruneQwen2VLForConditionalGeneration", "qwen:PrunedQwen2VL"),
    "llava_onevision": ("GroundpruneLlavaOnevisionForConditionalGeneration", "llava_onevision:PrunedLlavaOnevision"),
    "internvl": ("GroundpruneInternVLForConditionalGeneration", "internvl:PrunedInternVL"),
    "idefics3": ("GroundpruneIdefics3ForConditionalGeneration", "idefics3:PrunedIdefics3"),
    "smolvlm": ("GroundpruneSmolVLMForConditionalGeneration", "idefics3:PrunedSmolVLM"),
    "mistral3": ("GroundpruneMistral3ForConditionalGeneration", "mistral3:PrunedMistral3"),
}
# A section of three axes makes vLLM keep a table of positions for every request, at the top of the config, where only
# vLLM's runner reads it: the language model goes on with its own rotary embedding of one axis.
_POSITION_TABLE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 1]}}


@dataclass(frozen=True)
class Settings(Spec):
    """All of a pruner, see `Spec`, and the policy."""

    positions: str = "preserved"

    @classmethod
    def of(cls, pruner: Pruner, positions: str = "preserved", name: str | None = None) -> Settings:
        """name: under which the engine's processes find the pruner's class, by default as `spec_of` finds it.

        Raises GroundPruneError for a pruner that no name leads to, and for a policy that is not served.
        """
        if positions not in POSITIONS:
            raise unknown("position policy for vLLM", positions, POSITIONS)
        return cls(**vars(spec_of(pruner, name)), positions=positions)

    @staticmethod
    def read(config: Any) -> Settings:
        """The settings in a model's config. Raises GroundPruneError where there are none, or other keys than ours."""
        given: Any = getattr(config, KEY, None)
        try:
            return Settings.from_dict(given or {})
        except GroundPruneError as error:
            raise GroundPruneError(f"the config's {KEY!r} is not what vllm_overrides makes: {given!r}") from error

    @property
    def public(self) -> dict[str, Any]:
        """For all who may ask: the file of a pruner of one's own without its folder."""
        return {**self.to_dict(), "pruner": Path(self.pruner).name}

    @cached_property  # a pruner's file may change under a running engine, which goes on with what it loaded
    def identity(self) -> str:
        """16 hex digits: what of us a cached image depends on."""
        words = json.dumps([__version__, self.to_dict(), pruner_files([self.pruner])], sort_keys=True)
        return hashlib.blake2b(words.encode(), digest_size=8).hexdigest()


def vllm_overrides(
    model: str | Path, pruner: Pruner, positions: str = "preserved", *, name: str | None = None
) -> dict[str, Any]:
    """What vLLM's `LLM(model, hf_overrides=...)` or, as JSON, `vllm serve MODEL --hf-overrides` takes.

    The budget counts for each image by itself, so that a cached image does not depend on what else its prompt holds.

    Args:
        model: folder, Hub id or embedded model, as in `gp.load`; only its config is read.
        pruner: acts before the LLM, and merges nothing.
        positions: "preserved", or "reassigned" for comparison.
        name: "path/to/file.py:Class" of a pruner that is not registered and was not made from text.

    Returns:
        A dict that JSON can hold.

    Raises:
        Unservable: the pruner acts inside of the LLM, merges tokens, or scores by what vLLM's tower does not give; or
            the model is not served.
        GroundPruneError: an unknown policy.
    """
    config = read_config(model)
    check_servable(config, pruner)
    settings = Settings.of(pruner, positions, name)
    family = family_of(config)
    table = {} if family.position_axes == 3 else _POSITION_TABLE
    return {"architectures": [ARCHITECTURES[family.name][0]], **table, KEY: settings.to_dict()}


def check_servable(config: Any, pruner: Pruner) -> None:
    """Raises Unservable, with the reason, where vLLM cannot run this pruner on a model of this config."""
    reason = _why_not(config, pruner)
    if reason is not None:
        can = [name for name in pruner_names() if _why_not(config, make_pruner(name, keep=0.5)) is None]
        raise Unservable(f"{pruner.label}: {reason}; inside of vLLM this model can run: {', '.join(can) or 'none'}")


def _why_not(config: Any, pruner: Pruner) -> str | None:
    family = family_of(config)
    if family.bidirectional:
        windows = " and through sliding windows that count slots" if any(family.windows(config)) else ""
        return f"{family.name} reads images in both directions{windows}; inside of vLLM pruned ones are read in order"
    if family.name not in ARCHITECTURES:
        return f"{family.name} is not served inside of vLLM (served: {', '.join(ARCHITECTURES)})"
    if pruner.inside:
        return "it prunes between layers of the LLM, which vLLM cannot"
    if pruner.merges_in is not None:
        return "it merges tokens, which is not done inside of vLLM"
    whole = getattr(config.vision_config, "fullatt_block_indexes", None)
    if whole is not None and config.vision_config.depth - 1 not in whole:
        return "the last block of its tower attends within windows, which is not read inside of vLLM"
    if family.name == "internvl" and config.vision_feature_layer != -1:
        return f"inside of vLLM its tower is read at the end (vision_feature_layer {config.vision_feature_layer})"
    # Whatever the pruner reads, the tower must be one whose tokens are laid out as they are thought to be.
    for need in sorted({SALIENT, *pruner.needs}, key=str):
        try:
            family.check(config, need)
        except Unservable as error:
            return str(error)
        if need not in SERVED_NEEDS:
            return f"the signal '{need}' is not read inside of vLLM"
    if VIDEO in pruner.needs and family.position_axes == 1:
        return f"it compares the frames of videos, and inside of vLLM those of {family.name} lose nothing"
    if family.position_axes == 1 and family.name != "mistral3" and family.tower_kind(config).packed:
        kind = config.vision_config.model_type
        return f"its tower, {kind!r}, packs images of any shape, with which {family.name} is not served in vLLM"
    return None
