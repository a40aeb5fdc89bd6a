"""A request's own settings: what its words mean on this server, and how they travel with its images; needs no vLLM.

They are the words of `hf_overrides`, under the same key in `mm_processor_kwargs`; absent ones are the server's own. A
request may keep at most what the server keeps of an image: that is what memory was measured with.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, first_line, unknown
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.settings import KEY, Settings, check_servable
from groundprune.integrations.vllm.tiled import TiledImage, units_of
from groundprune.pruners import pruner_names
from groundprune.signals import FINGERPRINT, VIDEO
from groundprune.tokens.layout import VisualUnit

LIMITS = f"{KEY}_limits"  # of a model's config: `EngineLimits`, in a dict
_KNOWN = tuple(field.name for field in fields(Settings))
_LONGEST = 64  # characters of a word
_NUMBER = re.compile(r"\s*[0-9./+]+(e-?[0-9]{1,3})?\s*")  # 1e-999999999 would be exact, too
_REMEMBERED = 256  # settings


@dataclass(frozen=True)
class EngineLimits:
    """What the options of an engine leave to a request.

    reach: positions that a prompt and its answer may take. encoded: tokens, before pruning, that the tower was given
    memory for in a step. by_content, by_tower: options that do not go together with a choice by content, or by the
    tower's attention. raw_pixels: whether images are normalised behind their processor.
    """

    reach: int
    encoded: int
    by_content: Sequence[str] = ()
    by_tower: Sequence[str] = ()
    raw_pixels: bool = False

    def note(self, config: Any) -> None:
        """Write them into a model's config, which reaches every process."""
        setattr(config, LIMITS, asdict(self))

    @classmethod
    def read(cls, config: Any) -> EngineLimits:
        return cls(**getattr(config, LIMITS))

    def check(self, pruning: ImagePruning) -> None:
        """Raises GroundPruneError where the engine's options do not go together with it."""
        label = pruning.pruner.label
        for options, refused in ((self.by_content, not pruning.placed_early), (self.by_tower, pruning.tower_needs)):
            if options and refused:
                raise GroundPruneError(f"{label} does not go together with this server's {options[0]}; spatial does")
        if self.raw_pixels and FINGERPRINT in pruning.pruner.needs:
            raise GroundPruneError(
                f"{label} draws by normalised pixels, which this server leaves to the device "
                "(mm_device_do_normalize): start it without that, or use another pruner"
            )


