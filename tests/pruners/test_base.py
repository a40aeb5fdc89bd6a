import sys
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import groundprune as gp
from groundprune.pruners import pruner_class, pruner_names, refusal, servable
from groundprune.pruners.spatial import select_spatial
from groundprune.signals import Need, Signals, TowerRecord
from groundprune.tokens.layout import VisualLayout, VisualUnit


def make_layout(*grids, newline=False):
    """One image per (rows, cols), each followed by a newline column where asked for."""
    image, row, col = [], [], []
    for i, (rows, cols) in enumerate(grids):
        cells = [(r, c) for r in range(rows) for c in range(cols)] + [(-1, -1)] * newline
        image += [i] * len(cells)
        row += [r for r, _ in cells]
        col += [c for _, c in cells]
    n = len(image)
    return VisualLayout(
        column=torch.arange(n) + 3,
        image=torch.tensor(image),
        tile=torch.zeros(n, dtype=torch.long),
        row=torch.tensor(row),
        col=torch.tensor(col),
        is_patch=torch.tensor(row) >= 0,
        crop=torch.where(torch.tensor(row) >= 0, 0, -1),
        overview=torch.tensor(row) >= 0,
        position=torch.arange(n)[None] + 3,
        length=n + 5,
        unit=tuple(range(max(image) + 1)),
    )


def signals_of(layout, fingerprint=(7, 8, 9), **kwargs):
    sizes = [int((layout.image == i).sum()) for i in range(layout.n_images)]
    units = [VisualUnit.grid(1, size, torch.empty(0)) for size in sizes]
    record = TowerRecord(units, fingerprint=list(fingerprint[: len(units)]))
    features = torch.randn(len(layout), 4, generator=torch.Generator().manual_seed(0))
    return Signals(layout, features, record, **kwargs)


def run(pruner, layout, signals=None):
    return pruner(signals or signals_of(layout), layout, pruner.stages(2)[0])


@dataclass(frozen=True)
class Given(gp.Pruner):
    """By scores that are there already."""

    values: tuple = ()

    def score(self, signals, layout, stage):
        return torch.tensor(self.values)


@given(st.lists(st.floats(-5, 5), min_size=12, max_size=12), st.integers(1, 12))
def test_a_score_keeps_the_largest_and_prefers_the_earlier_on_ties(values, count):
    kept = run(Given(tokens=count, values=values), make_layout((3, 4))).kept.tolist()
    score = torch.tensor(values)
    wanted = sorted(sorted(range(12), key=lambda i: (-score[i].item(), i))[:count])
    assert kept == wanted


def test_a_score_splits_the_budget_over_images_and_keeps_separators():
    layout = make_layout((2, 4), (2, 2), newline=True)
    kept = run(Given(keep=0.5, values=range(len(layout))), layout).kept.tolist()
    assert kept == [4, 5, 6, 7, 8, 11, 12, 13]  # four of eight, the newline, two of four, the newline


def test_a_nan_score_is_an_error():
    with pytest.raises(gp.GroundPruneError, match="NaN"):
        run(Given(tokens=2, values=[1.0, float("nan"), 0, 0]), make_layout((2, 2)))


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_the_spatial_grid_has_exactly_the_asked_for_number_of_distinct_cells(rows, cols, data):
    count = data.draw(st.integers(0, rows * cols))
    cells = select_spatial(rows, cols, count)
    assert len(cells) == count
    assert (cells.diff() > 0).all()
    assert count == 0 or (cells.min() >= 0 and cells.max() < rows * cols)


