"""The pages of the docs that have a script, in a browser; without one they must still say what they hold."""

import re
import shutil
from pathlib import Path

import pytest

from groundprune.families import families
from groundprune.pruners import pruner_names
from tools.browser import browser_of, there
from tools.docs.catalogue import catalogue

pytest.importorskip("markdown", reason="`make docs` installs what renders the pages")
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
POSITION_MAP = ROOT / "src" / "groundprune" / "report" / "templates" / "position_map.js"
needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not there(), reason="no chromedriver and Chromium on the PATH"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The two pages as HTML beside their scripts, without the site's theme."""
    import markdown

    place = tmp_path_factory.mktemp("pages")
    for name in ("positions-interactive", "catalogue"):
        html = markdown.markdown((DOCS / f"{name}.md").read_text(encoding="utf-8"), extensions=["tables"])
        head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        (place / f"{name}.html").write_text(head + html, encoding="utf-8")
    for script in (POSITION_MAP, *DOCS.glob("*.js")):
        shutil.copy(script, place)
    return place


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browser_of(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_nothing_is_fetched_from_elsewhere_and_words_stand_in_for_the_script(folder):
    for name in ("positions-interactive", "catalogue"):
        html = (folder / f"{name}.html").read_text(encoding="utf-8")
        for source in re.findall(r'<script src="([^"]+)"', html):
            assert (folder / source).is_file()
        assert not re.search(r'src="(https?:)?//', html)
    assert "<noscript>" in (folder / "positions-interactive.html").read_text(encoding="utf-8")
    assert 'id="catalogue-filter"' in html
    assert html.count("<tr>") > 2 * len(pruner_names())  # both tables are there without it


class TestPositions:
    pytestmark = needs_browser

    @pytest.fixture(params=[1400, 390])
    def page(self, browser, folder, request):
        browser.open(folder / "positions-interactive.html", request.param)
        return browser

    def press(self, page, key, code, id):
        page.run(f"document.getElementById('{id}').focus()")
        for kind in ("keyDown", "keyUp"):
            page.cdp("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def tokens(self, page):
        found = page.run(
            "return [...document.querySelectorAll('#positions-map .position-map-token')]"
            ".map(e => [Number(e.dataset.cell), Number(e.dataset.id)])"
        )
        return dict(found)

    def test_policies_and_keep(self, page):
        choose = (
            'document.querySelector(`input[value="{}"]`).click();'
            "const keep = document.getElementById('positions-keep');"
            "keep.value = {}; keep.dispatchEvent(new Event('input', {{bubbles: true}}))"
        )
        page.run(choose.format("preserved", 25))
        kept = self.tokens(page)
        assert len(kept) == 36
        assert all(cell == id for cell, id in kept.items())
        page.run(choose.format("reassigned", 25))
        assert sorted(self.tokens(page)) == sorted(kept)
        assert sorted(self.tokens(page).values()) == list(range(36))
        page.run(choose.format("shifted:6", 25))
        assert self.tokens(page) == {cell: cell + 6 for cell in kept}
        said = page.run("return document.getElementById('positions-policy').textContent")
        assert said.startswith("Every id moves on by six")

    def test_the_keyboard_moves_everything(self, page):
        before = page.run("return document.getElementById('positions-said').textContent")
        self.press(page, "ArrowRight", 39, "positions-token")
        after = page.run("return document.getElementById('positions-said').textContent")
        assert "Token 41 of 72" in before
        assert "Token 42 of 72" in after
        self.press(page, "ArrowRight", 39, "positions-keep")
        assert page.run("return document.getElementById('positions-keep').getAttribute('aria-valuetext')") == (
            "79 of 144 tokens"
        )
        page.run("document.querySelector('input[name=policy]:checked').focus()")
        for kind in ("keyDown", "keyUp"):
            page.cdp("Input.dispatchKeyEvent", type=kind, key="ArrowLeft", windowsVirtualKeyCode=37)
        assert page.run("return document.getElementById('positions-title').textContent") == "preserved"

    def test_every_control_has_a_name_and_nothing_is_cut(self, page):
        unnamed = page.run(
            "return [...document.querySelectorAll('#positions :is(input, select)')]"
            ".filter(e => !e.labels.length || !e.labels[0].textContent.trim()).length"
        )
        assert unnamed == 0
        assert page.run("return document.querySelectorAll('#positions svg[role=img][aria-label]').length") == 2
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        assert page.run("return document.querySelector('[aria-live]').id") == "positions-said"


class TestCatalogue:
    pytestmark = needs_browser

    @pytest.fixture
    def page(self, browser, folder):
        browser.open(folder / "catalogue.html", 1400)
        return browser

    def shown(self, page, **choices):
        """Names in the two tables of pruners, after choosing; and the families in the second one's head."""
        set_to = "".join(
            f'{{const e = document.querySelector(`#catalogue-filter [name="{name}"]`); e.value = `{value}`;'
            "e.dispatchEvent(new Event('input', {bubbles: true}));}"
            for name, value in choices.items()
        )
        return page.run(
            f"{set_to} const tables = [...document.querySelectorAll('table')]"
            ".filter(t => t.rows[0].cells[0].textContent === 'pruner');"
            "const names = t => [...t.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent);"
            "const columns = [...tables[1].rows[0].cells].filter(c => !c.hidden).map(c => c.textContent).slice(1);"
            "return [...tables.map(names), columns]"
        )

    def test_all_are_there_at_first(self, page):
        first, second, columns = self.shown(page)
        assert first == second == pruner_names()
        assert columns == list(families())

    def test_a_family(self, page):
        first, second, columns = self.shown(page, family="qwen2_5_vl")
        assert first == second == [e["name"] for e in catalogue() if "qwen2_5_vl" in e["families"]]
        assert 0 < len(first) < len(pruner_names())
        assert columns == ["qwen2_5_vl"]

    def test_several_at_once_and_back(self, page):
        first, second, _ = self.shown(page, **{"chooses by": "layers", "its authors' ids": "preserved"})
        wanted = [e["name"] for e in catalogue() if e["official_positions"] == "preserved"
                  and any(need.startswith("llm ") for need in e["needs"])]  # fmt: skip
        assert first == second == wanted
        assert self.shown(page, words="FastV")[0] == ["fastv"]
        everything = {"chooses by": "", "its authors' ids": "", "words": "", "family": ""}
        assert self.shown(page, **everything)[0] == pruner_names()
        assert page.run("return document.querySelector('#catalogue-filter .count').textContent") == (
            f"{len(pruner_names())} of {len(pruner_names())} pruners"
        )
