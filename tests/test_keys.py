"""Keys are no paths: on a server that keeps them as they are, as S3 does and SeaweedFS does not (moto)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.session import Session
from command import BACKBONE, fruitpipe, one_line_error, vectors
from emulators import running
from faults import Proxy, Response, s3_error
from PIL import Image
from s3 import options
from seaweed import free_ports

from fruitpipe import source
from fruitpipe.config import S3Config
from fruitpipe.errors import UserError
from fruitpipe.model.transform import whole_file
from fruitpipe.objects import list_pages, listing, open_bucket
from fruitpipe.source import Reader
from fruitpipe.storage.store import open_store
from fruitpipe.vision.bad_image import BadImage

BUCKET = "exact"
ROOT, BELOW = f"s3://{BUCKET}", f"s3://{BUCKET}/photos"
KEYS = (
    "photos/a.jpg", "photos//a.jpg", "photos///a.jpg", "photos/b/a.jpg", "photos/b//a.jpg", "/photos/a.jpg",
    "//photos/a.jpg", "/photos//a.jpg", "/a.jpg", "a.jpg", "//a.jpg", "!/a.jpg", "~/a.jpg", "photos/c\\a.jpg",
)  # fmt: skip
"""Of images, each of which has its own key as content."""
OTHERS = ("photos/b/../a.jpg", "photos/./a.jpg", "photos/d.jpg/", "/", "photos//")
"""Hidden, or folders by their name."""


class Exact:
    """The server, which takes any credentials."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.s3 = S3Config(endpoint=endpoint, allow_http=True)
        self.client = Session().create_client("s3", region_name="us-east-1", endpoint_url=endpoint)

    def fill(self, bucket: str, keys: tuple[str, ...] = KEYS + OTHERS) -> None:
        self.client.create_bucket(Bucket=bucket)
        for key in keys:
            self.client.put_object(Bucket=bucket, Key=key, Body=key.encode())


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exact]:
    folder, port = tmp_path_factory.mktemp("exact"), free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with running(command, folder / "moto.log", port), pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "any")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(folder / "missing"))
        server = Exact(f"http://127.0.0.1:{port}")
        server.fill(BUCKET)
        yield server


def paths(exact: Exact, *inputs: str) -> list[str]:
    rows = [row for batch in source.list_images(list(inputs), s3=exact.s3) for row in batch.to_pylist()]
    for row in rows:
        assert bytes(Reader(exact.s3, 100).read(row["path"], row["etag"])).decode() == key_of(row["path"])
    return sorted(row["path"] for row in rows)


def key_of(path: str) -> str:
    return path.removeprefix(f"{ROOT}/")


def begin(prefix: str) -> list[str]:
    return sorted(f"{ROOT}/{key}" for key in KEYS if key.startswith(prefix))


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        (ROOT, ""),
        (f"{ROOT}/", ""),
        (f"{ROOT}//", "/"),
        (BELOW, "photos/"),
        (f"{BELOW}/", "photos/"),
        (f"{BELOW}//", "photos//"),
        (f"{ROOT}//photos", "/photos/"),
        (f"{ROOT}//photos/", "/photos/"),
        (f"{ROOT}///photos", "//photos/"),
        (f"{BELOW}/b", "photos/b/"),
    ],
)
def test_images_below_a_prefix_are_those_whose_keys_begin_so(exact: Exact, url: str, prefix: str) -> None:
    """Each with its own bytes."""
    source.check_inputs([url], exact.s3)
    assert paths(exact, url) == begin(prefix)


@pytest.mark.parametrize(
    ("glob", "keys"),
    [
        ("*.jpg", {"a.jpg"}),
        ("/*.jpg", {"/a.jpg"}),
        ("/photos/*.jpg", {"/photos/a.jpg"}),
        ("photos/*.jpg", {"photos/a.jpg", "photos/c\\a.jpg"}),
        ("photos//*.jpg", {"photos//a.jpg"}),
        ("photos/**", {key for key in KEYS if key.startswith("photos/")}),
        ("photos/**/*.jpg", {key for key in KEYS if key.startswith("photos/")}),
    ],
)
def test_a_glob_matches_keys_as_they_are(exact: Exact, glob: str, keys: set[str]) -> None:
    assert {key_of(path) for path in paths(exact, f"{ROOT}/{glob}")} == keys


@pytest.mark.parametrize("alone", [0, 10])
def test_a_listing_has_all_keys_however_it_is_split(exact: Exact, alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "ALONE", alone)
    for prefix, start in (("", ""), ("/", "/"), ("photos", "photos/"), ("/photos", "/photos/")):
        pages = list_pages(open_bucket(ROOT, exact.s3), prefix)
        found = [key for page in pages for key in page["key"].to_pylist()]
        assert sorted(found) == sorted(key for key in KEYS + OTHERS if key.startswith(start))


def test_a_bucket_of_nothing_but_keys_with_a_slash_in_front(exact: Exact) -> None:
    exact.fill("fronts", ("/a.jpg", "/b/c.jpg"))
    found = [path for batch in source.list_images("s3://fronts", s3=exact.s3) for path in batch["path"].to_pylist()]
    assert found == ["s3://fronts//a.jpg", "s3://fronts//b/c.jpg"]