def test_the_spatial_grid_is_even_in_both_directions():
    cells = select_spatial(24, 24, 144)
    assert (cells // 24).bincount(minlength=24).tolist() == [0, 12] * 12
    assert (cells % 24).bincount(minlength=24).tolist() == [0, 12] * 12


def test_random_depends_on_pixels_and_seed_not_on_the_row_or_the_place_of_the_image():
    layout = make_layout((6, 6), (6, 6))
    same = run(gp.Random(keep=0.5), layout, signals_of(layout, (5, 5))).kept
    again = run(gp.Random(keep=0.5), layout, signals_of(layout, (5, 5))).kept
    other = run(gp.Random(keep=0.5), layout, signals_of(layout, (5, 6))).kept
    seeded = run(gp.Random(keep=0.5, seed=1), layout, signals_of(layout, (5, 5))).kept
    assert same.equal(again)
    assert not same.equal(other)
    assert not same.equal(seeded)
    first, second = same[same < 36], same[same >= 36] - 36
    assert first.equal(second)  # a server that keeps what it made of a picture may use it at any place
    assert other[other < 36].equal(first)
    alone = make_layout((6, 6))
    assert run(gp.Random(keep=0.5), alone, signals_of(alone, (5,))).kept.equal(first)


def test_keep_1_never_asks_for_a_score():
    class Broken(gp.Pruner):
        def score(self, signals, layout, stage):
            raise AssertionError("asked")

    layout = make_layout((2, 3))
    assert run(Broken(keep=1), layout).kept.tolist() == list(range(6))
    with pytest.raises(AssertionError):
        run(Broken(keep=0.5), layout)


@pytest.mark.parametrize(
    ("kept", "message"),
    [([1, 0, 2], "ascending"), ([0, 0, 2], "ascending"), ([0, 2], "kept 2"), ([1, 2, 9], "range")],
)
def test_a_selection_that_breaks_an_invariant_is_refused(kept, message):
    @dataclass(frozen=True)
    class Wrong(gp.Pruner):
        def select(self, signals, layout, stage):
            return gp.Selection(torch.tensor(kept))

    with pytest.raises(gp.GroundPruneError, match=message):
        run(Wrong(keep=0.5), make_layout((2, 3)))


@pytest.mark.parametrize(
    ("layer", "space", "message"),
    [
        (None, "hidden", "merges in the space 'hidden' before the LLM, where only 'projected' or 'tower' features"),
        (2, "projected", "merges in the space 'projected' at decoder layer 2, where only 'hidden' states"),
        (2, "tower", "merges in the space 'tower' at decoder layer 2, where only 'hidden' states"),
    ],
)
def test_a_merge_of_what_is_not_there_is_refused(layer, space, message):
    @dataclass(frozen=True)
    class Merging(gp.Pruner):
        def stages(self, n_layers):
            return [gp.Stage(layer, self.budget)]

        def select(self, signals, layout, stage):
            return gp.Selection(torch.tensor([0, 1, 2]), gp.Merge(torch.eye(3, 6), space))

    with pytest.raises(gp.GroundPruneError, match=message):
        run(Merging(keep=0.5), make_layout((2, 3)))


def test_a_score_of_the_wrong_shape_is_refused():
    class Flat(gp.Pruner):
        name = "flat"

        def score(self, signals, layout, stage):
            return torch.zeros(3)

    with pytest.raises(gp.GroundPruneError, match=r"flat.score .*\(6,\).*\(3,\)"):
        run(Flat(keep=0.5), make_layout((2, 3)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda n: None, r"mine\.score must give a tensor of numbers \(got None\)"),
        (lambda n: "high", r"mine\.score must give a tensor of numbers \(got a str\)"),
        (lambda n: [{}] * n, r"mine\.score must give a tensor of numbers \(got a list\)"),
        (lambda n: torch.full((n,), torch.inf), r"mine\.score must give finite numbers: 6 of 6 are NaN or infinite"),
        (lambda n: torch.arange(n) * torch.nan, r"mine\.score must give finite numbers: 6 of 6"),
        (
            lambda n: torch.zeros(n, dtype=torch.complex64),
            r"mine\.score must give real numbers \(got torch.complex64\)",
        ),
        (lambda n: sys.exit(3), r"mine called exit\(3\) while it chose tokens"),
        (lambda n: sys.exit(), r"mine called exit\(None\) while it chose tokens"),
    ],
)
def test_a_score_that_is_none_is_refused_in_one_line_that_names_the_pruner(given, message):
    class Mine(gp.Pruner):
        name = "mine"

        def score(self, signals, layout, stage):
            return given(len(layout))

    with pytest.raises(gp.GroundPruneError, match=f"^{message}[^\n]*$"):
        run(Mine(keep=0.5), make_layout((2, 3)))


def test_scores_of_newlines_may_be_anything():
    class Mine(gp.Pruner):
        def score(self, signals, layout, stage):
            return torch.where(layout.is_patch, layout.col.float(), torch.nan)

    assert run(Mine(keep=0.5), make_layout((1, 4), newline=True)).kept.tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: None, r"mine\.select must give a Selection of a tensor \(got None\)"),
        (lambda: torch.arange(3), r"mine\.select must give a Selection of a tensor \(got a Tensor\)"),
        (lambda: gp.Selection([0, 1, 2]), r"mine\.select must give a Selection of a tensor"),
        (
            lambda: gp.Selection(torch.arange(3.0)),
            r"mine: kept must be a row of indices \(got \(3,\) of torch.float32\)",
        ),
        (lambda: gp.Selection(torch.ones(2, 3)), r"mine: kept must be a row of indices \(got \(2, 3\)"),
        (lambda: gp.Selection(torch.ones(6) > 0), r"mine: kept must be a row of indices \(got \(6,\) of torch.bool"),
        (lambda: sys.exit("enough"), r"mine called exit\('enough'\) while it chose tokens"),
    ],
)
def test_a_selection_that_is_none_is_refused_in_one_line_that_names_the_pruner(given, message):
    class Mine(gp.Pruner):
        name = "mine"

        def select(self, signals, layout, stage):
            return given()

    with pytest.raises(gp.GroundPruneError, match=f"^{message}[^\n]*$"):
        run(Mine(keep=0.5), make_layout((2, 3)))


