"""The methods inside of the LLM: their schedules, and their classes on signals that a model would give."""

from itertools import pairwise
from typing import ClassVar

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.pruners.sparsevlm import COUNTS
from groundprune.pruners.sparsevlm_rule import clusters_of, rank_count, raters, rope_kernel, select_sparsevlm
from groundprune.pruning import passage
from groundprune.signals import LLMStates

METHODS = [gp.Dart, gp.FastV, gp.Feather, gp.PyramidDrop, gp.SparseVLM, gp.V2Drop]


def counts(pruner, n=576, n_layers=32):
    return [stage.budget.count(n) for stage in pruner.stages(n_layers)]


def average(pruner, n=576, n_layers=32):
    stages = pruner.stages(n_layers)
    seen = n
    per_layer = []
    for layer in range(n_layers):
        for stage in stages:
            if (stage.layer or 0) == layer:
                seen = stage.budget.count(n)
        per_layer.append(seen)
    return sum(per_layer) / n_layers


@pytest.mark.parametrize("n_layers", [4, 28, 32])
@pytest.mark.parametrize("keep", ["0.55", "0.7", "0.85", "1"])
@pytest.mark.parametrize("method", [*METHODS, lambda keep: gp.Nuwa(keep=keep, second=True)])
def test_keep_is_the_average_over_the_layers(method, keep, n_layers):
    pruner = method(keep=keep)
    left = counts(pruner, n_layers=n_layers)
    assert average(pruner, n_layers=n_layers) == pytest.approx(576 * float(keep), abs=1)
    assert all(576 >= a >= b >= 1 for a, b in pairwise(left))


@pytest.mark.parametrize(
    ("pruner", "layers", "wanted"),
    [
        (lambda: gp.FastV(keep="17/32"), [2], [288]),
        (lambda: gp.PyramidDrop(keep="15/32"), [8, 16, 24], [288, 144, 72]),
        # 22 of 32 layers see 576, 288, 144; the last ten the one token that a ratio of 0 leaves.
        (lambda: gp.V2Drop(keep="45/128"), [3, 17, 22], [288, 144, 1]),
        # r = 0.3 beside a grid of a ninth: 64 + 0.3 * 512 in all, then 0.09 of it.
        (lambda: gp.Feather(keep=0.25 + (8 + 16 * 0.09) / 32 * (64 + 153.6) / 576), [8, 16], [218, 20]),
        (lambda: gp.Nuwa(keep="2/9", second=True), [None, 16], [224, 32]),
        (lambda: gp.Nuwa(tokens=64, second=True), [None, 16], [112, 16]),
        (lambda: gp.IVCPrune(keep=0.5), [16], [288]),
    ],
)
def test_the_papers_own_schedules(pruner, layers, wanted):
    assert [stage.layer for stage in pruner().stages(32)] == layers
    assert counts(pruner()) == pytest.approx(wanted, abs=1)


@pytest.mark.parametrize("version", ["1.5", "2.0"])
@pytest.mark.parametrize("budget", [64, 96, 128, 192])
def test_sparsevlm_passes_through_the_official_counts(version, budget):
    table = left_of(COUNTS[version][budget], version)
    mean = (3 * 576 + 4 * table[0] + 9 * table[1] + 16 * table[2]) / 32
    left = counts(gp.SparseVLM(keep=mean / 576, version=version))
    assert left == pytest.approx(table, abs=2)


def left_of(kept, version):
    """With the clusters, by the official arithmetic."""
    left, before = [], 576
    for count in kept:
        recycled = int((before - count) * 0.3) + 1
        before = count + (int(recycled / 10) + 1 if version == "1.5" else 0)
        left.append(before)
    return left


