"""Methods whose rule depends on where a token lies: HiRED's budget per crop."""

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.probes.tower import encode, record_of
from groundprune.pruners.hired import hired_budgets
from groundprune.pruners.ranking import top
from groundprune.signals import CLS_ATTENTION, Need

EARLY = Need("tower_attention", 0, "cls")


def attentions(model, inputs):
    """Per unit of the batch the CLS attention of the first layer and of the one that the LLM reads: [P] each."""
    family = gp.families.family_of(model.config)
    pixels = {k: v for k, v in inputs.items() if k in ("pixel_values", "image_sizes")}
    with torch.no_grad():
        record = record_of(encode(model.base_model, family, "image", pixels, frozenset({CLS_ATTENTION, EARLY})))
    return [[value.sum(-1) for value in record.values[need]] for need in (EARLY, CLS_ATTENTION)]


def pruned(model, inputs, **options):
    with gp.prune(model, gp.HiRED(**options)) as run, torch.no_grad():
        model(**inputs)
    return run.layout, run.kept


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_hired_gives_the_overview_its_share_where_it_comes_last(alpha):
    """InternVL: two tiles, then a thumbnail, each a unit of its own."""
    model = tiny_model("internvl")
    inputs = tiny_inputs(model, [(1, 4, 5)])
    (layout,), (kept,) = pruned(model, inputs, tokens=12, alpha=alpha)
    early, late = attentions(model, inputs)
    first, *others = hired_budgets(early[2], [9, 9, 9], 12, alpha)
    wanted = torch.cat([top(late[k], n) + 9 * k for k, n in enumerate([*others, first])])
    assert kept.equal(wanted)
    assert layout.overview.nonzero().squeeze(1).tolist() == list(range(18, 27))
    assert layout.crop[kept].bincount(minlength=3).tolist() == [*others, first]


def test_hired_shares_the_budget_over_the_crops_that_llava_next_joins():
    """2 x 2 crops of 4 x 4 patches, a column of padding cut off at either side: 8 x 6 patches are left."""
    model = tiny_model("llava_next")
    inputs = tiny_inputs(model, [(1, 4, 5)])
    (layout,), (kept,) = pruned(model, inputs, tokens=24)
    (early,), (late,) = attentions(model, inputs)
    crops = layout.crops(0)
    assert [len(crop) for crop in crops] == [16, 12, 12, 12, 12]
    shares = hired_budgets(early[:16], [16, 12, 12, 12, 12], 24)
    assert len(set(shares[1:])) > 1  # or an even split would pass too
    kept = kept[layout.is_patch[kept]]
    assert layout.crop[kept].bincount(minlength=5).tolist() == shares
    for crop, share in zip(crops, shares, strict=True):
        assert set(crop[top(late[crop], share)].tolist()) < set(kept.tolist())


@pytest.mark.parametrize("name", ["internvl", "llava_next"])
def test_hired_of_a_row_of_images_shares_over_each_ones_crops(name):
    model = tiny_model(name)
    (layout,), (kept,) = pruned(model, tiny_inputs(model, [(2, 4, 5)]), keep=0.5)
    kept = kept[layout.is_patch[kept]]
    for image in range(2):
        patches = int((layout.is_patch & (layout.image == image)).sum())
        mine = kept[layout.image[kept] == image]
        assert len(mine) == pytest.approx(patches / 2, abs=1)
        if len(layout.crops(image)) > 1:
            size = int((layout.overview & (layout.image == image)).sum())
            assert int(layout.overview[mine].sum()) == pytest.approx(min(size, len(mine) / 2), abs=1)
