"""Draw small pictures of "fruits" of several varieties: a data set for demos and tests that needs no download."""

from __future__ import annotations

import colorsys
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

NAMES = ("Apple", "Banana", "Blueberry", "Grape", "Kiwi", "Lemon", "Lime", "Mango", "Orange", "Peach", "Pear", "Plum")
SIZE = 100


def draw(folder: Path, varieties: int = 8, each: int = 40, seed: int = 0) -> int:
    """Write `each` JPEGs of every variety, in a folder named after it; return how many."""
    for index, name in enumerate(NAMES[:varieties]):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        chance = random.Random(f"{seed} {name}")
        for number in range(each):
            fruit(index / varieties, chance).save(target / f"{name.lower()}_{number:03d}.jpg", quality=92)
    return min(varieties, len(NAMES)) * each


def fruit(hue: float, chance: random.Random) -> Image.Image:
    """A shaded, freckled ellipse with a stalk, on white, turned and placed a little differently each time."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    pen = ImageDraw.Draw(image)
    wide = 0.28 + 0.16 * ((hue * 7) % 1)
    width, height = wide * SIZE, (0.66 - wide) * SIZE * chance.uniform(0.95, 1.05)
    x, y = SIZE / 2 + chance.uniform(-4, 4), SIZE / 2 + chance.uniform(-4, 4)
    for ring in range(20):
        shrink = 1 - ring / 22
        colour = shade(hue + chance.uniform(-0.01, 0.01), 0.55 + ring / 50)
        shift = ring * 0.5
        pen.ellipse(
            (
                x - width * shrink - shift,
                y - height * shrink - shift,
                x + width * shrink - shift,
                y + height * shrink - shift,
            ),
            fill=colour,
        )
    for _ in range(int(40 * ((hue * 3) % 1))):
        dot_x, dot_y = x + chance.gauss(0, width / 2.5), y + chance.gauss(0, height / 2.5)
        pen.ellipse((dot_x - 1, dot_y - 1, dot_x + 1, dot_y + 1), fill=shade(hue + 0.08, 0.4))
    pen.line((x, y - height, x + chance.uniform(-6, 6), y - height - 10), fill=(90, 60, 30), width=3)
    return image.rotate(chance.uniform(-180, 180), Image.Resampling.BICUBIC, fillcolor="white").filter(
        ImageFilter.GaussianBlur(0.6)
    )


def shade(hue: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, 0.8, min(value, 1))
    return round(255 * red), round(255 * green), round(255 * blue)


if __name__ == "__main__":
    print(f"{draw(Path(sys.argv[1]))} pictures in {sys.argv[1]}")
