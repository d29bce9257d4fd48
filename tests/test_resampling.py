"""Resampling by compiled code, against Pillow's."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import unavailable
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fruitpipe.vision import resampling
from fruitpipe.vision.resampling import FILTERS, LIBRARY, STRIP, Filter, resample

SIZES = st.one_of(st.integers(1, 9), st.integers(1, 700))
MODES = st.sampled_from(["RGB", "L"])


@pytest.fixture(autouse=True)
def compiled() -> None:
    if not LIBRARY.exists():
        unavailable("resample.c is not compiled: python -m fruitpipe.vision.compile")


def noise(width: int, height: int, mode: str, seed: int) -> Image.Image:
    """All levels, and steep edges, beyond which bicubic sums are."""
    levels = np.random.default_rng(seed).integers(-80, 336, (height, width, 3)).clip(0, 255)
    return Image.fromarray(levels.astype(np.uint8)).convert(mode)


def by_pillow(image: Image.Image, size: tuple[int, int], name: Filter, box: resampling.Box) -> resampling.Pixels:
    return np.asarray(image.resize(size, FILTERS[name], box))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, tuple[float, float, float, float]]:
    """A picture's width and height, and a box within it: the whole, or one with any edges."""
    width, height = draw(SIZES), draw(SIZES)
    if draw(st.booleans()):
        return width, height, (0, 0, width, height)
    left, upper = (draw(st.floats(0, length - 0.5)) for length in (width, height))
    right, lower = draw(st.floats(left + 0.25, width)), draw(st.floats(upper + 0.25, height))
    return width, height, (left, upper, right, lower)


@settings(max_examples=400, deadline=None)
@given(boxes(), st.tuples(SIZES, SIZES), st.sampled_from(sorted(FILTERS)), MODES, st.integers(0))
def test_has_the_bits_of_pillow(
    picture: tuple[int, int, resampling.Box], size: tuple[int, int], name: Filter, mode: str, seed: int
) -> None:
    width, height, box = picture
    image = noise(width, height, mode, seed)
    assert resampling.library()
    found = resample(image, size, name, box)
    assert found.shape == (size[1], size[0], 3)[: 3 if mode == "RGB" else 2]
    assert np.array_equal(found, by_pillow(image, size, name, box))


@pytest.mark.parametrize(
    ("width", "height"), [(STRIP + 1, 3), (3, STRIP + 1), (STRIP // 100, 100), (700, 900), (1800, 1200), (500, 2500)]
)
def test_pictures_of_several_strips_have_them_too(width: int, height: int) -> None:
    image = noise(width, height, "RGB", 1)
    for size, box in product(((224, 224), (3, 300)), ((0, 0, width, height), (0.4, 1.3, width - 1, height - 0.2))):
        assert np.array_equal(resample(image, size, "bicubic", box), by_pillow(image, size, "bicubic", box))


def test_the_order_of_both_axes_is_pillows() -> None:
    """Which rounds to whole levels between them: of sizes around where it changes."""
    for size, more in product([(40, 30), (90, 20)], range(-2, 3)):
        for width in range(size[0] - 5, size[0] + 6):
            height = size[1] + max(2 * (width - size[0]), 0) + more
            image = noise(width, height, "L", width)
            whole = (0, 0, width, height)
            assert np.array_equal(resample(image, size, "bicubic", whole), by_pillow(image, size, "bicubic", whole))


def test_where_it_is_not_compiled_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    image, asked = noise(50, 40, "RGB", 2), ((20, 30), "bilinear", (1.5, 2, 40, 30))
    found = resample(image, *asked)  # type: ignore[arg-type]
    called: list[Any] = []
    resize = Image.Image.resize

    def watched(*all_of: Any, **named: Any) -> Image.Image:
        called.append(all_of)
        return resize(*all_of, **named)

    monkeypatch.setattr(Image.Image, "resize", watched)
    monkeypatch.setattr(resampling, "library", lambda: None)
    assert np.array_equal(resample(image, *asked), found)  # type: ignore[arg-type]
    assert called


def test_compiling_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "fruitpipe.vision.compile"]
    done = subprocess.run(
        command, env=os.environ | {"CC": str(tmp_path / "cc")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: no {tmp_path / 'cc'}: install a C compiler, or go without: Pillow gives the same.\n"


def test_the_code_has_no_warnings() -> None:
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror", "-fsyntax-only"]
    subprocess.run([*command, LIBRARY.with_suffix(".c")], check=True)


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O3"])
def test_it_stays_within_its_arrays(tmp_path: Path, level: str) -> None:
    """Under the sanitizers of addresses and of undefined behaviour, which end a process that does not."""
    library = tmp_path / "resample.so"
    options = ["-std=c11", level, "-shared", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["cc", *options, "-o", library, LIBRARY.with_suffix(".c")], check=True)
    preload = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = os.environ | {"LD_PRELOAD": preload.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHIN, library], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


WITHIN = """
import sys
from pathlib import Path

import numpy as np
from fruitpipe.vision.resampling import Library, filtering

library = Library(Path(sys.argv[1]))
draw = np.random.default_rng(0)
for bands in ((), (3,)):
    for _ in range(60):
        height, width, down, across = draw.integers(1, draw.choice([8, 90, 400]), 4).tolist()
        pixels = draw.integers(0, 256, (height, width, *bands), np.uint8)
        for name in ("bicubic", "bilinear"):
            columns = library.across(pixels, filtering(name, width, 0, width, across))
            library.down(columns, filtering(name, height, 0.25, height, down))
print("done")
"""
