"""Models that transformers lacks, composed of its own parts.

Importing `groundprune.models.shikra` or `.minigpt_v2` registers the model with the Auto classes of transformers; the
families do so. `groundprune.models.convert` makes checkpoints from the files that the authors published.
"""