def test_an_undeclared_signal_says_how_to_declare_it():
    class Undeclared(gp.Pruner):
        def score(self, signals, layout, stage):
            return signals.tower_attention().mean(0)

    with pytest.raises(gp.Unservable, match="`needs`"):
        run(Undeclared(keep=0.5), make_layout((2, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gp.Merge(torch.eye(2), "Projected"), "'projected', 'tower' or 'hidden'"),
        (lambda: gp.Need("tower_attention", kind="max"), "received"),
        (lambda: gp.Dart(keep=0.5, image_pivots=0, text_pivots=0), r"one of them above 0 \(got 0 and 0\)"),
        (lambda: gp.Dart(keep=0.5, text_pivots=-3), "whole numbers"),
        (lambda: gp.IVCPrune(keep=0.5, coordinates=-1), "coordinates must be from 0 to 1"),
        (lambda: gp.Need("tower_atention"), "did you mean 'tower_attention'"),
        (
            lambda: gp.register(type("Odd", (gp.Pruner,), {"name": "odd", "official_positions": "kept"})),
            "position policy",
        ),
    ],
)
def test_words_that_mean_nothing_are_refused_at_once(make, message):
    with pytest.raises(gp.GroundPruneError, match=message):
        make()


def test_an_order_that_is_no_order_is_refused():
    @dataclass(frozen=True)
    class Disordered(gp.Pruner):
        def select(self, signals, layout, stage):
            return gp.Selection(torch.tensor([0, 1, 2]), order=torch.zeros(3, dtype=torch.long))

    with pytest.raises(gp.GroundPruneError, match="order"):
        run(Disordered(keep=0.5), make_layout((2, 3)))


def test_a_pruner_with_neither_score_nor_rule_nor_select_is_refused():
    class Empty(gp.Pruner):
        pass

    with pytest.raises(gp.GroundPruneError, match="neither score, rule nor select"):
        run(Empty(keep=0.5), make_layout((2, 3)))


def test_unknown_names_give_the_nearest():
    with pytest.raises(gp.GroundPruneError, match="did you mean 'cls-visual'"):
        gp.make_pruner("cls-visal", keep=0.5)


def test_a_taken_name_is_refused():
    class Other(gp.Pruner):
        name = "random"

    with pytest.raises(gp.GroundPruneError, match="registered already"):
        gp.register(Other)


def test_a_class_in_a_file_is_a_pruner_by_its_path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import groundprune as gp\n"
        "class FeatureNorm(gp.Pruner):\n"
        "    name = 'feature-norm'\n"
        "    def score(self, signals, layout, stage):\n"
        "        return signals.projected.norm(dim=-1)\n"
    )
    pruner = gp.make_pruner(f"{file}:FeatureNorm", keep=0.5)
    layout = make_layout((2, 4))
    signals = signals_of(layout)
    assert run(pruner, layout, signals).kept.equal(signals.projected.norm(dim=-1).topk(4).indices.sort().values)
    with pytest.raises(gp.GroundPruneError, match="found: FeatureNorm"):
        pruner_class(f"{file}:Missing")
    broken = tmp_path / "broken.py"
    broken.write_text("import")
    with pytest.raises(gp.GroundPruneError, match=r"broken\.py cannot be run: SyntaxError"):
        pruner_class(f"{broken}:X")
    leaves = tmp_path / "leaves.py"
    leaves.write_text("import sys; sys.exit(4)")
    with pytest.raises(gp.GroundPruneError, match=r"leaves\.py cannot be run: SystemExit: 4"):
        pruner_class(f"{leaves}:X")
    with pytest.raises(gp.GroundPruneError, match="no pruner file"):
        pruner_class(f"{tmp_path}/none.py:X")


def test_a_refusal_names_the_pruners_that_a_model_can_run():
    def no_cls(need):
        if need.kind in ("cls", "cls-joint"):
            raise gp.Unservable("this tower has no CLS token")

    can = servable(no_cls)
    assert {"hiprune", "divprune", "tome", "random", "spatial", "coverage"} <= set(can)
    assert not {"visionzip", "prumerge", "nuwa", "hired"} & set(can)
    with pytest.raises(gp.GroundPruneError) as reason:
        no_cls(Need("tower_attention", kind="cls"))
    said = str(refusal(gp.VisionZip(keep=0.5), reason.value, no_cls))
    assert said.startswith("visionzip: this tower has no CLS token; this model can run: ")
    assert all(name in said for name in can)


def test_what_the_catalogue_says_of_a_pruner_is_complete():
    for name in pruner_names():
        cls = pruner_class(name)
        assert cls.scores_by
        assert bool(cls.paper) == bool(cls.year) == (name not in ("random", "spatial", "coverage"))
