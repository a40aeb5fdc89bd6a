"""The page in a real browser, where there is one: `chromedriver` and Chromium on the PATH; skipped without."""

from dataclasses import replace

import pytest

from groundprune.evaluation import compare, read_summary
from groundprune.evaluation.results import SAMPLES_FILE, read_rows
from groundprune.report.gallery import choose, make_items, samples_of
from groundprune.report.headline import choose_shown
from groundprune.report.kept_maps import kept_maps
from groundprune.report.page import Gallery, render_report
from tools.browser import browser_of, there

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not there(), reason="no chromedriver and Chromium on the PATH"),
]
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browser_of(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report whose first sample asks for EVIL."""
    folder = tmp_path_factory.mktemp("browser")
    compare(out=folder, scenes=12, pruners=["cls-visual", "random"], progress=False)
    summary = read_summary(folder)
    rows, shown, samples = read_rows(folder / SAMPLES_FILE), choose_shown(summary), samples_of(summary.run)
    ids = choose(rows, shown, 24)
    samples[ids[0]] = replace(samples[ids[0]], text=EVIL)
    kept = kept_maps(summary.run, rows, shown.results["preserved"].setting, [samples[id] for id in ids[1:]])
    path = folder / "evil.html"
    items = make_items(ids, rows, shown, samples, kept)
    path.write_text(render_report(summary, shown, Gallery(items, len(rows))), encoding="utf-8")
    return path


@pytest.fixture(params=[1280, 400])
def opened(browser, report, request):
    browser.open(report, request.param)
    return browser


def test_nothing_is_cut(opened):
    """The page is never wider than the window; only what has a scroller of its own is."""
    assert opened.run("return document.documentElement.scrollWidth <= innerWidth")
    wide = opened.run(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert opened.run(
        "return [...document.querySelectorAll('.chart text')].every(t => { const a = t.getBoundingClientRect(), "
        "b = t.closest('svg').getBoundingClientRect(); return a.left >= b.left - 1 && a.right <= b.right + 1 })"
    )


def test_letters_of_the_charts_can_be_read(opened):
    heights = opened.run(
        "return [...document.querySelectorAll('.chart text')].map(t => parseFloat(getComputedStyle(t).fontSize) * "
        "Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))"
    )
    assert min(heights) >= 9


def test_markup_in_an_expression_is_text(opened):
    assert opened.run("return document.querySelector('.asked').textContent") == EVIL
    assert opened.run("return document.querySelectorAll('img[src=x]').length") == 0


def test_the_filters(opened):
    def shown(wrong, type=""):
        return opened.run(
            f"document.querySelector('input[name=wrong][value=\"{wrong}\"]').click();"
            f"const type = document.getElementById('type'); type.value = '{type}';"
            "type.dispatchEvent(new Event('change', {bubbles: true}));"
            "return [...document.querySelectorAll('#samples > li')].filter(e => e.offsetParent).map(e => e.dataset)"
        )

    everything = shown("")
    assert len(everything) == 24
    for name in ("unpruned", "preserved", "reassigned"):
        assert shown(name) == [item for item in everything if name in item["wrong"].split()]
    assert shown("", "vqa/count") == [item for item in everything if item["type"] == "vqa/count"]
    both = [i for i in everything if i["type"] == "rec/relation" and "reassigned" in i["wrong"].split()]
    assert shown("reassigned", "rec/relation") == both
    said = opened.run("return document.getElementById('count').textContent")
    assert said == f"{len(both)} of 24 samples shown"


def test_the_filters_by_keyboard(opened):
    opened.run("document.querySelector('input[name=wrong]').focus()")
    for kind in ("keyDown", "keyUp"):
        opened.cdp("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
    assert opened.run("return document.activeElement.value") == "unpruned"
    assert opened.run(
        "return [...document.querySelectorAll('#samples > li')].every("
        "e => !e.offsetParent === !e.dataset.wrong.split(' ').includes('unpruned'))"
    )


def test_layers_can_be_hidden(opened):
    drawn = "[...document.querySelectorAll('#gallery {}')].filter(e => getComputedStyle(e).display != 'none')"
    seen = f"return {drawn}.length"
    for layer, id in ((".layer-0", "show-0"), (".layer-3", "show-3"), (".dropped", "show-dropped")):
        assert opened.run(seen.format(layer)) > 0
        opened.run(f"document.getElementById('{id}').click()")
        assert opened.run(seen.format(layer)) == 0


def test_the_keyboard_reaches_everything(opened):
    """Nothing that acts is taken out of the order, and the links of the navigation lead to places."""
    assert opened.run("return document.querySelectorAll('[tabindex]:not([tabindex=\"0\"])').length") == 0
    assert opened.run("return [...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")


def test_the_first_screen_tells_the_story(browser, report):
    """Of a wide window: the sentence, the numbers, the curves and two samples, without scrolling."""
    browser.open(report, 1400)
    bottoms = browser.run(
        "return ['h1', '.facts', '.first table', '.first .panels', '.trio:nth-of-type(2)'].map("
        "s => document.querySelector(s).getBoundingClientRect().bottom)"
    )
    assert max(bottoms) <= browser.run("return innerHeight")


def test_words_of_the_first_screen_can_be_read(opened):
    sizes = opened.run(
        "const words = e => !e.closest('svg') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());"
        "return [...document.querySelectorAll('header *, #headline *')].filter(words)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 11


def test_what_is_folded_opens(opened):
    seen = "return [...document.querySelectorAll('#tables table')].filter(t => t.checkVisibility()).length"
    closed = opened.run(seen)
    opened.run("document.querySelector('#tables summary').click()")
    assert closed == 0 < opened.run(seen)
