"""Near-duplicates and wrong labels that are planted among images, for benchmarks and tests of what finds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common import EXTENSIONS
from PIL import Image, ImageDraw, ImageOps


def cropped(image: Image.Image) -> Image.Image:
    """Without 5 % of its width and of its height, half on each side."""
    width, height = image.size
    return image.crop((round(0.025 * width), round(0.025 * height), round(0.975 * width), round(0.975 * height)))


def resized(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((max(round(factor * image.width), 1), max(round(factor * image.height), 1)))


def watermarked(image: Image.Image) -> Image.Image:
    marked = image.copy()
    ImageDraw.Draw(marked).text(
        (image.width // 4, image.height // 2), "SAMPLE", fill="white", stroke_width=1, stroke_fill="grey"
    )
    return marked


def same(image: Image.Image) -> Image.Image:
    return image


KINDS: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "quality 30": (same, 30),
    "quality 60": (same, 60),
    "quality 95": (same, 95),
    "resized 0.3": (resized(0.3), 95),
    "resized 0.5": (resized(0.5), 95),
    "resized 2": (resized(2), 95),
    "cropped": (cropped, 95),
    "mirrored": (ImageOps.mirror, 95),
    "grey": (lambda image: ImageOps.grayscale(image).convert("RGB"), 95),
    "watermarked": (watermarked, 95),
}
"""What is done to an image, and the quality in which it is then saved."""


def listed(images: Path) -> list[Path]:
    return sorted(path for path in images.rglob("*") if path.suffix.lower() in EXTENSIONS)


def plant(images: Path, into: Path, every: int = 5) -> dict[str, tuple[str, str]]:
    """Copy images, and beside every few of them one that was made of it, of each kind in turn.

    Names are new ones, without repetition. Returns of each planted image that of its source, and its kind.
    """
    planted = {}
    for number, path in enumerate(listed(images)):
        folder = into / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{number:06}{path.suffix}"
        (folder / name).write_bytes(path.read_bytes())
        if number % every == 0:
            kind = list(KINDS)[number // every % len(KINDS)]
            change, quality = KINDS[kind]
            copy = f"{number:06}-{kind.replace(' ', '-')}.jpg"
            with Image.open(path) as image:
                change(image.convert("RGB")).save(folder / copy, "JPEG", quality=quality)
            planted[copy] = (name, kind)
    return planted


def swapped(images: Path, into: Path, share: float) -> set[str]:
    """Copy images, a share of them, evenly spaced, to the folder of another label; return these images' new names."""
    paths = listed(images)
    labels = sorted({path.parent.name for path in paths})
    step = round(1 / share)
    wrong = set()
    for number, path in enumerate(paths):
        label, name = path.parent.name, f"{number:06}{path.suffix}"
        if number % step == step // 2:
            label = labels[(labels.index(label) + 1 + number // step) % len(labels)]
            if label != path.parent.name:
                wrong.add(name)
        (into / label).mkdir(parents=True, exist_ok=True)
        (into / label / name).write_bytes(path.read_bytes())
    return wrong
