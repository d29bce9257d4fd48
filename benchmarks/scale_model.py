"""What a run of very many images takes: the tables of docs/scale.md.

How many parts, tasks, objects and requests there are, follows from the pipeline's own functions and from how it reads
and writes. How long it takes, follows from what was measured, in scale_model.yaml.

    python benchmarks/scale_model.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from fruitpipe.numeric.moments import TOGETHER
from fruitpipe.objects.bucket import MOST_DELETED, PAGE_KEYS
from fruitpipe.objects.listing import AT_ONCE
from fruitpipe.pipeline.database import MEMORY, MEMORY_OF_ROW
from fruitpipe.pipeline.gathering import chunks
from fruitpipe.result.facts_index import FEWEST
from fruitpipe.result.long_lists import LONG
from fruitpipe.storage import layout, side_by_side
from fruitpipe.storage.file import File
from fruitpipe.tasks.feature_part import largest_feature_part, largest_task, part_sizes, task_sizes
from fruitpipe.tasks.reduce import vector_parts
from fruitpipe.tasks.shares import SHARES

KNOWN = yaml.safe_load(Path(__file__).with_name("scale_model.yaml").read_text())
MEASURED, ASSUMED = KNOWN["measured"], KNOWN["assumed"]
PRICES = yaml.safe_load(Path(__file__).with_name("prices.yaml").read_text())
MACHINE = PRICES["machines"][0]

IMAGES, CORES = (10**6, 10**7, 10**8, 10**9), (10, 100, 1000)
DIMENSION = 1280
READS_OF_A_SHARE = READS_OF_FACTS = 2
"""At most: the end of the file with its footer, and the rows, if they do not lie there, too."""
OTHER_OBJECTS = 10
"""Of a result of one run: its three documents, configuration, log, failures, report, and three files of the model."""


class Seconds(NamedTuple):
    """By what they are spent on."""

    listing: float
    planning: float
    facts: float
    """reading what new feature parts hold, back into the plan"""
    tasks: float
    """starting them"""
    deleting: float
    """temporary objects, one after the other"""
    work: float
    """of all cores together"""

    @property
    def driver(self) -> float:
        """In which the cores of the executors wait."""
        return sum(self) - self.work


@dataclass(frozen=True)
class Scale:
    """A run whose images are all new, on S3, in a region of its own."""

    images: int
    cores: int
    dimension: int = DIMENSION

    @cached_property
    def feature_tasks(self) -> list[int]:
        """Images of each."""
        return task_sizes(self.images, self.cores, largest_task(self.images, several=True))

    @cached_property
    def feature_parts(self) -> list[int]:
        """Images of each."""
        largest = largest_feature_part(self.images)
        return [rows for images in self.feature_tasks for rows in part_sizes(images, largest)]

    @cached_property
    def vector_parts(self) -> list[int]:
        return vector_parts(self.images, self.dimension)

    @property
    def additions(self) -> int:
        """Tasks that add moments."""
        level, tasks = len(self.vector_parts), 0
        while level > TOGETHER:
            level = math.ceil(level / TOGETHER)
            tasks += level
        return tasks

    @property
    def tasks(self) -> int:
        return len(self.feature_tasks) + 2 * len(self.vector_parts) + self.additions

    @cached_property
    def indexes(self) -> int:
        """Of facts, for the plans of later runs."""
        if len(self.feature_parts) < FEWEST:
            return 0
        return sum(1 for _ in chunks({str(number): size for number, size in enumerate(self.feature_parts)}))

    @property
    def objects(self) -> int:
        """That stay."""
        return len(self.feature_parts) + len(self.vector_parts) + self.indexes + self.lists_beside + OTHER_OBJECTS

    @property
    def lists_beside(self) -> int:
        """Lists of its manifest that are long."""
        return sum(len(parts) > LONG for parts in (self.feature_parts, self.vector_parts))

    @property
    def share_files(self) -> int:
        """That the driver puts, one after the other."""
        return math.ceil(len(self.feature_tasks) / SHARES) + math.ceil(len(self.vector_parts) / SHARES)

    @property
    def temporary_objects(self) -> int:
        return self.share_files + len(self.vector_parts) + self.additions

    @property
    def features_read(self) -> int:
        """Times that a vector part needs a feature part: both are slices of the same images in the same order."""
        ends = [np.cumsum(sizes) for sizes in (self.feature_parts, self.vector_parts)]
        return len(np.union1d(*ends))

    @property
    def reads(self) -> dict[str, int]:
        """GET requests to S3, by what they ask for, without the few dozen that every run has."""
        vectors = len(self.vector_parts)
        return {
            "images": self.images,
            "todo": len(self.feature_tasks) * READS_OF_A_SHARE,
            "facts": len(self.feature_parts) * READS_OF_FACTS,
            "index": 2 * vectors * READS_OF_A_SHARE,
            "features": 2 * self.features_read,
            "moments": vectors + self.additions,
        }

    @property
    def writes(self) -> int:
        """PUT requests, likewise."""
        parts = len(self.feature_parts) + len(self.vector_parts)
        return parts + self.indexes + self.lists_beside + self.temporary_objects

    @property
    def pages(self) -> int:
        """LIST requests, at least."""
        return math.ceil(self.images / PAGE_KEYS)

    @property
    def requests(self) -> int:
        return sum(self.reads.values()) + self.writes + self.pages

    @property
    def footers(self) -> float:
        """Bytes that all tasks read to find their shares."""
        todo, index = (listed_shares(len(tasks)) for tasks in (self.feature_tasks, self.vector_parts))
        return todo * MEASURED["todo_footer"] + 2 * index * MEASURED["index_footer"]

    @property
    def driver_memory(self) -> float:
        """Bytes. What tasks are to do is written a file of SHARES after the other, of which none is kept."""
        left = len(self.vector_parts) * MEASURED["errors_memory"]
        more = max(self.images - MEMORY // MEMORY_OF_ROW, 0) * MEASURED["plan_memory_beyond"]
        return MEASURED["plan_memory"] + more + MEASURED["spark_memory"] + left

    @property
    def driver_disk(self) -> float:
        return self.images * MEASURED["plan_disk"]

    @property
    def stored(self) -> float:
        """Bytes of features and vectors."""
        return self.images * (MEASURED["feature"] + MEASURED["vector"])

    @property
    def seconds(self) -> Seconds:
        answer = ASSUMED["answer"]
        return Seconds(
            listing=self.pages * answer / AT_ONCE,
            planning=self.images * MEASURED["plan"] + self.share_files * answer,
            facts=self.reads["facts"] * answer / side_by_side.AT_ONCE,
            tasks=self.tasks * MEASURED["task"],
            deleting=math.ceil(self.temporary_objects / MOST_DELETED) * answer,
            work=MEASURED["start"]
            + self.featurizing
            + self.images * (MEASURED["fit"] + MEASURED["project"])
            + self.tasks * MEASURED["task_of_worker"],
        )

    @property
    def featurizing(self) -> float:
        """Seconds of all cores."""
        return self.images / MEASURED["images"]

    @property
    def hours(self) -> float:
        return (self.seconds.driver + self.seconds.work / self.cores) / 3600

    @property
    def gets_a_second(self) -> float:
        """While images are read."""
        return self.cores * MEASURED["images"]

    @property
    def puts_a_second(self) -> float:
        """Of feature parts, meanwhile."""
        return len(self.feature_parts) / (self.featurizing / self.cores)

    @property
    def gets_of_result(self) -> float:
        """In a second, while moments are taken: of features and of the index."""
        asked = (self.reads["features"] + self.reads["index"]) / 2
        return asked / max(self.images * MEASURED["fit"] / self.cores, 1)

    @property
    def prefixes(self) -> int:
        """That images must be spread over, so that S3 takes as many requests."""
        return math.ceil(self.gets_a_second / ASSUMED["gets"])

    @property
    def hours_of_one_prefix(self) -> float:
        """With all images in one."""
        featurizing = max(self.images / ASSUMED["gets"], self.featurizing / self.cores)
        return self.hours + (featurizing - self.featurizing / self.cores) / 3600

    @property
    def dollars(self) -> float:
        """Of executors and a core of the driver, for as long as the run lasts, and of requests."""
        core, s3 = MACHINE["hour"] / MACHINE["cpus"], PRICES["s3"]
        asked = sum(self.reads.values()) * s3["get"] + (self.writes + self.pages) * s3["put"]
        return (self.cores + 1) * self.hours * core + asked / 1e6

    @property
    def manifest(self) -> int:
        """Bytes of the lists in it; long ones lie beside it."""
        part, run = layout.feature_part("0" * 16, []), "00000000-000000-0000"
        vectors = layout.within(run, layout.vectors(run, 0))
        file = File(name=vectors, rows=self.vector_parts[0], bytes=self.vector_parts[0] * 500, sha256="0" * 64)
        lists = (len(self.feature_parts), listed(part)), (len(self.vector_parts), listed(file.model_dump()))
        return sum(count * size for count, size in lists if count <= LONG)


def listed_shares(shares: int) -> int:
    """How many shares footers list to tasks, all in all: to each those of its file."""
    files, rest = divmod(shares, SHARES)
    return files * SHARES**2 + rest**2


def listed(entry: object) -> int:
    """Bytes of an entry in a list of a manifest."""
    return len(json.dumps({"list": [entry, entry]}, indent=2)) - len(json.dumps({"list": [entry]}, indent=2))


@cache
def first(breaks: Callable[[Scale], bool], cores: int = 100) -> float:
    """The least number of images at which something is so, to a hundredth."""
    low, high = 1e6, 2e9
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if breaks(Scale(int(middle), cores)) else (middle, high)
    return high


def millions(images: float) -> str:
    return "1 billion" if images == 10**9 else f"{images / 1e6:,.0f} million"


def table(names: list[str], lines: Iterable[Iterable[str]]) -> str:
    """Of numbers, but for the last column."""
    cells = [
        " | ".join(names),
        " | ".join(["---:"] * (len(names) - 1) + ["---"]),
        *(" | ".join(line) for line in lines),
    ]
    return "\n".join(f"| {line} |" for line in cells)


def lines() -> list[Scale]:
    return [Scale(images, cores) for images, cores in product(IMAGES, CORES)]


def counts() -> str:
    names = ["feature parts", "vector parts", "tasks", "objects", "requests", "driver, GB", "its disk, GB"]
    names += ["footers, GB", "stored, GB"]
    cells = [
        [
            *(f"{number:,}" for number in (len(each.feature_parts), len(each.vector_parts), each.tasks, each.objects)),
            f"{each.requests:,}",
            f"{each.driver_memory / 1e9:.1f}",
            *(f"{size / 1e9:,.1f}" for size in (each.driver_disk, each.footers, each.stored)),
        ]
        for each in lines()
    ]
    return extrapolated(names, cells)


def times() -> str:
    names = [
        "GET/s of images",
        "prefixes",
        "PUT/s",
        "GET/s of features",
        "driver alone, h",
        "hours",
        "hours, one prefix",
        "dollars",
    ]
    cells = [
        [
            f"{each.gets_a_second:,.0f}",
            f"{each.prefixes}",
            f"{each.puts_a_second:,.0f}",
            f"{each.gets_of_result:,.0f}",
            *(f"{hours:,.2f}" for hours in (each.seconds.driver / 3600, each.hours, each.hours_of_one_prefix)),
            f"{each.dollars:,.2f}",
        ]
        for each in lines()
    ]
    return extrapolated(names, cells)


def extrapolated(names: list[str], cells: list[list[str]]) -> str:
    known = [(millions(each.images), f"{each.cores:,}") for each in lines()]
    rows = [[*begin, *rest, "extrapolated"] for begin, rest in zip(known, cells, strict=True)]
    return table(["images", "cores", *names, ""], rows)


def checks() -> str:
    rows = [
        [
            f"{each['images']:,}",
            f"{each['seconds']:.1f}",
            f"{modelled(each):.1f}",
            f"{modelled(each) / each['seconds']:.2f}",
            each["of"],
            f"`{each['command']}`",
            "measured",
        ]
        for each in KNOWN["checks"]
    ]
    return table(["images", "CPU seconds", "by the model", "ratio", "of", "command", ""], rows)


def modelled(check: dict[str, Any]) -> float:
    """CPU seconds of what was measured."""
    rates = {"featurize": 1 / MEASURED["images"]} | {name: MEASURED[name] for name in ("plan", "fit", "project")}
    return float(check["images"] * rates[check["of"]])


LIMITS: list[tuple[str, Callable[[Scale], bool]]] = [
    ("the driver needs more than the 2 GiB that the chart gives it", lambda at: at.driver_memory > 2 << 30),
    ("on 100 cores, the driver alone takes an hour", lambda at: at.seconds.driver > 3600),
    ("the plan takes more than 50 GB of disk", lambda at: at.driver_disk > 50e9),
    ("names of vector parts no longer sort by their numbers", lambda at: len(at.vector_parts) > 100_000),
]


def limits() -> str:
    return table(["images, from", "what happens"], ([millions(first(breaks)), what] for what, breaks in LIMITS))


def main() -> None:
    print(checks(), counts(), times(), limits(), sep="\n\n")


if __name__ == "__main__":
    main()
