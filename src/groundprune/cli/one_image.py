"""What `ground` and `ask` share: one image, one request, one answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundprune.cli.console import open_model, save_image, writable_image
from groundprune.cli.options import Pruning
from groundprune.errors import GroundPruneError

if TYPE_CHECKING:
    from PIL import Image

    from groundprune.answers import Answer

ImageArgument = Annotated[Path, typer.Argument(help="Any image that Pillow reads.", show_default=False)]
OverlayOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where to write the overlay.", show_default=False)
]


@dataclass(frozen=True, eq=False)
class Request:
    """What the command line asks. kind: see `answer`. overlay: where it is drawn, None = nowhere."""

    image: Path
    text: str
    kind: str
    model: str
    pruning: Pruning
    text_tower: str | None
    overlay: Path | None

    def answered(self, device: str | None, dtype: str) -> Reply:
        """Load the model and ask it. Everything that can be refused without the model is refused before."""
        from groundprune.boxes.images import load_image

        target = self.overlay
        if target is not None and target.exists() and self.image.exists() and target.samefile(self.image):
            raise GroundPruneError(f"--out {target} is the image itself and would be overwritten")
        picture = load_image(self.image)
        if target is not None:
            writable_image(target)
        from groundprune.answers import answer

        model, processor = open_model(self.model, device, dtype)
        pruning = self.pruning.on(model.config)
        policy = pruning.policy or "preserved"
        said = answer(model, processor, picture, self.text, self.kind, pruning.pruner, policy, self.text_tower)
        return Reply(self, picture, said, pruning, model, processor)


@dataclass(frozen=True, eq=False)
class Reply:
    """What was said, and what said it. pruning: that of the request, on this model."""

    request: Request
    picture: Image.Image
    said: Answer
    pruning: Pruning
    model: Any
    processor: Any

    def draw(self, target: Path) -> None:
        """The box and the kept tokens over the image."""
        from groundprune.report import overlay

        said, policy = self.said, self.pruning.policy
        colour = overlay.PRESERVED
        if policy is None:
            colour = overlay.UNPRUNED
        elif policy.name != "preserved":
            colour = overlay.REASSIGNED
        boxes = [] if said.box is None else [(said.box, self.request.text, colour)]
        kept = None if said.kept is None else overlay.KeptMap(said.kept, said.frame)
        caption = "" if kept is None else overlay.CAPTION
        save_image(overlay.draw_overlay(self.picture, boxes, kept, caption=caption), target)

    def to_json(self) -> dict[str, Any]:
        """Of both commands; what was asked is added by each under a name of its own."""
        said, asked = self.said, self.request
        return {
            "image": str(asked.image),
            "size": list(self.picture.size),
            "answer": said.text,
            "box": None if said.box is None else [round(edge, 2) for edge in said.box],
            "visual_tokens": {"kept": said.kept_tokens, "total": said.total_tokens},
            "settings": {"model": asked.model, **self.pruning.settings(), "text_tower": asked.text_tower},
            "overlay": None if asked.overlay is None else str(asked.overlay),
        }
