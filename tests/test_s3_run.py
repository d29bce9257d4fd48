"""The main job on a real S3 server: the same as on disk, through faults and crashes too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from command import ANEW, BACKBONE, command, fruitpipe, manifest, one_line_error, run, same_vectors, vectors
from faults import Forwarded, Proxy, Response
from parts import Image, listing
from processes import wait
from s3 import image_requests, upload
from seaweed import BUCKET, Server

from fruitpipe.config import Config, S3Config
from fruitpipe.pipeline.plan import open_plan
from fruitpipe.source import LISTING
from fruitpipe.storage.layout import TODO
from fruitpipe.storage.store import open_store
from fruitpipe.tasks import reduce
from fruitpipe.tasks.feature_part import LARGEST_TASK, USUAL_PART
from fruitpipe.tasks.shares import Shares

IMAGES = "fruits"
COUNT = 320


class Place:
    """A prefix of the server's bucket for one test, seen from outside: with botocore's client."""

    def __init__(self, server: Server, name: str, endpoint: str = "") -> None:
        self.server, self.name = server, name
        self.images, self.out = f"s3://{BUCKET}/{IMAGES}", f"s3://{BUCKET}/{name}"
        self.client = server.client(server.identities["admin"], attempts=20)
        self.settings = [f"s3.endpoint={endpoint or server.endpoint}", "s3.allow_http=true"]
        self.options = [part for setting in self.settings for part in ("--set", setting)]

    def keys(self, below: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.name}/{below}")
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def get(self, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=BUCKET, Key=f"{self.name}/{name}")["Body"].read()
        return data

    def download(self, into: Path) -> Path:
        """The result as it would lie on disk."""
        for key in self.keys():
            target = into / key.removeprefix(f"{self.name}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        return into

    def run(self, *assignments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        options = [part for assignment in (BACKBONE, *assignments) for part in ("--set", assignment)]
        return fruitpipe("run", self.images, self.out, *options, *self.options, "--json", code=code)


@pytest.fixture
def place(server: Server, request: pytest.FixtureRequest, pictures: None) -> Place:
    return Place(server, request.node.name)


@pytest.fixture(autouse=True)
def admin(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = server.identities["admin"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", identity.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", identity.secret_key)


@pytest.fixture(scope="module")
def pictures(server: Server, fruits: Path) -> None:
    """The drawn fruits, in the bucket."""
    upload(server.client(server.identities["admin"]), fruits, IMAGES)


def on_disk(fruits: Path, out: Path, *assignments: str) -> pa.Table:
    """Vectors of a run on disk, its paths as those in the bucket."""
    run(fruits, out, *assignments)
    table = vectors(out)
    paths = pc.replace_substring(table["path"], str(fruits), f"s3://{BUCKET}/{IMAGES}")
    return table.set_column(0, table.schema.field(0), paths)


@pytest.fixture(scope="module")
def local(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return on_disk(fruits, tmp_path_factory.mktemp("local"))


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as started:
        yield started


def lists(log: list[Forwarded], prefix: str) -> int:
    """How often a prefix was listed."""
    queries = [parse_qs(urlsplit(each.path).query) for each in log if "list-type=2" in each.path]
    return sum(query.get("prefix") == [prefix] for query in queries)


@pytest.mark.slow
def test_words_of_images_on_s3_are_those_of_images_on_disk(place: Place, fruits: Path, tmp_path: Path) -> None:
    """All images are in the sample of either, so that both learn the same words."""
    place.run("backbone=orb")
    expected = on_disk(fruits, tmp_path / "disk", "backbone=orb")
    assert same_vectors(vectors(place.download(tmp_path / "s3")), expected)
    assert [key for key in place.keys("features/vocabularies/") if key.endswith(".npz")]
    again = json.loads(place.run("backbone=orb", ANEW).stdout)["run"]
    assert manifest(place.download(tmp_path / "again"), again)["plan"]["known"] == COUNT


def test_a_run_on_s3_publishes_what_a_run_on_disk_does(place: Place, local: pa.Table, tmp_path: Path) -> None:
    facts = json.loads(place.run("formats=[csv, json]").stdout)
    assert facts["vectors"] == f"{place.out}/runs/{facts['run']}/vectors"
    out = place.download(tmp_path)
    assert same_vectors(vectors(out), local)
    document = manifest(out)
    assert document["counts"]["ok"] == COUNT
    for file in document["files"]:
        assert (out / "runs" / facts["run"] / file["name"]).stat().st_size == file["bytes"]
    assert not (out / "lease.json").exists()
    assert not list(out.rglob("*.tmp")) + list(out.glob("runs/*/work"))


@pytest.mark.slow
def test_one_csv_on_s3_holds_the_vectors_and_no_part_is_left(place: Place, tmp_path: Path) -> None:
    place.run("formats=[csv]", "one_file=true", "pca.components=2")
    out = place.download(tmp_path)
    document = manifest(out)
    folder, table = out / "runs" / document["run"], vectors(out)
    frame = pd.read_csv(folder / "vectors.csv")
    assert frame["path"].to_list() == table["path"].to_pylist()
    assert [list(row) for row in frame[["c0", "c1"]].to_numpy("float32")] == table["vector"].to_pylist()
    assert not (folder / "csv").exists()
    (file,) = (each for each in document["files"] if each["name"] == "vectors.csv")
    assert (folder / "vectors.csv").stat().st_size == file["bytes"]


@pytest.mark.slow
def test_known_images_are_not_asked_for_again(server: Server, proxy: Proxy, pictures: None) -> None:
    place = Place(server, "known", proxy.endpoint)
    place.run()
    assert set(image_requests(proxy.log, IMAGES).values()) == {1}
    assert len(image_requests(proxy.log, IMAGES)) == COUNT
    assert lists(proxy.log, f"{IMAGES}/") == 2  # is it there, and what
    proxy.log.clear()
    place.run(ANEW)
    assert not image_requests(proxy.log, IMAGES)
    assert lists(proxy.log, f"{IMAGES}/") == 2
    assert len(proxy.log) < COUNT / 2


@pytest.mark.slow
def test_the_verbs_work_on_s3(place: Place, tmp_path: Path) -> None:
    first, second = (json.loads(place.run(*settings).stdout)["run"] for settings in ([], [ANEW]))
    assert json.loads(place.get("latest.json"))["run"] == second
    fruitpipe("publish", place.out, first, *place.options)
    assert json.loads(place.get("latest.json"))["run"] == first
    listed = json.loads(fruitpipe("runs", place.out, *place.options, "--json").stdout)
    assert [(row["run"], row["status"], row["new"]) for row in listed] == [
        (first, "latest", COUNT),
        (second, "published", 0),
    ]
    assert place.out in fruitpipe("show", place.out, *place.options).stdout
    unfinished = "runs/20260101-000000-abcd"
    for name in ("work/todo-00000.parquet", "notes.txt"):
        place.client.put_object(Bucket=BUCKET, Key=f"{place.name}/{unfinished}/{name}", Body=b"x")
    big = {"Bucket": BUCKET, "Key": f"{place.name}/{unfinished}/vectors/part-00000.parquet"}
    left = place.client.create_multipart_upload(**big)["UploadId"]
    collected = json.loads(fruitpipe("gc", place.out, "--delete", *place.options, "--json").stdout)
    assert collected["objects"] == [f"{unfinished}/work/todo-00000.parquet"]
    assert [key.rpartition("/")[2] for key in place.keys(unfinished)] == ["notes.txt"], "which is not fruitpipe's"
    uploads = place.client.list_multipart_uploads(Bucket=BUCKET, Prefix=place.name).get("Uploads", [])
    assert left not in [upload["UploadId"] for upload in uploads]
    assert json.loads(fruitpipe("plan", place.images, place.out, "--set", BACKBONE, *place.options, "--json").stdout)[
        "known"
    ] == COUNT  # fmt: skip


@pytest.mark.slow
def test_a_model_on_s3_is_applied_to_images_on_s3_and_elsewhere(place: Place, tmp_path: Path) -> None:
    facts = json.loads(place.run().stdout)
    fruitpipe("transform", facts["model"], place.images, f"{place.out}/more.parquet", *place.options)
    table = pq.read_table(pa.BufferReader(place.get("more.parquet")))
    assert table.num_rows == COUNT
    published = pq.read_table(pa.BufferReader(place.get(f"runs/{facts['run']}/vectors/part-00000.parquet")))
    both = published.select(["path", "vector"]).to_pandas().merge(table.to_pandas(), on="path")
    assert len(both) == COUNT
    assert all((row.vector_x == row.vector_y).all() for row in both.itertuples())
    reused = fruitpipe(
        "run", place.images, tmp_path, *("--set", BACKBONE, "--set", "model=reuse"),
        *("--set", f"reuse={facts['model']}"), *place.options, "--json",
    )  # fmt: skip
    assert json.loads(reused.stdout)["components"] == facts["components"]


@pytest.mark.slow
def test_pandas_reads_published_vectors_from_s3(server: Server, place: Place, local: pa.Table) -> None:
    """By way of s3fs, which shares no code with what wrote them."""
    published = json.loads(place.run().stdout)["vectors"]
    options = {"client_kwargs": {"endpoint_url": server.endpoint}}
    read = pd.read_parquet(published, storage_options=options)
    assert read.drop(columns="vector").equals(local.drop(["vector"]).to_pandas())


@pytest.mark.slow
def test_an_image_that_changes_after_it_was_listed_is_said_so(
    server: Server, proxy: Proxy, pictures: None, fruits: Path, tmp_path: Path
) -> None:
    place = Place(server, "changing", proxy.endpoint)
    victim = next(path for path in sorted(fruits.rglob("*")) if path.is_file())
    key = f"{IMAGES}/{victim.relative_to(fruits)}"
    replaced = threading.Event()

    def replace(method: str, path: str, headers: dict[str, str]) -> Response | None:
        asked = method == "GET" and unquote(urlsplit(path).path) == f"/{BUCKET}/{key}"
        if asked and not replaced.is_set():
            replaced.set()
            place.client.put_object(Bucket=BUCKET, Key=key, Body=victim.read_bytes() + b"more")
        return None

    proxy.rewrite = replace
    try:
        place.run()
        failures = pq.read_table(next(place.download(tmp_path / "first").glob("runs/*/failures.parquet")))
        assert failures.select(["path", "status"]).to_pylist() == [
            {"path": f"s3://{BUCKET}/{key}", "status": "changed"}
        ]
        assert "run again" in failures["error"][0].as_py()
        place.run()
        assert manifest(place.download(tmp_path / "second"))["counts"]["ok"] == COUNT
    finally:
        place.client.put_object(Bucket=BUCKET, Key=key, Body=victim.read_bytes())


def test_tasks_make_several_parts_where_the_result_is_in_a_bucket(place: Place, tmp_path: Path) -> None:
    s3 = S3Config(endpoint=place.server.endpoint, allow_http=True)
    sizes = []
    for url in (str(tmp_path / "out"), place.out):
        with open_plan(Config(input="photos", output=url)) as plan:
            plan.add_images(listing(Image(f"/photos/{number:05}.jpg") for number in range(9000)), LISTING)
            store = open_store(url, s3)
            plan.add_features(store, "d" * 64)
            sizes.append(max(plan.write_todo(Shares(store, "20260101-000000-abcd", TODO), 2)))
    assert sizes == [USUAL_PART, LARGEST_TASK]


@pytest.mark.slow
def test_faults_and_restarts_of_the_server_change_nothing(
    server: Server, proxy: Proxy, pictures: None, local: pa.Table, tmp_path: Path
) -> None:
    proxy.slow_down, proxy.reset, proxy.truncated, proxy.latency = 0.02, 0.01, 0.01, 0.2
    place = Place(server, "faults", proxy.endpoint)
    running = subprocess.Popen(
        command("run", place.images, place.out, "--set", BACKBONE, *place.options),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for wanted in (COUNT // 5, COUNT // 2):
            wait(lambda n=wanted: len(image_requests(proxy.log, IMAGES)) > n or running.poll() is not None)
            server.restart()
        output = running.communicate(timeout=300)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 0, output
    assert all(proxy.injected[name] for name in ("slow_down", "reset", "truncated")), proxy.injected
    out = place.download(tmp_path)
    assert manifest(out)["counts"] | {"by_label": {}} == {
        "images": COUNT, "ok": COUNT, "failed": 0, "by_status": {"ok": COUNT}, "by_label": {},
    }  # fmt: skip
    assert same_vectors(vectors(out), local)


@pytest.mark.slow
def test_a_killed_driver_loses_only_the_parts_in_flight_on_s3(place: Place, local: pa.Table, tmp_path: Path) -> None:
    started = subprocess.Popen(
        command("run", place.images, place.out, "--set", BACKBONE, *place.options),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait(lambda: len(place.keys("features")) >= 2 or started.poll() is not None)
    os.killpg(started.pid, signal.SIGSTOP)  # or it would be done before the second has asked
    second = fruitpipe("run", place.images, place.out, "--set", BACKBONE, *place.options, code=2)
    assert f"process {started.pid}" in one_line_error(second)
    started.kill()
    os.killpg(started.pid, signal.SIGCONT)
    started.communicate()
    before = {key: etag_of(place, key) for key in place.keys("features")}
    assert before
    place.run()
    assert {key: etag_of(place, key) for key in before} == before
    out = place.download(tmp_path)
    document = manifest(out)
    assert 0 < document["plan"]["known"] < COUNT
    assert same_vectors(vectors(out), local)


def etag_of(place: Place, key: str) -> tuple[Any, Any]:
    head = place.client.head_object(Bucket=BUCKET, Key=key)
    return head["ETag"], head["LastModified"]


@pytest.mark.slow
def test_parts_of_an_earlier_run_are_copied_within_the_bucket(
    place: Place, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduce, "VECTOR_PART", 20)
    first = json.loads(place.run("pca.components=8", "limit=40").stdout)
    near = Place(server=place.server, name=place.name, endpoint=proxy.endpoint)
    copied: list[str] = []

    def note(method: str, path: str, headers: dict[str, str]) -> None:
        if method == "PUT" and "x-amz-copy-source" in headers:
            copied.append(path.rpartition("/")[2])

    proxy.rewrite = note
    made = json.loads(near.run("model=reuse", "limit=45").stdout)
    assert sorted(copied) == ["part-00000.parquet", "part-00001.parquet"]
    result = place.download(tmp_path / "there")
    old, new = (sorted((result / "runs" / done["run"] / "vectors").iterdir()) for done in (first, made))
    assert [path.read_bytes() for path in new[:2]] == [path.read_bytes() for path in old]
    assert [pq.read_metadata(path).num_rows for path in new] == [20, 20, 5]
    settings = [BACKBONE, "model=reuse", f"reuse={first['model']}", "limit=45"]
    options = [part for setting in settings for part in ("--set", setting)]
    fruitpipe("run", place.images, tmp_path / "whole", *options, *place.options)
    assert same_vectors(vectors(result, made["run"]).sort_by("path"), vectors(tmp_path / "whole").sort_by("path"))
