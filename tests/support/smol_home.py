"""What stands in for a smol that was put together: the pocket under its name, and samples about one grey picture."""

import json
import shutil

from PIL import Image

from groundprune import pocket, smol


def put_together():
    """In $XDG_CACHE_HOME; each split has eight expressions and two questions. Returns where."""
    home = smol.home()
    shutil.copytree(pocket.checkpoint_path(), home / "checkpoint")
    tests = home / "tests"
    tests.mkdir()
    Image.new("RGB", (144, 144), "grey").save(tests / "a.png")
    rows = [{"id": f"thing-{i}", "expression": f"thing {i}", "bbox": [0, 0, 9, 9]} for i in range(8)]
    rows += [{"question": f"which {i}?", "answer": "one"} for i in range(2)]
    for split in smol.SPLITS:
        (tests / f"{split}.jsonl").write_text("".join(json.dumps({"image": "a.png", **row}) + "\n" for row in rows))
    (home / smol.MADE_OF).write_text(smol.digest(smol.PACKED))
    return home
