"""How long a change on the app's first tab takes, with the pocket.

    PYTHONPATH=. python benchmarks/app.py results/benchmarks/app.json

The slider takes forty places on one image, after ten that do not count. "answer": from the handler's call to the
markup, wall time; "page": in Chromium, where there is one, from the slider's event to the new panels in the document,
the server and its queue between. Milliseconds; the median and the largest.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from timing import store

import groundprune as gp
from groundprune.app.asking import Bench
from groundprune.app.events import Try
from groundprune.app.quiet import gradio
from groundprune.app.serving import serve
from groundprune.tokens.budget import Budget
from tools.browser import browser_of, there

WARM, CHANGES, SCENE = 10, 40, "scene:7"
KEEPS = [round(0.1 + 0.8 * (i * 7 % (WARM + CHANGES)) / (WARM + CHANGES), 2) for i in range(WARM + CHANGES)]
# Moves the slider, and waits for panels that say how many tokens are kept there.
MOVE = """
const [keep, kept] = arguments;
window.took = null;
const slider = document.querySelector('#gp-keep input[type=range]'), panels = document.querySelector('#gp-panels');
const start = performance.now();
new MutationObserver((_, watch) => {
  if (!panels.innerText.includes(`${kept} of`)) return;
  watch.disconnect();
  window.took = performance.now() - start;
}).observe(panels, {childList: true, subtree: true, characterData: true});
slider.value = keep;
slider.dispatchEvent(new Event('input', {bubbles: true}));
"""


def answers(bench: Bench) -> list[float]:
    """Milliseconds from a handler's call to the markup."""
    tried, text = Try(gradio(), bench), bench_text(bench)
    taken = []
    for keep in KEEPS:
        start = time.perf_counter()
        tried.ask(SCENE, text, "rec", "cls-visual", keep, "reassigned")
        taken.append(1000 * (time.perf_counter() - start))
    return taken[WARM:]


def pages(bench: Bench) -> list[float]:
    """Milliseconds from the slider's event to the new panels."""
    serving, taken = serve(bench), []
    try:
        with tempfile.TemporaryDirectory() as profile, browser_of(Path(profile)) as browser:
            browser.open(serving.address, 1400)
            browser.wait("return document.querySelectorAll('.gp-panels > li').length == 3")
            for keep in KEEPS:
                browser.run(MOVE, str(keep), Budget.parse(keep).count(12 * 12))
                taken.append(float(browser.wait("return window.took")))
    finally:
        serving.close()
    return taken[WARM:]


def bench_text(bench: Bench) -> str:
    """The first request about the scene."""
    return next(iter(bench.picture(SCENE).requests["rec"]))


def main(path: Path) -> None:
    """Measure both, print them and store them."""
    torch.set_num_threads(1)
    bench = Bench(*gp.load("pocket", device="cpu"), name="pocket")
    taken = {"answer": answers(bench)} | ({"page": pages(bench)} if there() else {})
    found = {name: {"median": round(median(of), 1), "largest": round(max(of), 1)} for name, of in taken.items()}
    print(found)
    store(path, {"changes": CHANGES, "milliseconds": found})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
