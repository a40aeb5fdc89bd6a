"""Greedy choices over buffers that are used again, as a GPU's graph uses them, are those of the plain loop."""

from collections import OrderedDict

import pytest
import torch

from groundprune.pruners import captured, cdpruner, vispruner
from groundprune.pruners.captured import BLOCK, BYTES, GRAPHS, Recorded, chosen
from groundprune.pruners.cdpruner import select_cdpruner
from groundprune.pruners.coverage import select_coverage
from groundprune.pruners.divprune import select_divprune
from groundprune.pruners.vispruner import select_vispruner

SIDE = 12
N = SIDE * SIDE
ROW, COL = torch.arange(N) // SIDE, torch.arange(N) % SIDE
COUNT = BLOCK + 9  # a whole block, and a part of one
GREEDY = {
    "cdpruner": lambda s, x: select_cdpruner(x, s, COUNT),
    "coverage": lambda s, x: select_coverage(s, ROW, COL, COUNT, COUNT - 1),
    "divprune": lambda s, x: select_divprune(x, COUNT),
    "vispruner": lambda s, x: select_vispruner(s, x, COUNT, COUNT // 2),
}


def drawn(seed, batch=()):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*batch, N, generator=generator), torch.randn(*batch, N, 64, generator=generator)


@pytest.fixture
def static(monkeypatch):
    """Makes every choice run over recorded buffers, one set for each rule and shape."""
    kept = {}

    def over_buffers(steps, state, count, block=BLOCK):
        key = (steps, block, *(each.shape for each in state))
        recorded = kept.setdefault(key, Recorded(steps, state, block))
        picks = state[0].new_zeros(count, len(state[0]), dtype=torch.long)
        recorded.replay(state, picks)
        return picks.T

    def turn_on():
        for module in (captured, cdpruner, vispruner):
            monkeypatch.setattr(module, "chosen", over_buffers)
        return kept

    return turn_on


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("name", GREEDY)
def test_buffers_that_are_used_again_choose_what_the_plain_loop_does(name, batch, static):
    draws = [drawn(seed, batch) for seed in (0, 1, 0)]
    plain = [GREEDY[name](*draw) for draw in draws]
    kept = static()
    with torch.inference_mode():  # the first call makes the buffers, and later ones must not be bound to its mode
        first = GREEDY[name](*draws[0])
    again = [GREEDY[name](*draw) for draw in draws[1:]]
    assert len(kept) == 1
    assert all(a.equal(b) for a, b in zip([first, *again], plain, strict=True))
    assert not plain[0].equal(plain[1])


def test_features_that_are_trained_are_chosen_among():
    for select in GREEDY.values():
        score, features = drawn(0)
        assert select(score, features.requires_grad_()).equal(select(score, features.detach()))


def test_the_farthest_of_all_chosen_comes_next():
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    away = torch.cdist(points, points)
    first, distance = [3], away.clone().fill_diagonal_(-1)
    for _ in range(20):
        first.append(int(away[first].amin(0).argmax()))
    assert captured.farthest(distance[None, 3], distance[None], 20)[0].tolist() == first[1:]


def test_nothing_to_choose_is_no_choice():
    assert chosen(captured._farthest, [torch.rand(2, N)], 0).shape == (2, 0)


def test_what_is_kept_is_bounded_in_number_and_bytes():
    def recorded(size):
        return Recorded(captured._farthest, [torch.zeros(1, size)], BLOCK)

    kept = OrderedDict()
    for i in range(GRAPHS + 3):
        captured._keep(kept, (i,), recorded(8))
    assert list(kept) == [(i,) for i in range(3, GRAPHS + 3)]
    captured._keep(kept, ("half",), recorded(BYTES // 8))
    captured._keep(kept, ("and more",), recorded(BYTES // 8))
    assert list(kept) == [("and more",)]
    captured._keep(kept, ("too large",), recorded(BYTES // 4 + 1))
    assert not kept


def test_where_no_graph_can_be_made_the_steps_run_as_they_stand(monkeypatch):
    def refused(self, state):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Recorded, "capture", refused)
    points = torch.rand(1, N, 2, generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(points, points)
    distance.diagonal(dim1=-2, dim2=-1).fill_(-1)
    state = [distance[:, 0].clone(), distance.flatten(0, 1), torch.empty(1, N), captured.first_rows(distance[:, 0])]
    with pytest.warns(UserWarning, match="step by step: operation not permitted when stream is capturing$"):
        made = captured.recorded(captured._farthest, state, BLOCK)
    picks = torch.zeros(COUNT, 1, dtype=torch.long)
    made.replay(state, picks)
    assert picks.T.equal(captured.farthest(distance[:, 0].clone(), distance, COUNT))
