"""Compare pruners and position policies on the same samples: encode once, prune many, resume where it stopped."""

from groundprune.evaluation.driver import compare, evaluate
from groundprune.evaluation.results import Results, read_summary
from groundprune.evaluation.rows import kept_grids, read_rows
from groundprune.evaluation.runner import Runner
from groundprune.evaluation.specs import Setting, compare_settings
from groundprune.evaluation.statistics import paired_difference, wilson
from groundprune.evaluation.summary import Summary, summarize

__all__ = [
    "Results",
    "Runner",
    "Setting",
    "Summary",
    "compare",
    "compare_settings",
    "evaluate",
    "kept_grids",
    "paired_difference",
    "read_rows",
    "read_summary",
    "summarize",
    "wilson",
]
