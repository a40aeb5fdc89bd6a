"""The pocket model: a small multimodal model, trained on drawn scenes, that is part of the package."""

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path(seed: int = 0) -> Path:
    """The folder of the model that was trained with this seed; load it with `from_pretrained`."""
    folder = Path(__file__).parent / ("checkpoint" if seed == 0 else f"checkpoint-seed{seed}")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no pocket model of seed {seed} here: `groundprune pocket train --seed {seed}` makes one"
        )
    return folder
