"""The page, laid out with gradio: three tabs, each a function. What happens on a change is in `events`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundprune.app import events
from groundprune.app.asking import Bench
from groundprune.app.events import KINDS, Samples, Try
from groundprune.app.quiet import gradio
from groundprune.app.stored import OUTCOMES, Shelf
from groundprune.evaluation.specs import MAIN_POSITIONS
from groundprune.tokens.positions import FORMS, PLAIN

FIRST_SCENE = 7
_TEMPLATES = Path(__file__).parent / "templates"
_POSITION_MAP = Path(__file__).parents[1] / "report" / "templates" / "position_map.js"
# The names that a list can offer as they are; of those with arguments an example each.
_POLICIES = [*(p for p in PLAIN if p != MAIN_POSITIONS[0]), "official", "shifted:8", "scaled:2", "permuted:0"]
_FOREIGN = "shifted:8"
# An event of the page is no interface for programs, and while a slider moves only its last place counts.
_QUIET = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "concurrency_id": "model",
}


def head() -> str:
    """What the page's drawings need, as one script."""
    code = "\n".join(file.read_text(encoding="utf-8") for file in (_POSITION_MAP, _TEMPLATES / "app.js"))
    return f"<script>\n{code}</script>"


def css() -> str:
    """How the page's own parts look."""
    return (_TEMPLATES / "app.css").read_text(encoding="utf-8")


def theme() -> Any:
    """gradio's plain one in the reader's own fonts: its default fetches others."""
    gr = gradio()
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(  # the plain theme's greys are too pale to be read
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )


