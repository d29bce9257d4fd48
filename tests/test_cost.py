"""The page on cost: its figures follow from the rates beside them and from the prices that it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/cost.md").read_text()
PRICES = yaml.safe_load((ROOT / "benchmarks/prices.yaml").read_text())
ROWS = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", PAGE, re.MULTILINE)]


def test_the_prices_are_those_of_the_day_it_says() -> None:
    assert f"{PRICES['date']}" in PAGE
    assert ROWS[0][2:] == [f"{each['name']}, {each['provider']}" for each in PRICES["machines"]]


@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: row[0])
def test_images_for_a_dollar_follow_from_rate_and_price(row: list[str]) -> None:
    """Up to the rounding of the rate, to a tenth of an image."""
    rate, *given = (float(cell.replace(",", "")) for cell in row[1:])
    for images, machine in zip(given, PRICES["machines"], strict=True):
        cores = machine["cpus"] * 3600 / machine["hour"]
        assert abs(images - rate * cores) <= 0.05 * cores + 1
