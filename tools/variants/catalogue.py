"""The trained variants of the studies: small models that differ from `plain` in one thing each."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from groundprune.errors import unknown
from tools.pocket_training.language import LanguagePlan, Lesson
from tools.pocket_training.tower_data import TowerPlan

from .axes import Axes
from .lessons import Variation

PATCH = 18  # pixels: 8 x 8 = 64 visual tokens
SEEDS = (0, 1, 2)
# What is asked in training, and by the studies. To compare places or to count takes a training of hours.
SHARES = {"rec": {"attribute": 1.0}, "vqa": {"color": 0.25, "shape": 0.25, "size": 0.2, "existence": 0.3}}
FIRST_SEED = 40  # of the scenes: other ones than any pocket model was trained on


@dataclass(frozen=True)
class Variant:
    """name: in results. positions, places: of the tower, see `TowerPlan`. lesson, plan: of the second stage."""

    name: str
    positions: str = "none"
    places: float = 0.0
    lesson: Lesson = field(default_factory=Variation)
    plan: dict[str, int] = field(default_factory=dict)

    @property
    def tower_name(self) -> str:
        """Variants of one tower share it."""
        told = [] if self.positions == "none" else [self.positions]
        return "-".join(["tower", *told, *([f"{self.places:g}"] if self.places else [])])

    def tower_plan(self, seed: int, quick: bool = False) -> TowerPlan:
        """Of the first stage."""
        plan = TowerPlan(
            FIRST_SEED + seed, steps=400, warmup=40, compile=False, patch=PATCH, positions=self.positions,
            places=self.places,
        )  # fmt: skip
        return replace(plan, steps=4, batch=4) if quick else plan

    def language_plan(self, seed: int, quick: bool = False) -> LanguagePlan:
        """Of the second."""
        plan = LanguagePlan(
            FIRST_SEED + seed, steps=2800, batch=8, rec=8, vqa=4, text_length=128, warmup=40, compile=False,
            patch=PATCH, shares=SHARES, hints=0.5, gaps=False,
        )  # fmt: skip
        return replace(plan, **{**self.plan, **({"steps": 4, "batch": 4} if quick else {})})


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("plain"),
        Variant("learned", "learned"),
        Variant("rotary", "rotary"),
        Variant("before", lesson=Variation(coordinates="before")),
        Variant("after", lesson=Variation(coordinates="after")),
        Variant("regularised", "learned", 1.0),
        Variant("joint", "learned", lesson=Variation(joint=True)),
        Variant("linear", "learned", lesson=Variation(projector="linear")),
        Variant("conv", "learned", lesson=Variation(projector="conv")),
        Variant("fixed", lesson=Variation(fixed=True)),
        # An outline takes more words than a box: fewer to an image, as many in all.
        Variant("outlines", lesson=Variation(outlines=True), plan={"text_length": 192, "rec": 5, "steps": 4480}),
        Variant("with-preserved", lesson=Variation(pruned="preserved")),
        Variant("with-reassigned", lesson=Variation(pruned="reassigned")),
        Variant("one-axis", lesson=Axes(split=False)),
        Variant("three-axes", lesson=Axes(split=True)),
    )
}

# Which of them each study compares.
STUDIES = {
    "sources": ("plain", "learned", "rotary", "before", "after", "regularised", "joint", "linear", "conv"),
    "offset": ("plain", "fixed"),
    "segmentation": ("outlines",),
    "trained-with": ("plain", "with-preserved", "with-reassigned"),
    "rope": ("one-axis", "three-axes"),
}


def wanted(studies: Sequence[str]) -> list[Variant]:
    """The variants of these studies, each once. Raises GroundPruneError for an unknown study."""
    for study in studies:
        if study not in STUDIES:
            raise unknown("study of trained variants", study, STUDIES)
    return [VARIANTS[name] for name in dict.fromkeys(name for study in studies for name in STUDIES[study])]
