"""Runs told to MLflow and to OpenLineage: read back from a real store, a real server and a file; never their end."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from command import BACKBONE, fruitpipe, manifest, one_line_error, run
from jsonschema import Draft202012Validator

from fruitpipe.tracking.lineage import naming_of

KEY = "a-key-that-nobody-is-told"
FACETS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["_producer", "_schemaURL"],
        "properties": {
            name: {"type": "string", "format": "uri", "minLength": 1} for name in ("_producer", "_schemaURL")
        },
    },
}
NAMED = {
    "type": "object",
    "required": ["namespace", "name"],
    "properties": {
        **{name: {"type": "string", "minLength": 1} for name in ("namespace", "name")},
        **dict.fromkeys(("facets", "inputFacets", "outputFacets"), FACETS),
    },
}
EVENT = Draft202012Validator(
    {
        "type": "object",
        "required": ["eventType", "eventTime", "run", "job", "producer", "schemaURL", "inputs", "outputs"],
        "properties": {
            "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
            "eventTime": {"type": "string", "format": "date-time"},
            "run": {
                "type": "object",
                "required": ["runId"],
                "properties": {"runId": {"type": "string", "format": "uuid"}, "facets": FACETS},
            },
            "job": NAMED,
            "inputs": {"type": "array", "items": NAMED},
            "outputs": {"type": "array", "items": NAMED},
            "producer": {"type": "string", "format": "uri"},
        },
    },
    format_checker=Draft202012Validator.FORMAT_CHECKER,
)
"""What OpenLineage's specification asks of an event of a run."""


