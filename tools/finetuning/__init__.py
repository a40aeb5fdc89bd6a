"""Fine-tuning of the pocket under pruning, with transformers' Trainer: what training buys back of renumbered ids.

Each arm takes the pocket as it ships and trains its projector and language model on boxes in new scenes, with an
equal budget: whole images, half of the tokens dropped at random with preserved ids, and that with reassigned ids.
"""

from .arms import ARMS, SETTINGS, Plan
from .running import finetunings

__all__ = ["ARMS", "SETTINGS", "Plan", "finetunings"]
