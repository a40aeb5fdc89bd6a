"""Pictures of named things and backgrounds, from packages of npm and Debian.

Fetch and unpack them once (see `PICTURES.md`); what scenes need is then kept in one file of the cache.
"""

import json
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from groundprune.errors import GroundPruneError

from .names import named

LARGEST = 96  # pixels of the longer side, as kept
FAINT = 40  # of 255: an opacity up to which pixels at the border do not count
BACKGROUND_HEIGHT = 300  # pixels, as kept
NPM = ("@lobehub/fluent-emoji-3d@1.1.0", "emoji-datasource-twitter@16.0.0", "emoji-datasource-google@16.0.0")
DEBIAN = ("tuxpaint-stamps-default", "mate-backgrounds", "ukui-wallpapers")
HELD_OUT_SET = "noto"  # the pictures of this set are never shown in training
# What training had of each set and package.
COUNTS = {
    "fluent": 231, "twemoji": 231, HELD_OUT_SET: 231, "tuxpaint": 152, "mate-backgrounds": 30, "ukui-wallpapers": 12,
}  # fmt: skip
_PHOTOGRAPHS = {"mate-backgrounds": "usr/share/backgrounds/mate/*/*", "ukui-wallpapers": "usr/share/backgrounds/*"}
_STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"


@dataclass(frozen=True)
class Pictures:
    """sprites: RGBA uint8 arrays by name and set. backgrounds: RGB uint8 arrays, in order of their file's name."""

    sprites: dict[str, dict[str, list[np.ndarray]]]
    backgrounds: list[np.ndarray]

    def of(self, name: str, held_out: bool = False) -> list[np.ndarray]:
        """Pictures of a name: those of training, or those of the held-out set."""
        sets = self.sprites[name]
        chosen = [HELD_OUT_SET] if held_out else [each for each in sets if each != HELD_OUT_SET]
        return [picture for each in chosen for picture in sets.get(each, [])]


def load_pictures(work: Path) -> Pictures:
    """What `WORK/pictures.npz` holds, made from the packages of `WORK/packages` where it is missing.

    Raises GroundPruneError where a package cannot be had.
    """
    kept = work / "pictures.npz"
    if not kept.is_file():
        packages = work / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        for package in NPM:
            _fetch_npm(packages, package)
        for package in DEBIAN:
            _fetch_debian(packages, package)
        arrays = {**_sprites(packages), **_backgrounds(packages)}
        _refuse_others(arrays)
        draft = kept.with_name("pictures.draft.npz")
        np.savez_compressed(draft, allow_pickle=False, **arrays)
        draft.replace(kept)
    sprites: dict[str, dict[str, list[np.ndarray]]] = {}
    backgrounds = []
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, name, of, _ = key.split("|")
                if kind == "sprite":
                    sprites.setdefault(name, {}).setdefault(of, []).append(arrays[key])
                else:
                    backgrounds.append(arrays[key])
    except (OSError, ValueError, BadZipFile) as error:
        raise GroundPruneError(f"{kept} cannot be read: remove it, and it is made anew") from error
    return Pictures(sprites, backgrounds)


def _refuse_others(arrays: Mapping[str, np.ndarray]) -> None:
    """Scenes are functions of these pictures, and which photographs are held out goes by their order."""
    found = Counter(key.split("|")[2] for key in arrays)
    if found != COUNTS:
        told = ", ".join(f"{of} {found[of]} of {count}" for of, count in COUNTS.items() if found[of] != count)
        raise GroundPruneError(f"the packages hold other pictures than training had, scenes would differ: {told}")


def _fetch_npm(packages: Path, package: str) -> None:
    folder = packages / package.replace("/", "+")
    if folder.is_dir():
        return
    told = _run(["npm", "pack", "--json", package], packages)
    archive = packages / json.loads(told)[0]["filename"].replace("/", "-").removeprefix("@")
    _unpack(["tar", "xzf", archive, "-C"], folder, packages)


def _fetch_debian(packages: Path, package: str) -> None:
    folder = packages / package
    if folder.is_dir():
        return
    _run(["apt-get", "download", package], packages)
    _unpack(["dpkg-deb", "-x", sorted(packages.glob(f"{package}_*.deb"))[-1]], folder, packages)


def _unpack(command: list, folder: Path, packages: Path) -> None:
    draft = folder.with_name(folder.name + ".draft")
    draft.mkdir(exist_ok=True)
    _run([*command, draft], packages)
    draft.rename(folder)


def _run(command: list, folder: Path) -> str:
    try:
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        by_hand = "(tools/smol/PICTURES.md says how to do it by hand)"
        raise GroundPruneError(f"the pictures need `{' '.join(map(str, command))}`: {said} {by_hand}") from None


def _sprites(packages: Path) -> dict[str, np.ndarray]:
    fluent, twitter, google = (packages / package.replace("/", "+") / "package" for package in NPM)
    emoji = {each["short_name"]: each for each in json.loads((google / "emoji.json").read_text())}
    kept = {}
    for each in named():
        codes = [emoji[short] for short in each.emoji]
        files = {
            "fluent": [
                next((f for c in _codes(code) if (f := fluent / "assets" / f"{c}.webp").is_file()), None)
                for code in codes
            ],
            "twemoji": [twitter / "img" / "twitter" / "64" / code["image"] for code in codes],
            HELD_OUT_SET: [google / "img" / "google" / "64" / code["image"] for code in codes],
            "tuxpaint": [packages / _STAMPS / f"{stamp}.png" for stamp in each.stamps],
        }
        for of, paths in files.items():
            for index, path in enumerate(path for path in paths if path and path.is_file()):
                kept[f"sprite|{each.name}|{of}|{index}"] = _cropped(Image.open(path).convert("RGBA"))
    return kept


def _codes(code: dict) -> tuple[str, str]:
    full = code["unified"].lower()
    return full, full.removesuffix("-fe0f")


def _cropped(image: Image.Image) -> np.ndarray:
    alpha = np.asarray(image.getchannel("A"))
    rows, columns = (np.flatnonzero((alpha > FAINT).any(axis)) for axis in (1, 0))
    image = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    scale = LARGEST / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    return np.asarray(image)


def _backgrounds(packages: Path) -> dict[str, np.ndarray]:
    kept = {}
    for package, pattern in _PHOTOGRAPHS.items():
        for path in sorted((packages / package).glob(pattern)):
            if path.suffix in (".jpg", ".png"):
                image = Image.open(path).convert("RGB")
                size = (round(image.width * BACKGROUND_HEIGHT / image.height), BACKGROUND_HEIGHT)
                kept[f"background|{path.stem}|{package}|0"] = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    return kept
