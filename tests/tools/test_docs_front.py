"""README's front: what its figure shows is what is stored, and a reader meets it before everything else."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from groundprune.evaluation import Setting, read_summary
from tools.browser import browser_of, there
from tools.docs.front import FIGURES, STORED, ask, front_svg, front_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SVG = "{http://www.w3.org/2000/svg}"


def test_the_pocket_says_what_is_stored():
    """The image is compared by its size: its bytes depend on how Pillow packs a JPEG."""
    stored = json.loads((ROOT / STORED).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(ask(ROOT)))
    assert now.pop("image")[:30] == stored.pop("image")[:30]
    assert now == stored
    assert stored["sample"] == "held-out-0-rec-00000"  # the rule: the first
    assert stored["answers"]["preserved"]["iou"] >= 0.5 > stored["answers"]["reassigned"]["iou"]


@pytest.mark.parametrize("narrow", [False, True])
def test_the_figure_holds_the_numbers(narrow):
    texts = [e.text for e in ElementTree.fromstring(front_svg(ROOT, False, narrow)).iter(f"{SVG}text")]
    said = " ".join(texts)
    results = [read_summary(path.parent) for path in sorted((ROOT / "results" / "compare").glob("*/summary.json"))]
    whole, lost = {}, {}
    for kind in ("rec", "vqa"):
        for name in ("unpruned", "reassigned", "preserved"):
            setting = Setting() if name == "unpruned" else Setting.of("cls-visual", "0.5", positions=name)
            shares = [getattr(r.result(setting.id), kind).total for r in results]
            value = 100 * sum(share.accuracy for share in shares) / len(shares)
            whole.setdefault(kind, value)
            assert f"{kind.upper()} {value:.1f}%" in texts
            lost[kind, name] = whole[kind] - value
            assert name == "unpruned" or f"\N{MINUS SIGN}{lost[kind, name]:.1f} points" in texts
    for fact in ("the pocket", "mean of 2 trainings", "cls-visual keeps 72 of 144 tokens", "500 expressions",
                 "500 questions", "run's first expression", "“the leftmost object”"):  # fmt: skip
        assert fact in said
    assert lost["rec", "reassigned"] > 90


@pytest.mark.parametrize(("dark", "narrow"), FIGURES)
def test_the_figure_asks_nobody_and_its_letters_can_be_read(dark, narrow):
    drawing = front_svg(ROOT, dark, narrow)
    assert drawing == front_svg(ROOT, dark, narrow)
    assert set(re.findall(r'href="(.)', drawing)) == {"d", "#"}
    sizes = [float(e.get("font-size")) for e in ElementTree.fromstring(drawing).iter(f"{SVG}text")]
    assert min(sizes) >= 12.5  # 11 pixels, where a column of 338 pixels shows 390
    ground = 0.02 if dark else 1.0
    for e in ElementTree.fromstring(drawing).iter(f"{SVG}text"):
        lighter, darker = sorted((ground, _luminance(e.get("fill"))), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, e.text


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.browser
@pytest.mark.skipif(not there(), reason="no chromedriver and Chromium on the PATH")
def test_no_word_covers_another_or_leaves_the_figure(tmp_path):
    with browser_of(tmp_path / "profile") as browser:
        for (_, narrow), file in FIGURES.items():
            browser.open(ROOT / file, 390 if narrow else 880)
            found = browser.run(
                "const box = e => e.getBoundingClientRect(), all = [...document.querySelectorAll('text')];"
                "const meet = (a, b) => a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < "
                "a.bottom; const width = document.documentElement.viewBox.baseVal.width;"
                "const out = all.filter(e => box(e).left < 0 || box(e).right > width);"
                "const over = all.flatMap((a, i) => all.slice(i + 1).filter(b => meet(box(a), box(b)))"
                ".map(b => [a, b]));"
                "return [out.map(e => e.textContent), over.map(pair => pair.map(e => e.textContent))]"
            )
            assert found == [[], []], file


class TestReadme:
    def test_the_figure_stands_before_the_only_table(self):
        rows = re.findall(r"^\|.*\|$", README, re.MULTILINE)
        assert f"{chr(10).join(rows)}\n" in front_table(ROOT)
        assert len(rows) - 2 <= 8
        assert README.index("<picture>") < README.index("```") < README.index(rows[0])

    def test_install_use_and_run_within_a_screen(self):
        """Both commands and the pure function stand in the first sixty lines."""
        top = "\n".join(README.splitlines()[:60])
        for words in ("pip install .", "gp.prune_inputs(", "make compare", "make test"):
            assert words in top

    def test_every_file_that_it_names_is_there(self):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", README) + re.findall(r'(?:src|srcset)="([^"]+)"', README)
        local = [link for link in links if "://" not in link]
        assert len(local) > 20
        assert [link for link in local if not (ROOT / link).is_file()] == []


def test_make_compare_has_a_report_to_end_with():
    """`groundprune compare --out FOLDER` prints the report's file last; ARGS come later: an --out in them counts."""
    (line,) = re.findall(r"^\t\$\(BIN\)/groundprune compare.*$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.search(r"--out \S+ \$\(ARGS\)$", line)
