"""What every selection rule has to hold, whatever the scores; one table of rules."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import groundprune as gp
from groundprune.pruners.cdpruner import select_cdpruner
from groundprune.pruners.coverage import select_coverage
from groundprune.pruners.dart import select_dart
from groundprune.pruners.divprune import select_divprune
from groundprune.pruners.evs import select_evs
from groundprune.pruners.fastervlm import select_fastervlm
from groundprune.pruners.fastv import select_fastv
from groundprune.pruners.feather import select_feather
from groundprune.pruners.hiprune import select_hiprune
from groundprune.pruners.hired import hired_budgets
from groundprune.pruners.ivc_prune import select_ivcprune
from groundprune.pruners.merging import Merged
from groundprune.pruners.nuwa import select_nuwa
from groundprune.pruners.prumerge import select_prumerge
from groundprune.pruners.pyramiddrop import select_pyramiddrop
from groundprune.pruners.ranking import ranked, rows_of, top
from groundprune.pruners.sparsevlm_rule import select_sparsevlm
from groundprune.pruners.tome import select_tome
from groundprune.pruners.trim import select_trim
from groundprune.pruners.v2drop import select_v2drop
from groundprune.pruners.vidcom2 import select_vidcom2
from groundprune.pruners.visionzip import select_visionzip
from groundprune.pruners.vispruner import select_vispruner
from support.closeness import assert_near

SIDE = 6
N = SIDE * SIDE
FRAMES = 4  # of N / FRAMES tokens each, where the N are a video
ROW, COL = torch.arange(N) // SIDE, torch.arange(N) % SIDE


class Rule(NamedTuple):
    """select(score [..., N], features [..., N, 8], count), and the least count that it has."""

    select: object
    least: int = 1
    batched: bool = True


def by_heads(select):
    return lambda s, x, k: select(torch.stack([s, s.flip(-1) * 0.1], -2), k)


def dart(s, x, k):
    pivots = ranked(s, min(4, k))
    return select_dart(x, rows_of(x, pivots), pivots, k)


RULES = {
    "top": Rule(lambda s, x, k: top(s, k)),
    "cdpruner": Rule(lambda s, x, k: select_cdpruner(x, s.sigmoid(), k)),
    "coverage": Rule(lambda s, x, k: select_coverage(s, ROW, COL, k, k // 2)),
    "coverage-anchors": Rule(lambda s, x, k: select_coverage(s, ROW, COL, k, k // 3, anchors=True)),
    "dart": Rule(dart),
    "divprune": Rule(lambda s, x, k: select_divprune(x + s[..., None], k).sort(-1).values),
    "evs": Rule(lambda s, x, k: select_evs(x + s[..., None], FRAMES, k)),
    "fastervlm": Rule(by_heads(select_fastervlm)),
    "fastv": Rule(by_heads(select_fastv)),
    "feather": Rule(lambda s, x, k: select_feather(s[..., None, :], (ROW % 3 == 0) & (COL % 3 == 0), k)),
    "hiprune": Rule(lambda s, x, k: select_hiprune(x[..., 0], s, SIDE, k, k // 4)),
    "ivc-prune": Rule(
        lambda s, x, k: select_ivcprune(x[None], (x[:3] + s[:3, None])[None], x[:, 0], x[:, 1], k, k // 5, 1),
        batched=False,
    ),
    "nuwa": Rule(lambda s, x, k: select_nuwa(s, ROW, COL, k, 1 + 4 * k // N)),
    "prumerge": Rule(lambda s, x, k: select_prumerge(s, x, k), least=2),
    "prumerge+": Rule(lambda s, x, k: select_prumerge(s, x, k, (k - 1) * 3 // 4), least=2),
    "pyramiddrop": Rule(by_heads(select_pyramiddrop)),
    "sparsevlm": Rule(lambda s, x, k: select_sparsevlm(s, x, k)),
    "tome": Rule(lambda s, x, k: select_tome(x + s[..., None], k)),
    "trim": Rule(lambda s, x, k: select_trim(s, k), least=2),
    "v2drop": Rule(lambda s, x, k: select_v2drop(x, x + s[..., None], k)),
    "vidcom2": Rule(lambda s, x, k: select_vidcom2(x + s[..., None], FRAMES, k)),
    "visionzip": Rule(lambda s, x, k: select_visionzip(s, x, k, max(1, k // 6)), least=3),
    "vispruner": Rule(lambda s, x, k: select_vispruner(s, x, k, k // 2)),
}
few = settings(max_examples=15)  # of every rule
every_rule = pytest.mark.parametrize("name", RULES)


def draw(seed, batch=()):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, N, generator=generator), torch.randn(*batch, N, 8, generator=generator)


def run(name, score, features, count):
    """(kept, weight): the weight of a pure selection is None."""
    found = RULES[name].select(score, features, count)
    return (found.kept, found.weight) if isinstance(found, Merged) else (found, None)


def holds(kept, weight, count):
    assert kept.dtype == torch.long
    assert kept.shape[-1] == count
    assert (kept.diff() > 0).all()
    assert (kept >= 0).all()
    assert (kept < N).all()
    if weight is not None:
        assert weight.shape[-2:] == (count, N)
        assert weight.isfinite().all()


@every_rule
@few
@given(seed=st.integers(0, 10_000), data=st.data())
def test_the_count_is_met_and_the_kept_are_ascending(name, seed, data):
    count = data.draw(st.integers(RULES[name].least, N - 1))
    score, features = draw(seed)
    kept, weight = run(name, score, features, count)
    holds(kept, weight, count)
    again, same = run(name, score.clone(), features.clone(), count)
    assert again.equal(kept)
    assert (weight is None and same is None) or weight.equal(same)


BY_FEATURES = ("cdpruner", "divprune", "ivc-prune", "v2drop")  # what they rank is made of the features too
BY_FRAMES = ("evs", "vidcom2")  # and of what stands elsewhere in the video: see test_videos


def tied(seed, data, name):
    """Whole numbers as scores, of 2 to 4 levels; a count."""
    count = data.draw(st.integers(max(4, RULES[name].least), N - 1))
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(data.draw(st.integers(2, 4)), (N,), generator=generator), count, generator


@pytest.mark.parametrize("name", sorted(RULES.keys() - {*BY_FEATURES, *BY_FRAMES, "tome"}))
@few
@given(seed=st.integers(0, 10_000), data=st.data())
def test_of_equal_scores_the_earlier_counts_as_the_larger(name, seed, data):
    level, count, generator = tied(seed, data, name)
    features = torch.randn(N, 8, generator=generator)
    kept, weight = run(name, level.float(), features, count)
    holds(kept, weight, count)
    assert kept.equal(run(name, level - 1e-5 * torch.arange(N), features, count)[0])


@pytest.mark.parametrize("name", BY_FEATURES)
@few
@given(seed=st.integers(0, 10_000), data=st.data())
def test_of_tokens_that_are_alike_the_earlier_are_kept(name, seed, data):
    level, count, generator = tied(seed, data, name)
    # Of length 2: products are exact, so that what is alike stays so whatever order a kernel sums in.
    features = (2.0 * torch.randint(2, (4, 4), generator=generator) - 1)[level]
    kept, weight = run(name, level.float(), features, count)
    holds(kept, weight, count)
    for mine in (torch.isin((level == one).nonzero()[:, 0], kept) for one in level.unique()):
        assert mine[: int(mine.sum())].all()


def test_tome_merges_the_earlier_of_tokens_that_are_alike():
    alike = torch.ones(6, 8)
    assert run("tome", torch.zeros(6), alike, 5)[0].tolist() == [1, 2, 3, 4, 5]  # 0 went into 1
    assert run("tome", torch.zeros(6), alike, 4)[0].tolist() == [1, 3, 4, 5]


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.batched])
@few
@given(seed=st.integers(0, 10_000), data=st.data())
def test_rows_of_a_batch_do_not_touch_each_other(name, seed, data):
    count = data.draw(st.integers(RULES[name].least, N - 1))
    score, features = draw(seed, (3,))
    kept, weight = run(name, score, features, count)
    for i in range(3):
        alone, mixed = run(name, score[i], features[i], count)
        assert kept[i].equal(alone)
        if weight is not None:
            assert_near(weight[i], mixed)


def test_the_first_of_divprune_is_not_chosen_by_rounding():
    """Two tokens that are each other's nearest tie; sums in another order leave some 1e-7 between them."""
    for beyond, first in ((4e-7, 0), (4e-5, 2)):
        angles = torch.tensor([0, 1.0, torch.pi, torch.pi + 1 + beyond], dtype=torch.float64)
        features = torch.stack([angles.cos(), angles.sin()], -1).float()
        distance = 1 - features @ features.mT
        assert distance[2, 3] > distance[0, 1]
        assert select_divprune(features, 1).tolist() == [first]


