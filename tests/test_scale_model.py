"""The model of docs/scale.md: it counts what a real run makes and asks for, and agrees with what was measured."""

from __future__ import annotations

import hashlib
import io
import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scale
import scale_model
from command import BACKBONE, fruitpipe
from faults import Forwarded, Proxy
from published import RELEASED
from s3 import objects, options, upload
from scale_model import KNOWN, MEASURED, Scale
from seaweed import BUCKET

from fruitpipe.config import S3Config
from fruitpipe.numeric.moments import Moments
from fruitpipe.objects.file import BUFFER
from fruitpipe.pipeline.plan import Plan
from fruitpipe.result.long_lists import LONG
from fruitpipe.result.manifest import Manifest
from fruitpipe.spark.cluster import Cluster
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.store import Store, open_store
from fruitpipe.tasks import feature_part, reduce
from fruitpipe.tasks.feature_part import read_facts, to_parquet
from fruitpipe.tasks.shares import SHARES, Shares

PAGE = (Path(__file__).parents[1] / "docs/scale.md").read_text()
RUN = "20260101-000000-abcd"
FACTOR = 1.5
"""By which times of the model and measured ones may differ."""
FRUITS, SLOTS = 320, 2
KINDS = {
    "images": r"GET 200 /images/",
    "facts": r"GET 206 /out/features/\w+/part-",
    "features": r"GET 200 /out/features/\w+/part-",
    "todo": r"GET 206 /out/runs/[\w-]+/work/todo",
    "index": r"GET 206 /out/runs/[\w-]+/work/index",
    "moments": r"GET 200 /out/runs/[\w-]+/work/moments",
}
WRITTEN = r"PUT 200 /out/(features/\w+/|runs/)"
WRITTEN_ALWAYS = 8
"""Objects of every run, likewise: scale_model.OTHER_OBJECTS without those of the result as a whole."""


def test_the_page_has_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    scale_model.main()
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in PAGE
    assert f"{KNOWN['date']}" in PAGE


@pytest.mark.parametrize("check", KNOWN["checks"], ids=lambda check: f"{check['images']} {check['of']}")
def test_times_agree_with_those_measured(check: dict[str, Any]) -> None:
    assert 1 / FACTOR < scale_model.modelled(check) / check["seconds"] < FACTOR


@pytest.mark.slow
def test_a_run_has_the_parts_tasks_objects_and_requests_of_the_model(
    monkeypatch: pytest.MonkeyPatch, admin: Any, s3: S3Config, proxy: Proxy, fruits: Path
) -> None:
    """With vector parts of 100 images, so that there are several, which share feature parts; two of these in a task."""
    monkeypatch.setattr(reduce, "VECTOR_PART", 100)
    monkeypatch.setattr(feature_part, "USUAL_PART", 40)
    monkeypatch.setattr(feature_part, "LARGEST_TASK", 80)
    monkeypatch.setattr(scale_model, "READS_OF_A_SHARE", 1)  # of so few images
    tasks = count_of_tasks(monkeypatch)
    upload(admin, fruits, "scale/images")
    fruitpipe(
        *("run", f"s3://{BUCKET}/scale/images", f"s3://{BUCKET}/scale/out", "--json"),
        *("--set", BACKBONE, "--set", "pca.components=8", *options(proxy.endpoint)),
    )
    model, asked = Scale(FRUITS, SLOTS), [told(each) for each in proxy.log]
    made = objects(admin, "scale/out")
    manifest = Manifest.read(next(data for key, data in made.items() if key.endswith("manifest.json")))
    assert len(model.vector_parts) == 4
    assert len(model.feature_parts) > len(model.feature_tasks)
    assert len(manifest.feature_parts) == len(model.feature_parts)
    assert [file.rows for file in manifest.files if file.name.startswith("vectors/")] == model.vector_parts
    assert len(made) == model.objects
    assert sum(tasks) == model.tasks
    found = {kind: sum(bool(re.match(form, each)) for each in asked) for kind, form in KINDS.items()}
    ends = sum(len(data) <= BUFFER for key, data in made.items() if "/features/" in key)
    assert found == model.reads | {"facts": model.reads["facts"] - ends}
    assert sum(bool(re.match(WRITTEN, each)) for each in asked) == model.writes + WRITTEN_ALWAYS
    size = len(next(data for key, data in made.items() if key.endswith("manifest.json")))
    assert size - 60_000 < model.manifest < size


