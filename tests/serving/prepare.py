"""Make the installed torchvision usable beside a torch without CUDA; run once, with the environment's own Python.

PyPI's torchvision holds its operators in a library that needs CUDA's torch. Its Python part, which is all that image
processors use, loads once the operators that it describes for torch.compile are declared, whoever implements them.
"""

import importlib.util
import os
from pathlib import Path

SCHEMAS = ("nms", "qnms")
MARK = "# declared here: the library of operators does not load\n"


def main() -> None:
    found = importlib.util.find_spec("torchvision")
    assert found is not None, "torchvision is not installed"
    assert found.origin is not None
    file = Path(found.origin).with_name("_meta_registrations.py")
    text = file.read_text(encoding="utf-8")
    if MARK in text:
        return
    declared = "".join(
        f'_ours.define("{n}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")\n' for n in SCHEMAS
    )
    shim = f'{MARK}import torch as _torch\n\n_ours = _torch.library.Library("torchvision", "FRAGMENT")\n{declared}'
    # A new file: pip may have linked the old one from its cache.
    draft = file.with_suffix(".draft")
    draft.write_text(shim + text, encoding="utf-8")
    os.replace(draft, file)


if __name__ == "__main__":
    main()
