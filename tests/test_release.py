"""The Helm chart on a cluster, from `helm install` to vectors in S3, with what goes wrong on the way.

Runs where `kubectl` reaches a cluster with the Spark operator, and where this machine has an address that pods reach.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from bombs import LARGE, huge_tile, with_scans
from chart import CHART, helm
from cluster import KIND, NAMESPACE, connects, counts, kubectl, manifest, parts, state, stranger, wait_for
from command import process
from PIL import Image
from queries import metric_names, queries
from release import IN, Release, release
from s3 import objects, upload
from seaweed import BUCKET, Server

COUNT = 320
EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster_image")]


@pytest.fixture(scope="module")
def client(places: Server) -> Any:
    return places.client(places.identities["admin"])


@pytest.fixture(scope="module")
def finished(places: Server, cluster_image: str) -> Iterator[Release]:
    """A release whose first run is completed: one executor with two workers."""
    executor = {"instances": 1, "cores": 2, "coreRequest": "100m"}
    with release("fruits", cluster_image, places, "images", executor=executor) as made:
        made.completed()
        yield made


def vectors(tables: list[pa.Table]) -> dict[str, list[float]]:
    """Vectors by the end of the image's path."""
    rows = pa.concat_tables(tables).select(["path", "vector"]).to_pylist()
    return {"/".join(row["path"].split("/")[-2:]): row["vector"] for row in rows}


def test_install_publishes_what_a_run_on_this_machine_does(
    finished: Release, client: Any, fruits: Path, tmp_path: Path
) -> None:
    require_equal(published(finished, client), run_here(fruits, tmp_path, "backbone=efficientnet_lite0"))


def published(finished: Release, client: Any) -> dict[str, list[float]]:
    run = manifest(client, finished.name)["run"]
    found = objects(client, f"{finished.name}/runs/{run}/vectors/")
    return vectors([pq.read_table(pa.BufferReader(each)) for each in found.values()])


def require_equal(there: dict[str, list[float]], here: dict[str, list[float]]) -> None:
    """The same images and vectors; the image's NumPy has another BLAS, which may round the last bit otherwise."""
    assert there.keys() == here.keys()
    np.testing.assert_allclose([there[name] for name in here], list(here.values()), rtol=1e-6, atol=1e-6)


def run_here(images: Path, out: Path, *options: str) -> dict[str, list[float]]:
    here = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "PYTHONPATH": str(EXAMPLES)}
    process("run", images, out, *(each for option in options for each in ("--set", option)), variables=here)
    found = vectors([pq.read_table(each) for each in out.glob("runs/*/vectors/*.parquet")])
    assert len(found) == COUNT
    return found


def test_workers_stay_within_the_memory_that_the_chart_gives_them(finished: Release, client: Any) -> None:
    """The run of two workers in one pod has ended well under the limit; how much was left for each is known."""
    limit = yaml.safe_load(helm("get", "manifest", finished.name, IN).stdout.split("kind: SparkApplication")[1])
    assert limit["spec"]["executor"]["memoryOverhead"] == "2444m"
    assert manifest(client, finished.name)["worker_memory"] < 450 << 20


