"""The rules of the methods before the LLM, against what the official functions gave."""

import pytest
import torch

from groundprune.probes.attention import AttentionCall
from groundprune.probes.readers import cls_row_joint
from groundprune.pruners.cdpruner import relevance, select_cdpruner
from groundprune.pruners.divprune import select_divprune
from groundprune.pruners.fastervlm import select_fastervlm
from groundprune.pruners.hiprune import select_hiprune
from groundprune.pruners.hired import hired_budgets
from groundprune.pruners.nuwa import nuwa_weights, select_nuwa
from groundprune.pruners.prumerge import select_prumerge
from groundprune.pruners.ranking import top
from groundprune.pruners.tome import select_tome
from groundprune.pruners.trim import outliers, select_trim
from groundprune.pruners.visionzip import select_visionzip
from groundprune.pruners.vispruner import select_vispruner
from support.closeness import assert_near
from support.vectors import cases, failures, inputs


def emitted(merged, tokens):
    """The merged features in the official order."""
    return (merged.weight @ tokens)[merged.order]


@pytest.mark.parametrize("case", cases("fastervlm"))
def test_fastervlm(case):
    _, attention = inputs(case)
    assert select_fastervlm(attention, case["params"]["T"]).tolist() == [case["kept"]]


@pytest.mark.parametrize("case", cases("vispruner"))
def test_vispruner(case):
    features, attention = inputs(case)
    count, share = case["params"]["T"], case["params"]["important_ratio"]
    kept = select_vispruner(attention.mean(1), features, count, int(count * share), case["params"]["prune_per_round"])
    assert kept.tolist() == [case["kept"]]


@pytest.mark.parametrize("case", failures("vispruner"))
def test_vispruner_ends_where_the_official_code_fails(case):
    features, attention = inputs(case)
    count = case["params"]["T"]
    important = int(count * case["params"]["important_ratio"])
    kept = select_vispruner(attention.mean(1), features, count, important)[0]
    assert len(kept.unique()) == count
    strongest = top(attention.mean(1)[0], important).tolist()
    assert set(strongest) <= set(kept.tolist())


@pytest.mark.parametrize("case", cases("divprune"))
def test_divprune(case):
    (features,) = inputs(case)
    chosen = select_divprune(features, case["params"]["K"])
    assert chosen.tolist() == case["kept_in_selection_order"]
    assert chosen.sort().values.tolist() == case["kept"]


@pytest.mark.parametrize("case", cases("cdpruner"))
def test_cdpruner(case):
    features, patches, text = inputs(case)
    kept = select_cdpruner(features, relevance(patches, text), case["params"]["T"])
    assert kept.tolist() == [case["kept"]]


@pytest.mark.parametrize("case", cases("trim"))
def test_trim(case):
    features, projection, text = inputs(case)
    joint = torch.nn.functional.layer_norm(features, features.shape[-1:]) @ projection.T
    score = -(joint @ text.T)[0, :, 0]
    share = case["params"]["k"]
    count = outliers(score.softmax(-1)) if share == -1 else int(len(score) * share)
    found = select_trim(score, count + 1)
    out = emitted(found, features[0])
    kept = found.kept[found.order]
    assert kept[:-1].tolist() == case["kept_in_official_order"]
    assert len(kept) == case["n_out"]
    assert_near(out[:-1], features[0, kept[:-1]].tolist())
    assert_near(out[-1], case["aggregated_token"])


@pytest.mark.parametrize("case", cases("prumerge"))
def test_prumerge(case):
    q, k, hidden = inputs(case)
    score = cls_row_joint(AttentionCall(q[:, None], k[:, None], k[:, None]))[0, 1:, 0]
    mode = case["params"]["mode"]
    count = outliers(score) if mode == "adaptive" else int(len(score) * float(mode))
    found = select_prumerge(score, k[0, 1:], count + 1, neighbours=case["params"]["neighbours"])
    assert found.kept[found.order][:-1].tolist() == case["kept_in_official_order"]
    assert_near(emitted(found, hidden[0, 1:]), case["output_tokens"])


@pytest.mark.parametrize("case", cases("visionzip"))
def test_visionzip(case):
    attention, hidden, keys = inputs(case)
    dominant, contextual = case["params"]["dominant_incl_cls"], case["params"]["contextual"]
    row = attention[0, :, 0, 1:].sum(0)
    found = select_visionzip(row, keys[0, 1:], dominant + contextual, contextual)
    kept = found.kept[found.order]
    assert kept[1:dominant].tolist() == case["dominant_patches_raster"]
    assert not found.weight[found.cls].any()
    out = emitted(found, hidden[0, 1:])
    out[0] += hidden[0, 0]
    assert_near(out, case["output_tokens"])
    # The CLS token's slot is that of the strongest patch that stands for nothing else.
    free = set(range(len(row))) - set(kept[1:].tolist())
    assert int(kept[0]) == max(free, key=lambda i: float(row[i]))


