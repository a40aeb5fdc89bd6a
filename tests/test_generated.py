from pathlib import Path

import pytest

from groundprune.errors import GroundPruneError
from groundprune.report.generated import BEGIN, END, RESULTS, with_results

ROOT = Path(__file__).parent.parent


def test_the_readme_holds_the_tables_of_the_stored_results():
    """Stale? `make readme`."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page == with_results(page, ROOT / RESULTS)
    assert "cls-visual" in page.partition(BEGIN)[2].partition(END)[0]


def test_a_page_without_markers_and_a_folder_without_results_are_named(tmp_path):
    with pytest.raises(GroundPruneError, match="no markers"):
        with_results("text", ROOT / RESULTS)
    with pytest.raises(GroundPruneError, match="no results"):
        with_results(f"{BEGIN}\n{END}", tmp_path)
