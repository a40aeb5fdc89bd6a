"""What the repository keeps of the studies: findings follow from the stored rows, the index from the findings."""

import json
from pathlib import Path

import pytest

from groundprune.studies.index import LINES, index_page
from groundprune.studies.running import FINDINGS, conclusion
from groundprune.studies.study import UNTOLD, studies

STORED = Path(__file__).parents[2] / "results" / "studies"
OF_SMOL = STORED.parent / "smol" / "studies"
HELD = [name for name in studies() if (STORED / name / FINDINGS).is_file()]


UNTRAINED = [name for name, study in studies().items() if not study.trained]


def test_every_study_of_the_pocket_is_stored():
    assert set(HELD) >= set(UNTRAINED)


@pytest.mark.parametrize(
    ("home", "name", "models"),
    [(STORED, name, {"pocket", "pocket-seed0"}) for name in HELD] + [(OF_SMOL, name, {"smol"}) for name in UNTRAINED],
)
def test_stored_findings_follow_from_stored_rows(home, name, models):
    stored = json.loads((home / name / FINDINGS).read_text(encoding="utf-8"))
    assert conclusion(studies()[name], home / name) == stored
    assert studies()[name].trained or set(stored["runs"]) == models


def test_the_index_answers_every_claim():
    stored = {studies()[n]: json.loads((STORED / n / FINDINGS).read_text(encoding="utf-8")) for n in HELD}
    page = index_page(stored)
    assert all(line.text in page for line in LINES)
    assert {line.study for line in LINES} <= set(studies())
    assert page.count(UNTOLD) >= 3


def test_a_claim_that_a_study_no_longer_makes_is_noticed():
    stored = {studies()[n]: json.loads((STORED / n / FINDINGS).read_text(encoding="utf-8")) for n in HELD}
    first = next(iter(stored))
    with pytest.raises(StopIteration):
        index_page({**stored, first: {**stored[first], "claims": []}})
