import warnings

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

import groundprune as gp
from groundprune.answers import Answer, answer
from groundprune.boxes import Box, PaddedSquareFrame
from groundprune.pocket.scenes import TEST_SEEDS, make_scene
from groundprune.report.panels import mosaic
from groundprune.report.score_maps import Explanation, Scored, explain, gridded, noting_scores
from groundprune.report.sheet import box_label, draw_sheet, write_sheet
from groundprune.report.style import look_of
from groundprune.tokens.layout import VisualLayout
from support.closeness import assert_near

TEXT = "the small purple object"


class FeatureNorm(gp.Pruner):
    name = "feature-norm"

    def score(self, signals, layout, stage):
        return signals.projected.norm(dim=-1)


class AbsentLayer(gp.Pruner):
    name = "absent-layer"
    needs = frozenset({gp.Need("tower_attention", 99, "cls")})

    def score(self, signals, layout, stage):
        return signals.tower_attention(99).mean(0)


class InsideTheLLM(gp.Pruner):
    name = "inside-the-llm"

    def stages(self, n_layers):
        return [gp.Stage(10_000, self.budget)]


@pytest.fixture(scope="module")
def pocket():
    return gp.load("pocket")


@pytest.fixture(scope="module")
def scene():
    return Image.fromarray(make_scene(TEST_SEEDS[7]).image)


@pytest.fixture(scope="module")
def explained(pocket, scene):
    names = ["cls-visual", *(name for name in gp.pruner_names() if name != "cls-visual"), FeatureNorm(keep=0.5)]
    return explain(*pocket, scene, TEXT, names, ["preserved", "reassigned", "stretched"], keep="0.5")


@pytest.fixture(scope="module")
def sheet(explained):
    return draw_sheet(explained)


def axes_of(figure, label):
    (found,) = [ax for ax in figure.axes if ax.get_label() == label]
    return found


def boxes_of(ax):
    return {
        p.get_label(): (p.get_x(), p.get_y(), p.get_x() + p.get_width(), p.get_y() + p.get_height())
        for p in ax.patches
    }


def words_of(figure):
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    keys = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    inside = [text.get_text() for ax in figure.axes for text in ax.texts]
    return "\n".join([*(text.get_text() for text in figure.texts), *titles, *keys, *inside])


class TestScored:
    def test_every_registered_pruner_is_shown_or_named(self, explained, sheet):
        assert {s.label for s in explained.scored} | set(explained.refused) == {*gp.pruner_names(), "feature-norm"}
        assert {s.label for s in explained.scored} >= {"cls-visual", "text-visual", "spatial", "random"}
        for scored in explained.scored:
            axes_of(sheet, f"score {scored.label}")
            axes_of(sheet, f"kept {scored.label}")
        assert all(name in words_of(sheet) for name in explained.refused)

    def test_scores_and_kept_are_those_of_the_pruner(self, pocket, scene, explained):
        model, processor = pocket
        inputs = processor(images=scene, text=f"{processor.image_token} x", return_tensors="pt")
        with torch.no_grad():
            features = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        norms = features.norm(dim=-1).reshape(12, 12).numpy()
        scored = next(s for s in explained.scored if s.label == "feature-norm")
        assert scored.scores is not None
        assert_near(scored.scores[0], norms)
        assert (scored.kept[0] == (norms >= np.sort(norms, axis=None)[72])).all()
        assert (scored.kept_tokens, scored.total_tokens) == (72, 144)

    def test_the_heat_map_is_the_scores(self, explained, sheet):
        shown = 0
        for scored in explained.scored:
            if scored.scores is None:
                continue
            *_, heat = axes_of(sheet, f"score {scored.label}").images
            np.testing.assert_array_equal(np.asarray(heat.get_array()), scored.scores[0])
            assert tuple(heat.get_extent()) == (0, 144, 144, 0)
            shown += 1
        assert shown >= 3

    def test_dropped_cells_are_dimmed(self, explained, sheet):
        for scored in explained.scored:
            *_, shade = axes_of(sheet, f"kept {scored.label}").images
            assert ((np.asarray(shade.get_array())[..., 3] == 0) == scored.kept[0]).all()

    def test_no_score(self, explained, sheet):
        (spatial,) = [s for s in explained.scored if s.label == "spatial"]
        assert spatial.scores is None
        ax = axes_of(sheet, "score spatial")
        assert not ax.images
        assert "no score" in ax.texts[0].get_text()

    def test_methods_that_choose_by_a_score_show_it(self, pocket, scene):
        by_score = ["fastervlm", "fastv", "pyramiddrop", "v2drop", "trim"]
        by_score += ["hired", "vispruner", "visionzip", "feather"]
        found = explain(*pocket, scene, TEXT, by_score, [], keep=0.75)
        assert not found.refused
        for scored in found.scored:
            assert scored.scores is not None, scored.label
            score = scored.scores[0]
            kept, dropped = score[scored.kept[0]], score[~scored.kept[0]]
            if scored.label in ("fastervlm", "hired", "fastv"):
                assert kept.min() >= dropped.max()
            elif scored.label not in ("pyramiddrop", "v2drop"):  # whose later stages score anew
                assert kept.mean() > dropped.mean(), scored.label

    def test_nothing_dropped_is_not_scored(self, pocket, scene):
        (scored,) = explain(*pocket, scene, TEXT, ["cls-visual"], [], keep=1).scored
        assert scored.scores is None
        assert scored.kept[0].all()

    def test_the_original_pruner_is_left_alone(self):
        pruner = gp.ClsVisual(keep=0.5)
        noting_scores(pruner)
        assert "score" not in vars(pruner)

    def test_the_tower_runs_once_for_all_pruners(self, pocket, scene):
        calls = []
        tower = pocket[0].model.vision_tower
        handle = tower.register_forward_hook(lambda *_: calls.append(1))
        known = {
            name: Answer("", None, None, 1, 1, PaddedSquareFrame(144, 144)) for name in ("unpruned", "preserved")
        }
        try:
            explain(*pocket, scene, TEXT, ["cls-visual", "text-visual", "random"], ["preserved"], 0.5, known=known)
        finally:
            handle.remove()
        assert len(calls) == 1