def test_the_root_of_a_bucket_is_listed_where_only_that_is_allowed(exact: Exact) -> None:
    """By a policy with a condition on s3:prefix, for which moto has no ear."""
    exact.fill("root", ("a.jpg", "b/c.jpg"))

    def refuse(method: str, path: str, headers: dict[str, str]) -> Response | None:
        asked = parse_qs(urlsplit(path).query).get("prefix", [""])
        return s3_error(403, "AccessDenied") if "list-type" in path and asked != [""] else None

    with Proxy(exact.endpoint, rewrite=refuse) as proxy:
        s3 = S3Config(endpoint=proxy.endpoint, allow_http=True)
        found = [path for batch in source.list_images("s3://root", s3=s3) for path in batch["path"].to_pylist()]
        assert found == ["s3://root/a.jpg", "s3://root/b/c.jpg"]
        assert proxy.injected["rewritten"]
        with pytest.raises(UserError, match="s3:ListBucket"):
            list(source.list_images("s3://root/b", s3=s3))


@pytest.mark.parametrize("folder", ["lists", "/lists", "lists/", "//lists"])
def test_a_list_names_keys_as_they_are_and_paths_from_its_own_folder(exact: Exact, folder: str) -> None:
    named = [f"{ROOT}/{key}" for key in KEYS] + ["x.jpg", "/x.jpg"]
    body = "".join(f"{path}\n" for path in named[:-1]).encode()
    exact.client.put_object(Bucket=BUCKET, Key=f"{folder}/m.txt", Body=body)
    exact.client.put_object(Bucket=BUCKET, Key=f"{folder}/x.jpg", Body=f"{folder}/x.jpg".encode())
    try:
        assert paths(exact, f"{ROOT}/{folder}/m.txt") == sorted([*named[:-2], f"{ROOT}/{folder}/x.jpg"])
    finally:
        for name in ("m.txt", "x.jpg"):
            exact.client.delete_object(Bucket=BUCKET, Key=f"{folder}/{name}")


def test_a_key_that_is_not_there_is_missing_though_there_is_one_like_it(exact: Exact) -> None:
    for key in ("a.jpg/", "photos/b///a.jpg", "///a.jpg", "/!/a.jpg"):
        with pytest.raises(BadImage) as caught:
            Reader(exact.s3, 100).read(f"{ROOT}/{key}")
        assert caught.value.status == "missing"


def test_where_there_is_nothing_below_a_prefix_the_one_like_it_is_not_taken(exact: Exact) -> None:
    exact.fill("one", ("photos/a.jpg",))
    with pytest.raises(UserError, match=r"no images in s3://one//photos: .* // is another"):
        source.check_inputs(["s3://one//photos"], exact.s3)


@pytest.mark.parametrize("output", ["/out", "out/", "/", pytest.param("a//out", marks=pytest.mark.slow)])
def test_results_go_to_no_such_keys(exact: Exact, output: str) -> None:
    with pytest.raises(UserError, match=r"cannot write to .*: take //"):
        open_store(f"{ROOT}/{output}/", exact.s3).create()
    done = fruitpipe("runs", f"{ROOT}/{output}/", *options(exact.endpoint), code=2)
    assert "is not a fruitpipe result" in one_line_error(done)


@pytest.mark.parametrize("output", ["/x.parquet", "a//x.parquet", "x/"])
def test_vectors_of_a_model_go_to_no_such_keys(exact: Exact, output: str) -> None:
    with pytest.raises(UserError, match=r"cannot write to .*: take //"), whole_file(f"{ROOT}/{output}", exact.s3):
        pytest.fail("it is said before anything is computed")


@pytest.mark.slow
def test_doctor_says_of_this_store_that_keys_are_no_paths(exact: Exact, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of SeaweedFS says that they are: test_doctor.py."""
    monkeypatch.setenv("JAVA_HOME", "/nowhere")  # so that Spark is not looked at
    done = fruitpipe("doctor", BELOW, f"{ROOT}/out", *options(exact.endpoint, BACKBONE), "--json", code=2)
    (said,) = [each["message"] for each in json.loads(done.stdout) if each["subject"] == f"output {ROOT}/out"]
    assert said == "written, read, deleted; conditional writes work"


@pytest.mark.slow
def test_a_run_gives_each_image_its_own_vector(exact: Exact, tmp_path: Path) -> None:
    """Also where keys differ by their slashes alone."""
    exact.client.create_bucket(Bucket="run")
    images = tmp_path / "images"
    images.mkdir()
    colours = {"a/x.png": "red", "/a/x.png": "blue", "a//x.png": "green", "a/b/x.png": "white"}
    for key, colour in colours.items():
        file = images / f"{colour}.png"
        Image.new("RGB", (64, 64), colour).save(file)
        exact.client.put_object(Bucket="run", Key=key, Body=file.read_bytes())
    settings = options(exact.endpoint, BACKBONE, "pca=none")
    for source_of, out in (("s3://run", "bucket"), (images, "disk")):
        fruitpipe("run", source_of, tmp_path / out, *settings)
    found, expected = (
        {row["path"]: row["vector"] for row in vectors(tmp_path / out).to_pylist()} for out in ("bucket", "disk")
    )
    assert found == {f"s3://run/{key}": expected[f"{images}/{colour}.png"] for key, colour in colours.items()}