@pytest.mark.parametrize("case", cases("hired", where=lambda c: c["params"]["variant"] == "next"))
def test_hired(case):
    early, late = (rows[:, :, 0, 1:].sum(1) for rows in inputs(case))
    p, n = case["params"], case["params"]["N"]
    total = int(p["tiles"] * n * p["token_budget_rate"])
    sizes = [n] * p["tiles"]
    budgets = hired_budgets(early[0], sizes, total, p["alpha"], exact=False)
    assert budgets == case["per_tile"]
    assert [top(score, budget).tolist() for score, budget in zip(late, budgets, strict=True)] == case["kept_per_tile"]
    exact = hired_budgets(early[0], sizes, total, p["alpha"])
    assert sum(exact) == total == case["nominal_budget"]
    assert all(0 <= more - budget <= 1 for more, budget in zip(exact, budgets, strict=True))


@pytest.mark.parametrize("case", failures("hired"))
def test_hired_divides_a_grid_that_the_official_code_cannot(case):
    early = inputs(case)[0][0, :, 0, 1:].sum(0)
    p, n = case["params"], case["params"]["N"]
    total = int(p["tiles"] * n * p["token_budget_rate"])
    budgets = hired_budgets(early, [n] * p["tiles"], total, p["alpha"])
    assert sum(budgets) == total
    marked = top(early, int(n * (1 - p["alpha"])))
    strips = [(marked * 3 // n == i).sum() for i in range(3)]
    assert torch.tensor(strips).argsort(stable=True)[-1] == torch.tensor(budgets[1:]).argsort(stable=True)[-1]


@pytest.mark.parametrize("case", cases("hired", where=lambda c: c["params"]["variant"] == "llava15"))
def test_hired_of_one_tile(case):
    (late,) = inputs(case)
    n = case["params"]["N"]
    budget = hired_budgets(late[0, :, 0, 1:].sum(0), [n], int(n * case["params"]["token_budget_rate"]))
    assert [top(late[0, :, 0, 1:].sum(0), *budget).tolist(), budget] == [case["kept"], [case["n_kept"]]]


@pytest.mark.parametrize("case", cases("hiprune", where=lambda c: c["params"]["variant"] == "llava"))
def test_hiprune(case):
    middle, deep = (rows.mean(1).mean(1)[:, 1:] for rows in inputs(case))
    p = case["params"]
    count = int(p["T"] / p["tiles"])
    anchors = round(count * p["alpha"] / 5)
    assert anchors == case["n_anchor"]
    assert select_hiprune(middle, deep, 24, count, anchors).tolist() == case["kept_per_tile"]


@pytest.mark.parametrize("case", cases("hiprune", where=lambda c: c["params"]["variant"] == "qwen2.5"))
def test_hiprune_of_qwen(case):
    middle, deep = inputs(case)
    p = case["params"]
    count = round(p["N"] * p["retention"])
    assert count == case["n_kept"]
    kept = select_hiprune(middle, deep, p["width"], count, round(count * p["alpha"] / 5))
    assert kept.tolist() == case["kept"]


@pytest.mark.parametrize("case", cases("nuwa"))
def test_nuwa(case):
    hidden, states, attention = inputs(case)
    p, side = case["params"], case["params"]["grid"]
    row, col = torch.arange(side * side) // side, torch.arange(side * side) % side
    kept = select_nuwa(attention, row, col, p["K"], p["top_n_per_2x2"])
    assert kept.tolist() == [case["kept"]]
    weight = nuwa_weights(attention, states, kept, row, col, p["distance"], p["percentile"])
    assert_near((weight @ hidden)[0], case["output_tokens"])


@pytest.mark.parametrize("case", cases("tome"))
def test_tome(case):
    *metric, tokens = inputs(case)
    found = select_tome(tokens, case["n_out"], *metric)
    weight = found.weight[0][found.order[0]]
    assert [row.nonzero().squeeze(1).tolist() for row in weight] == case["groups"]
    assert weight.max(-1).values.reciprocal().round().int().tolist() == case["sizes"]
    assert_near(weight @ tokens[0], case["tokens"])
    # A group stands at one of its own tokens.
    assert all(int(slot) in group for slot, group in zip(found.kept[0][found.order[0]], case["groups"], strict=True))


def test_the_spatial_baseline_of_hired_is_another_rule_than_ours():
    """Its stride in the flattened raster makes vertical stripes, and loses the last token."""
    from groundprune.pruners.spatial import select_spatial

    for parameter in cases("hired", where=lambda c: c["params"]["variant"] == "spatial_baseline"):
        case = parameter.values[0]
        n, count = case["params"]["N"], case["params"]["num_spatial_tokens"]
        assert case["kept"] == list(range(0, n - 1, n // count))
        side = round(n**0.5)
        ours = select_spatial(side, side, count)
        assert len(ours) == count
        if count == 64 and n == 576:
            assert len({i % side for i in case["kept"]}) == len((ours % side).unique()) == 8
