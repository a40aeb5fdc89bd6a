"""Proofs that passed on this installation, and what runs on a vLLM that the tests have not seen: what was proven.

A proof counts for a family on one release of vLLM, of torch and of this package, and one kind of device. It is a file
in the folder of `cache_folder`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.running import why_ended
from groundprune.integrations.vllm.server import cache_folder
from groundprune.integrations.vllm.versions import SUPPORTED, check_version, is_tested
from groundprune.report.writing import replacing
from groundprune.version import __version__

UNPROVEN = "GROUNDPRUNE_VLLM_UNPROVEN"  # an environment variable: where it is 1, nothing has to be proven
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Installation:
    """vllm, torch, groundprune: versions. device: its name. runner: which of vLLM's model runners ran."""

    vllm: str
    torch: str
    groundprune: str
    device: str
    runner: str = ""

    def file(self, family: str) -> Path:
        """Where a proof of the family is stored."""
        # Whatever runner ran: an environment variable chooses it, of a vLLM that is the same.
        key = json.dumps([self.vllm, self.torch, self.groundprune, self.device, family])
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


def installation(config: Any = None) -> Installation:
    """This one; imports vLLM. config: the VllmConfig of an engine, which knows its runner.

    Raises GroundPruneError where vLLM cannot be imported.
    """
    import torch

    try:
        from vllm.platforms import current_platform
    except Exception as error:  # of whatever it loads
        raise why_ended(error) from error
    second = getattr(config, "use_v2_model_runner", False)
    device = current_platform.get_device_name()
    runner = "" if config is None else "v2" if second else "v1"
    return Installation(check_version(), torch.__version__, __version__, device, runner)


def check_proven(family: str) -> None:
    """Let a pruned model of the family run on this vLLM: one that the tests have seen, or that a proof is stored for.

    Raises GroundPruneError where it is neither, with the command to run.
    """
    version = check_version()
    if is_tested(version) or os.environ.get(UNPROVEN) == "1":
        return
    command = "groundprune verify --engine vllm"
    seen = f"vLLM {version} is none that groundprune's tests ran on ({', '.join(SUPPORTED)})"
    if not installation().proven(family):
        raise GroundPruneError(
            f"{seen}, and no proof of {family} is stored for it: run `{command} --family {family}`, or go without "
            f"({UNPROVEN}=1)"
        )
    _log.warning("%s; `%s` has passed for %s on this installation", seen, command, family)