@pytest.mark.parametrize("version", ["1.5", "2.0"])
@pytest.mark.parametrize("budget", [64, 96, 128, 192])
def test_sparsevlm_leaves_the_authors_counts_of_a_budget_by_its_name(version, budget):
    pruner, table = gp.SparseVLM(tokens=budget, version=version), left_of(COUNTS[version][budget], version)
    assert counts(pruner) == table
    assert [stage.budget.count(1152, 2) for stage in pruner.stages(32)] == [2 * n for n in table]
    # The authors count what leaves a layer: two see all of the 576, and the last 17 the smallest number.
    assert (2 * 576 + 4 * table[0] + 9 * table[1] + 17 * table[2]) / 32 == pytest.approx(budget, abs=1)
    # Of an image of another size the average over what the layers see is the budget, as for any number.
    assert average(pruner, n=600) == pytest.approx(max(budget, 57), abs=1)


def test_sparsevlm_of_192_tokens_leaves_309_204_113():
    assert counts(gp.SparseVLM(tokens=192)) == [309, 204, 113]
    # Clusters counted: the rule finds the authors' 300, 200 and 110 beside them.
    score, states, before = torch.rand(576), torch.randn(576, 8), 576
    for count, kept in zip([309, 204, 113], [300, 200, 110], strict=True):
        found = select_sparsevlm(score[:before], states[:before], count)
        assert found.kept[found.order][:kept].equal(score[:before].topk(kept).indices.sort().values)
        before = count


@pytest.mark.parametrize("method", METHODS)
def test_a_keep_below_what_the_first_layers_see_is_refused(method):
    first = method(keep=0.9).stages(32)[0].layer
    with pytest.raises(gp.GroundPruneError, match=rf"prunes from layer {first} of 32 on: keep must be above 0\.\d"):
        method(keep=first / 32 / 2).stages(32)
    with pytest.raises(gp.GroundPruneError, match=r"tokens=(\d+) or keep=\1/576; 10 asked for") as refused:
        counts(method(tokens=10))
    least = int(str(refused.value).partition("tokens=")[2].partition(" ")[0])
    assert all(count >= 1 for count in counts(method(tokens=least)))
    with pytest.raises(gp.GroundPruneError):
        counts(method(tokens=least - 1))


def test_stages_need_layers():
    with pytest.raises(gp.GroundPruneError, match=r"\[5\]; this LLM has 4"):
        gp.FastV(keep=0.9, layer=5).stages(4)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", layers=16)


class Asked(LLMStates):
    """Notes what a stage reads."""

    asked: ClassVar[list] = []

    def __init__(self, states):
        self.states = states

    def read(self, layer, kind, rows, rope):
        self.asked.append((layer, kind, rope))
        return self.states.read(layer, kind, rows, rope)


def run(model, pruner, prompts):
    with gp.prune(model, pruner) as run, torch.no_grad():
        model(**tiny_inputs(model, prompts))
    return run


@pytest.mark.parametrize(
    "pruner",
    [
        *[method(keep=0.7) for method in METHODS],
        gp.SparseVLM(keep=0.7, version="2.0"),
        gp.IVCPrune(keep=0.3),
        gp.Dart(tokens=26),
    ],
)
@pytest.mark.parametrize("images", [1, 2])
def test_each_stage_leaves_its_count_of_the_survivors(model, pruner, images):
    found = run(model, pruner, [(images, 4, 5)])
    layout = found.layout[0]
    stages = [stage for stage in pruner.stages(16) if stage.budget.count(36 * images, images) < 36 * images]
    assert [layer for layer, _ in found.stages[1:]] == [stage.layer for stage in stages]
    before = set(range(len(layout)))
    for stage, (_, (kept,)) in zip(stages, found.stages[1:], strict=True):
        assert len(kept) == stage.budget.count(36 * images, images)
        assert set(kept.tolist()) < before
        before = set(kept.tolist())
        per_image = [int((layout.image[kept] == i).sum()) for i in range(images)]
        assert max(per_image) - min(per_image) <= 1