class TestRefused:
    def test_named_with_the_reason_and_the_rest_is_shown(self, pocket, scene):
        given = [AbsentLayer(keep=0.5), InsideTheLLM(keep=0.5), "no-such", "cls-visual"]
        found = explain(*pocket, scene, TEXT, given, ["preserved"], keep=0.5)
        assert [s.label for s in found.scored] == ["cls-visual"]
        assert set(found.refused) == {"absent-layer", "inside-the-llm", "no-such"}
        words = words_of(draw_sheet(found))
        assert "absent-layer is not served: the tower has" in words
        assert "inside-the-llm is not served: inside-the-llm prunes at decoder layers [10000]" in words

    def test_none_is_served(self, pocket, scene, tmp_path):
        found = explain(*pocket, scene, TEXT, ["no-such"], ["preserved"], keep=0.5)
        assert list(found.answers) == ["unpruned"]
        write_sheet(found, tmp_path / "sheet.png")
        assert "No pruner can be served" in words_of(draw_sheet(found))


class TestBoxes:
    def test_they_are_those_of_answer(self, pocket, scene, sheet):
        drawn = boxes_of(axes_of(sheet, "boxes"))
        plain = answer(*pocket, scene, TEXT)
        assert plain.box is not None
        assert boxes_of(axes_of(sheet, "image")) == {"unpruned": pytest.approx(tuple(plain.box))}
        expected = {"unpruned": plain}
        for policy in ("preserved", "reassigned", "stretched"):
            expected[policy] = answer(*pocket, scene, TEXT, pruner=gp.ClsVisual(keep=0.5), positions=policy)
        assert drawn == {n: pytest.approx(tuple(said.box)) for n, said in expected.items() if said.box is not None}
        assert drawn["preserved"] != drawn["reassigned"]
        labels = [text.get_text() for text in sheet.legends[0].get_texts()]
        assert labels == [box_label(name, said) for name, said in expected.items()]

    def test_labels_parse(self):
        def said(box):
            return Answer("", box, None, 1, 1, PaddedSquareFrame(9, 9))

        name, _, corners = box_label("shifted:8", said(Box(1, 2.25, 3, 4))).rpartition(": ")
        assert (name, [float(edge) for edge in corners.split(", ")]) == ("shifted:8", [1, 2.2, 3, 4])
        assert box_label("reassigned", said(None)) == "reassigned: no box"

    def test_colours_are_the_fixed_ones(self, sheet):
        for patch in axes_of(sheet, "boxes").patches:
            name = str(patch.get_label())
            look = look_of(name)
            assert to_hex(patch.get_edgecolor()).upper() == look.colour.upper()

    def test_the_legend_covers_no_axes(self, sheet):
        sheet.draw_without_rendering()
        legend = sheet.legends[0].get_window_extent()
        assert not any(legend.overlaps(ax.get_window_extent()) for ax in sheet.axes)


