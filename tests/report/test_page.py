"""The page: what it shows, what it must never do, and what it says where something is missing."""

import base64
import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from groundprune.answers import answer
from groundprune.boxes import Box, CroppedFrame, OriginalFrame
from groundprune.checkpoints.load import load
from groundprune.data import Sample
from groundprune.evaluation import Setting, compare, read_rows, read_summary, summarize
from groundprune.report.gallery import SAMPLES, Answered, Item, choose, data_uri, samples_of
from groundprune.report.headline import choose_shown
from groundprune.report.kept_maps import kept_maps
from groundprune.report.overlay import KeptMap
from groundprune.report.page import REPORT_FILE, Gallery, render_report, write_report
from groundprune.report.tables import costs
from support.pages import Page

EVIL = "<img src=x onerror=alert(1)>"
STOCK = Setting.of()
HALF = Setting.of("spatial", 0.5)
ALIKE = Setting.of("spatial", 0.5, positions="reassigned")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    compare(out=folder, scenes=6, pruners=["spatial", "random"], keeps=[0.5, 0.25], batch_size=6, progress=False)
    return folder


@pytest.fixture(scope="module")
def html(run):
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def row(setting, sample, correct, kind="rec", type="color"):
    box = [0, 0, 1, 1] if kind == "rec" else None
    return {
        "setting": setting.id, "sample": sample, "kind": kind, "type": type, "answer": "?", "correct": correct,
        "iou": (1.0 if correct else 0.0) if kind == "rec" else None, "box": box, "kept": 72,
    }  # fmt: skip


def summary_of(rows, settings=(STOCK, HALF, ALIKE), samples=4, **run):
    return summarize({"model": "pocket", "seed": 0, **run}, {"command": "x"}, settings, rows, samples)


def item(text=EVIL, box=(1, 2, 3, 4), answer=EVIL):
    sample = Sample("a", Image.new("RGB", (8, 8)), "rec", EVIL, text, Box(*box), None, "held-out")
    return Item(sample, data_uri(sample.image), [Answered("unpruned", answer, False, 0.0, None)], None)