@pytest.mark.parametrize(
    ("pruner", "asked"),
    [
        (gp.FastV(keep=0.7), {(0, "attention", True)}),
        (gp.FastV(keep=0.7, layer=3), {(2, "attention", True)}),
        (gp.PyramidDrop(keep=0.7), {(4, "attention", True), (8, "attention", True), (12, "attention", True)}),
        (gp.V2Drop(keep=0.5), {(layer, "hidden", True) for layer in (1, 2, 8, 9, 10, 11)}),
        (gp.Feather(keep=0.7), {(layer, kind, False) for layer in (3, 7) for kind in "qk"}),
        (gp.Dart(keep=0.7, layer=2), {(1, "k", True), (2, "normed", True)}),
    ],
)
def test_scores_are_of_the_layers_that_the_method_names(model, pruner, asked, monkeypatch):
    plain = passage.RowStates
    monkeypatch.setattr(passage, "RowStates", lambda *args: Asked(plain(*args)))
    Asked.asked.clear()
    run(model, pruner, [(1, 4, 5)])
    assert set(Asked.asked) == asked


def test_no_token_of_the_image_rates_the_others_at_a_later_stage(model, monkeypatch):
    """Also where the image's last token was dropped before: words are the columns behind the unpruned image."""
    plain, rows = passage.RowStates, []

    class Rows(LLMStates):
        def __init__(self, states):
            self.states = states

        def read(self, layer, kind, rows_, rope):
            if rows_ is not None:
                rows.append(rows_.tolist())
            return self.states.read(layer, kind, rows_, rope)

    monkeypatch.setattr(passage, "RowStates", lambda *args: Rows(plain(*args)))
    found = run(model, gp.SparseVLM(keep=0.25), [(1, 4, 5)])
    assert any(int(kept[0][-1]) < 35 for _, kept in found.stages[1:-1])
    assert len(rows) == 6
    assert all(set(asked) <= set(range(40, 45)) for asked in rows)


def test_only_the_first_stage_of_feather_holds_the_grid(model):
    grid = {0, 3, 18, 21}
    (_, _), (_, (first,)), (_, (second,)) = run(model, gp.Feather(keep=0.5), [(1, 4, 5)]).stages
    assert grid < set(first.tolist())
    assert not grid <= set(second.tolist())


def test_the_rotary_kernel_never_turns_ranks_round():
    kernel = rope_kernel(torch.arange(5000), 1e4 ** -(torch.arange(0, 128, 2) / 128))
    assert kernel[0] == pytest.approx(128**0.5)
    assert (kernel > 0).all()


def test_version_2_of_sparsevlm_keeps_position_ids():
    assert gp.SparseVLM(keep=0.5).official_positions == "reassigned-in-order"
    assert gp.SparseVLM(keep=0.5, version="2.0").official_positions == "preserved"
    with pytest.raises(gp.GroundPruneError, match="version must be one of"):
        gp.SparseVLM(keep=0.5, version="3")


class Words(LLMStates):
    """Notes which words rate."""

    def __init__(self, states, found):
        self.states, self.found = states, found

    def read(self, layer, kind, rows, rope):
        if kind == "attention":
            self.found.append(rows.tolist())
        return self.states.read(layer, kind, rows, rope)


@pytest.mark.parametrize("version", ["1.5", "2.0"])
def test_sparsevlm_chooses_its_raters_once_from_all_of_the_image(model, version, monkeypatch):
    plain, found = passage.RowStates, []
    monkeypatch.setattr(passage, "RowStates", lambda *args: Words(plain(*args), found))
    differ = 0
    for seed in range(6):
        found.clear()
        inputs = tiny_inputs(model, [(1, 4, 12)], seed=seed)
        with gp.prune(model, gp.SparseVLM(keep=0.4, version=version)) as pruned, torch.no_grad():
            model(**inputs)
        with torch.no_grad():
            text = model.get_input_embeddings()(inputs["input_ids"][0, -12:])
            image = model.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        wanted = raters(text, image)
        assert found == [(wanted.nonzero().squeeze(1) + 40).tolist()] * 3
        left = [kept[0] for _, kept in pruned.stages[1:-1]]
        differ += sum(not raters(text, image[kept]).equal(wanted) for kept in left)
    assert differ  # or the survivors would have chosen the same words