class TestShapes:
    def test_a_wide_image_shows_its_padding(self, pocket):
        found = explain(*pocket, Image.new("RGB", (320, 100), "teal"), TEXT, ["cls-visual"], ["preserved"], keep=0.3)
        ax = axes_of(draw_sheet(found), "score cls-visual")
        assert tuple(ax.images[-1].get_extent()) == (0, 320, 210, -110)
        assert tuple(ax.images[0].get_extent()) == (0, 320, 100, 0)
        assert "padding" in words_of(draw_sheet(found))

    @pytest.mark.parametrize("size", [(1, 90), (3000, 8), (40, 30)])
    def test_any_shape_is_drawn_inside_of_the_page(self, pocket, size, tmp_path):
        found = explain(*pocket, Image.new("RGB", size, "teal"), "a " * 200, ["cls-visual"], ["preserved"], keep=0.3)
        figure = draw_sheet(found)
        figure.draw_without_rendering()
        page = figure.bbox
        for part in [*figure.texts, *figure.legends, *(text for ax in figure.axes for text in ax.texts)]:
            extent = part.get_window_extent()
            assert page.x0 <= extent.x0 < extent.x1 <= page.x1
            assert page.y0 <= extent.y0 < extent.y1 <= page.y1

    def test_tiles_get_a_grid_each(self, tmp_path):
        patch = torch.arange(4)
        ones = torch.ones(9, dtype=torch.long)
        layout = VisualLayout(
            column=torch.arange(9), image=0 * ones, tile=torch.tensor([0] * 4 + [1] * 5),
            row=torch.cat([patch // 2, patch // 2, torch.tensor([-1])]),
            col=torch.cat([patch % 2, patch % 2, torch.tensor([-1])]),
            is_patch=torch.tensor([True] * 8 + [False]), crop=torch.tensor([0] * 4 + [1] * 4 + [-1]),
            overview=torch.tensor([True] * 4 + [False] * 5), position=torch.arange(9)[None], length=9,
        )  # fmt: skip
        scored = gridded(gp.ClsVisual(keep=0.5), layout, torch.tensor([0, 5, 6, 8]), [torch.arange(9.0)])
        assert [grid.tolist() for grid in scored.scores or ()] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
        assert [grid.tolist() for grid in scored.kept] == [
            [[True, False], [False, False]],
            [[False, True], [True, False]],
        ]
        assert (scored.kept_tokens, scored.total_tokens) == (3, 8)
        image = Image.new("RGB", (40, 20))
        said = Answer("", None, None, 3, 8, PaddedSquareFrame(40, 20))
        figure = draw_sheet(Explanation(image, TEXT, gp.ClsVisual(keep=0.5), {"unpruned": said}, [scored], {}))
        (heat,) = axes_of(figure, "score cls-visual").images
        rows = np.asarray(heat.get_array().filled(np.nan))
        np.testing.assert_array_equal(rows, [[0, 1, np.nan, 4, 5], [2, 3, np.nan, 6, 7]])
        assert "several tiles" in words_of(figure)

    def test_mosaic(self):
        grids = [np.full((2, 2), value) for value in (1.0, 2.0, 3.0)]
        assert mosaic(grids[:1], 0) is grids[0]
        assert mosaic(grids, 0).tolist() == [
            [1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0, 0, 0, 0, 0], [3, 3, 0, 0, 0], [3, 3, 0, 0, 0],
        ]  # fmt: skip

    def test_many_pruners_do_not_overlap(self, explained):
        many = [
            Scored(f"a-name-that-is-rather-long-for-one-pruner-{i}", s.scores, s.kept, s.kept_tokens, s.total_tokens)
            for i, s in enumerate((explained.scored * 6)[:24])
        ]
        refused = {f"absent-{i}": "reason " * 60 for i in range(20)}
        figure = draw_sheet(Explanation(explained.image, TEXT, explained.asked, explained.answers, many, refused))
        figure.draw_without_rendering()
        texts = [text for text in figure.texts if text.get_text()]
        spots = [part.get_window_extent() for part in [*texts, *figure.axes, *figure.legends]]
        for i, spot in enumerate(spots):
            assert not any(spot.overlaps(other) for other in spots[i + 1 :])


class TestFiles:
    @pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
    def test_the_same_bytes_each_time(self, explained, tmp_path, suffix):
        for name in ("a", "b"):
            write_sheet(explained, tmp_path / (name + suffix))
        first = (tmp_path / f"a{suffix}").read_bytes()
        assert first == (tmp_path / f"b{suffix}").read_bytes()
        assert first.startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")


def test_drawing_warns_of_nothing(explained, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_sheet(explained, tmp_path / "sheet.png")
