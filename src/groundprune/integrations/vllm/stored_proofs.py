"""Proofs that passed on this installation, and what runs on a vLLM that the tests have not seen: what was proven.

A proof counts for a family on one release of vLLM, of torch and of this package, one kind of device, and one
of vLLM's model runners, which place tokens by code of their own. It is a file in the folder of `cache_folder`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundprune.caches import cache_folder
from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.running import why_ended
from groundprune.integrations.vllm.versions import SUPPORTED, check_version, is_tested
from groundprune.report.writing import replacing
from groundprune.version import __version__

RUNNERS = {"v1": "0", "v2": "1"}  # and what SWITCH is for each
SWITCH = "VLLM_USE_V2_MODEL_RUNNER"  # vLLM's own environment variable; without it the engine's settings decide
UNPROVEN = "GROUNDPRUNE_VLLM_UNPROVEN"  # an environment variable: where it is 1, nothing has to be proven
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Installation:
    """vllm, torch, groundprune: versions. device: its name. runner: which of vLLM's model runners, of RUNNERS."""

    vllm: str
    torch: str
    groundprune: str
    device: str
    runner: str

    def file(self, family: str) -> Path:
        """Where a proof of the family is stored."""
        key = json.dumps([*asdict(self).values(), family])
        digest = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
        return cache_folder() / "proofs" / f"vllm-{self.vllm}-{family}-{digest}.json"

    def proven(self, family: str) -> bool:
        return self.file(family).is_file()

    def remember(self, family: str) -> None:
        """Raises OSError where the disk refuses."""
        file = self.file(family)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            draft.write_text(json.dumps({"family": family, **asdict(self)}, indent=2) + "\n", encoding="utf-8")

    def forget(self, family: str) -> None:
        """Raises OSError where the disk refuses."""
        self.file(family).unlink(missing_ok=True)


def installation(config: Any) -> Installation:
    """This one. config: the VllmConfig of an engine. Raises GroundPruneError where vLLM cannot be imported."""
    return _installation("v2" if getattr(config, "use_v2_model_runner", False) else "v1")


def may_be_proven(family: str) -> bool:
    """Whether a proof is stored for the model runner that SWITCH names, or for any: an engine knows its own.

    Raises GroundPruneError where vLLM cannot be imported.
    """
    named = [runner for runner, value in RUNNERS.items() if os.environ.get(SWITCH) == value]
    return any(_installation(runner).proven(family) for runner in named or RUNNERS)


def _installation(runner: str) -> Installation:
    import torch

    try:
        from vllm.platforms import current_platform
    except Exception as error:  # of whatever it loads
        raise why_ended(error) from error
    return Installation(check_version(), torch.__version__, __version__, current_platform.get_device_name(), runner)


def check_proven(family: str, config: Any) -> None:
    """Let a pruned model of the family run on this vLLM: one that the tests have seen, or that a proof is stored for.

    config: the VllmConfig of its engine.

    Raises GroundPruneError where it is neither, with the command to run.
    """
    version = check_version()
    if is_tested(version) or os.environ.get(UNPROVEN) == "1":
        return
    here = installation(config)
    command = f"{SWITCH}={RUNNERS[here.runner]} groundprune verify --engine vllm --family {family}"
    seen = f"vLLM {version} is none that groundprune's tests ran on ({', '.join(SUPPORTED)})"
    if not here.proven(family):
        raise GroundPruneError(
            f"{seen}, and no proof of {family} is stored for it and its model runner {here.runner}: run `{command}`, "
            f"or go without ({UNPROVEN}=1)"
        )
    _log.warning("%s; `%s` has passed on this installation", seen, command)
