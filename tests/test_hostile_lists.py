"""Lists that somebody wrote to fill the memory of whoever reads them, or to have something else read."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import fruitpipe, one_line_error
from seaweed import BUCKET

from fruitpipe.config import S3Config, load_config
from fruitpipe.errors import UserError
from fruitpipe.source import inventory, list_images
from fruitpipe.source.listing import BATCH, LONGEST_TEXT

LARGE = 300 << 20
"""Bytes of a text that is not to be held."""
MOST = 1_200
"""MB that whoever reads one of these lists may take, libraries included."""
READ = """
import json, re, sys
from pathlib import Path
from fruitpipe.errors import UserError
from fruitpipe.source import list_images
for path in sys.argv[1:]:
    try:
        said = sum(len(batch) for batch in list_images(path))
    except UserError as error:
        said = str(error)
    memory = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps([said, int(memory[1]) // 1000]), flush=True)
"""


def write_table(columns: Callable[[], dict[str, Any]], **options: Any) -> Callable[[Path], None]:
    """columns: made when they are written, as they are large."""
    return lambda path: pq.write_table(pa.table(columns()), path, **{"compression": "zstd"} | options)


def repeated(values: list[str], times: int) -> pa.Array:
    """Values one after the other, so many times, of which a file has each once."""
    indices = pa.array([*range(len(values))] * times, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(values))


def sparse(begin: bytes, end: bytes = b"", size: int = LARGE) -> Callable[[Path], None]:
    """A text with a hole of so many zeros."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(begin)
            file.seek(size, os.SEEK_CUR)
            file.write(end or b"\n")

    return write


def many(begin: bytes, part: bytes, count: int = 10_000_000) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(begin + part * count)

    return write


def write_prefixes(path: Path) -> None:
    """60,000 texts, each of which says only what differs from the one before."""
    table = pa.table({"path": ["x" * 4000 + f"{number:06}" for number in range(60_000)]})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"path": "DELTA_BYTE_ARRAY"})


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "text.parquet": (
        write_table(lambda: {"path": pa.array(["x" * LARGE])}),
        "from row 1 on, its column `path` unpacks to 314.6 MB at once",
    ),
    "plain.parquet": (
        write_table(lambda: {"path": pa.array(["x" * (LARGE // 4)] * 3)}, use_dictionary=False, row_group_size=1),
        "from row 1 on, its column `path` has texts of more than 4096 bytes",
    ),
    "later.parquet": (
        write_table(lambda: {"path": pa.array(["y"] * 50 + ["x" * 4097])}, use_dictionary=False),
        "row 51 has a path of more than 4096 bytes",
    ),
    "label.parquet": (
        write_table(lambda: {"path": pa.array(["y"] * 2), "label": pa.array(["", "x" * 4097])}, use_dictionary=False),
        "row 2 has a label of more than 4096 bytes",
    ),
    "dictionary.parquet": (
        write_table(lambda: {"path": repeated(["x" * 1_000_000, "y" * 1_000_000], 200_000)}),
        "from row 1 on, its column `path` has texts of more than 4096 bytes",
    ),
    "among many.parquet": (
        write_table(lambda: {"path": repeated([*map(str, range(100_000)), "x" * 5000], 4)}),
        "from row 1 on, its column `path` has texts of more than 4096 bytes",
    ),
    "rows.parquet": (write_table(lambda: {"path": repeated(["x"], 3_000_000)}), "it has 1048576 rows in 2"),
    "binary.parquet": (
        write_table(lambda: {"path": pa.array([b"x" * 1_000_000] * 10, pa.binary(1_000_000))}),
        "its column `path` is of type fixed_size_binary[1000000]",
    ),
    "prefixes.parquet": (
        write_prefixes,
        "from row 1 on, its column `path` is encoded as DELTA_BYTE_ARRAY",
    ),
    "line.txt": (sparse(b"x.jpg\ny"), "line 2 has more than 1048576 bytes"),
    "path.txt": (many(b"x.jpg\n", b"x", 4097), "line 2 has more than 4096 bytes"),
    "long lines.txt": (many(b"", b"x" * 1_000_000 + b"\n", 30), "line 1 has more than 4096 bytes"),
    "other ends.txt": (many(b"", b"\r"), "line 1 has more than 1048576 bytes"),
    "utf-16.txt": (many(b"\xff\xfex\0\n\0", b"\n\n"), "line 2 has more than 1048576 bytes"),
    "header.csv": (sparse(b"path"), "line 1 has more than 1048576 bytes"),
    "line.csv": (sparse(b"path\nx.jpg\ny"), "line 3 has more than 1048576 bytes"),
    "path.csv": (many(b"path\nx.jpg\n", b"x", 4097), "row 2 has a path of more than 4096 bytes"),
    "etag.csv": (many(b"path,etag\nx.jpg,", b"x", 4097), "row 1 has a etag of more than 4096 bytes"),
    "columns.csv": (many(b"path,", b"a,", 600_000), "line 1 has more than 1048576 bytes"),
    "quoted header.csv": (many(b'file,"', b'\n","', 1_000_000), "has no column `path`, but file, "),
    "quoted cell.csv": (many(b'path\nx.jpg\n"', b"xxxx\n", 4_000_000), "straddling object"),
    "line.jsonl": (sparse(b'{"path": "x.jpg"}\n{"path": "', b'"}\n'), "line 2 has more than 1048576 bytes"),
    "path.jsonl": (many(b'{"path": "x.jpg"}\n{"path": "', b"x", 4097), "cannot read"),
    "nested.jsonl": (many(b'{"path": "x.jpg", "a": ', b"[", 500_000), "cannot read"),
    "inventory/manifest.json": (sparse(b"{"), "it has more than 16777216 bytes"),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What one process said of each list, one after the other, and the most MB that it had taken by then."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (write, _) in BOMBS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / name)
    command = [sys.executable, "-c", READ, *(str(folder / name) for name in BOMBS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(BOMBS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_a_list_that_would_fill_the_memory_is_refused_in_one_line(read: dict[str, tuple[str, int]], name: str) -> None:
    message, memory = read[name]
    assert f"/{name}" in message
    assert BOMBS[name][1] in message
    assert len(message) < 1000
    assert len(message.splitlines()) == 1
    assert memory < MOST


def refusal(path: Path, *allow: str) -> str:
    with pytest.raises(UserError) as caught:
        list(list_images(str(path), allow=allow))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def listed(path: Path, *allow: str) -> list[str]:
    return [each for batch in list_images(str(path), allow=allow) for each in batch["path"].to_pylist()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A list, which is still to be written."""
    (tmp_path / "lists").mkdir()
    return tmp_path / "lists" / "m.txt"


@pytest.mark.parametrize("path", ["{}/x.jpg", "../x.jpg", "a/../../x.jpg", "{}/lists/../x.jpg", "file://{}/x.jpg"])
def test_a_list_on_disk_names_files_below_its_own_folder_and_where_it_is_allowed(file: Path, path: str) -> None:
    root = file.parent.parent
    named = path.format(root)
    file.write_text(f"y.jpg\n{file.parent}/z.jpg\n{named}\n")
    message = refusal(file)
    assert f"{file} names '{root}" in message.replace(f"{root}/lists/..", str(root)).replace("/a/../..", "/..")
    assert f"in its row 3, outside of {file.parent}: if you trust the list, set lists.allow to" in message
    assert message.endswith(f"(--set 'lists.allow=[{root}]').")
    assert refusal(file, f"{root}/list").endswith(f"(--set 'lists.allow=[{root}/list, {root}]').")
    found = listed(file, str(root))
    assert found[:2] == [f"{file.parent}/y.jpg", f"{file.parent}/z.jpg"]
    assert found[2] == f"{root}/x.jpg"


@pytest.mark.parametrize("path", ["photos/../secret/x.jpg", "photos//..//secret/x.jpg"])
def test_what_is_read_is_what_was_checked_whatever_a_link_leads_to(file: Path, path: str) -> None:
    """The system follows a link before a `..`, and would come to a folder beside the one that was meant."""
    for folder in ("photos", "secret"):
        (file.parent.parent / folder).mkdir()
    (file.parent.parent / "secret" / "x.jpg").touch()
    (file.parent / "photos").symlink_to("../photos")
    file.write_text(f"{path}\n")
    assert listed(file) == [f"{file.parent}/secret/x.jpg"]


def test_a_list_on_disk_names_objects_of_any_bucket(file: Path) -> None:
    paths = ["s3://photos/x.jpg", "gs://others/../x.jpg", "az://a/y//z.jpg"]
    file.write_text("\n".join(paths))
    assert listed(file) == paths


def test_a_list_may_name_its_own_folder_by_a_link_or_where_that_leads_to(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file.parent)
    file.write_text(f"{file.parent}/x.jpg\n{file.parent}/./a/../x.jpg\n")
    assert len(listed(tmp_path / "link" / file.name)) == 2
    file.write_text(f"{tmp_path}/link/x.jpg\n")
    assert len(listed(tmp_path / "link" / file.name)) == 1
    refusal(file)
    assert len(listed(file, f"{tmp_path}/link/")) == 1


@pytest.mark.parametrize("path", ["/proc/self/environ", "/sys/x.jpg", "//dev/sda", "/./proc/1/mem", "/x/../proc/x.jpg"])
def test_no_list_names_what_is_no_file_of_a_disk(file: Path, path: str) -> None:
    file.write_text(f"x.jpg\n{path}\n")
    assert f"names {path!r} in its row 2: no list may name what is no file of a disk." in refusal(file, "/", "/proc")


def test_a_row_is_counted_over_batches(file: Path) -> None:
    file.write_text("x.jpg\n" * 12_345 + "/etc/x.jpg\n")
    assert "names '/etc/x.jpg' in its row 12346, outside" in refusal(file)


def test_the_key_that_the_message_names_is_that_of_every_command(file: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    file.write_text("../x.jpg\n")
    refused = one_line_error(fruitpipe("plan", file, tmp_path / "out", code=2))
    setting = re.search(r"--set '(.*)'", refused)
    assert setting
    done = fruitpipe("plan", file, tmp_path / "out", "--set", setting[1], "--json")
    assert json.loads(done.stdout)["images"] == 1


def test_what_is_to_be_allowed_is_told_as_a_shell_takes_it_and_for_all_rows(file: Path) -> None:
    root = file.parent.parent
    paths = [root / "it's, [a]" / name / "x.jpg" for name in ("a: b", "c")]
    file.write_text("\n".join(["y.jpg", *map(str, paths), "s3://bucket/x.jpg"]))
    words = shlex.split(refusal(file).rpartition("(")[2].removesuffix(")."))
    assert words[0] == "--set"
    config = load_config(assignments=[words[1]], input=file, output=root / "out")
    assert config.lists.allow == [f"{root}/it's, [a]"]
    assert len(listed(file, *config.lists.allow)) == 4
    file.write_text("/etc/x.jpg\n/usr/x.jpg\n")
    assert refusal(file).endswith("(--set 'lists.allow=[/etc, /usr]').")


def test_a_link_to_itself_allows_nothing(file: Path) -> None:
    loop = file.with_name("loop")
    loop.symlink_to("loop")
    file.write_text("y.jpg\n")
    assert listed(file, str(loop)) == [f"{file.parent}/y.jpg"]
    file.write_text("/etc/x.jpg\n")
    refusal(file, str(loop))


def test_a_list_in_a_bucket_names_objects_of_that_bucket_and_where_it_is_allowed(admin: Any, s3: S3Config) -> None:
    def put(*paths: str) -> str:
        key = f"scope/{uuid4().hex}.csv"
        admin.put_object(Bucket=BUCKET, Key=key, Body="\n".join(["path", *paths]).encode())
        return f"s3://{BUCKET}/{key}"

    own = f"s3://{BUCKET}/elsewhere/x.jpg"
    for path in (f"s3://{BUCKET}-2/x.jpg", f"gs://{BUCKET}/x.jpg", "/etc/x.jpg", "/usr/../etc/x.jpg"):
        name, place = put("y.jpg", own, path), path.rpartition("/")[0].replace("/usr/../etc", "/etc")
        with pytest.raises(UserError) as caught:
            list(list_images(name, s3=s3))
        assert f"names {path!r} in its row 3, outside of s3://{BUCKET}: " in str(caught.value)
        assert f"lists.allow=[{place}]" in str(caught.value)
        assert sum(map(len, list_images(name, s3=s3, allow=[place]))) == 3


def test_an_inventory_names_parts_and_images_of_its_own_bucket_and_where_it_is_allowed(
    admin: Any, s3: S3Config, file: Path
) -> None:
    prefix = f"scope/{uuid4().hex}"

    def put(rows: bytes, bucket: str = BUCKET) -> str:
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/0.csv.gz", Body=gzip.compress(rows))
        document = {"fileFormat": "CSV", "destinationBucket": f"arn:aws:s3:::{bucket}", "fileSchema": "Bucket, Key"}
        text = json.dumps(document | {"files": [{"key": f"{prefix}/0.csv.gz"}]})
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/manifest.json", Body=text.encode())
        return f"s3://{BUCKET}/{prefix}/manifest.json"

    def said(name: str, *allow: str) -> str:
        with pytest.raises(UserError) as caught:
            list(list_images(name, s3=s3, allow=allow))
        return str(caught.value)

    other = put(f'"{BUCKET}","x.jpg"\n"others","notes.txt"\n"others","x.jpg"\n'.encode())
    assert f"names 's3://others/x.jpg' in its row 3, outside of s3://{BUCKET}: " in said(other)
    assert sum(map(len, list_images(other, s3=s3, allow=["s3://others"]))) == 2
    elsewhere = put(b"", "private")
    assert f"names 's3://private/{prefix}/0.csv.gz' in its part 1, outside" in said(elsewhere)
    assert "no bucket private at" in said(elsewhere, "s3://private")
    line = put(b'"' + bytes(50 << 20) + b'","x.jpg"\n')
    assert "line 1 has more than 1048576 bytes" in said(line)


def test_lists_in_memory_name_what_lies_beside_them() -> None:
    """Elsewhere, such places are none of anybody's images."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "m.txt").write_text("x.jpg\n")
        assert sum(map(len, list_images(f"{folder}/m.txt"))) == 1


def test_rows_without_a_path_count(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [None] * BATCH + ["/etc/x.jpg"]}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=f"in its row {BATCH + 1},"):
        list(list_images(str(tmp_path / "m.parquet")))


def test_a_size_of_too_many_digits_is_told_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"path,size\na.jpg,{'9' * 20}\n")
    with pytest.raises(UserError, match="row 1 has a size"):
        list(list_images(str(tmp_path / "m.csv")))


@pytest.mark.parametrize("name", ["m.txt", "m.csv"])
def test_the_longest_path_is_one(tmp_path: Path, name: str) -> None:
    path = "x" * (LONGEST_TEXT - 4) + ".jpg"
    (tmp_path / name).write_text(f"path\n{path}\n" if name == "m.csv" else path)
    assert sum(map(len, list_images(str(tmp_path / name)))) == 1


NOT_UTF_8 = pa.StringArray.from_buffers(1, *pa.array([b"s3://b/\xff.jpg"], pa.binary()).buffers()[1:])


def test_a_path_in_parquet_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": NOT_UTF_8}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="not UTF-8 throughout"):
        list(list_images(str(tmp_path / "m.parquet"), labels="none"))


def inventory_of(form: str, parts: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Paths of an inventory with these parts, whose columns are bucket, key and size."""
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    monkeypatch.setattr(inventory, "open_object", lambda url, s3: (folder / url.rpartition("/")[2]).open("rb"))
    name = folder / "manifest.json"
    files = [{"key": part} for part in parts]
    document = {"fileFormat": form, "files": files, "destinationBucket": "b", "fileSchema": "Bucket, Key, Size"}
    name.write_text(json.dumps(document))
    batches = list_images(str(name), labels="none")
    return [path for batch in batches for path in batch["path"].to_pylist()]


def test_rows_of_all_parts_of_an_inventory_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"one": b'"b","a.jpg","5"\n' * 3, "two": b'"b","a.jpg","5"\n"b","x.jpg","five"\n'}
    with pytest.raises(UserError, match="row 5 has a size that is no whole number"):
        inventory_of("CSV", {part: gzip.compress(data) for part, data in parts.items()}, tmp_path, monkeypatch)


def test_an_inventory_may_have_a_row_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = gzip.compress(b'"b","","5"\n"b","a%20b.jpg","5"\n')
    assert inventory_of("CSV", {"one": part}, tmp_path, monkeypatch) == ["s3://b/a b.jpg"]


@pytest.mark.parametrize("name", ["bucket", "key"])
def test_an_inventory_without_a_column_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"bucket": ["b"], "key": ["a.jpg"]}).drop_columns(name), tmp_path / "one")
    with pytest.raises(UserError, match=f"it has no column {name}"):
        inventory_of("Parquet", {"one": (tmp_path / "one").read_bytes()}, tmp_path, monkeypatch)


def test_a_key_of_an_inventory_that_is_not_utf_8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"bucket": ["b"], "key": NOT_UTF_8}), tmp_path / "one")
    with pytest.raises(UserError, match="not UTF-8 throughout"):
        inventory_of("Parquet", {"one": (tmp_path / "one").read_bytes()}, tmp_path, monkeypatch)
