"""Greedy choices as captured graphs: the sets of the plain loop, without a launch per token."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from groundprune.pruners import captured
from groundprune.pruners.cdpruner import select_cdpruner
from groundprune.pruners.coverage import select_coverage
from groundprune.pruners.divprune import select_divprune
from groundprune.pruners.vispruner import select_vispruner

pytestmark = pytest.mark.gpu
SIDE = 24
N, COUNT = SIDE * SIDE, 144
GREEDY = {
    "cdpruner": lambda s, x, row, col: select_cdpruner(x, s, COUNT),
    "coverage": lambda s, x, row, col: select_coverage(s, row, col, COUNT, COUNT - 1),
    "divprune": lambda s, x, row, col: select_divprune(x, COUNT),
    "vispruner": lambda s, x, row, col: select_vispruner(s, x, COUNT, COUNT // 2),
}


def drawn(seed, batch=()):
    generator = torch.Generator("cuda").manual_seed(seed)
    place = torch.arange(N, device="cuda")
    score = torch.rand(*batch, N, generator=generator, device="cuda")
    return score, torch.randn(*batch, N, 256, generator=generator, device="cuda"), place // SIDE, place % SIDE


def plain(steps, state, picks, block):
    for some in picks.split(block):
        steps(state, some)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("name", GREEDY)
def test_a_graph_chooses_what_the_plain_loop_does(name, batch, monkeypatch):
    captured._kept.clear()
    found = [GREEDY[name](*drawn(seed, batch)) for seed in (0, 1, 0)]
    assert len(captured._kept) == 1
    monkeypatch.setattr(captured, "_replayed", plain)
    expected = [GREEDY[name](*drawn(seed, batch)) for seed in (0, 1, 0)]
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", GREEDY)
def test_a_choice_takes_fewer_launches_than_tokens(name):
    given = drawn(0)
    GREEDY[name](*given)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as run:
        GREEDY[name](*given)
        torch.cuda.synchronize()
    launches = sum(event.count for event in run.key_averages() if "Launch" in event.key)
    assert 0 < launches < COUNT
