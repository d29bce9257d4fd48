"""A result that version 0.1.0 wrote, in tests/golden/released, is read, continued and published.

It was written to s3://photos/upgrade/out from the images beside it with examples/colour_histogram.py, whose features
are small; the second of its runs has five components. Its reports are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from campaigns.concurrency import in_steps, vectors_of
from command import fruitpipe, one_line_error
from s3 import upload
from seaweed import BUCKET

import fruitpipe as api
from fruitpipe.config import Config, S3Config
from fruitpipe.errors import UserError
from fruitpipe.result import runs
from fruitpipe.result.compaction import compact
from fruitpipe.result.garbage import collect, find_garbage
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store, open_store

RELEASED = Path(__file__).parent / "golden" / "released"
IMAGES, OUT = f"s3://{BUCKET}/upgrade/images", f"s3://{BUCKET}/upgrade/out"
BACKBONE = "colour_histogram:ColourHistogram"


@pytest.fixture
def released(admin: Any, s3: S3Config) -> Iterator[Store]:
    upload(admin, RELEASED / "images", "upgrade/images")
    upload(admin, RELEASED / "result", "upgrade/out")
    store = open_store(OUT, s3)
    yield store
    for name, _ in list(store.names("")):
        store.delete(name)


def config(s3: S3Config, **settings: Any) -> Config:
    given = {"input": IMAGES, "output": OUT, "backbone": BACKBONE, "s3": s3, "failures": {"max_rate": 0.1}}
    return Config.model_validate(given | settings)


def test_a_released_result_is_read(released: Store, s3: S3Config) -> None:
    first, second = runs.list_runs(released)
    assert (first.status, second.status) == ("published", "latest")
    run = runs.open_run(released)
    assert (run.manifest.counts.ok, run.manifest.counts.failed, run.manifest.model.components) == (23, 1, 5)
    assert run.in_rows()
    model = api.load_model(run.path("model"), s3, BACKBONE)
    paths = vectors_of(released, run.manifest)["path"].to_pylist()
    images = [f"{IMAGES}/{path}" for path in paths]
    made = {each.path: each.vector for each in model.transform_images(images, s3=s3)}
    expected = vectors_of(released, run.manifest)["vector"].to_pylist()
    for path, vector in zip(images, expected, strict=True):
        assert made[path] == pytest.approx(vector, abs=1e-5)
    assert not find_garbage(released).objects


def test_a_released_result_is_continued_and_published(released: Store, s3: S3Config, admin: Any) -> None:
    old = runs.open_run(released)
    with in_steps():
        run = api.run(config(s3, pca={"components": 5}))
        # What cannot be decoded is looked at once more, as large images are decoded in another way by now.
        assert (run.manifest.plan.known, run.manifest.plan.new, run.manifest.counts.failed) == (23, 1, 1)
        again, before = vectors_of(released, run.manifest), vectors_of(released, old.manifest)
        assert again["path"].equals(before["path"])
        for one, other in zip(again["vector"].to_pylist(), before["vector"].to_pylist(), strict=True):
            assert one == pytest.approx(other, abs=1e-5)
        some = next((RELEASED / "images").glob("*/*"))
        admin.put_object(Bucket=BUCKET, Key="upgrade/images/new/1.jpg", Body=some.read_bytes())
        try:
            grown = api.run(config(s3))
        finally:
            admin.delete_object(Bucket=BUCKET, Key="upgrade/images/new/1.jpg")
    assert (grown.manifest.plan.known, grown.manifest.plan.known_failed, grown.manifest.plan.new) == (23, 1, 1)
    runs.publish(released, old.id)
    assert runs.open_run(released).id == old.id
    collect(released)
    compact(released)
    assert vectors_of(released, runs.open_run(released).manifest).equals(before)


@pytest.mark.parametrize("document", [b'{"layout": 2}', b'{"layout": "next"}', b"{}", b"[1]", b"\xff"])
def test_a_layout_that_is_not_known_is_refused(document: bytes, store: Store, fruits: Path) -> None:
    store.put(layout.MARKER, document)
    told = "knows layout 1: use the fruitpipe that wrote it" if b": " in document else "is damaged"
    for look in (runs.list_runs, runs.open_run, find_garbage, collect):
        with pytest.raises(UserError, match=told):
            look(store)
    for verb in ("plan", "run"):
        assert told in one_line_error(fruitpipe(verb, fruits, store.url, "--backbone", "efficientnet_lite0", code=2))
    assert [name for name, _ in store.names("") if name != ".lock"] == [layout.MARKER]
