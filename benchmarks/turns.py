"""The same images featurized with something and without it, in turns, as a worker does, in one process.

Groups are short, so that the machine's drift meets both alike. What counts is CPU time, which others on the machine
have no part in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fruitpipe.source.fetching import Image


def in_turns(
    paths: list[Path], together: int, seconds: Callable[[list[Image], bool], float], rounds: int = 1
) -> list[tuple[float, float]]:
    """What `seconds` says of each group in each round, with and without; which comes first changes each time.

    together: images of a group.
    """
    images = [Image(str(path)) for path in paths]
    groups = [images[first : first + together] for first in range(0, len(images), together)]
    seconds(groups[0], True)
    spent = []
    for number in range(rounds):
        for place, group in enumerate(groups):
            order = (True, False) if (place + number) % 2 else (False, True)
            found = {each: seconds(group, each) for each in order}
            spent.append((found[True], found[False]))
    return spent