class TestNothingFromOutside:
    def test_no_address_but_of_the_page_itself(self, page, html):
        for tag, attributes in page.tags:
            for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"):
                assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, name)
        assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
        assert "://" not in html
        assert "@import" not in html
        assert set(re.findall(r"url\((.)", html)) <= {"#"}

    def test_only_its_own_script_may_run(self, page, html):
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        (script,) = [text for tag, text in page.text if tag == "script"]
        raw = html[html.index("<script>") + 8 : html.index("</script>")]
        assert script in raw
        digest = base64.b64encode(hashlib.sha256(raw.encode()).digest()).decode()
        (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
        assert "default-src 'none'" in policy
        assert f"script-src 'sha256-{digest}'" in policy

    def test_whatever_the_words_say_is_text(self):
        evil = Setting(f"x.py:{EVIL}$y$", "0.5")
        three = STOCK, evil, dataclasses.replace(evil, positions="reassigned")
        rows = [row(s, "a", True, type=EVIL) for s in three]
        summary = summary_of(rows, three, 1, scenes=EVIL, split="</script></style>" + EVIL)
        shown = choose_shown(dataclasses.replace(summary, about={"command": EVIL, EVIL: {EVIL: EVIL}}))
        summary = dataclasses.replace(
            summary, run={**summary.run, "model": EVIL}, about={"command": EVIL, EVIL: EVIL}
        )
        page = Page(render_report(summary, shown, Gallery([item()], 1, [EVIL])))
        assert len(page.all("img")) == 2  # in front and in the gallery
        assert all("onerror" not in attributes for _, attributes in page.tags)
        for tag in (
            "title",
            "h2",
            "p",
            "span",
            "caption",
            "th",
            "td",
            "code",
            "option",
            "text",
            "desc",
            "figcaption",
        ):
            assert any(EVIL in text for name, text in page.text if name == tag), tag
        assert EVIL in page.all("img")[-1]["alt"]
        assert "$y$" in page.said()


class TestForEveryReader:
    def test_pictures_are_told(self, page):
        first, pictures = page.all("img")[:9], page.all("img")[9:]
        assert len(pictures) == 12
        assert all(re.match(r"(unpruned|reassigned|preserved): .+, (right|wrong)\.", p["alt"]) for p in first)
        assert all(len(picture["alt"]) > 20 for picture in pictures)
        assert sum("of 144 visual tokens are kept" in picture["alt"] for picture in pictures) == 12
        assert sum("Ground truth: " in picture["alt"] for picture in pictures) == 6

    def test_drawings_are_told_or_hidden(self, page):
        charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
        assert len(charts) == 2 + 1 + 4 + 2 + 1
        assert all("aria-hidden" in svg for svg in page.all("svg") if svg.get("role") != "img")
        told = [text for tag, text in page.text if tag == "desc"]
        assert len(told) == len(charts)
        assert all(re.search(r"\d", text) for text in told)

    def test_names_lead_somewhere(self, page):
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for _, attributes in page.tags:
            named = [attributes.get("for", ""), *attributes.get("aria-labelledby", "").split()]
            named += [attributes.get(name, "").removeprefix("#") for name in ("href", "xlink:href")]
            assert {name for name in named if name and not name.startswith("data:")} <= set(ids)

    def test_controls_have_words(self, html):
        assert len(re.findall(r"<label><input[^>]*>\s*\S", html)) == html.count("<input")
        assert html.count("<legend>") == html.count("<fieldset")

    def test_scrolled_tables_take_the_keyboard(self, page):
        regions = [div for div in page.all("div") if div.get("class") == "scroll"]
        assert len(regions) == len(page.all("table"))
        assert all(div["tabindex"] == "0" and div["role"] == "region" and div["aria-label"] for div in regions)


class TestNumbers:
    def test_every_number_is_the_summarys(self, run, page):
        """Both ways: each share and difference is in the page, and no table holds any other decimal number."""
        summary = read_summary(run)
        shares = [task.total for r in summary.settings for task in (r.rec, r.vqa)]
        shares += [share for r in summary.settings for task in (r.rec, r.vqa) for share in task.types.values()]
        known = {f"{100 * value:.1f}" for s in shares for value in (s.accuracy, *s.interval)}
        known |= {f"{abs(100 * v):.1f}" for d in summary.differences for v in (d.difference, *d.interval)}
        said = page.said()
        for result in summary.settings:
            for task in (result.rec, result.vqa):
                assert f"{100 * task.total.accuracy:.1f} [" in said
        tables = " ".join(text for tag, text in page.text if tag in ("td", "span", "desc") and "IoU" not in text)
        cells = [cell for grid in costs([summary]) for row in grid.rows for cell in row]
        operations = [r.costs.llm_flops / 1e6 for r in summary.settings if r.costs is not None]
        known |= {*re.findall(r"\d+\.\d+", " ".join(cells)), *(f"{value:.3g}" for value in operations)}
        budgets = {"0.5", "0.25"}
        versions = " ".join([*summary.about["versions"].values(), summary.about["command"]])
        found = set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", tables)) - budgets
        assert {number for number in found if number not in versions} <= known
        assert len(found) > 10

    def test_the_settings_are_there(self, run, page):
        summary = read_summary(run)
        for value in (
            summary.about["command"],
            summary.about["date"],
            summary.run["weights"],
            summary.run["samples"],
        ):
            assert value in page.said()

    def test_what_has_no_answers_is_no_zero(self):
        summary = summary_of([row(STOCK, "a", True), row(HALF, "a", True)], samples=1)
        said = Page(render_report(summary, choose_shown(summary), Gallery())).said()
        assert "Not complete." in said
        assert "1 of 3 settings have fewer answers than others" in said
        assert f"{ALIKE.label} (0 of 1)" in said
        assert not re.search(r"(?<!\d)0\.0", said)


class TestGallery:
    def test_rare_outcomes_are_there(self):
        rows = [row(s, f"{i}", s != ALIKE or i != 77) for i in range(100) for s in (STOCK, HALF, ALIKE)]
        stored = {(r["setting"], r["sample"]): r for r in rows}
        shown = choose_shown(summary_of(rows, samples=100))
        chosen = choose(stored, shown, 10)
        assert chosen[0] == "77"
        assert len(set(chosen)) == 10
        assert choose(dict(reversed(stored.items())), shown, 10) == chosen
        assert len(choose(stored, shown, 1000)) == 100

    def test_only_what_all_have_answered(self):
        rows = [row(STOCK, "a", True), row(STOCK, "b", True), row(HALF, "b", True)]
        stored = {(r["setting"], r["sample"]): r for r in rows}
        assert choose(stored, choose_shown(summary_of(rows)), 10) == ["b"]

    def test_kept_is_what_the_model_keeps(self, run):
        summary, setting = read_summary(run), Setting.of("random", 0.25)
        samples = list(samples_of(summary.run).values())[::3]
        found = kept_maps(summary.run, read_rows(run / "samples.jsonl"), setting, samples)
        model, processor = load("pocket")
        for sample in samples:
            said = answer(model, processor, sample.image, sample.text, sample.kind, setting.make_pruner())
            assert (found[sample.id].grid == said.kept).all()

    @pytest.mark.parametrize("frame", [OriginalFrame(60, 30), CroppedFrame(60, 30)])
    def test_the_shade_covers_what_was_dropped(self, frame):
        kept = KeptMap(np.random.default_rng(0).random((6, 6)) < 0.5, frame)
        path = Item(item().sample, "", [], kept).dropped
        shaded = np.zeros((30, 60), dtype=int)
        for box in re.findall(r"M(\S+) (\S+)H(\S+)V(\S+)H", path):
            left, top, right, bottom = (round(float(edge)) for edge in box)
            shaded[top:bottom, left:right] += 1
        window = frame.to_pixels(Box(0, 0, 1, 1))
        dropped = (1 - kept.grid.mean()) * window.area + 60 * 30 - window.area
        assert shaded.max() == 1
        assert shaded.sum() == pytest.approx(dropped)

    def test_the_border_runs_between_kept_and_dropped(self):
        kept = KeptMap(np.random.default_rng(0).random((6, 6)) < 0.5, OriginalFrame(60, 60))
        pixels = kept.grid.repeat(10, 0).repeat(10, 1)
        lines = re.findall(r"M(\d+) (\d+)L(\d+) (\d+)", Item(item().sample, "", [], kept).border)
        assert len(lines) == np.diff(kept.grid, axis=0).sum() + np.diff(kept.grid, axis=1).sum()
        for left, top, right, bottom in (map(int, line) for line in lines):
            x, y = (left + right) // 2, (top + bottom) // 2
            assert pixels[y, x] != (pixels[y, x - 1] if left == right else pixels[y - 1, x])

    def test_large_pictures_shrink(self):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8))
        assert len(data_uri(noise)) * SAMPLES < 16e6  # of pure noise, which no photograph is
        assert data_uri(noise).startswith("data:image/jpeg;base64,")

    def test_small_enough(self, html):
        start = html.index('<ul id="samples">')
        assert (len(html) - start) * SAMPLES / 12 + start < 4e6