@pytest.fixture
def images(fruits: Path, tmp_path: Path) -> Path:
    """A few of two labels."""
    for label in ("Kiwi", "Banana"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for path in sorted((fruits / label).glob("*.jpg"))[:12]:
            shutil.copyfile(path, tmp_path / "photos" / label / path.name)
    return tmp_path / "photos"


@contextmanager
def lineage_server() -> Iterator[tuple[str, list[tuple[str, str | None, dict[str, Any]]]]]:
    """Its URL, and what it is sent: path, authorization and event."""
    sent: list[tuple[str, str | None, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            sent.append((self.path, self.headers["authorization"], body))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", sent
        finally:
            server.shutdown()
            thread.join()


def test_a_server_of_openlineage_is_told_how_a_run_begins_and_ends(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", KEY)
    out = tmp_path / "out"
    with lineage_server() as (url, sent):
        done = run(images, out, f"track.openlineage={url}")
        assert [event["eventType"] for _, _, event in sent] == ["START", "COMPLETE"]
        (images / "bad.jpg").write_bytes(b"no image")
        run(images, out, f"track.openlineage={url}", "failures.max_rate=0", code=3)
    assert {(path, key) for path, key, _ in sent} == {("/api/v1/lineage", f"Bearer {KEY}")}
    events = [event for _, _, event in sent]
    assert KEY not in json.dumps(events)
    for event in events:
        EVENT.validate(event)
        assert event["job"] == events[0]["job"]
        assert urlsplit(event["producer"]).scheme == "https"
        assert [(each["namespace"], each["name"]) for each in event["inputs"]] == [("file", str(images))]
        (output,) = event["outputs"]
        assert (output["namespace"], output["name"]) == ("file", str(out))
        fields = {field["name"]: field["type"] for field in output["facets"]["schema"]["fields"]}
        assert fields == {"path": "string", "label": "string", "vector": "array"}
    begin, end, again, failed = events
    assert begin["run"]["runId"] == end["run"]["runId"] != again["run"]["runId"] == failed["run"]["runId"]
    assert uuid.UUID(begin["run"]["runId"])
    assert end["outputs"][0]["facets"]["version"]["datasetVersion"] == done["run"]
    statistics = end["outputs"][0]["outputFacets"]["outputStatistics"]
    parts = list((out / "runs" / done["run"] / "vectors").iterdir())
    assert (statistics["rowCount"], statistics["fileCount"]) == (24, len(parts))
    assert statistics["size"] == sum(path.stat().st_size for path in parts)
    assert end["inputs"][0]["inputFacets"]["inputStatistics"]["fileCount"] == 24
    assert failed["eventType"] == "FAIL"
    assert "1 of 25 images failed" in failed["run"]["facets"]["errorMessage"]["message"]


def test_events_are_added_to_a_file(images: Path, tmp_path: Path) -> None:
    """Also of a run that has nothing to do, which ends with the vectors that are there."""
    file, out = tmp_path / "events.jsonl", tmp_path / "out"
    words = ("run", images / "Kiwi", images / "Banana", out, "--set", BACKBONE, "--set", f"track.openlineage={file}")
    for _ in range(2):
        fruitpipe(*words)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 2
    for event in events:
        EVENT.validate(event)
        assert [each["name"] for each in event["inputs"]] == [str(images / "Kiwi"), str(images / "Banana")]
    versions = {event["outputs"][0]["facets"]["version"]["datasetVersion"] for event in events[1::2]}
    assert versions == {manifest(out)["run"]}


@pytest.mark.parametrize(
    ("place", "namespace", "name"),
    [
        ("s3://bucket/some/folder/", "s3://bucket", "some/folder"),
        ("s3://bucket", "s3://bucket", "/"),
        ("gs://bucket/*.jpg", "gs://bucket", "*.jpg"),
        ("az://container/out", "abfss://container@fruits.dfs.core.windows.net", "out"),
        ("file:///photos/a", "file", "/photos/a"),
    ],
)
def test_places_are_named_as_openlineage_names_them(
    place: str, namespace: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "fruits")
    named = naming_of(place)
    assert (named.get_namespace(), named.get_name()) == (namespace, name)


def test_who_cannot_be_told_costs_a_note(images: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "no-folder" / "events.jsonl"
    words = ("run", images, tmp_path / "out", "--set", BACKBONE, "--set", f"track.openlineage={nowhere}")
    done = fruitpipe(*words)
    assert done.stderr.count(f"could not tell OpenLineage at {nowhere} of this run") == 2
    assert manifest(tmp_path / "out")["counts"]["ok"] == 24


def test_keys_are_not_for_configs(images: Path, tmp_path: Path) -> None:
    for setting in ("mlflow=https://me:secret@host", "openlineage=https://host/?api_key=12345678"):
        done = fruitpipe("run", images, tmp_path / "out", "--set", f"track.{setting}", code=2)
        assert "credentials are not allowed" in one_line_error(done)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # SQLAlchemy, of MLflow's models
def test_a_run_that_mlflow_refuses_has_ended_there(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def refused(*_: object, **__: object) -> None:
        raise MlflowException("a parameter is too long")

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MlflowClient, "log_batch", refused)
    done = fruitpipe("run", images, tmp_path / "out", "--set", BACKBONE, "--set", f"track.mlflow={uri}")
    assert f"could not tell MLflow at {uri} of this run: a parameter is too long" in done.stderr
    client = MlflowClient(uri)
    (made,) = client.search_runs([client.get_experiment_by_name("fruitpipe").experiment_id])
    assert made.info.status == "FINISHED"
    assert made.info.end_time >= made.info.start_time


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # SQLAlchemy, of MLflow's models
def test_a_run_is_in_mlflow(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    uri, out = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    settings = (f"track.mlflow={uri}", "evaluate=true", "pca.components=6")
    done = run(images, out, *settings)
    assert run(images, out, *settings)["run"] == done["run"], "nothing to do, and nothing to tell"
    (images / "bad.jpg").write_bytes(b"no image")
    run(images, out, *settings, "failures.max_rate=0", code=3)

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("fruitpipe")
    failed, ended = client.search_runs([experiment.experiment_id])
    assert (ended.info.run_name, ended.info.status) == (done["run"], "FINISHED")
    assert ended.data.params["pca.components"] == "6"
    assert ended.data.params["backbone"] == "efficientnet_lite0"
    assert ended.data.params["input"] == str(images)
    metrics, model = ended.data.metrics, done["model"]
    assert (metrics["images"], metrics["ok"], metrics["failed"], metrics["components"]) == (24, 24, 0, 6)
    assert metrics["explained_variance"] == pytest.approx(model["explained"])
    assert metrics["seconds.featurize"] == pytest.approx(done["timings"]["featurize"])
    (accuracy,) = client.get_metric_history(ended.info.run_id, "accuracy.nearest")
    last = done["evaluation"]["reduced"][-1]
    assert (accuracy.step, accuracy.value) == (last["dimension"], pytest.approx(last["nearest"]))
    assert ended.data.tags["fruitpipe.manifest"] == str(out / "runs" / done["run"] / "manifest.json")
    assert Path(ended.data.tags["fruitpipe.report"]).is_file()
    assert failed.info.status == "FAILED"
    assert "1 of 25 images failed" in failed.data.tags["fruitpipe.reason"]
    words = ("run", images, out, "--set", BACKBONE, "--set", "track.mlflow=http://127.0.0.1:1")
    assert "could not tell MLflow at http://127.0.0.1:1" in fruitpipe(*words).stderr
