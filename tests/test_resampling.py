"""Resampling by compiled code, against Pillow's."""

from __future__ import annotations

import os
import shutil
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
from fruitpipe.vision.resampling import FILTERS, SOURCE, STRIP, Filter, Library, compiled_file, filtering, resample

SIZES = st.one_of(st.integers(1, 9), st.integers(1, 700))
MODES = st.sampled_from(["RGB", "L"])


@pytest.fixture(scope="module")
def compiled() -> Library:
    return resampling.library() or unavailable("resample.c is not compiled: python -m fruitpipe.vision.compile")


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
    right, lower = draw(st.floats(left, width)), draw(st.floats(upper, height))
    return width, height, (left, upper, right, lower)


@pytest.mark.usefixtures("compiled")
@settings(max_examples=400, deadline=None)
@given(boxes(), st.tuples(SIZES, SIZES), st.sampled_from(sorted(FILTERS)), MODES, st.integers(0))
def test_has_the_bits_of_pillow(
    picture: tuple[int, int, resampling.Box], size: tuple[int, int], name: Filter, mode: str, seed: int
) -> None:
    width, height, box = picture
    image = noise(width, height, mode, seed)
    found = resample(image, size, name, box)
    assert found.shape == (size[1], size[0], 3)[: 3 if mode == "RGB" else 2]
    assert np.array_equal(found, by_pillow(image, size, name, box))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("width", "height"), [(STRIP + 1, 3), (3, STRIP + 1), (700, 900), (1800, 1200), (500, 2500), (70_001, 4)]
)
def test_pictures_of_several_strips_have_them_too(width: int, height: int, mode: str) -> None:
    image = noise(width, height, mode, 1)
    for size, box in product(((224, 224), (3, 300)), ((0, 0, width, height), (0.4, 1.3, width - 1, height - 0.2))):
        for name in FILTERS:
            assert np.array_equal(resample(image, size, name, box), by_pillow(image, size, name, box))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("box", [(0, 0, 10.01, 10), (0, -0.01, 10, 10), (10.2, 0, 10.9, 10), (7, 0, 6, 10)])
def test_a_box_beyond_the_picture_is_refused_as_pillow_does(box: resampling.Box) -> None:
    for way in (resample, by_pillow):
        with pytest.raises(ValueError, match=r"."):
            way(noise(10, 10, "RGB", 0), (5, 5), "bicubic", box)


@pytest.mark.usefixtures("compiled")
def test_the_order_of_both_axes_is_pillows() -> None:
    """Which rounds to whole levels between them: of sizes around where it changes."""
    for size, more in product([(40, 30), (90, 20)], range(-2, 3)):
        for width in range(size[0] - 5, size[0] + 6):
            height = size[1] + max(2 * (width - size[0]), 0) + more
            image = noise(width, height, "L", width)
            whole = (0, 0, width, height)
            assert np.array_equal(resample(image, size, "bicubic", whole), by_pillow(image, size, "bicubic", whole))


@pytest.mark.usefixtures("compiled")
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


def test_what_cannot_be_loaded_is_told_once_and_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another machine, or where no more memory may be had."""
    (tmp_path / "resample.so").touch()
    monkeypatch.setattr(resampling, "compiled_file", lambda: tmp_path / "resample.so")
    resampling.library.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Pillow resamples, in the same bits, but it takes longer: .*too short"):
            found = resampling.library()
        assert (found, resampling.library()) == (None, None)
    finally:
        resampling.library.cache_clear()


@pytest.fixture(scope="module")
def compiler() -> str:
    return shutil.which("cc") or unavailable("no C compiler")


def compile_to(file: Path, compiler: str, *options: str) -> Path:
    subprocess.run([compiler, "-std=c11", *options, "-shared", "-fPIC", "-o", file, SOURCE], check=True)
    return file


@pytest.mark.parametrize(("compiler", "said"), [("cc-of-nobody", "no cc-of-nobody: install"), ("false", "false ended")])
def test_compiling_says_what_is_missing(compiler: str, said: str) -> None:
    before = compiled_file().exists()
    command = [sys.executable, "-P", "-m", "fruitpipe.vision.compile"]
    done = subprocess.run(command, env=os.environ | {"CC": compiler}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.endswith("Pillow gives the same.\n")
    assert compiled_file().exists() == before


def test_the_code_has_no_warnings(compiler: str) -> None:
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
    subprocess.run([compiler, "-std=c11", *warnings, "-fsyntax-only", SOURCE], check=True)


def test_all_processors_give_the_same(tmp_path: Path, compiler: str, compiled: Library) -> None:
    plain = Library(compile_to(tmp_path / "plain.so", compiler, "-O3", "-DONE_PROCESSOR"))
    for mode in ("RGB", "L"):
        pixels = np.asarray(noise(301, 203, mode, 5))
        across, down = filtering("bicubic", 301, 0, 301, 224), filtering("bicubic", 203, 0, 203, 224)
        columns = plain.across(pixels, across)
        assert np.array_equal(columns, compiled.across(pixels, across))
        assert np.array_equal(plain.down(columns, down), compiled.down(columns, down))


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O3"])
def test_it_stays_within_its_arrays(tmp_path: Path, compiler: str, level: str) -> None:
    """Under the sanitizers of addresses and of undefined behaviour, which end a process that does not."""
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    library = compile_to(tmp_path / "resample.so", compiler, level, *sanitizers)
    preload = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
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