def build(bench: Bench, shelf: Shelf, run: str = "") -> Any:
    """The page as gradio's Blocks. run: the folder that the third tab opens with."""
    gr = gradio()
    # What was uploaded is deleted after an hour.
    with gr.Blocks(title="groundprune", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML(f"<h1>groundprune</h1><p>{events.heading(bench)}</p>", js_on_load=None, elem_id="gp-head")
        with gr.Tabs():
            with gr.Tab("Try", id="try"):
                _try(gr, blocks, bench)
            with gr.Tab("Where the map breaks", id="map"):
                _map(gr, blocks, *bench.grid)
            with gr.Tab("Samples", id="samples"):
                _samples(gr, blocks, shelf, run)
    return blocks


def _try(gr: Any, blocks: Any, bench: Bench) -> None:
    does = Try(gr, bench)
    first = does.scene(FIRST_SCENE)
    source = gr.State(first.source)
    with gr.Row(elem_classes="gp-columns"):
        with gr.Column(scale=1, min_width=280):
            upload = gr.File(label="An image: drop it here, or click", height=150, elem_id="gp-upload")
            with gr.Row():
                seed = gr.Number(FIRST_SCENE, label="Scene", precision=0, min_width=90, elem_id="gp-seed")
                another = gr.Button("Another scene", min_width=120, size="sm", elem_id="gp-another")
            request = _unchecked(
                gr.Dropdown(
                    first.requests,
                    value=first.text,
                    label="What is in the scene",
                    elem_id="gp-request",
                    filterable=False,
                )
            )
            kind = _unchecked(gr.Radio(KINDS, value="rec", label="Ask for", elem_id="gp-kind"))
            text = gr.Textbox(first.text, label="An expression or a question", elem_id="gp-text", max_lines=1)
            pruner = _unchecked(
                gr.Dropdown(bench.pruners, value=_usual(bench.pruners), label="Pruner", elem_id="gp-pruner")
            )
            policy = _unchecked(gr.Dropdown(
                _POLICIES, value=MAIN_POSITIONS[1], label="Position policy beside preserved", elem_id="gp-policy",
                allow_custom_value=True, info=", ".join(FORMS[4:-1]),
            ))  # fmt: skip
            gr.Checkbox(label="Scores as heat", elem_id="gp-heat")
            keep = _unchecked(
                gr.Slider(0.02, 1, 0.5, step=0.01, label="Keep: share of the visual tokens", elem_id="gp-keep")
            )
        with gr.Column(scale=3, min_width=320):
            panels = gr.HTML(js_on_load=None, elem_id="gp-panels")
    asked = [source, text, kind, pruner, keep, policy]
    shown = [panels]
    for change in (kind.input, text.submit, text.blur, pruner.input, keep.input, policy.input):
        change(does.ask, asked, shown, **_QUIET)
    blocks.load(does.ask, asked, shown, **_QUIET)
    opened = [source, request, text, kind, *shown]
    another.click(does.another, [seed, *asked[3:]], [seed, *opened], **_QUIET)
    seed.submit(does.numbered, [seed, *asked[3:]], opened, **_QUIET)
    upload.upload(does.upload, [upload, text, *asked[2:]], [upload, *opened], **_QUIET)
    upload.clear(does.numbered, [seed, *asked[3:]], opened, **_QUIET)
    request.input(does.requested, [request, *asked[:1], *asked[3:]], [text, kind, *shown], **_QUIET)


def _unchecked(component: Any) -> Any:
    """Our own code says what is wrong with a value; gradio's check of it would end in a traceback."""
    component.preprocess = lambda payload: payload
    return component


def _usual(pruners: list[str]) -> str | None:
    return "cls-visual" if "cls-visual" in pruners else next(iter(pruners), None)


def _map(gr: Any, blocks: Any, rows: int, columns: int) -> None:
    """Drawn by the browser alone."""
    gr.HTML(events.MAP_TEXT, js_on_load=None, elem_classes="gp-text")
    with gr.Row():
        keep = gr.Slider(
            0.01, 1, 0.5, step=0.01, label="Keep: share of the visual tokens", elem_id="gp-map-keep", scale=3
        )
        high = gr.Slider(1, 32, rows, step=1, label="Rows", elem_id="gp-map-rows", min_width=140)
        wide = gr.Slider(1, 32, columns, step=1, label="Columns", elem_id="gp-map-columns", min_width=140)
        foreign = gr.Textbox(
            _FOREIGN,
            label="One more policy",
            info="shifted:N or scaled:FACTOR",
            elem_id="gp-map-policy",
            max_lines=1,
            min_width=160,
        )
    maps = gr.HTML(js_on_load=None, elem_id="gp-maps")
    given = [keep, high, wide, foreign]
    draw = {"fn": None, "inputs": given, "outputs": maps, "js": "drawPositionMaps", "api_visibility": "private"}
    for change in (keep.input, high.input, wide.input, foreign.input, blocks.load):
        change(**draw)


def _samples(gr: Any, blocks: Any, shelf: Shelf, run: str) -> None:
    does = Samples(gr, shelf)
    with gr.Row():
        folder = gr.Textbox(
            run, label="A folder of results", placeholder="out", elem_id="gp-folder", max_lines=1, scale=3
        )
        go = gr.Button("Open", elem_id="gp-open", min_width=90, scale=0, size="sm")
        choice = _unchecked(
            gr.Dropdown([], label="Pruner and budget", elem_id="gp-choice", scale=2, filterable=False)
        )
    outcome = _unchecked(
        gr.Radio(list(OUTCOMES), value=next(iter(OUTCOMES)), label="Which samples", elem_id="gp-outcome")
    )
    with gr.Row(elem_classes="gp-pager"):
        back = gr.Button("Earlier", elem_id="gp-back", min_width=90, scale=0)
        where = gr.HTML(js_on_load=None, elem_id="gp-where")
        on = gr.Button("Later", elem_id="gp-on", min_width=90, scale=0)
    items = gr.HTML(js_on_load=None, elem_id="gp-samples")
    page = gr.State(0)
    given, shown = [folder, choice, outcome, page], [page, where, items]
    opened = [choice, outcome, *shown]
    for change in (go.click, folder.submit):
        change(does.open, [folder], opened, **_QUIET)
    if run:
        blocks.load(does.open, [folder], opened, **_QUIET)
    choice.input(does.choose, given, [outcome, *shown], **_QUIET)
    outcome.input(does.first, given, shown, **_QUIET)
    back.click(does.earlier, given, shown, **_QUIET)
    on.click(does.later, given, shown, **_QUIET)
