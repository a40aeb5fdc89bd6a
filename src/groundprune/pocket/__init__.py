"""The pocket model: a small multimodal model, trained on drawn scenes, that is part of the package."""

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path() -> Path:
    """The folder of the model; load it with `from_pretrained`."""
    return Path(__file__).parent / "checkpoint"
