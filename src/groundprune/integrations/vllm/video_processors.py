"""What vLLM's preprocessing makes of a video: as many slots as tokens and text stay, all of them its features.

Text stands between the frames of some models' videos, and how many tokens of a frame stay is known behind the tower
alone. So the slots of the text, too, are filled behind it, with what the LLM's table of embeddings holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.processors import PrunedInfo, PrunedProcessor, measuring
from groundprune.integrations.vllm.settings import KEY
from groundprune.integrations.vllm.video_pruning import VideoPruning, as_image, room_of, without_last


class PrunedVideoInfo(PrunedInfo):
    """Mixin before a ProcessingInfo of vLLM for a model that takes videos."""

    @cached_property
    def pruning(self) -> VideoPruning:
        info: Any = self
        return VideoPruning(info.get_hf_config())

    @cached_property
    def room(self) -> int:
        """See `room_of`."""
        info: Any = self
        model, media = info.ctx.model_config, info.ctx.get_mm_config()
        images, videos = (media.get_limit_per_prompt(kind) for kind in ("image", "video"))
        return room_of(self.pruning, model.max_model_len, 0 if self.pruning.videos_only else images, videos)

    def moved(self, video: Mapping[str, Any], tokens: Sequence[int]) -> int:
        """Positions from a video's first to what follows it. tokens: that stand for it in the unpruned prompt."""
        time, rows, cols = self.grid(video)
        return max(int((time - 1) * self.interval(video)) + 1, rows, cols)

    def interval(self, video: Mapping[str, Any]) -> float:
        """Between the positions of two frames."""
        return 1

    def grid(self, video: Mapping[str, Any]) -> tuple[int, int, int]:
        """Frames, rows and columns of a video's tokens."""
        info: Any = self
        time, height, width = video["video_grid_thw"].data.tolist()
        merge = info.get_hf_config().vision_config.spatial_merge_size
        return time, height // merge, width // merge

    def text_tokens(self, most: int) -> int:
        """That stand between the frames of a video of `most` tokens, at most."""
        return 0

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        own: Any = super()
        found = own.get_supported_mm_limits()
        return {**found, "image": 0} if self.pruning.videos_only else found

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int] | None:
        found = super().get_mm_max_tokens_per_item(seq_len, mm_counts)
        if found is None or "video" not in found:
            return found
        most = found["video"]
        return {**found, "video": self.pruning.stage.budget.count(most) + self.text_tokens(most)}


class PrunedVideoProcessor(PrunedProcessor):
    """Mixin before a MultiModalProcessor of vLLM whose info is a PrunedVideoInfo."""

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [
            self._pruned_video(update, out_mm_kwargs) if update.modality == "video" else update for update in updates
        ]

    def _pruned_video(self, update: Any, items: Any) -> Any:
        whole: Callable[[int], Any] = update.replacement
        info, pruning = self.info, self.info.pruning
        token = info.get_hf_config().video_token_id

        def replacement(index: int) -> list[int]:
            video, content = items["video"][index], whole(index)
            tokens = content if isinstance(content, list) else content.full
            (unit,) = pruning.units(pruning.arguments_of(as_image(video)))
            left = without_last(tokens, token, len(unit) - pruning.count(unit))
            if not measuring():
                pruning.check(unit)
                pruning.check_moved(info.moved(video, tokens), len(left), info.room)
            return left

        return replace(update, replacement=replacement)

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        hashes, own = super()._get_mm_hashes(inputs), self.info.pruning
        # Here, where every video comes by: of one that is cached nothing else is asked.
        if hashes.get("video") and inputs.hf_processor_mm_kwargs[KEY] is not own:
            raise GroundPruneError(
                f"mm_processor_kwargs, {KEY}: a video is pruned by the server's own settings alone"
            )
        ours = own.settings.identity
        return {kind: [f"{h}-{ours}" for h in of] if kind == "video" else of for kind, of in hashes.items()}