def test_the_namespace_is_restricted() -> None:
    labels = json.loads(kubectl("get", "namespace", NAMESPACE, "--output=json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_same_values_do_nothing(finished: Release) -> None:
    run, generation = finished.run, finished.get()["metadata"]["generation"]
    finished.upgrade()
    assert finished.get()["metadata"]["generation"] == generation
    time.sleep(5)
    assert (finished.run, state(finished.name)) == (run, "COMPLETED")


def test_another_config_is_another_run_with_the_features_that_are_there(finished: Release, client: Any) -> None:
    earlier, run = finished.run, manifest(client, finished.name)
    finished.upgrade(pipeline__pca={"variance": 0.8})
    finished.completed(after=earlier)
    now = manifest(client, finished.name)
    assert now["run"] != run["run"]
    assert now["config"]["pca"]["variance"] == 0.8
    assert now["model"]["components"] < run["model"]["components"]
    assert now["plan"]["known"] == COUNT
    assert "featurize" not in now["timings"]


def test_reprocess_is_another_run_that_computes_new_images_alone(
    finished: Release, client: Any, places: Server, fruits: Path
) -> None:
    few = sorted(fruits.rglob("*.*"))[:7]
    for path in few:
        client.put_object(Bucket=BUCKET, Key=f"images/new/{path.name}", Body=path.read_bytes() + b"\0")
    earlier = finished.run
    finished.upgrade(reprocess="new images")
    finished.completed(after=earlier)
    plan = manifest(client, finished.name)["plan"]
    assert (plan["new"], plan["known"]) == (len(few), COUNT)
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": f"images/new/{path.name}"} for path in few]})


def test_rollback_publishes_what_the_earlier_config_gave(finished: Release, client: Any) -> None:
    earlier = finished.run
    done = helm("rollback", finished.name, "1", IN)
    assert not done.returncode, done.stderr
    finished.completed(after=earlier)
    assert "which already covers these images with this config, is published again" in finished.log()
    assert manifest(client, finished.name)["config"]["pca"]["variance"] is None


def test_visual_words_are_those_of_a_run_on_this_machine(
    finished: Release, client: Any, fruits: Path, tmp_path: Path
) -> None:
    earlier = finished.run
    finished.upgrade(pipeline__backbone="orb", pipeline__pca={"variance": 0.95})
    finished.completed(after=earlier)
    require_equal(published(finished, client), run_here(fruits, tmp_path, "backbone=orb"))


@pytest.mark.parametrize(
    ("backbone", "weights"), [("mobilenet", "random:7"), ("colour_histogram:ColourHistogram", "imagenet")]
)
def test_an_image_brings_a_network_and_a_class_of_ones_own(
    finished: Release, client: Any, example_image: str, fruits: Path, tmp_path: Path, backbone: str, weights: str
) -> None:
    repository, _, tag = example_image.rpartition(":")
    earlier = finished.run
    finished.upgrade(
        image={"repository": repository, "tag": tag},
        executor__memoryOverhead="1260m",
        pipeline__backbone=backbone,
        pipeline__weights=weights,
        pipeline__pca={"variance": 0.95},
    )
    finished.completed(after=earlier)
    expected = run_here(fruits, tmp_path, f"backbone={backbone}", f"weights={weights}", "pca.variance=0.95")
    require_equal(published(finished, client), expected)


def test_a_run_in_the_middle_of_which_executor_and_driver_are_killed(
    places: Server, cluster_image: str, client: Any, many: int
) -> None:
    """What it is to the outside meanwhile: metrics, event log, closed ports."""
    executor = {"dynamicAllocation": {"enabled": True, "minimum": 1, "maximum": 2}, "coreRequest": "100m"}
    extra = {"restart": {"retries": 3, "interval": 1}, "eventLog": {"volume": {"emptyDir": {}}}}
    with release("many", cluster_image, places, "heap", executor=executor, **extra) as made:
        wait_for(lambda: parts(client, "many"), 180)
        with made.standing_still():
            check_metrics(made)
            asked = "grep -aq SparkListenerLogStart /var/spark-events/*/events*"
            kubectl("exec", "many-driver", "--", "bash", "-c", asked)
            check_network(made, cluster_image)
        (victim, *_) = made.pods("executor")
        kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        before = len(parts(client, "many"))
        wait_for(lambda: len(parts(client, "many")) > before, 120)
        first = made.get()["status"]["lastSubmissionAttemptTime"]
        kubectl("delete", "pod", "many-driver", "--grace-period=0", "--force")
        wait_for(lambda: made.get()["status"]["lastSubmissionAttemptTime"] != first, 120)
        made.completed()
        assert counts(client, "many") == {"ok": many}
        plan = manifest(client, "many")["plan"]
        assert plan["known"] > 0, "the second driver found what the first had"
        rows = sum(each["rows"] for each in manifest(client, "many")["files"] if each["name"].startswith("vectors/"))
        assert rows == many


def check_metrics(made: Release) -> None:
    """All that dashboard and alerts ask for is served."""
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods/{made.name}-driver"
    own = kubectl("get", "--raw", f"{pods}:8090/proxy/metrics")
    sparks = kubectl("get", "--raw", f"{pods}:4040/proxy/metrics/executors/prometheus/")
    served = {line.split("{")[0].split(" ")[0] for line in (own + sparks).splitlines() if not line.startswith("#")}
    asked = {name for query in queries(CHART) for name in metric_names(query)}
    assert asked <= served
    assert re.search(r'^fruitpipe_images_total{status="ok"} [1-9]', own, re.MULTILINE)


def check_network(made: Release, image: str) -> None:
    """Executors reach the driver, not the API server; others reach neither."""
    address = kubectl("get", "pod", f"{made.name}-driver", "--output=jsonpath={.status.podIP}")
    policy = made.values["networkPolicy"]
    api = policy["apiServer"].removesuffix("/32"), policy["apiServerPorts"][0]
    assert connects(made.pods("executor")[0], (address, 7078), api) == [True, False]
    assert connects(f"{made.name}-driver", api) == [True]
    with stranger(image) as pod:
        assert connects(pod, api, *((address, port) for port in (7078, 7079, 8090, 4040))) == [True, *[False] * 4]


def test_more_bad_images_than_allowed_are_a_failure_with_a_reason_and_with_leave_are_rows(
    places: Server, cluster_image: str, client: Any, fruits: Path
) -> None:
    good = upload(client, fruits, "spoilt-images")
    bad = len(good) // 9
    for number in range(bad):
        client.put_object(Bucket=BUCKET, Key=f"spoilt-images/bad/{number}.jpg", Body=b"no picture")
    with release("spoilt", cluster_image, places, "spoilt-images") as made:
        assert made.ended() == "FAILED"
        assert made.reason().startswith(f"{bad} of {len(good) + bad} images failed ({bad} undecodable)")
        assert made.log().splitlines()[-1].startswith(f"error: {bad} of {len(good) + bad} images failed")
        assert made.reason() in kubectl("describe", "pod", "spoilt-driver")
        assert "latest.json" not in str(client.list_objects_v2(Bucket=BUCKET, Prefix="spoilt/latest"))
        earlier = made.run
        made.upgrade(pipeline__failures={"max_rate": 0.2})
        made.completed(after=earlier)
        assert counts(client, "spoilt") == {"ok": len(good), "undecodable": bad}
        run = manifest(client, "spoilt")["run"]
        failures = client.get_object(Bucket=BUCKET, Key=f"spoilt/runs/{run}/failures.parquet")["Body"].read()
        assert set(pq.read_table(pa.BufferReader(failures))["status"].to_pylist()) == {"undecodable"}


def test_images_at_the_limits_are_rows_and_lose_no_executor(places: Server, cluster_image: str, client: Any) -> None:
    """Pictures of 49 megapixels that take most, and some that would take gigabytes or hours, in pods of usual size."""
    large = {f"{kind}.png": LARGE[kind](7000) for kind in ("PNG with alpha", "TIFF, CMYK", "AVIF", "WebP")}
    good = [key.removeprefix("images/") for key in objects(client, "images/")]
    for key in good:
        client.copy_object(Bucket=BUCKET, Key=f"at-limits/{key}", CopySource=f"{BUCKET}/images/{key}")
    for name, data in large.items():
        client.put_object(Bucket=BUCKET, Key=f"at-limits/large/{name}", Body=data)
    for name, data in {"tile.tif": huge_tile(), "scans.jpg": with_scans(200_000)}.items():
        client.put_object(Bucket=BUCKET, Key=f"at-limits/bombs/{name}", Body=data)
    executor = {"instances": 1, "cores": 2, "coreRequest": "100m"}
    with release("limits", cluster_image, places, "at-limits", executor=executor) as made:
        made.completed()
        of_bombs = {"too_large": 1, "undecodable": 1, "too_slow": 1}  # the WebP, the tile, the scans
        assert counts(client, "limits") == {"ok": len(good) + len(large) - 1, **of_bombs}
        (executor_pod,) = made.get()["status"]["executorState"]
        assert executor_pod.endswith("-exec-1")


def test_mistakes_end_with_one_readable_line(places: Server, cluster_image: str) -> None:
    """Several releases side by side, each with a mistake of its own."""
    guest = places.identities["guest"]
    keys = {"AWS_ACCESS_KEY_ID": guest.access_key, "AWS_SECRET_ACCESS_KEY": guest.secret_key}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "guest-keys"}, "stringData": keys}
    kubectl("apply", "--filename=-", given=secret)
    with (
        release("wrong-bucket", cluster_image, places, "images", pipeline__input="s3://nowhere/images") as wrong,
        release("no-rights", cluster_image, places, "images", secrets=["guest-keys"]) as forbidden,
        release("no-image", cluster_image, places, "images", image__tag="never-made", timeLimitSeconds=20) as missing,
    ):
        for made, reason in ((wrong, "nowhere"), (forbidden, "no right to write")):
            assert made.ended() == "FAILED"
            assert re.search(reason, made.reason()), made.reason()
            assert len(made.reason().splitlines()) == 1
            assert made.log().splitlines()[-1] == f"error: {made.reason()}"
        assert missing.ended() == "FAILED"
        pod = kubectl("describe", "pod", "no-image-driver")
        assert "DeadlineExceeded" in pod
        assert "never-made" in pod
    kubectl("delete", "secret", "guest-keys")