def test_version_1_of_sparsevlm_keeps_what_a_rank_says(model, monkeypatch):
    class Ranks(Words):
        def read(self, layer, kind, rows, rope):
            value = self.states.read(layer, kind, rows, rope)
            if kind == "attention":
                self.found.append(value)
            return value

    plain, found, wide = passage.RowStates, [], tiny_model("llava", layers=16, side=16)
    monkeypatch.setattr(passage, "RowStates", lambda *args: Ranks(plain(*args), found))
    pruner = gp.SparseVLM(tokens=192, version="1.0")
    with gp.prune(wide, pruner) as pruned, torch.no_grad():
        wide(**tiny_inputs(wide, [(1, 4, 12)]))
    left = [256, *(len(kept[0]) for _, kept in pruned.stages[1:])]
    assert [stage.layer for stage in pruner.stages(32)] == [3, 7, 16, 20]
    assert len(found) == 4
    assert left[0] > left[1]
    for attention, before, after in zip(found, left, left[1:], strict=False):
        assert attention.shape[-1] == before
        kept = min(rank_count(attention, 13.5, 0), before - 1)
        assert after == kept + clusters_of(before - kept)[1]
    with gp.prune(wide, gp.SparseVLM(keep=1, version="1.0")) as pruned, torch.no_grad():
        wide(**tiny_inputs(wide, [(1, 4, 12)]))
    assert len(pruned.kept[0]) == 256
    with pytest.raises(gp.GroundPruneError, match=r"for tokens=192, 128, 64 \(got 0\.5\)"):
        gp.SparseVLM(keep=0.5, version="1.0")


TEXT_READERS = [gp.Dart(keep=0.7), gp.IVCPrune(keep=0.5), gp.SparseVLM(keep=0.7)]


@pytest.mark.parametrize("pruner", TEXT_READERS)
@pytest.mark.parametrize("pad", [0, 3])
def test_a_prompt_that_ends_with_its_image_is_refused_in_one_line(model, pruner, pad):
    inputs = tiny_inputs(model, [(1, 4, 1)])
    # No word behind the image; with pad, nothing but padding on the right.
    inputs = {k: v[:, :-1] if k != "pixel_values" else v for k, v in inputs.items()}
    if pad:
        inputs["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (0, pad), value=1)
        inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, pad))
    with pytest.raises(gp.Unservable, match=rf"^{pruner.label} reads the text after the image[^\n]*$"):
        run_on(model, pruner, inputs)


@pytest.mark.parametrize("pruner", [*TEXT_READERS, gp.SparseVLM(keep=0.7, version="2.0")])
def test_one_word_after_the_image_is_text_enough(model, pruner):
    found = run(model, pruner, [(1, 4, 1)])
    assert len(found.kept[0]) == pruner.stages(16)[-1].budget.count(36)


def test_no_rows_are_no_rows(model):
    class Asks(gp.Pruner):
        def stages(self, n_layers):
            return [gp.Stage(2, self.budget)]

        def llm_layers(self, stages):
            return frozenset({1})

        def score(self, signals, layout, stage):
            assert signals.llm(1, "attention", rows=[]).shape[1:] == (0, 36)
            assert signals.llm(1, "k", rows=range(0)).shape[1] == 0
            return layout.col

    assert len(run(model, Asks(keep=0.5), [(1, 4, 5)]).kept[0]) == 18


def run_on(model, pruner, inputs):
    with gp.prune(model, pruner), torch.no_grad():
        model(**inputs)