class Requests:
    """The settings of requests to an engine whose own ones are `own`."""

    def __init__(self, own: ImagePruning):
        self.own = own
        self._words = _as_meant(own.settings)
        self._tried: set[str] = set()
        self._group = self._filled = 0
        self.read = functools.lru_cache(_REMEMBERED)(self._read)

    @functools.cached_property
    def limits(self) -> EngineLimits:
        return EngineLimits.read(self.own.config)

    def of(self, words: Any) -> ImagePruning:
        """words: of one request, None where it says nothing. Raises GroundPruneError for what is not served."""
        if words is None:
            return self.own
        try:
            settings = self._settings(words)
            if settings == self._words:
                return self.own
            pruning = self.read(_json(settings))
            check_servable(self.own.config, settings.make_pruner())
            if VIDEO in pruning.pruner.needs:
                raise GroundPruneError(
                    f"{pruning.pruner.label} compares frames, and videos are the server's to prune"
                )
            self.limits.check(pruning)
        except GroundPruneError as error:
            raise GroundPruneError(f"mm_processor_kwargs, {KEY}: {error}") from error
        return pruning

    def _settings(self, words: Any) -> Settings:
        if not isinstance(words, Mapping):
            raise GroundPruneError(f"an object of {', '.join(_KNOWN)} (got {_short(words)})")
        given = {name: value for name, value in words.items() if value is not None}
        for name in given:
            if name not in _KNOWN:
                raise unknown("setting", _short(name), _KNOWN)
        options = given.pop("options", None)
        if options is not None and not isinstance(options, Mapping):
            raise GroundPruneError(f"options is an object (got {_short(options)})")
        texts = {name: _text(name, value) for name, value in given.items()}
        for name in ("keep", "tokens"):
            if name in texts and not _NUMBER.fullmatch(texts[name]):
                raise GroundPruneError(f"{name} must be a number (got {texts[name]!r})")
        if "pruner" in texts and texts["pruner"] not in (self._words.pruner, *pruner_names()):
            raise unknown("pruner", texts["pruner"], pruner_names())  # a file is the server's alone to name
        mine = self._words.to_dict()
        if "keep" in texts or "tokens" in texts:
            mine |= {"keep": None, "tokens": None}
        if texts.get("pruner", self._words.pruner) != self._words.pruner:
            mine["options"] = {}
        if options is not None:
            mine["options"] = {str(name): _text(name, value) for name, value in options.items()}
        made: dict[str, Any] = mine | texts
        return _as_meant(Settings(**made))

    def _read(self, text: str) -> ImagePruning:
        return self.own.under(Settings.from_dict(json.loads(text)))

    def check_image(self, pruning: ImagePruning, unit: VisualUnit | TiledImage) -> None:
        """Raises GroundPruneError where more of an image would stay than with the server's own settings.

        New settings choose once here, on made up features: what they cannot do must not end the engine.
        """
        if pruning is self.own:
            return
        count, most = pruning.count(unit), self.own.count(unit)
        if count > most:
            raise GroundPruneError(
                f"mm_processor_kwargs, {KEY}: a request keeps at most what its server keeps "
                f"({self.own.stage.budget}), {most} of this image's {len(unit)} tokens (got {count})"
            )
        words = _json(pruning.settings)
        if words in self._tried:
            return
        try:
            made, tokens = torch.Generator().manual_seed(0), sum(map(len, units_of(unit)))
            values = {need: torch.rand(tokens, 2, generator=made) for need in pruning.tower_needs}
            pruning.kept(unit, torch.rand(tokens, 8, generator=made), values)
        except Exception as error:
            raise GroundPruneError(
                f"mm_processor_kwargs, {KEY}: {pruning.pruner.label} cannot choose so: {first_line(error)}"
            ) from error
        if len(self._tried) >= _REMEMBERED:
            self._tried.clear()
        self._tried.add(words)

    def travelling(self, pruning: ImagePruning, unit: VisualUnit | TiledImage) -> Tensor | None:
        """UInt8[L] that `arrived` reads; None for the server's own settings.

        Images whose tensors are equal are encoded together. vLLM counts what is left of them, and there is memory for
        what the server leaves: so many have the same that they fit as they are.
        """
        if pruning is self.own:
            return None
        self._filled += len(unit)
        if self._filled > self.limits.encoded:
            self._group, self._filled = self._group + 1, len(unit)
        words = json.dumps([_json(pruning.settings), os.getpid(), self._group])  # of several servers, each its own
        return torch.frombuffer(bytearray(words.encode()), dtype=torch.uint8)

    def arrived(self, words: Tensor | None) -> ImagePruning:
        """How an image is pruned that `words` came with."""
        return self.own if words is None else self.read(json.loads(words.cpu().numpy().tobytes())[0])


def _as_meant(settings: Settings) -> Settings:
    """The same for all that mean it: 0.5 is 1/2, and an option at its default is left out."""
    pruner = settings.make_pruner()
    share, tokens = pruner.budget.share, pruner.budget.tokens
    budget = {"keep": None if share is None else str(share), "tokens": None if tokens is None else str(tokens)}
    return replace(Settings.of(pruner, settings.positions, settings.pruner), **budget)


def _json(settings: Settings) -> str:
    return json.dumps(settings.to_dict(), sort_keys=True)


def _text(name: Any, value: Any) -> str:
    """A word as a command line has it."""
    if not isinstance(value, bool | int | float | str | Fraction | None):
        raise GroundPruneError(f"{_short(name)} is one word (got {_short(value)})")
    text = str(value).lower() if isinstance(value, bool | None) else str(value)
    if len(text) > _LONGEST:
        raise GroundPruneError(f"{_short(name)} has more than {_LONGEST} characters (got {_short(value)})")
    return text


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
