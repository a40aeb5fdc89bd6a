"""`convert`: checkpoints for groundprune from the files that the authors of older models published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundprune.cli.console import quieten

if TYPE_CHECKING:
    from groundprune.models.convert import Conversion

app = typer.Typer(help="Make a checkpoint from the files that an older model's authors published.")

OutArgument = Annotated[Path, typer.Argument(help="The folder to write; it must not exist.", show_default=False)]


@app.command()
def shikra(
    out: OutArgument,
    delta: Annotated[Path, typer.Option("--delta", help="Folder of shikras/shikra-7b-delta-v1.", show_default=False)],
    base: Annotated[
        Path,
        typer.Option("--base", help="Folder of LLaMA-7B (version 1) with tokenizer.json.", show_default=False),
    ],
    clip: Annotated[
        Path, typer.Option("--clip", help="Folder of openai/clip-vit-large-patch14.", show_default=False)
    ],
) -> None:
    """Shikra-7B: base plus delta, and the CLIP tower. The same call goes on where it was interrupted.

    [dim]groundprune convert shikra --delta shikra-7b-delta-v1 --base llama-7b
    --clip clip-vit-large-patch14 shikra-7b[/]
    """
    quieten()
    from groundprune.models.convert import convert_shikra

    _print(convert_shikra(delta, base, clip, out, progress=_progress))


@app.command("minigpt-v2")
def minigpt_v2(
    out: OutArgument,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", help="minigptv2_checkpoint.pth, or one of your own.", show_default=False)
    ],
    eva: Annotated[Path, typer.Option("--eva", help="eva_vit_g.pth, as LAVIS stores it.", show_default=False)],
    llama: Annotated[
        Path, typer.Option("--llama", help="Folder of Llama-2-7b-chat-hf with tokenizer.json.", show_default=False)
    ],
    lora_alpha: Annotated[
        float | None, typer.Option("--lora-alpha", help="Default: what the checkpoint says, else 16.")
    ] = None,
    image_size: Annotated[
        int, typer.Option("--image-size", min=1, help="Pixels of the square that the tower sees.")
    ] = 448,
    tower_depth: Annotated[int, typer.Option("--tower-depth", min=1, help="Blocks of the tower that are used.")] = 39,
    tower_heads: Annotated[int, typer.Option("--tower-heads", min=1, help="Attention heads of the tower.")] = 16,
) -> None:
    """MiniGPT-v2: Llama-2-chat with its LoRA merged, and EVA ViT-g. The same call goes on where it was interrupted.

    [dim]groundprune convert minigpt-v2 --checkpoint minigptv2_checkpoint.pth --eva eva_vit_g.pth
    --llama Llama-2-7b-chat-hf minigpt-v2[/]
    """
    quieten()
    from groundprune.models.convert import convert_minigpt_v2

    _print(
        convert_minigpt_v2(
            checkpoint, eva, llama, out, lora_alpha, image_size, tower_depth, tower_heads, progress=_progress
        )
    )


def _progress(done: int, of: int) -> None:
    typer.echo(f"shard {done} of {of}", err=True)


def _print(conversion: Conversion) -> None:
    for line in conversion.lines:
        typer.echo(line)
    typer.echo(f"wrote  {conversion.folder}")
