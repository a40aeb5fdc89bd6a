"""Costs in summaries, tables and reports: means of rows, seconds that add up, old folders without them."""

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from groundprune.cli import main
from groundprune.errors import GroundPruneError
from groundprune.evaluation import Setting, compare, loop, read_summary, summarize
from groundprune.evaluation.costs import ENCODING, Timing
from groundprune.evaluation.loop import answer_all
from groundprune.evaluation.summary import Summary
from groundprune.report.cost_charts import accuracy_over_flops
from groundprune.report.headline import choose_shown
from groundprune.report.notes import cost_notes
from groundprune.report.page import Gallery, render_report
from groundprune.report.tables import costs, markdown_table, print_tables
from support.charts import drawn

STOCK, HALF, OTHER = SETTINGS = (
    Setting.of(),
    Setting.of("spatial", 0.5),
    Setting.of("spatial", 0.5, positions="reassigned"),
)
TOKENS = {STOCK.id: 2000, HALF.id: 1000, OTHER.id: 1000}


def row(setting, sample, more=0, tower=10**9):
    n = TOKENS[setting.id] + more
    cost = {
        "slots": [[0, n, n]], "layer_tokens": n / 2, "new_tokens": 3, "kv_bytes": 1000 * n,
        "prefill_flops": 10**6 * n, "decode_flops": 10**6, "tower_flops": tower,
    }  # fmt: skip
    return {
        "setting": setting.id, "sample": sample, "kind": "rec", "type": "color", "answer": "", "correct": True,
        "iou": 1.0, "box": [0, 0, 1, 1], "kept": n, "cost": cost,
    }  # fmt: skip


def summary_of(rows, timing=None):
    found = summarize({"seed": 0}, {"batch_size": 4}, SETTINGS, rows, 2)
    return Summary(**{**vars(found), "timing": timing or {}})


@pytest.fixture
def summary():
    rows = [row(s, sample, more) for s in SETTINGS for sample, more in (("a", 0), ("b", 100))]
    timing = {STOCK.id: Timing(3.0, 2), HALF.id: Timing(1.0, 2), ENCODING: Timing(0.5, 2)}
    return summary_of(rows, timing)


def test_costs_are_means_with_ratios_to_unpruned_and_survive_a_file(summary):
    stored = json.loads(json.dumps(summary.to_json()))
    assert Summary.from_json(stored) == summary
    half = stored["settings"][1]["costs"]
    assert (half["prefill_tokens"], half["layer_tokens"], half["kv_bytes"]) == (1050, 525, 1.05e6)
    assert half["total_flops"] == 1e9 + 1.05e9 + 1e6
    assert half["of_unpruned"]["prefill_tokens"] == pytest.approx(1050 / 2050, abs=1e-6)
    assert half["of_unpruned"]["tower_flops"] == 1


def test_the_order_of_rows_changes_nothing(summary):
    rows = [row(s, sample, more) for s in SETTINGS[::-1] for sample, more in (("b", 100), ("a", 0))]
    assert summary_of(rows).settings == summary.settings


def test_the_table_tells_values_with_their_share_of_unpruned(summary):
    (grid,) = costs([summary])
    told = {title.replace("\n", " "): cells for title, *cells in zip(grid.header, *grid.rows, strict=True)}
    assert told["prefill tokens"] == ["2050", "1050 (51%)", "1050 (51%)"]
    assert told["prefill GFLOPs"] == ["2.05", "1.05 (51%)", "1.05 (51%)"]
    assert told["total GFLOPs"] == ["3.05", "2.05 (67%)", "2.05 (67%)"]
    assert told["KV cache MB"] == ["2.05", "1.05 (51%)", "1.05 (51%)"]
    assert told["seconds"] == ["1.5", "0.5 (33%)", "-"]
    assert "| spatial | 0.5 | preserved | 1050 (51%) |" in markdown_table([summary])
    assert "encoding: 0.25 s each" in " ".join(cost_notes([summary]))


@pytest.mark.parametrize("with_costs", [True, False])
def test_a_terminal_shows_them_where_they_are_asked_for(summary, with_costs):
    shown = Console(file=io.StringIO(), width=80)
    print_tables(summary, shown, with_costs)
    text = shown.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert ("GFLOPs" in text) == ("FLOPs count a multiply-add" in text) == with_costs
    assert max(map(len, text.splitlines())) <= 80


def test_what_older_versions_stored_shows_nothing():
    rows = [{k: v for k, v in row(s, "a").items() if k != "cost"} for s in SETTINGS]
    old = summary_of(rows).to_json()
    for setting in old["settings"]:
        del setting["costs"]
    del old["timing"]
    read = Summary.from_json(old)
    assert read == summary_of(rows)
    assert (costs([read]), cost_notes([read])) == ([], [])
    shown = choose_shown(read)
    assert accuracy_over_flops(read, shown) is None
    assert 'id="costs' not in render_report(read, shown, Gallery())


