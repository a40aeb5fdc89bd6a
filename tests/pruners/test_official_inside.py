"""The rules of the methods inside of the LLM, against what the official functions gave."""

import pytest
import torch

from groundprune.pruners.dart import select_dart
from groundprune.pruners.fastv import select_fastv
from groundprune.pruners.feather import content_attention, select_feather
from groundprune.pruners.ivc_prune import coordinate_scores, select_ivcprune, value_attention
from groundprune.pruners.pyramiddrop import select_pyramiddrop
from groundprune.pruners.ranking import ranked
from groundprune.pruners.sparsevlm import COUNTS
from groundprune.pruners.sparsevlm_rule import (
    cluster,
    clusters_of,
    rank_count,
    raters,
    select_sparsevlm,
    strongest_heads,
)
from groundprune.pruners.v2drop import select_v2drop
from support.closeness import assert_near
from support.vectors import cases, inputs


def step(*names):
    return lambda case: case["params"]["step"] in names


@pytest.mark.parametrize("case", cases("fastv"))
def test_fastv(case):
    (rows,) = inputs(case)
    p = case["params"]
    image = rows[0, :, 0, p["start"] : p["start"] + p["N"]]
    assert select_fastv(image, p.get("rank") or p["K"]).tolist() == case["kept_image"]


def frequencies(rope_dim, theta):
    return theta ** -(torch.arange(0, rope_dim, 2) / rope_dim)


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(0, 1)


def rotated(x):
    """[H, L, C] with the rotary embedding of positions 0..L-1, theta 1e4."""
    angle = (torch.arange(x.shape[1])[:, None] * frequencies(x.shape[-1], 1e4)).repeat(1, 2)
    a, b = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()


@pytest.mark.parametrize("case", cases("pyramiddrop"))
def test_pyramiddrop(case):
    hidden, w_q, w_k = inputs(case)
    p, start, left = case["params"], case["params"]["start"], torch.arange(case["params"]["N"])
    for ratio, wanted in zip(p["ratios"], case["kept_after_stage"], strict=True):
        x = torch.cat([hidden[0, :start], hidden[0, start + left], hidden[0, start + p["N"] :]])
        q, k = (rotated(heads(x @ w.T, p["heads"])) for w in (w_q, w_k))
        attention = (q[:, -1:] @ k.transpose(1, 2) * p["head_dim"] ** -0.5).softmax(-1)[:, 0]
        left = left[select_pyramiddrop(attention[:, start : start + len(left)], int(p["N"] * ratio))]
        assert left.tolist() == wanted


@pytest.mark.parametrize("case", cases("v2drop"))
def test_v2drop(case):
    before, now = (x[0, 35 : 35 + case["params"]["N"]] for x in inputs(case))
    assert select_v2drop(before, now, case["n_kept"]).tolist() == case["kept_image"]


