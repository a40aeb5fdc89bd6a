import torch
from hypothesis import given
from hypothesis import strategies as st

from groundprune.tokens.compaction import compact, emitted
from groundprune.tokens.growth import grown_mask
from groundprune.tokens.masks import places_in


@st.composite
def keep_masks(draw):
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    cells = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    keep = torch.tensor(cells).view(rows, columns)
    keep[:, -1] = True  # a row always keeps its last token
    return keep


@given(keep_masks())
def test_kept_columns_stay_in_order_and_rows_are_left_padded(keep):
    compaction = compact(keep)
    assert compaction.slots == int(keep.sum(1).max())
    for b in range(len(keep)):
        assert compaction.index[b, compaction.mask[b]].tolist() == keep[b].nonzero().squeeze(1).tolist()
        first = int(compaction.mask[b].long().argmax())
        assert compaction.mask[b, first:].all()


@given(keep_masks(), st.randoms())
def test_emitted_columns_stand_in_their_order_and_take_the_places_of_the_kept(keep, random):
    rows, length = keep.shape
    shuffled = [random.sample(kept, len(kept)) for kept in (row.nonzero().squeeze(1).tolist() for row in keep)]
    compaction = compact(keep, torch.stack([emitted(torch.tensor(columns), length) for columns in shuffled]))
    raster = compact(keep)
    assert compaction.mask.equal(raster.mask)
    for b in range(rows):
        mine = compaction.mask[b]
        assert compaction.index[b, mine].tolist() == shuffled[b]
        assert compaction.place[b, mine].tolist() == sorted(shuffled[b])
        # Either way each column is found in its slot, and each place in the slot that had it.
        kept = keep[b].nonzero().squeeze(1)
        assert compaction.index[b, compaction.slots_of(kept, b)].equal(kept)
        assert raster.index[b, raster.slots_of(compaction.index)[b, mine]].tolist() == shuffled[b]
        assert places_in(compaction, raster)[b, mine].equal(torch.arange(compaction.slots)[mine])


@given(keep_masks())
def test_gather_takes_any_leading_dimensions_and_fills_padding(keep):
    compaction = compact(keep)
    x = torch.arange(keep.numel()).view(keep.shape) + 1
    gathered = compaction.gather(torch.stack([x, 10 * x]), fill=-1)
    assert gathered.shape == (2, len(keep), compaction.slots)
    for b in range(len(keep)):
        assert gathered[1, b, compaction.mask[b]].tolist() == (10 * x[b][keep[b]]).tolist()
    assert (gathered[:, ~compaction.mask] == -1).all()


def test_the_grown_mask_takes_the_tail_from_the_unpruned_mask():
    keep = torch.tensor([[True, False, True, True], [False, False, True, True]])
    compaction = compact(keep)
    grown = grown_mask(compaction, torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]), tail=2)
    assert grown.tolist() == [[True, True, True, True, False], [False, True, True, True, True]]
    assert grown_mask(compaction, None, tail=1).tolist() == [[True] * 4, [False, True, True, True]]
