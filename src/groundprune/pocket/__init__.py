"""The pocket model: a small multimodal model, trained on drawn scenes, that is part of the package."""

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path(seed: int = 1) -> Path:
    """The folder of the model that was trained with this seed; load it with `from_pretrained`.

    The default is the one that training as the code has it makes; the other is older.
    """
    folder = Path(__file__).parent / f"checkpoint-seed{seed}"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no pocket model of seed {seed} here: `groundprune pocket train --seed {seed}` makes one"
        )
    return folder
