"""Gets the authors' code from GitHub, at named commits, and an environment in which all of it runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from groundprune.errors import GroundPruneError

# What LLaVA's code of early 2024 runs in; its own pins ask for a torch that recent Pythons have no wheel of.
PACKAGES = (
    "torch==2.13.0", "torchvision==0.28.0", "transformers==4.37.2", "tokenizers==0.15.1", "numpy<2", "sentencepiece",
    "einops", "timm", "pillow", "requests", "packaging", "protobuf", "accelerate", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A repository. parts: the folders and files of it that are used."""

    repository: str
    commit: str
    parts: tuple[str, ...]


SOURCES = {
    "llava": Source("haotian-liu/LLaVA", "c121f0432da27facab705978f83c4ada465e46fd", ("llava",)),
    "visionzip": Source("dvlab-research/VisionZip", "3151f6df4fca36a4cd1c985e5956e725b1f9ad02", ("visionzip",)),
    "divprune": Source("vbdi/divprune", "799e2d950aa01ba7860907f5a6d86061f885dca6", ("LLaVA/llava",)),
    "fastv": Source(
        "pkunlp-icler/FastV", "d1659729b5bf1be225e99ee15783deeea80f63b1",
        ("src/FastV/llava-hf/transformers/src", "src/FastV/lmms-eval/fastv_kvcache.py"),
    ),
    "sparsevlm": Source("Gumpest/SparseVLMs", "26a5f48813c46cd1c7364160354e7fdd3febaa67", ("llava",)),
    "fastervlm": Source("Theia-4869/FasterVLM", "f5d5f12037e105a51865ecb4b28a73cd86eb4921", ("llava",)),
    "pyramiddrop": Source("Cooperx521/PyramidDrop", "6444f304aee4b7edcb022839fb9e8cd07859704a", ("llava",)),
}  # fmt: skip


def python_of(root: Path) -> Path:
    """The interpreter of the environment."""
    return root / "venv" / "bin" / "python"


def fetch(root: Path) -> None:
    """Fill a folder: `venv`, and the sources under `src`. What is there already stays.

    Raises GroundPruneError where git or pip fails.
    """
    for name, source in SOURCES.items():
        home = root / "src" / name
        if not home.is_dir():
            _checked_out(source, home)
    if not python_of(root).exists():
        venv.create(root / "venv", with_pip=True)
    _run([str(python_of(root)), "-m", "pip", "install", "--quiet", *PACKAGES])


def _checked_out(source: Source, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as name:
        git = ["git", "-C", name]
        _run([*git, "init", "--quiet"])
        _run([*git, "remote", "add", "origin", f"https://github.com/{source.repository}"])
        _run([*git, "sparse-checkout", "set", "--no-cone", *source.parts])
        _run([*git, "fetch", "--quiet", "--depth", "1", "--filter", "blob:none", "origin", source.commit])
        _run([*git, "checkout", "--quiet", "FETCH_HEAD"])
        Path(name).rename(home)
        Path(name).mkdir()  # for the context to remove


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise GroundPruneError(f"{command[0]} failed: {error}") from error
