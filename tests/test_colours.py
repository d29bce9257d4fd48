"""Every way that containers write colours gives the RGB of the values that were written, or a reason why not."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import colours
import numpy as np
import pytest
from colours import Case

from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decode import decode
from fruitpipe.vision.formats import EXTENSIONS

CASES = list(colours.all_cases())
PAGE = Path(__file__).parents[1] / "docs" / "images.md"
ROUNDING = 2.5 / 255
"""A level for each rounding to 8 bits, and one where a premultiplied colour is divided by its alpha in 8 bits."""


LOSSY = 20 / 255
"""What 4:1:1 loses of these pictures' colours, and more; to take values for others makes a hundred levels."""


def is_right(case: Case) -> bool:
    """Whether the picture is what a viewer shows; False where it is refused. Fails where it is something else."""
    try:
        found = decode(case.data, colours.SIDE, ImageConfig()).pixels / 255
    except BadImage:
        return False
    assert case.seen is not None, f"{case.kind} has no defined colours and is to be refused"
    np.testing.assert_allclose(
        found,
        case.seen,
        atol=LOSSY if case.lossy else ROUNDING,
        err_msg=f"{case.container}, {case.kind}, {case.variant}",
    )
    return True


def outcome(cases: list[Case]) -> str:
    """In words, of cases that differ only in how they are stored."""
    refused = {case.variant for case in cases if not is_right(case)}
    if len(refused) == len(cases):
        return "refused"
    stored = sorted({without_order(variant, refused) for variant in refused})
    return f"right; refused: {', '.join(stored)}" if stored else "right"


def without_order(variant: str, among: set[str]) -> str:
    """A variant of a TIFF, without its order of bytes where that makes no difference."""
    order, _, rest = variant.partition(" ")
    return rest if {f"II {rest}", f"MM {rest}"} <= among else f"{rest}, {order}"


def table() -> list[str]:
    """Rows of the page's table."""
    bits: dict[tuple[str, str, str], list[int]] = {}
    for (container, kind, each), of in groupby(sorted(CASES, key=lambda case: case[:3]), key=lambda case: case[:3]):
        bits.setdefault((container, kind, outcome(list(of))), []).append(each)
    return [
        f"| {container} | {kind} | {', '.join(map(str, all_bits))} | {said} |"
        for (container, kind, said), all_bits in bits.items()
    ]


def test_every_picture_is_what_a_viewer_shows_or_refused_and_the_table_in_the_docs_says_which() -> None:
    said = re.findall(r"^\| (?!container)[A-Z].*(?:right|refused).*\|$", PAGE.read_text(), re.MULTILINE)
    assert said == table()


def test_the_page_names_all_extensions_by_which_files_are_taken_for_images() -> None:
    said = re.search(r"whose names end in ([^;]+);", PAGE.read_text())
    assert said
    assert sorted(re.findall(r"\.\w+", said[1])) == sorted(EXTENSIONS)


@pytest.mark.parametrize("container", ["BMP", "PNG", "TIFF"])
def test_all_that_is_common_is_right(container: str) -> None:
    for case in CASES:
        if case.container == container and case.kind in {"grey", "RGB", "RGB with alpha", "palette"} and case.bits == 8:
            assert is_right(case), case.variant


if __name__ == "__main__":
    print("\n".join(table()))