@pytest.mark.parametrize("case", cases("feather"))
def test_feather(case):
    *hidden, w_q, w_k = inputs(case)
    p, start, n = case["params"], case["params"]["start"], case["params"]["N"]
    side, left = round(n**0.5), torch.arange(n)
    grid = (left // side % p["stride"] == 0) & (left % side % p["stride"] == 0)
    for x, count, key in zip(hidden, case["counts"], ("kept_after_first", "kept_after_second"), strict=True):
        query = heads(x[0, -1:] @ w_q.T, p["heads"])
        attention = content_attention(query, heads(x[0, start + left] @ w_k.T, p["heads"]))
        left = left[select_feather(attention, grid[left], count)]
        assert left.tolist() == case[key]
        grid = torch.zeros_like(grid)


@pytest.mark.parametrize("case", cases("dart"))
def test_dart(case):
    keys, hidden = inputs(case)
    p, start, end = case["params"], case["params"]["start"], case["params"]["start"] + case["params"]["N"]
    norms = keys[0].transpose(0, 1).flatten(1).abs().sum(-1)
    pivots = ranked(norms[start:end], p["pivot_image"])
    assert pivots.tolist() == case["image_pivots"]
    assert (ranked(norms[end:], p["pivot_text"]) + end).tolist() == case["text_pivots_abs"]
    queries = hidden[0, case["pivot_visit_order_abs"]]
    assert select_dart(hidden[0, start:end], queries, pivots, case["n_kept"]).tolist() == case["kept_image"]


def ivc_positions(p):
    if p["variant"] == "llama":
        return torch.arange(p["start"], p["start"] + p["N"])[None]
    rows, cols = p["grid"]
    cell = torch.arange(rows * cols)
    return p["start"] + torch.stack([torch.zeros_like(cell), cell // cols, cell % cols])


@pytest.mark.parametrize("case", cases("ivcprune"))
def test_ivcprune(case):
    (values,) = inputs(case)
    p, start = case["params"], case["params"]["start"]
    llama = p["variant"] == "llama"
    values = values[0] if llama else values[0].transpose(0, 1)
    position = ivc_positions(p)
    n = position.shape[1]
    image, text = values[:, start : start + n], values[:, start + n + 2 :]
    beside = torch.cat([values[:, :start], values[:, start + n :]], 1) if llama else None
    anchors, seeds = round(n * (0.05 if llama else 0.1)), max(1, round(n * 0.01))
    cos, sin = coordinate_scores(position, frequencies(p["rope_dim"], p["rope_theta"]))
    assert set(ranked(cos, anchors).tolist()) == set(case["coord_cos_in_rank_order"])
    assert set(ranked(sin, anchors).tolist()) == set(case["coord_sin_in_rank_order"])
    by_text = value_attention(text, image if beside is None else torch.cat([image, beside], 1))[:n]
    assert ranked(by_text, seeds).tolist() == case["seeds"]
    kept = select_ivcprune(image, text, cos, sin, case["n_kept"], anchors, seeds, beside)
    assert kept.tolist() == case["kept_image"]


@pytest.mark.parametrize("case", cases("sparsevlm", where=step("raters")))
def test_sparsevlm_raters(case):
    (x,) = inputs(case)
    end = case["params"]["start"] + case["params"]["N"]
    words = raters(x[0, end:], x[0, case["params"]["start"] : end])
    assert words.nonzero().squeeze(1).tolist() == case["raters_relative_to_text_start"]


def rater_rows(case):
    """[H, raters, N]"""
    (attention,) = inputs(case)
    p = case["params"]
    end = p["start"] + p["N"]
    return attention[0][:, torch.tensor(p["raters"]) + end, p["start"] : end]


@pytest.mark.parametrize("case", cases("sparsevlm", where=step("rank_count_v1_init", "rank_count_v1_theia")))
def test_sparsevlm_of_version_1(case):
    rows, p = rater_rows(case), case["params"]
    count = rank_count(rows, p["scale"], p["bias"])
    assert rank_count(rows, 1, 0) == case["matrix_rank"]
    # Where the count leaves nothing to prune, the first version drops one token and the other variant none.
    most = p["N"] - 1 if p["step"].endswith("init") else p["N"]
    kept = select_sparsevlm(rows.mean(0).mean(0), rows[0].T, min(count, most), recycle=False)
    assert kept.tolist() == case["kept"]


@pytest.mark.parametrize("case", cases("sparsevlm", where=step("fixed_count_topk")))
def test_sparsevlm_of_later_versions(case):
    rows, p = rater_rows(case), case["params"]
    table = COUNTS[{"1_0": "1.5", "2_0": "2.0"}[p["version"]]]
    count = min(table[p["retain"]][[2, 6, 15].index(p["layer"])], p["N"] - 1)
    kept = select_sparsevlm(rows.mean(0).mean(0), rows[0].T, count, recycle=False)
    assert kept.tolist() == case["kept"]


@pytest.mark.parametrize("case", cases("sparsevlm", where=step("head_selection_v2")))
def test_sparsevlm_heads(case):
    assert strongest_heads(rater_rows(case), 14).tolist() == case["selected_heads_in_order"]


@pytest.mark.parametrize("case", cases("sparsevlm", where=step("recycle_and_cluster")))
def test_sparsevlm_recycling(case):
    hidden, score = inputs(case)
    p = case["params"]
    assert clusters_of(p["n_pruned"]) == (p["n_stage1"], p["cluster_num"])
    back = ranked(score, p["n_stage1"])
    assert back.tolist() == case["stage1_indices_in_order"]
    states = hidden[0, back]
    _, member = cluster(states, p["cluster_num"])
    merged = torch.stack([states[member == i].mean(0) for i in range(p["cluster_num"])])
    assert_near(merged, torch.tensor(case["merged_tokens_noise_zero"]))


def test_sparsevlm_recycles_what_it_drops_into_the_slots_of_centres():
    score, states = torch.linspace(1, 0, 60), torch.randn(60, 8, generator=torch.Generator().manual_seed(3))
    found = select_sparsevlm(score, states, 20)
    _, clusters = clusters_of(60 - (20 - 2))
    assert clusters == 2
    assert found.kept[found.order][:18].tolist() == list(range(18))
    weight = found.weight[found.order]
    assert weight[:18].equal(torch.eye(60)[:18])
    back = range(18, 18 + clusters_of(42)[0])
    assert (weight[18:] > 0).any(0).nonzero().squeeze(1).tolist() == list(back)
    assert_near(weight.sum(-1), torch.ones(20))
    assert all(weight[18 + i, slot] > 0 for i, slot in enumerate(found.kept[found.order][18:]))
