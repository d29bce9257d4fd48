"""Google Cloud Storage and Azure, against servers of other people's that stand in for them.

That they are stores as any other is in test_store.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from command import BACKBONE, fruitpipe, one_line_error, run, vectors
from draw_fruits import draw
from emulators import BUCKET, Emulator
from seaweed import free_ports

from fruitpipe.config import S3Config
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects import NoBucket
from fruitpipe.source import Reader, list_images
from fruitpipe.storage.store import Store, open_store
from fruitpipe.vision.bad_image import BadImage

STRANGE = [
    "plain.jpg",
    "two words.jpg",
    "a#b.jpg",
    "50%.jpg",
    "a%20b.jpg",
    "Äpfel/grüne 🍏.jpg",
    "x+y=z&q?.JPEG",
    "'\".png",
]
NOBODY = {"AZURE_STORAGE_ACCOUNT_NAME": "nobody"}


@pytest.fixture(
    scope="module", params=[pytest.param("gs", marks=pytest.mark.slow), pytest.param("az", marks=pytest.mark.slow)]
)
def emulator(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def url(emulator: Emulator, request: pytest.FixtureRequest) -> str:
    """A prefix of its own for each test."""
    return f"{emulator.scheme}://{BUCKET}/{request.function.__name__}"


@pytest.fixture
def store(url: str) -> Store:
    """An empty result."""
    made = open_store(url)
    made.create()
    return made


def test_an_upload_of_many_megabytes_is_read_the_same_by_others(
    store: Store, emulator: Emulator, tmp_path: Path
) -> None:
    content = os.urandom(1 << 20) * 40
    local = tmp_path / "local"
    local.write_bytes(content)
    store.upload(local, "a/large")
    assert not local.exists()
    with emulator.other.open_input_stream(store.location("a/large").partition("://")[2]) as file:
        assert file.read() == content


def test_images_with_strange_names_are_listed_and_read(store: Store, url: str) -> None:
    for name in STRANGE:
        store.put(name, name.encode())
    listed = pa.Table.from_batches(list_images(url))
    assert sorted(listed["path"].to_pylist()) == sorted(f"{url}/{name}" for name in STRANGE)
    assert all(listed["etag"].to_pylist())
    reader = Reader(S3Config(), 1000)
    for path, etag in zip(listed["path"].to_pylist(), listed["etag"].to_pylist(), strict=True):
        assert reader.read(path, etag) == path.removeprefix(f"{url}/").encode()


def test_images_that_others_wrote_are_listed(url: str, emulator: Emulator) -> None:
    for name in STRANGE:
        with emulator.other.open_output_stream(f"{url.partition('://')[2]}/{name}") as file:
            file.write(b"12")
    listed = pa.Table.from_batches(list_images(url))
    assert sorted(listed["path"].to_pylist()) == sorted(f"{url}/{name}" for name in STRANGE)


def test_a_key_that_only_s3_has_is_named_and_never_another_one(emulator: Emulator, store: Store, url: str) -> None:
    store.put("a/b.jpg", b"another")
    for key in ("a//b.jpg", "/a/b.jpg", "a/b.jpg/"):
        with pytest.raises(BadImage, match="which only S3 takes: rename it") as caught:
            Reader(S3Config(), 1000).read(f"{emulator.scheme}://{BUCKET}/{key}")
        assert caught.value.status == "unreadable"
    key = {"gs": "a//b.jpg", "az": "a/tab\t.jpg"}[emulator.scheme]  # Arrow's client of Azure does not write the former
    with emulator.other.open_output_stream(f"{url.partition('://')[2]}/{key}") as file:
        file.write(b"12")
    with pytest.raises(UserError, match=f"{key}.*Rename it") as refused:
        list(list_images(url))
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(UserError, match="Rename it"):
        list(list_images(f"{emulator.scheme}://{BUCKET}//photos"))


def test_an_image_that_changed_or_went_says_so(emulator: Emulator, store: Store, url: str) -> None:
    store.put("a.jpg", b"old")
    [batch] = list_images(url)
    path, etag = batch["path"][0].as_py(), batch["etag"][0].as_py()
    assert status_of(path, etag) == "ok"
    store.put("a.jpg", b"new")
    assert status_of(path) == "ok"
    assert status_of(path, etag) == "changed"
    store.delete("a.jpg")
    assert status_of(path) == "missing"
    # What is gone does not have the etag either, and Azure looks at that first.
    assert status_of(path, etag) == {"gs": "missing", "az": "changed"}[emulator.scheme]


def status_of(path: str, etag: str = "") -> str:
    try:
        Reader(S3Config(), 1000).read(path, etag)
    except BadImage as error:
        return error.status
    return "ok"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Drawn images, and their vectors of a run on this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    draw(folder / "images", varieties=8, each=5)
    run(folder / "images", folder / "out")
    return folder, vectors(folder / "out").to_pandas()


def test_a_run_gives_the_bits_of_a_local_one(local: tuple[Path, pd.DataFrame], emulator: Emulator, url: str) -> None:
    folder, expected = local
    images, out = f"{url}/images", f"{url}/out"
    store = open_store(images)
    for file in (folder / "images").rglob("*.jpg"):
        store.put(file.relative_to(folder / "images").as_posix(), file.read_bytes())

    done = fruitpipe("run", images, out, "--set", BACKBONE, "--json")
    place = f"{out}/runs/{json.loads(done.stdout)['run']}/vectors".partition("://")[2]
    found = pd.read_parquet(place, filesystem=emulator.other)
    assert list(found["path"].str.removeprefix(url)) == list(expected["path"].str.removeprefix(str(folder)))
    assert list(found["label"]) == list(expected["label"])
    assert [vector.tobytes() for vector in found["vector"]] == [vector.tobytes() for vector in expected["vector"]]

    again = json.loads(fruitpipe("plan", images, out, "--set", BACKBONE, "--json").stdout)
    assert (again["images"], again["new"], again["changed"]) == (40, 0, 0)


def test_a_bucket_that_is_not_there_is_an_error_of_one_line(emulator: Emulator) -> None:
    # Where Google says NoSuchBucket, fake-gcs-server says 500.
    kind = {"gs": FruitpipeError, "az": NoBucket}[emulator.scheme]
    with pytest.raises(kind, match="nowhere") as caught:
        open_store(f"{emulator.scheme}://nowhere").create()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "environment", "says"),
    [
        ("gs://photos", {}, "gcloud auth application-default login"),
        ("gs://photos", {"GOOGLE_APPLICATION_CREDENTIALS": "/no/such.json"}, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://photos", {}, "set AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://photos", NOBODY, "set AZURE_STORAGE_ACCOUNT_KEY"),
        ("az://photos", NOBODY | {"AZURE_STORAGE_ACCOUNT_KEY": "?"}, "set AZURE_STORAGE_ACCOUNT_KEY"),
    ],
    ids=["google", "google-file", "azure-account", "azure", "azure-key"],
)
def test_without_credentials_one_line_says_how_to_get_them(
    url: str, environment: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_", "STORAGE_"))]:
        monkeypatch.delenv(name)
    closed = f"127.0.0.1:{free_ports(1)}"  # where machines of Google's and Azure's ask for their own credentials
    nowhere = {"GCE_METADATA_HOST": closed, "GCE_METADATA_IP": closed, "AZURE_MSI_ENDPOINT": f"http://{closed}/"}
    for name, value in ({"HOME": str(tmp_path)} | nowhere | environment).items():
        monkeypatch.setenv(name, value)
    error = one_line_error(fruitpipe("run", f"{url}/images", tmp_path / "out", code=2))
    assert says in error
    assert not (tmp_path / "out").exists()