def count_of_tasks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each job of Spark has from now on, but for warming up."""
    found: list[int] = []
    plain = Cluster.map

    def mapped(self: Cluster, task: Callable[[int], Any], tasks: int, *rest: Any, **more: Any) -> list[Any]:
        found.append(tasks)
        return plain(self, task, tasks, *rest, **more)

    monkeypatch.setattr(Cluster, "map", mapped)
    monkeypatch.setattr(Cluster, "warm_up", lambda self: None)
    return found


def told(request: Forwarded) -> str:
    """Its method and status, and its key below the prefix of the test."""
    return f"{request.method} {request.status} {request.path.removeprefix(f'/{BUCKET}/scale')}"


def test_moments_are_added_in_as_many_tasks(store: Store) -> None:
    model, tasks = Scale(10**9, 1000), Counter[str]()
    for number in range(15):  # what is left of 61,036
        reduce.write_moments(store, RUN, 2, number, Moments.of(np.eye(2)))

    def each(task: object, many: int) -> None:
        tasks[type(task).__name__] += many

    reduce.fit_moments(store, RUN, len(model.vector_parts), each)
    assert tasks == {"Fit": len(model.vector_parts), "AddMoments": model.additions}


@pytest.fixture
def bucket(s3: S3Config, proxy: Proxy) -> Store:
    """An empty result in a bucket, reached through the proxy."""
    return open_store(f"s3://{BUCKET}/scale-{uuid4().hex}", s3.model_copy(update={"endpoint": proxy.endpoint}))


def digests(count: int) -> pa.Array:
    """As etags are: nothing that could be compressed."""
    draw = random.Random(count)
    return pa.array([draw.randbytes(16).hex() for _ in range(count)])


@pytest.mark.parametrize("rows", [30, 600, 4096])
def test_facts_of_a_part_are_as_many_requests(bucket: Store, proxy: Proxy, rows: int) -> None:
    facts = (
        scale.facts(scale.paths(0, rows)).set_column(1, "etag", digests(rows)).set_column(2, "content", digests(rows))
    )
    name = layout.part("a" * 16, "b" * 32)
    bucket.put(name, to_parquet(facts.cast(layout.FACTS), scale.features(0, rows)))
    asked = len(proxy.log)
    found = read_facts(bucket, name)
    assert found is not None
    assert found.num_rows == rows
    assert len(proxy.log) - asked == scale_model.READS_OF_FACTS


@pytest.mark.parametrize("sizes", [[32] * 3, [1024] * 20, [16384] * 3])
def test_a_share_is_as_many_requests(bucket: Store, proxy: Proxy, tmp_path: Path, sizes: list[int]) -> None:
    """At most: one where it lies at the end of its file, as all do of few images."""
    shares, count = Shares(bucket, RUN, layout.INDEX), sum(sizes)
    rows = pa.table({"path": scale.paths(0, count), "etag": digests(count)})
    shares.write(rows.to_batches(), sizes, tmp_path)
    times = []
    for number, size in enumerate(sizes):
        asked = len(proxy.log)
        assert shares.read(number).num_rows == size
        times.append(len(proxy.log) - asked)
    assert times[0] == (1 if count < 100 else scale_model.READS_OF_A_SHARE)
    assert max(times) == times[0]


@pytest.mark.parametrize("parts", [3, SHARES, 400])
def test_footers_of_a_plan_have_as_many_bytes(store: Store, parts: int, tmp_path: Path) -> None:
    """To a fifth, besides those that say which columns there are."""
    rows = 32 * parts
    plan = Plan(tmp_path, verify_content=False, retry="transient")
    plan.add_images(scale.listing(rows), scale.LISTING)
    plan.add_features(store, "d" * 64)
    assert len(plan.write_todo(Shares(store, RUN, layout.TODO), slots=parts)) == parts
    plan.close()
    files = [store.get(name) for name, _ in store.names(layout.work(RUN))]
    footers = [pq.read_metadata(io.BytesIO(data)) for data in files]
    read = sum(footer.num_row_groups * (footer.serialized_size - 500) for footer in footers)
    assert read == pytest.approx(scale_model.listed_shares(parts) * MEASURED["todo_footer"], rel=0.2)


def test_time_and_dollars_grow_with_images_and_the_driver_does_not_shrink() -> None:
    few, many = Scale(10**7, 100), Scale(10**8, 100)
    assert 9 < many.hours / few.hours < 11
    assert Scale(10**8, 1000).seconds.driver >= many.seconds.driver
    assert many.hours > many.seconds.driver / 3600 + many.images / MEASURED["images"] / 100 / 3600
    assert many.hours_of_one_prefix * 3600 > many.images / 5500
    assert Scale(10**8, 10).hours_of_one_prefix == Scale(10**8, 10).hours


@pytest.mark.parametrize(("what", "breaks"), scale_model.LIMITS)
def test_a_limit_is_where_it_is_said_to_be(what: str, breaks: Callable[[Scale], bool]) -> None:
    images = scale_model.first(breaks)
    assert breaks(Scale(int(images), 100))
    assert not breaks(Scale(int(images / 1.02), 100))


def test_what_the_page_says_in_words_follows() -> None:
    assert "with 41 cores" in PAGE
    assert [Scale(10**8, cores).prefixes for cores in (40, 41)] == [1, 2]
    assert "about 300 cores" in PAGE
    alone = [Scale(10**8, cores).seconds for cores in (290, 310)]
    assert alone[0].driver < alone[0].work / 290
    assert alone[1].driver > alone[1].work / 310
    assert "266,000 parts instead of 25,000" in PAGE
    assert len(Scale(10**5, 10).feature_parts) == 266
    assert len(Scale(10**8, 10).feature_parts) == pytest.approx(25_000, rel=0.03)


def test_what_the_page_says_of_long_lists_follows() -> None:
    """By lists of a tenth of what a billion images have."""
    assert "hose of a billion images have 6 MB, in the manifest they would have 31" in PAGE
    assert f"more than {LONG:,} entries" in PAGE
    model = Scale(10**8, 100)
    assert model.lists_beside == 2
    digests = (hashlib.sha256(b"%d" % number).hexdigest() for number in count())
    parts = sorted(layout.part("a" * 64, digest) for digest in islice(digests, len(model.feature_parts)))
    files = [
        File(
            name=f"vectors/part-{number:05d}.parquet", rows=rows, bytes=rows * 500 + number % 997, sha256=next(digests)
        )
        for number, rows in enumerate(model.vector_parts)
    ]
    released = Manifest.read(RELEASED.read_bytes())
    manifest = released.model_copy(update={"files": files, "feature_parts": parts})
    document, beside = manifest.written()
    assert len(document) < 10_000
    assert round(10 * sum(map(len, beside.values())) / 1e6) == 6
    assert round(10 * (len(manifest.model_dump_json(indent=2)) - len(document)) / 1e6) == 31