class TestMissing:
    @pytest.fixture
    def changed(self, run, tmp_path):
        """The report of the same results with something changed in their summary."""

        def write(**run_changes):
            for file in ("samples.jsonl", "summary.json"):
                (tmp_path / file).write_bytes((run / file).read_bytes())
            summary = json.loads((tmp_path / "summary.json").read_text())
            summary["run"] |= run_changes
            (tmp_path / "summary.json").write_text(json.dumps(summary))
            return Page(write_report(tmp_path).read_text(encoding="utf-8"))

        return write

    def test_no_model_is_needed(self, changed, tmp_path, monkeypatch):
        monkeypatch.setattr("groundprune.checkpoints.load.load", lambda *_, **__: pytest.fail("a model was loaded"))
        page = changed(model=str(tmp_path / "gone"), weights="0" * 16)
        assert "Kept tokens are not shaded" not in page.said()
        assert sum("of 144 visual tokens are kept" in picture["alt"] for picture in page.all("img")) == 12

    def test_results_of_older_versions(self, run, tmp_path):
        (tmp_path / "summary.json").write_bytes((run / "summary.json").read_bytes())
        rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        old = [{k: v for k, v in r.items() if k not in ("grids", "kept_cells")} for r in rows]
        (tmp_path / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in old))
        page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
        assert "Kept tokens are not shaded: these results do not store them" in page.said()
        assert len(page.all("img")) == 9 + 12
        assert "dropped tokens dimmed" not in page.said()

    def test_without_the_answers(self, run, tmp_path):
        (tmp_path / "summary.json").write_bytes((run / "summary.json").read_bytes())
        page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
        assert "the folder holds no samples.jsonl" in page.said()
        assert len(page.all("table")) > 3

    def test_without_the_samples(self, changed):
        for page in (changed(seed=1), changed(data="photographs")):
            assert "No samples are shown: " in page.said()
            assert not page.all("img")
            assert len(page.all("table")) > 3


def test_the_same_results_give_the_same_bytes(run, html):
    figures = {path.name: path.read_bytes() for path in (run / "figures").iterdir()}
    assert write_report(run).read_text(encoding="utf-8") == html
    assert {path.name: path.read_bytes() for path in (run / "figures").iterdir()} == figures


def test_another_pruner_in_front(run):
    shown = choose_shown(read_summary(run), "random", "0.25")
    assert [r.setting.id for r in shown.results.values()] == [
        "unpruned", "random/keep=0.25/preserved", "random/keep=0.25/reassigned",
    ]  # fmt: skip
    assert read_rows(run / "samples.jsonl")
    assert (run / REPORT_FILE).is_file()