LITTLE = {"coreRequest": "100m", "memory": "471m", "memoryOverhead": "1m"}  # Spark takes no smaller heap


@pytest.fixture(scope="module")
def noise(client: Any) -> None:
    random = np.random.default_rng(7)
    for number in range(16):
        sink = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (1000, 1000), np.uint8)).save(sink, "JPEG")
        client.put_object(Bucket=BUCKET, Key=f"noise/{number}.jpg", Body=sink.getvalue())


@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize("role", ["driver", "executor"])
def test_a_pod_with_too_little_memory_is_told_so(role: str, places: Server, cluster_image: str) -> None:
    """The driver learns words from pictures of 16 megapixels, of which an executor's worker holds a batch of 16. Both
    want far more than there is: of a little more, pages of programs may be thrown out and read again for minutes."""
    pods = {"driver": {"coreRequest": "100m", "memoryOverhead": "3g"}, "executor": {"coreRequest": "100m"}}
    pods["executor"] |= {"instances": 1, "cores": 1}
    pods[role] |= LITTLE
    large = {"pipeline__backbone": "orb", "pipeline__words": {"side": 4096}}
    with release(f"small-{role}", cluster_image, places, "noise", **pods, **large) as made:
        assert made.ended() == "FAILED"
        assert f"{role}.memoryOverhead" in made.reason()
        assert len(made.reason().splitlines()) == 1


