"""README on the package index, which has none of the files beside it: no link is dead."""

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("repository", [None, "https://example.org/a/groundprune", "https://example.org/b/"])
def test_no_link_is_relative(repository, monkeypatch):
    # pip brings hatchling only where it builds, and nothing of it is asked here
    base = types.SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", base)
    from tools.package_readme import for_index

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = for_index(readme, repository)
    addresses = re.findall(r"\]\(([^)]*)\)", shown) + re.findall(r'(?:src|srcset)="([^"]*)"', shown)
    assert [a for a in addresses if "://" not in a] == []
    assert "https://arxiv.org/abs/2506.21873" in addresses
    assert "REC Acc@0.5 99.6% unpruned" in shown  # the figure, or its words
    assert "signals.projected.norm(dim=-1)" in shown  # code is left alone
    files = {a.split("/main/")[1].split("#")[0] for a in addresses if "/main/" in a}
    assert (len(files) > 20) == (repository is not None)
    assert all((ROOT / file).is_file() for file in files)