def test_a_setting_with_an_older_row_has_no_mean():
    older = {k: v for k, v in row(HALF, "a").items() if k != "cost"}
    mixed = summary_of([row(STOCK, "a"), older, row(HALF, "b")])
    assert [r.costs is None for r in mixed.settings] == [False, True, True]
    assert [cells[0] for cells in costs([mixed])[0].rows] == ["unpruned"]


def test_without_a_tower_there_is_no_total():
    found = summary_of([row(s, "a", tower=None) for s in SETTINGS])
    (grid,) = costs([found])
    assert "total" not in " ".join(grid.header)
    assert any("prefill" in title for title in grid.header)
    entry = found.to_json()["settings"][1]["costs"]
    assert entry["tower_flops"] is entry["total_flops"] is None
    assert "total_flops" not in entry["of_unpruned"]


def test_the_report_has_a_table_and_a_chart(summary):
    shown = choose_shown(summary)
    chart = accuracy_over_flops(summary, shown)
    lines = {line.get_label(): line.get_xdata() for line in drawn(chart).lines}
    assert list(lines["unpruned"]) == [0, 1]
    points = [x for line in drawn(chart).lines for x in line.get_xdata() if 1.0 < x < 2.0]
    assert points
    assert points == pytest.approx([1.051] * len(points))
    page = render_report(summary, shown, Gallery())
    assert 'href="#costs"' in page
    assert "Costs per answer" in page
    assert 'id="costs-title"' in page


# Seconds


class Clock:
    """A clock that stands still, but where it is moved."""

    now = 0.0

    def perf_counter(self):
        return self.now


class Slow:
    """A runner whose engine takes 100 s to start, an image 2 s, an answer 3 s."""

    def __init__(self, clock, samples, fails=None):
        self.clock, self.samples, self.unreadable, self.fails = clock, samples, {}, fails

    def check(self, settings):
        pass

    def leave_out_unreadable(self, among):
        pass

    def prepare(self, settings, advance):
        self.clock.now += 2 * len(self.samples)

    def free(self):
        pass

    def run(self, setting, done):
        self.clock.now += 100
        yield []
        for sample in self.samples:
            if sample.id not in done:
                if (setting, sample.id) == self.fails:
                    raise KeyboardInterrupt
                self.clock.now += 3
                yield [row(setting, sample.id)]


@pytest.fixture
def ask(monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    samples = [SimpleNamespace(id=id) for id in "abc"]

    def ask(fails=None):
        about = {"date": "today", "command": "test"}
        console = Console(file=io.StringIO())
        runners: Any = [Slow(clock, samples, fails)]
        return answer_all(runners, SETTINGS, {}, about, tmp_path / "run", False, console)

    return ask


def test_seconds_of_resumed_runs_add_up_without_what_is_no_answering(ask, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ask(fails=(HALF, "b"))
    assert read_summary(tmp_path / "run").timing == {
        ENCODING: Timing(6, 3), STOCK.id: Timing(9, 3), HALF.id: Timing(3, 1),
    }  # fmt: skip
    whole = ask()
    assert whole.timing == {
        ENCODING: Timing(12, 6), STOCK.id: Timing(9, 3), HALF.id: Timing(9, 3), OTHER.id: Timing(9, 3),
    }  # fmt: skip
    assert ask().timing == whole.timing


def test_seconds_of_a_killed_run_are_lost_with_their_count(ask, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        ask(fails=(STOCK, "a"))
    before = (folder / "summary.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        ask(fails=(STOCK, "c"))
    (folder / "summary.json").write_bytes(before)  # its rows were written, its summary never was
    found = ask()
    assert found.timing[STOCK.id] == Timing(3, 1)
    assert found.complete


def test_compare_stores_costs_and_a_resumed_run_has_the_same(tmp_path, capsys):
    given = {"scenes": 2, "pruners": ["spatial"], "keeps": ["0.5"], "positions": ["preserved"], "progress": False}
    out = tmp_path / "run"
    whole = compare(out=out, **given)
    samples = (out / "samples.jsonl").read_text().splitlines(keepends=True)
    assert not any("seconds" in line for line in samples)
    (out / "samples.jsonl").write_text("".join(samples[:-2]))
    again = compare(out=out, **given)
    assert again.settings == whole.settings
    assert again.settings[1].costs is not None
    assert again.timing[HALF.id].samples == 4 + 2
    arguments = ["compare", "--scenes", "2", "--pruner", "spatial", "--keep", "0.5", "--positions", "preserved"]
    assert main([*arguments, "--out", str(out), "--costs"]) == 0
    assert "Costs per answer" in capsys.readouterr().out


def test_a_summary_with_broken_costs_is_named(summary):
    broken = json.loads(json.dumps(summary.to_json()))
    del broken["settings"][0]["costs"]["kv_bytes"]
    with pytest.raises(GroundPruneError, match="kv_bytes"):
        Summary.from_json(broken)