def test_of_two_releases_of_one_output_one_waits_for_the_other(places: Server, cluster_image: str, client: Any) -> None:
    shared = {"pipeline__output": f"s3://{BUCKET}/turns"}
    with ExitStack() as stack:
        first = stack.enter_context(release("turn-one", cluster_image, places, "images", **shared))
        with first.standing_still():
            few = {"components": 8}
            second = stack.enter_context(
                release("turn-two", cluster_image, places, "images", **shared, pipeline__pca=few)
            )
            wait_for(lambda: second.pods("driver") and "waiting for it to end" in second.log(), 120)
            assert not first.get()["status"].get("terminationTime")
        for each in (first, second):
            each.completed()
            assert each.get()["status"]["executionAttempts"] == 1
    assert manifest(client, "turns")["model"]["components"] == 8, "the one that waited is the latest"


def test_a_schedule_fires_again_and_again_one_run_at_a_time_until_it_is_suspended(
    places: Server, cluster_image: str, client: Any
) -> None:
    def runs() -> dict[str, str]:
        """States of the schedule's runs, by name."""
        found = json.loads(kubectl("get", KIND, "--output=json"))["items"]
        return {
            each["metadata"]["name"]: each.get("status", {}).get("applicationState", {}).get("state", "NEW")
            for each in found
            if each["metadata"]["name"].startswith("nightly-")
        }

    def active() -> list[str]:
        return [name for name, its in runs().items() if its not in {"COMPLETED", "FAILED"}]

    seen: set[str] = set()

    def fired(times: int) -> bool:
        assert len(active()) <= 1, "Forbid"
        seen.update(runs())
        return len(seen) >= times

    with release("nightly", cluster_image, places, "images", schedule={"cron": "@every 12s"}) as made:
        wait_for(lambda: fired(2), 240)
        made.upgrade(suspend=True)
        wait_for(lambda: not active(), 120)
        assert set(runs().values()) == {"COMPLETED"}
        before = set(runs())
        time.sleep(13)
        assert set(runs()) == before
        made.upgrade(suspend=False)
        wait_for(lambda: fired(len(seen) + 1), 60)
        wait_for(lambda: made.pods("driver"), 60)
        made.uninstall()
        wait_for(lambda: not made.left(), 60)


