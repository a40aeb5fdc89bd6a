"""Without mlx-vlm."""

import sys

import pytest

import groundprune as gp
import groundprune.integrations.mlx as ours


def test_one_line_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "groundprune.integrations.mlx.context", raising=False)
    monkeypatch.setitem(sys.modules, "mlx", None)
    with pytest.raises(gp.GroundPruneError, match=r"pip install 'groundprune\[mlx\]'") as error:
        ours.prune(None, gp.Spatial(keep=0.5))
    assert "\n" not in str(error.value)
