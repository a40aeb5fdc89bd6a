"""What the catalogue says of families and pruners: each pair that it claims runs, each other is refused at once."""

import functools
import itertools

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import families, family_of
from groundprune.pruners import make_pruner, pruner_class, pruner_names
from support.embedder import Embedder
from support.families import ON_STILLS
from tools.docs.catalogue import served_by_family, served_table

PAIRS = list(itertools.product(families(), pruner_names()))


@functools.cache
def model(family):
    return tiny_model(family)


@functools.cache
def claimed():
    """By family the pruners that the matrix of docs/catalogue.md ticks."""
    head, _, *rows = (line.split("|")[1:-1] for line in served_table().split("\n\n")[0].splitlines())
    ticked = {row[0].strip(" `"): [cell.strip() == "✓" for cell in row[1:]] for row in rows}
    columns = enumerate(family.strip() for family in head[1:])
    return {family: [name for name, row in ticked.items() if row[i]] for i, family in columns}


def pruning(family, name):
    return gp.prune(model(family), make_pruner(name, 0.6), text=["the red cup"], text_tower=Embedder())


def test_the_command_line_claims_what_the_docs_claim():
    assert served_by_family() == claimed()
    assert sum(map(len, claimed().values())) > len(PAIRS) / 2


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_a_pair_runs_or_is_refused_before_any_work(family, name):
    tiny = model(family)
    if name in claimed()[family]:
        every_kind = len(family_of(tiny.config).tiny_visuals(tiny.config).tokens)
        prompts = [(every_kind, 3, 4)]
        inputs = tiny_inputs(tiny, prompts, modality=None if name in ON_STILLS else "video")
        with pruning(family, name) as run:
            out = tiny.generate(**inputs, max_new_tokens=2, do_sample=False)
        assert out.shape[1] == inputs["input_ids"].shape[1] + 2
        assert len(run.kept[0]) < len(run.layout[0])
        return
    inputs = tiny_inputs(tiny, [(1, 3, 4)])
    with pytest.raises(gp.Unservable, match=name.replace("+", r"\+")), pruning(family, name):
        pytest.fail("refused too late")
    work = []
    handle = tiny.base_model.register_forward_pre_hook(lambda *args: work.append(args))
    tower = family_of(tiny.config).tower(tiny.base_model).register_forward_pre_hook(lambda *args: work.append(args))
    try:
        with pytest.raises(gp.Unservable):
            gp.encode(tiny, inputs, [make_pruner(name, 0.6)])
    finally:
        handle.remove()
        tower.remove()
    assert not work


def test_a_merge_of_tower_states_that_does_not_say_so_is_refused_by_the_projector():
    """`needs` is a promise; the projector keeps it too, whoever asks."""
    for family in families().values():
        if family.unprojectable is not None:
            with pytest.raises(gp.Unservable, match="a merge before it cannot run"):
                family.project(model(family.name).base_model, torch.zeros(1, 32))
    merging = [name for name in pruner_names() if any(str(n) == "projector" for n in pruner_class(name).needs)]
    assert merging == ["nuwa", "prumerge", "prumerge+", "trim", "visionzip"]