def test_suspended_from_the_start_and_resumed(places: Server, cluster_image: str) -> None:
    """What `helm test` finds meanwhile, and where a right is missing."""
    with release("waiting", cluster_image, places, "images", suspend=True) as made:
        wait_for(lambda: state("waiting") == "SUSPENDED", 60)
        done = made.test()
        assert not done.returncode, done.stdout + done.stderr
        verbs = [verb for verb in made.get("role")["rules"][0]["verbs"] if verb != "watch"]
        kubectl("patch", "role", "waiting", "--type=json",
                f"--patch={json.dumps([{'op': 'replace', 'path': '/rules/0/verbs', 'value': verbs}])}")  # fmt: skip
        done = made.test()
        assert done.returncode
        assert "rights: this pod's account may not watch pods" in done.stdout + done.stderr
        made.upgrade(suspend=False)
        made.completed()
        assert "watch" in made.get("role")["rules"][0]["verbs"]
        made.uninstall()
        wait_for(lambda: not made.left(), 60)


def test_the_operators_chart_and_this_one_in_one(tmp_path: Path) -> None:
    """FRUITPIPE_OPERATOR_CHART is the operator's chart as a file, where its repository cannot be reached."""
    shutil.copytree(CHART.parent, tmp_path, dirs_exist_ok=True)
    both = tmp_path / "fruitpipe-and-operator"
    if packed := os.environ.get("FRUITPIPE_OPERATOR_CHART"):
        (both / "charts").mkdir()
        shutil.copy(packed, both / "charts")
        done = helm("package", str(tmp_path / "fruitpipe"), f"--destination={both}/charts")
    else:
        done = helm("dependency", "build", str(both))
    assert not done.returncode, done.stderr
    values = {"fruitpipe": {"pipeline": {"input": "s3://photos/images", "output": "s3://photos/out"}}}
    done = helm("template", "fruits", str(both), "--values=-", given=values)
    assert not done.returncode, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    kinds = [each["kind"] for each in objects]
    assert kinds.count("SparkApplication") == 1
    (operator,) = [each for each in objects if each["kind"] == "Deployment"]
    assert operator["metadata"]["name"] == "fruits-spark-operator-controller"
    assert "--namespaces=" in " ".join(operator["spec"]["template"]["spec"]["containers"][0]["args"])
    assert not {kind for kind in kinds if "Webhook" in kind}, "it would refuse the application while it starts"