@every_rule
def test_nan_is_an_error(name):
    score, features = draw(0)
    score[5] = torch.nan
    features[5] = torch.nan
    with pytest.raises(gp.GroundPruneError, match="NaN"):
        run(name, score, features, 12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_rule
def test_a_gpu_keeps_the_same_tokens(name, monkeypatch):
    score, features = draw(3)
    kept, _ = run(name, score, features, 12)
    monkeypatch.setitem(globals(), "ROW", ROW.cuda())
    monkeypatch.setitem(globals(), "COL", COL.cuda())
    found, _ = run(name, score.cuda(), features.cuda(), 12)
    assert found.cpu().equal(kept)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.1, 1), st.integers(0, 10_000), st.data())
def test_hired_gives_out_its_whole_budget_and_no_tile_more_than_it_holds(sizes, alpha, seed, data):
    total = data.draw(st.integers(1, sum(sizes)))
    early = torch.rand(sizes[0], generator=torch.Generator().manual_seed(seed))
    budgets = hired_budgets(early, sizes, total, alpha)
    assert sum(budgets) == total
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes, strict=True))


def test_coverage_fills_the_largest_gaps():
    content = torch.zeros(N)
    content[[0, 1, 2, 3]] = torch.tensor([4.0, 3, 2, 1])
    kept = select_coverage(content, ROW, COL, 6, 2).tolist()
    assert kept[:4] == [0, 1, 2, 3]
    assert kept[-1] == N - 1  # the corner that is farthest from the top left
    anchored = select_coverage(content, ROW, COL, 6, 0, anchors=True).tolist()
    assert anchored == [0, 1, 2, 5, 30, 35]


def test_coverage_leaves_no_patch_farther_from_a_kept_one_than_attention_alone():
    content, _ = draw(7)
    content[:18] += 10  # all attention in the upper half

    def widest(kept):
        away = (ROW[:, None] - ROW[kept]).square() + (COL[:, None] - COL[kept]).square()
        return int(away.amin(1).max())

    covered = widest(select_coverage(content, ROW, COL, 12, 6))
    assert covered <= 5 < widest(top(content, 12))
