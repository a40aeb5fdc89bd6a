"""GUI grounding on real pages: MiniWoB++ (PyPI's miniwob, MIT) drawn by Chromium, with boxes from the DOM.

    pip install --no-deps miniwob==1.1.0      its pages alone; its environments need selenium and gymnasium
    python -m tools.miniwob --out FOLDER
    groundprune evaluate --data FOLDER/annotations.jsonl --task point

Writes annotations.jsonl, images/ and about.json. A request is an element that can be clicked, and how a person would
call it: "the button 'Submit'". Its type is "text" where it shows words of its own, else "icon". Only elements are
asked for that are wholly in the picture, not covered, and alone on their page in being called so. The pages draw
their content at random; one seed gives the same requests, and pictures that differ in the edges of letters at most.
"""

import importlib.metadata
import importlib.util
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from groundprune.errors import GroundPruneError
from tools.browser import Browser, browser_of
from tools.command_line import Parser, answered

VERSION = "1.1.0"
INSTALL = f"pip install --no-deps miniwob=={VERSION}"
WIDTH, HEIGHT, SCALE = 160, 210, 2  # CSS pixels of a task's area, and device pixels of one
PER_PAGE = 5  # requests at most: a page of forty checkboxes is one page
LEAST = 8  # device pixels of an element's edges
LONGEST = 40  # letters of what an element is called by: longer ones are texts that can be clicked, no names

# Before a page's own scripts: no time passes, for a picture and its boxes are taken one after the other; and what is
# drawn before the task is, is drawn by the seed as well (mulberry32).
_STILL = """
let state = SEED | 0;
Math.random = () => {
    state = (state + 0x6D2B79F5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const now = 1577880000000, Real = Date;
window.Date = class extends Real { constructor(...a) { a.length ? super(...a) : super(now); } };
window.Date.now = () => now;
window.nextFrame = window.requestAnimationFrame.bind(window);
window.begun = new Promise(done => window.addEventListener('load', () => nextFrame(done)));
for (const name of ['setTimeout', 'setInterval', 'requestAnimationFrame']) window[name] = () => 0;
"""
# Draws the task of a seed, without what the environment lays over it; done when it is painted, pictures and all.
_DRAW = """
const [seed] = arguments;
return begun.then(() => {
    Math.seedrandom(seed);
    if (core.cover_div) core.startEpisodeReal();
    const style = document.createElement('style');
    style.textContent = '#reward-display, #sync-task-cover, #click-canvas { display: none !important } ' +
        '* { animation: none !important; transition: none !important; caret-color: transparent !important }';
    document.head.append(style);
    if (document.activeElement) document.activeElement.blur();
    const behind = [...document.querySelectorAll('*')].map(e => getComputedStyle(e).backgroundImage);
    const urls = [...new Set(behind.join().match(/(?<=url\\(")[^"]+/g) || [])];
    const pictures = urls.map(url => Object.assign(new Image(), {src: url}));
    return Promise.all([...pictures, ...document.images].map(i => i.decode().catch(() => 0)));
}).then(() => new Promise(done => nextFrame(() => nextFrame(() => done()))));
"""
# What can be clicked, in the order of the page, with its box in CSS pixels.
_ELEMENTS = """
const roles = {
    A: 'link', BUTTON: 'button', SELECT: 'drop-down list', TEXTAREA: 'text area', SUMMARY: 'heading',
    checkbox: 'checkbox', radio: 'radio button', text: 'text field', password: 'password field', range: 'slider',
    submit: 'button', button: 'button', reset: 'button', tab: 'tab', slider: 'slider', menuitem: 'menu item',
    number: 'number field', date: 'date field', color: 'colour field', search: 'search field', option: 'option',
};
const clean = text => (text || '').replace(/\\s+/g, ' ').trim();
const hand = e => getComputedStyle(e).cursor === 'pointer';
const named = 'a, button, input, select, textarea, summary, [role=tab], [role=button], [role=slider], ' +
    '[role=menuitem], [role=option], [role=checkbox], [role=radio]';
const found = [];
for (const e of document.querySelectorAll('body *')) {
    const known = e.matches(named);
    if (!known && !(hand(e) && !hand(e.parentElement) && !e.closest(named))) continue;
    if (known && e.parentElement.closest('a, button, select, [role=tab], [role=button]')) continue;
    const box = e.getBoundingClientRect();
    const seen = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || !seen) continue;
    if (!(e === seen || e.contains(seen)) || getComputedStyle(e).fontSize === '0px') continue;
    const kind = e.tagName === 'INPUT' ? e.type : e.tagName.toUpperCase();
    const role = roles[e.getAttribute('role')] || roles[kind] || 'element';
    const shown = ['submit', 'button', 'reset'].includes(e.type) && e.tagName === 'INPUT' ? clean(e.value)
        : ['INPUT', 'SELECT', 'TEXTAREA'].includes(e.tagName) ? '' : clean(e.innerText ?? e.textContent);
    const beside = e.labels && e.labels.length ? clean(e.labels[0].innerText) : '';
    const told = [e.getAttribute('aria-label'), e.title, e.alt, beside, e.placeholder].map(clean).find(Boolean) || '';
    found.push({role, shown, told, box: [box.left, box.top, box.right, box.bottom]});
}
return found;
"""


