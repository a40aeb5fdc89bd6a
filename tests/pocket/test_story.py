"""What the package exists to show, on the model that it ships: a change that breaks it is not a detail."""

from groundprune.evaluation import compare


def test_renumbered_positions_take_the_boxes_and_preserved_ones_give_them_back():
    found = compare(scenes=40, pruners=["cls-visual"], keeps=["0.5"], progress=False)
    right = {r.setting.id: (r.rec.total.correct, r.vqa.total.correct) for r in found.settings}
    boxes, words = right["unpruned"]
    assert boxes >= 37
    assert words >= 34
    kept_boxes, kept_words = right["cls-visual/keep=0.5/preserved"]
    lost_boxes, lost_words = right["cls-visual/keep=0.5/reassigned"]
    assert kept_boxes >= 30
    assert lost_boxes <= 5
    assert abs(kept_words - lost_words) <= 12  # most questions hardly notice
    assert right["unpruned/shifted:8"][0] >= 37
    assert right["unpruned/permuted:0"][0] <= 5
