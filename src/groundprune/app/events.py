"""What happens when something on the page changes. Whatever goes wrong is a message on the page, and it goes on."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import escape

from groundprune.app import rendering
from groundprune.app.asking import Bench
from groundprune.app.stored import OUTCOMES, PAGE, Shelf, StoredRun, choices_of
from groundprune.errors import GroundPruneError, first_line

KINDS = [("a box", "rec"), ("words", "vqa")]
MAP_TEXT = """<p>What tells a language model where a visual token was is its position id. Every square is a token at
its place in the image; its colour says which place its id names, as the unpruned grid has them. A dot marks a token
whose id names another place: point at it to see which. Grey: a place outside of the image.</p>"""


def heading(bench: Bench) -> str:
    """What stands below the page's name, as markup."""
    return str(escape(f"Model: {bench.name}. Everything runs on the machine that serves this page."))


def told(error: Exception) -> str:
    """What to say of an error: ours say what is wrong, others at least what they are."""
    if isinstance(error, GroundPruneError):
        return str(error)
    return f"that did not work ({type(error).__name__}: {first_line(error)})"


def answered(beside: int) -> Callable[..., Any]:
    """A method that gives values for `beside` components and for what is shown never raises.

    What went wrong becomes what `self.failed` makes of it.
    """

    def safely(method: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        @functools.wraps(method)
        def safe(self: Any, *values: Any) -> list[Any]:
            try:
                return method(self, *values)
            except Exception as error:  # models and image libraries raise what they like
                return self.failed(beside, told(error))

        return safe

    return safely


@dataclass(frozen=True)
class Scene:
    """source: for `Bench.picture`. requests: (label, text) for a list. text: the first of them."""

    source: str
    requests: list[tuple[str, str]]
    text: str


class Try:
    """The first tab. Methods give values for gradio's components, in the order of the page's lists; what is
    shown comes last.

    Args:
        gr: gradio.
        bench: whom they ask.
    """

    def __init__(self, gr: Any, bench: Bench):
        self._gr, self._bench = gr, bench

    def failed(self, beside: int, message: str) -> list[Any]:
        """The message in place of the panels, and all else as it is."""
        return [*(self._gr.skip() for _ in range(beside)), rendering.message(message)]

    def scene(self, seed: Any) -> Scene:
        """Raises GroundPruneError where no scene has this number."""
        if not isinstance(seed, int | float) or not math.isfinite(seed):
            raise GroundPruneError("a scene has a number, 0 or more")
        source = f"scene:{int(seed)}"
        requests = self._bench.picture(source).requests
        listed = [(f"find: {t}", t) for t in requests["rec"]] + [(f"ask: {t}", t) for t in requests["vqa"]]
        return Scene(source, listed, listed[0][1])

    @answered(0)
    def ask(self, source: str, text: str | None, kind: str, pruner: str, keep: float, policy: str) -> list[Any]:
        return self._asked(source, text, kind, pruner, keep, policy)

    @answered(5)
    def another(self, seed: Any, pruner: str, keep: float, policy: str) -> list[Any]:
        following = int(seed) + 1 if isinstance(seed, int | float) and math.isfinite(seed) else 0
        return [following, *self._opened(following, pruner, keep, policy)]

    @answered(4)
    def numbered(self, seed: Any, pruner: str, keep: float, policy: str) -> list[Any]:
        return self._opened(seed, pruner, keep, policy)

    @answered(5)
    def upload(self, path: str, text: str | None, kind: str, pruner: str, keep: float, policy: str) -> list[Any]:
        skip = self._gr.skip
        try:
            self._bench.picture(path)
        except GroundPruneError as error:  # what cannot be shown does not stay in its place either
            return [None, *(skip() for _ in range(4)), rendering.message(told(error))]
        nothing = self._gr.Dropdown(choices=[], value=None)
        return [skip(), path, nothing, skip(), skip(), *self.ask(path, text, kind, pruner, keep, policy)]

    @answered(2)
    def requested(self, text: str, source: str, pruner: str, keep: float, policy: str) -> list[Any]:
        kind = "vqa" if text in self._bench.picture(source).requests.get("vqa", {}) else "rec"
        return [text, kind, *self.ask(source, text, kind, pruner, keep, policy)]

    def _opened(self, seed: Any, pruner: str, keep: float, policy: str) -> list[Any]:
        found = self.scene(seed)
        listed = self._gr.Dropdown(choices=found.requests, value=found.text)
        shown = self.ask(found.source, found.text, "rec", pruner, keep, policy)
        return [found.source, listed, found.text, "rec", *shown]

    def _asked(self, source: str, text: str | None, kind: str, pruner: str, keep: float, policy: str) -> list[Any]:
        said = text or ""
        if not policy:
            raise GroundPruneError("choose a position policy")
        reply = self._bench.ask(source, said, kind, pruner, str(keep), policy.strip())
        return [rendering.panels(reply, said, kind)]


class Samples:
    """The third tab, in the same way. page: counted from 0.

    Args:
        gr: gradio.
        shelf: where result folders are.
    """

    def __init__(self, gr: Any, shelf: Shelf):
        self._gr, self._shelf = gr, shelf

    def failed(self, beside: int, message: str) -> list[Any]:
        """The message in place of the samples, and all else as it is."""
        return [*(self._gr.skip() for _ in range(beside)), 0, "", rendering.message(message)]

    @answered(2)
    def open(self, folder: str) -> list[Any]:
        found = self._shelf.open(folder or "")
        choices = list(choices_of(found.summary))
        title = found.shown.title if found.shown.title in choices else None
        return [self._gr.Dropdown(choices=choices, value=title), *self._chosen(found)]

    @answered(1)
    def choose(self, folder: str, choice: str | None, outcome: str, page: int) -> list[Any]:
        return self._chosen(self._shelf.open(folder, choice))

    @answered(0)
    def first(self, folder: str, choice: str | None, outcome: str, page: int) -> list[Any]:
        return self._page(folder, choice, outcome, 0)

    @answered(0)
    def earlier(self, folder: str, choice: str | None, outcome: str, page: int) -> list[Any]:
        return self._page(folder, choice, outcome, page - 1)

    @answered(0)
    def later(self, folder: str, choice: str | None, outcome: str, page: int) -> list[Any]:
        return self._page(folder, choice, outcome, page + 1)

    def _chosen(self, run: StoredRun) -> list[Any]:
        outcomes = [(f"{name} ({run.counts[name]})", name) for name in OUTCOMES]
        first = next(iter(OUTCOMES))
        return [self._gr.Radio(choices=outcomes, value=first), *self._shown(run, first, 0)]

    def _page(self, folder: str, choice: str | None, outcome: str, page: int) -> list[Any]:
        return self._shown(self._shelf.open(folder, choice), outcome, page)

    def _shown(self, run: StoredRun, outcome: str, page: int) -> list[Any]:
        fitting = run.of(outcome)
        pages = max(1, math.ceil(len(fitting) / PAGE))
        page = min(max(0, page), pages - 1)
        items = fitting[page * PAGE : (page + 1) * PAGE]
        held = (
            f"; {len(run.items)} of {run.answered} samples can be looked at" if len(run.items) < run.answered else ""
        )
        where = f"<p role='status'>Page {page + 1} of {pages}, {len(fitting)} samples{held}</p>"
        return [page, where, rendering.samples(items, run.shown.title, run.missing)]