def make(out: Path, seed: int, pages: int | None) -> None:
    """Draw the pages and write the set. pages: only so many, drawn by the seed."""
    files = _pages()
    asked = sorted(random.Random(f"{seed} pages").sample(files, min(pages or len(files), len(files))))
    (out / "images").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="miniwob-") as profile, browser_of(Path(profile)) as browser:
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=_STILL.replace("SEED", str(seed)))
        requests = [request for page in asked for request in _draw(browser, page, out, seed)]
        about = {"miniwob": VERSION, "licence": "MIT", "seed": seed, "chromium": browser.version}
    lines = [json.dumps(request, ensure_ascii=False) + "\n" for request in requests]
    (out / "annotations.jsonl").write_text("".join(lines), "utf-8")
    about |= {"pages": len(asked), "requests": len(requests)}
    (out / "about.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    print(f"{len(requests)} requests on {len(asked)} pages in {out / 'annotations.jsonl'}")


def _pages() -> list[Path]:
    spec = importlib.util.find_spec("miniwob")  # not imported: that needs all that its environments need
    if spec is None or not spec.submodule_search_locations:
        raise GroundPruneError(f"miniwob is missing: {INSTALL}")
    if (version := importlib.metadata.version("miniwob")) != VERSION:
        raise GroundPruneError(f"miniwob {version} may draw other pages than {VERSION}: {INSTALL}")
    # The flights beside them are pages in frames of pages.
    return sorted(Path(spec.submodule_search_locations[0], "html", "miniwob").glob("*.html"))


def _draw(browser: Browser, page: Path, out: Path, seed: int) -> list[dict[str, Any]]:
    browser.open(page, WIDTH, HEIGHT, SCALE)
    browser.run(_DRAW, f"{seed} {page.stem}")
    image = f"images/{page.stem}.png"
    browser.screenshot(out / image, whole=False)
    return chosen(browser.run(_ELEMENTS), page.stem, image, seed)


def chosen(elements: list[dict[str, Any]], page: str, image: str, seed: int) -> list[dict[str, Any]]:
    """Requests for some elements of a page, lines of annotations.jsonl.

    Args:
        elements: each with its role, the words that it shows, what else it is told by, and its box in CSS pixels.
        page: name.
        image: below the folder of the set.
        seed: which elements, where there are many.

    Returns:
        At most PER_PAGE, in the order of the page.
    """
    calls = [_called(element) for element in elements]
    able = [i for i, element in enumerate(elements) if calls.count(calls[i]) == 1 and _askable(element)]
    some = sorted(random.Random(f"{seed} {page}").sample(able, min(PER_PAGE, len(able))))
    return [
        {
            "id": f"{page}-{i}",
            "image": image,
            "expression": calls[i],
            "bbox": [round(edge * SCALE, 2) for edge in elements[i]["box"]],
            "type": "text" if elements[i]["shown"] else "icon",
        }
        for i in some
    ]


def _called(element: dict[str, Any]) -> str:
    words = element["shown"] or element["told"]
    return f"the {element['role']} '{words}'" if words else f"the {element['role']}"


def _askable(element: dict[str, Any]) -> bool:
    left, top, right, bottom = element["box"]
    inside = left >= 0 and top >= 0 and right <= WIDTH and bottom <= HEIGHT
    words = element["shown"] or element["told"]
    named = len(words) <= LONGEST and bool(words or element["role"] != "element")
    return inside and named and min(right - left, bottom - top) * SCALE >= LEAST


def main(words: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser("tools.miniwob", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder, made where it is not there")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other content (default: %(default)s)")
    parser.add_argument("--pages", type=int, help="only so many pages")
    return answered(parser, words, make)


if __name__ == "__main__":
    sys.exit(main())
