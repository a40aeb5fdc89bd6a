"""A pruner of the user's own."""

# As README shows it.
OWN_PRUNER = """
import groundprune as gp


class FeatureNorm(gp.Pruner):
    name = "feature-norm"

    def score(self, signals, layout, stage):
        return signals.projected.norm(dim=-1)
"""
