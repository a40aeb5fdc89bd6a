"""What the repository keeps of the studies: findings follow from the stored rows, the index from the findings."""

import json
from pathlib import Path

import pytest

from groundprune.studies.index import LINES, index_page
from groundprune.studies.running import FINDINGS, conclusion
from groundprune.studies.study import UNTOLD, studies

STORED = Path(__file__).parents[2] / "results" / "studies"


@pytest.mark.parametrize("name", list(studies()))
def test_stored_findings_follow_from_stored_rows(name):
    stored = json.loads((STORED / name / FINDINGS).read_text(encoding="utf-8"))
    assert conclusion(studies()[name], STORED / name) == stored
    assert set(stored["runs"]) == {"pocket", "pocket-seed0"}


def test_the_index_answers_every_claim():
    stored = {s: json.loads((STORED / s.name / FINDINGS).read_text(encoding="utf-8")) for s in studies().values()}
    page = index_page(stored)
    assert all(line.text in page for line in LINES)
    assert {line.study for line in LINES} - set(studies()) == {"segmentation", "sources"}
    assert page.count(UNTOLD) >= 3


def test_a_claim_that_a_study_no_longer_makes_is_noticed():
    stored = {s: json.loads((STORED / s.name / FINDINGS).read_text(encoding="utf-8")) for s in studies().values()}
    first = next(iter(stored))
    with pytest.raises(StopIteration):
        index_page({**stored, first: {**stored[first], "claims": []}})
