"""A run whose result is published already, from end to end: it publishes nothing, and needs no Spark."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from command import ANEW, BACKBONE, fruitpipe, manifest, process, run, same_vectors, vectors

import fruitpipe as api
from fruitpipe.cli.present import print_outcome
from fruitpipe.config import load_config
from fruitpipe.pipeline import precedent
from fruitpipe.pipeline.precedent import config_digest
from fruitpipe.result.garbage import collect
from fruitpipe.result.runs import open_run
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore

WITHOUT_JAVA = {"JAVA_HOME": "/nowhere"}
"""No Spark starts with it."""


@pytest.fixture
def images(fruits: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for path in sorted(fruits.rglob("*.jpg"))[::27]:
        target = folder / path.relative_to(fruits)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def again(images: Path, out: Path, *assignments: str) -> dict[str, Any]:
    """What a run says that must not start Spark."""
    options = [part for assignment in (BACKBONE, *assignments) for part in ("--set", assignment)]
    said: dict[str, Any] = json.loads(
        process("run", images, out, *options, "--json", variables=os.environ | WITHOUT_JAVA).stdout
    )
    return said


def listed(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(fruitpipe("runs", out, "--json").stdout)
    return found


def statuses(out: Path, *known: str) -> dict[str, str]:
    """By run; that of the one other run under `others`. Those of one second are listed in any order."""
    rows = listed(out)
    assert len(rows) == len(known) + 1
    return {row["run"] if row["run"] in known else "others": row["status"] for row in rows}


def planned(images: Path, out: Path) -> list[str]:
    """The last lines of a plan, but for where images and result are."""
    said = fruitpipe("plan", images, out, "--set", BACKBONE).stdout
    return said.replace(f"{images} {out}", "IMAGES OUT").split("\n\n")[1].splitlines()


def latest(out: Path) -> str:
    name: str = json.loads((out / "latest.json").read_text())["run"]
    return name


def test_the_same_again_publishes_nothing_and_says_so(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(images, out)["run"]
    assert planned(images, out) == [f"nothing to do: run {first} already covers these images with this config."]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    reason = f"nothing to do: run {first} already covers these images with this config"
    said = again(images, out)
    assert (said["run"], said["status"], said["reason"]) == (first, "unchanged", reason)
    assert said["vectors"] == f"{out}/runs/{first}/vectors"
    told = process("run", images, out, "--set", BACKBONE, variables=os.environ | WITHOUT_JAVA).stdout
    assert told.startswith(f"\n{reason}.\nvectors  {out}/runs/{first}/vectors\n")
    rows = listed(out)
    assert [(row["status"], row["reason"]) for row in rows] == [("latest", None), ("unchanged", reason)], (
        "of looks, the newest is kept"
    )
    shown = fruitpipe("runs", out).stdout
    assert reason in shown
    assert [line.rstrip() for line in shown.splitlines()] == shown.splitlines()
    with chdir(tmp_path):
        assert "  featurize: " in fruitpipe("logs", "out").stdout, "of the run that did something"
        for alone in ("--follow", "--executor=all"):
            assert "leave --follow and --executor out" in fruitpipe("logs", "out", alone, code=2).stderr
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    outcome = out / layout.outcome(rows[1]["run"])
    assert {path: time for path, time in after.items() if path != outcome} == before
    collect(LocalStore(str(out)))
    assert not outcome.parent.exists()
    found = api.run(load_config(input=images, output=out, backbone=BACKBONE.partition("=")[2]))
    assert (found.id, found.reason) == (first, reason)


def test_other_images_and_another_config_are_a_run_and_the_same_again_is_none(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    paths = sorted(images.rglob("*.jpg"))
    made = [run(images, out)["run"]]
    shutil.copy(paths[0], paths[0].with_name("new.jpg"))
    made.append(run(images, out)["run"])
    shutil.copy(paths[1], paths[2])
    made.append(run(images, out)["run"])
    paths[3].unlink()
    made.append(run(images, out)["run"])
    assert manifest(out)["plan"]["gone"] == 1
    print_outcome(open_run(LocalStore(str(out))))
    assert "of the variance, 1 of earlier runs gone." in capsys.readouterr().out
    assert again(images, out)["run"] == made[-1], "images that went before do not matter"
    made.append(run(images, out, "pca.components=3")["run"])
    assert [row["run"] for row in listed(out) if row["status"] != "unchanged"] == sorted(made)
    assert len(set(made)) == 5


def test_what_was_published_before_is_published_again(images: Path, tmp_path: Path) -> None:
    """As after a commit that was reverted: of its images and of its config."""
    out = tmp_path / "out"
    first = run(images, out)["run"]
    second = run(images, out, "pca.components=3")["run"]
    assert planned(images, out) == [
        f"a run would publish run {first} again, which already covers these images with this config.",
        f"next: fruitpipe run IMAGES OUT --set {BACKBONE}",
    ]
    said = again(images, out)
    reason = f"run {first}, which already covers these images with this config, is published again"
    assert (said["run"], said["status"], said["reason"], latest(out)) == (first, "unchanged", reason, first)
    assert statuses(out, first, second) == {first: "latest", second: "published", "others": "unchanged"}
    assert again(images, out, "pca.components=3")["run"] == latest(out) == second
    assert statuses(out, first, second) == {first: "published", second: "latest", "others": "unchanged"}


def test_images_that_are_tried_again_are_a_run(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (images / "Apple" / "link.jpg").symlink_to("nowhere")
    lenient = "failures.max_rate=0.5"
    made = [run(images, out, lenient)["run"], run(images, out, lenient)["run"]]
    assert manifest(out)["plan"]["retried"] == 1
    assert again(images, out, lenient, "failures.retry=none")["run"] == made[1] != made[0]


def test_how_places_are_spelt_makes_no_run(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out")
    with chdir(tmp_path):
        for places in (("images", "out"), ("./images/", f"{tmp_path}/out/"), ("images/*/*.jpg", "images/../out")):
            said = fruitpipe("plan", *places, "--set", BACKBONE, "--set", "spark.memory=2g").stdout
            assert "nothing to do" in said, places


def test_what_decides_no_result_makes_no_run_of_its_own() -> None:
    def digest(**settings: Any) -> str:
        return config_digest(load_config(**{"input": "images", "output": "out"} | settings))

    for same in (
        {"input": "./images/", "output": "elsewhere", "limit": 9, "labels": "none", "lists.allow": ["/"]},
        {"failures.max_rate": 0.5, "failures.retry": "all", "spark.memory": "2g", "track.mlflow": "http://there"},
        {"s3.endpoint": "https://there", "s3.region": "eu-west-1", "s3.requester_pays": True},
    ):
        assert digest(**same) == digest(), same
    reused = digest(model="reuse", reuse="out/runs/one/model")
    assert reused == digest(model="reuse", reuse="./out/runs/one/model") != digest()
    others = ("formats", ["csv"]), ("s3.tags", {"a": "b"}), ("explore", True), ("image.max_bytes", 9), ("layer", "x")
    assert len({digest(), *(digest(**{key: value}) for key, value in others)}) == 1 + len(others)


def test_more_failures_than_a_config_allows_are_none_of_its_runs(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (images / "Apple" / "broken.jpg").write_bytes(b"no image")
    first = run(images, out, "failures.max_rate=0.5")["run"]
    assert again(images, out, "failures.max_rate=0.4")["run"] == first
    run(images, out, "failures.max_rate=0", code=3)


@pytest.mark.slow
def test_latest_is_another_model_once_another_was_fitted(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fitted = run(images, out)["run"]
    reused = run(images, out, "model=reuse")
    assert reused["model"]["fitted_by"] == fitted
    assert again(images, out, "model=reuse")["run"] == reused["run"]
    other = run(images, out, "pca.components=3")["run"]
    assert run(images, out, "model=reuse")["model"]["fitted_by"] == other


@pytest.mark.slow
def test_what_is_damaged_or_of_another_version_is_made_again(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(images, out)
    (out / "runs" / first["run"] / "vectors" / "part-00000.parquet").unlink()
    second = run(images, out)
    assert second["run"] != first["run"]
    file = out / layout.manifest(second["run"])
    for changed in ({"images_digest": None}, {"versions": {**second["versions"], "fruitpipe": "0.0.1"}}):
        file.write_text(json.dumps(second | changed))
        made = run(images, out)["run"]
        assert made not in (first["run"], second["run"])
        shutil.rmtree(out / "runs" / made)
        (out / "latest.json").write_text(json.dumps({"run": second["run"]}))
    file.write_text("{")
    assert run(images, out)["run"] != second["run"]
    assert statuses(out, first["run"], second["run"]) == {
        first["run"]: "published",
        second["run"]: "unreadable",
        "others": "latest",
    }


@pytest.mark.slow
def test_a_change_that_touches_no_result_gives_the_same_bits(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = (run(images, out, *settings)["run"] for settings in ([], [ANEW]))
    assert first != second
    assert same_vectors(vectors(out, first), vectors(out, second))


def test_a_run_whose_files_have_other_sizes_is_no_precedent(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = run(images, out)
    with (out / "runs" / first["run"] / "vectors" / "part-00000.parquet").open("ab") as file:
        file.write(b"x")
    second = run(images, out)
    assert second["run"] != first["run"]
    third = run(images, out, "pca.components=2")
    monkeypatch.setattr(precedent, "RECENT", 2)
    assert [each.run for each in precedent.recent_manifests(LocalStore(str(out)))] == [third["run"], second["run"]]
