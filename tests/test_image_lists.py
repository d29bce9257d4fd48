"""Manifests of images, on a disk and in a bucket, and inventories as S3 makes them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import nobody
from faults import Proxy
from parts import Image, put_part
from seaweed import BUCKET, Server

from fruitpipe import source
from fruitpipe.config import Config, S3Config
from fruitpipe.errors import UserError
from fruitpipe.pipeline.plan import Plan
from fruitpipe.pipeline.preview import plan
from fruitpipe.source import Reader, list_images
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.vision.bad_image import BadImage

Row = dict[str, Any]
KINDS = ("parquet", "csv", "jsonl", "ndjson", "txt")
WITH_COLUMNS = tuple(kind for kind in KINDS if kind != "txt")
DIGEST = "d" * 64


@pytest.fixture
def prefix() -> str:
    return f"manifests/{uuid4().hex}"


@dataclass
class Place:
    """An empty folder of one kind."""

    url: str
    put: Callable[[str, bytes], object]

    def write(self, name: str, data: bytes) -> str:
        """The path or URL of a new file."""
        self.put(name, data)
        return f"{self.url}/{name}"


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, admin: Any, prefix: str, tmp_path: Path) -> Place:
    if request.param == "disk":
        return Place(str(tmp_path), lambda name, data: (tmp_path / name).write_bytes(data))
    return Place(
        f"s3://{BUCKET}/{prefix}",
        lambda name, data: admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data),
    )


def encode(kind: str, rows: Sequence[Row]) -> bytes:
    """A manifest. What a row has not is null, or missing from its line of JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    match kind:
        case "parquet":
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), sink)
            return bytes(sink.getvalue())
        case "csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, names)
            writer.writeheader()
            writer.writerows(rows)
            return text.getvalue().encode()
        case "txt":
            return "".join(f"{row['path']}\n" for row in rows).encode()
        case _:
            return "".join(json.dumps(row) + "\n" for row in rows).encode()


def listed(name: str, s3: S3Config, **options: Any) -> list[Row]:
    batches = list(list_images(name, s3=s3, **options))
    assert all(batch.schema == source.LISTING for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def refusal(name: str, s3: S3Config) -> str:
    with pytest.raises(UserError) as caught:
        listed(name, s3)
    message = str(caught.value)
    assert name in message
    assert len(message.splitlines()) == 1
    return message


def status(path: str, s3: S3Config) -> str:
    with pytest.raises(BadImage) as caught:
        Reader(s3, 1 << 20).read(path)
    return caught.value.status


@pytest.mark.parametrize("kind", KINDS)
def test_paths_start_from_the_manifest_unless_they_are_absolute(place: Place, s3: S3Config, kind: str) -> None:
    given = {
        "x.jpg": f"{place.url}/x.jpg",
        "apple/y.jpg": f"{place.url}/apple/y.jpg",
        "./w.jpg": f"{place.url}/w.jpg",
        ".//./apple/v.jpg": f"{place.url}/apple/v.jpg",
        "a, \"b\" 'c' é#%20+?.jpg": f"{place.url}/a, \"b\" 'c' é#%20+?.jpg",
        "/elsewhere/pear/z.jpg": "/elsewhere/pear/z.jpg",
        "file:///elsewhere/1.jpg": "/elsewhere/1.jpg",
        f"s3://{BUCKET}/plum/2.jpg": f"s3://{BUCKET}/plum/2.jpg",
        "gs://other/3.jpg": "gs://other/3.jpg",
        "no image by its name": f"{place.url}/no image by its name",
    }
    named: list[Row] = [{"path": path} for path in given]
    rows = listed(
        place.write(f"m.{kind}", encode(kind, named)), s3, allow=["/elsewhere", f"s3://{BUCKET}", "gs://other"]
    )
    assert [row["path"] for row in rows] == list(given.values())
    assert [row["label"] for row in rows] == [path.split("/")[-2] for path in given.values()]
    assert {row["content"] for row in rows} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_is_found_however_it_is_named(
    tmp_path: Path, s3: S3Config, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"M.{kind.upper()}").write_bytes(encode(kind, [{"path": "x.jpg"}]))
    monkeypatch.chdir(tmp_path)
    for name in (f"M.{kind.upper()}", f"./M.{kind.upper()}", f"file://{tmp_path}/M.{kind.upper()}"):
        assert [row["path"] for row in listed(name, s3)] == [f"{tmp_path}/x.jpg"]


@pytest.mark.parametrize("kind", WITH_COLUMNS)
def test_label_etag_and_size_are_used_where_they_are_there(place: Place, s3: S3Config, kind: str) -> None:
    url = f"s3://{BUCKET}/apple"
    rows: list[Row] = [
        {"path": f"{url}/1.jpg", "label": "pear", "etag": "abc", "size": 17},
        {"path": f"{url}/2.jpg", "label": "NA", "etag": '"quoted"', "size": 0},
        {"path": f"{url}/3.jpg", "label": "null"},
        {"path": f"{url}/4.jpg", "size": 5},
    ]
    name = place.write(f"m.{kind}", encode(kind, rows))
    found = [(row["label"], row["etag"], row["size"]) for row in listed(name, s3)]
    assert found == [("pear", "abc", 17), ("NA", "quoted", 0), ("null", "", 0), ("apple", "", 5)]
    assert {row["label"] for row in listed(name, s3, labels="none")} == {None}


@pytest.mark.parametrize("kind", WITH_COLUMNS)
def test_sizes_are_refused_below_0_and_add_up_to_no_more_than_a_summary_tells(
    tmp_path: Path, s3: S3Config, kind: str
) -> None:
    name = tmp_path / f"m.{kind}"
    name.write_bytes(encode(kind, [{"path": "x.jpg", "size": 5}, {"path": "y.jpg", "size": -5}]))
    assert "row 2 has a size below 0: -5" in refusal(str(name), s3)
    name.write_bytes(encode(kind, [{"path": f"s3://b/{number}.jpg", "size": 10**18 - 1} for number in range(12)]))
    assert plan(Config(input=str(name), output=str(tmp_path / "out"), s3=s3)).bytes == 2**63 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_an_etag_has_that_of_its_folder_s_listing(tmp_path: Path, s3: S3Config, kind: str) -> None:
    (tmp_path / "apple").mkdir()
    for number in range(3):
        (tmp_path / "apple" / f"{number}.jpg").write_bytes(bytes(number))
    rows: list[Row] = [{"path": f"apple/{number}.jpg"} for number in range(3)]
    if kind != "txt":
        rows[1] |= {"etag": "told"}
    (tmp_path / f"m.{kind}").write_bytes(encode(kind, rows))
    expected = sorted(listed(f"{tmp_path}/apple", s3), key=lambda row: row["path"])
    if kind != "txt":
        expected[1] |= {"etag": "told", "size": 0}
    assert listed(f"{tmp_path}/m.{kind}", s3) == expected


@pytest.mark.parametrize("kind", WITH_COLUMNS)
def test_rows_without_a_path_are_passed_over(place: Place, s3: S3Config, kind: str) -> None:
    rows: list[Row] = [{"path": "x.jpg"}, {"path": None, "label": "a"}, {"path": ""}, {"path": "y.jpg"}]
    name = place.write(f"m.{kind}", encode(kind, rows))
    assert [row["path"] for row in listed(name, s3)] == [f"{place.url}/x.jpg", f"{place.url}/y.jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_is_named_twice_counts_once(place: Place, s3: S3Config, kind: str, tmp_path: Path) -> None:
    rows: list[Row] = [{"path": f"s3://{BUCKET}/{number % 3}.jpg"} for number in range(9)]
    name = place.write(f"m.{kind}", encode(kind, rows))
    assert plan(Config(input=name, output=str(tmp_path / "out"), s3=s3)).images == 3


def test_rows_that_name_no_image_or_one_again_are_counted(place: Place, s3: S3Config, tmp_path: Path) -> None:
    text = "path,label\nx.jpg,b\nx.jpg,a\n,c\ny.jpg,c\n"
    config = Config(input=place.write("m.csv", text.encode()), output=str(tmp_path / "out"), s3=s3)
    summary = plan(config)
    assert (summary.labels, summary.passed_over) == ({"a": 1, "c": 1}, {"named again": 1, "without a path": 1})
    assert "rows that name no image or one that is named already" in source.passed_over(summary.passed_over)


def test_csv_may_quote_anything(place: Place, s3: S3Config) -> None:
    names = ["a,b.jpg", 'a "quoted" b.jpg', "two\nlines.jpg", "two\r\nlines.jpg", " spaces .jpg", "'single'.jpg"]
    name = place.write("m.csv", encode("csv", [{"path": path, "label": path} for path in names]))
    assert [(row["path"], row["label"]) for row in listed(name, s3)] == [(f"{place.url}/{n}", n) for n in names]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeffpath,label\nx.jpg,a\ny.jpg,b\n", id="byte order mark"),
        pytest.param("path,label\r\nx.jpg,a\r\ny.jpg,b\r\n", id="Windows"),
        pytest.param("\n\npath,label\n\nx.jpg,a\n\ny.jpg,b", id="empty lines"),
        pytest.param('"label","path"\n"a","x.jpg"\n"b","y.jpg"\n', id="all quoted, in another order"),
        pytest.param("n,path,label,path.bak\n1,x.jpg,a,q\none,y.jpg,b,\n", id="further columns"),
        pytest.param("path, label\nx.jpg,a\ny.jpg,b\n", id="spaces in the header"),
        pytest.param("PATH,Label\nx.jpg,a\ny.jpg,b\n", id="capitals"),
        pytest.param("path;label\nx.jpg;a\ny.jpg;b\n", id="semicolons"),
        pytest.param('path,label,"notes; a; b; c; d"\nx.jpg,a,1\ny.jpg,b,2\n', id="semicolons in a name"),
        pytest.param("n\tpath\tlabel\n1\tx.jpg\ta\n2\ty.jpg\tb\n", id="tabs"),
        pytest.param("sep=;\r\npath;label\r\nx.jpg;a\r\ny.jpg;b\r\n", id="Excel's first line"),
        pytest.param('\ufeff"sep=|"\n\nlabel|path\na|x.jpg\nb|y.jpg\n', id="that line, quoted and of any separator"),
        pytest.param(
            "SEP=,\npath;m;n;o,path,label\n,x.jpg,a\n,y.jpg,b\n", id="that line against what seems to separate"
        ),
    ],
)
def test_csv_is_read_as_programs_write_it(place: Place, s3: S3Config, text: str) -> None:
    rows = listed(place.write("m.csv", text.encode()), s3)
    assert [(row["path"], row["label"]) for row in rows] == [(f"{place.url}/x.jpg", "a"), (f"{place.url}/y.jpg", "b")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_texts_are_read_in_the_encodings_of_windows(place: Place, s3: S3Config, kind: str, encoding: str) -> None:
    text = encode(kind, [{"path": f"naïve 🍎 {number}.jpg"} for number in range(3)]).decode()
    data = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"") + text.encode(encoding)
    rows = listed(place.write(f"m.{kind}", data), s3)
    assert [row["path"] for row in rows] == [f"{place.url}/naïve 🍎 {number}.jpg" for number in range(3)]


LONG = f"s3://{BUCKET}/{'x' * 1000}.jpg"
BYTES = {
    "csv": b"path,note\nx.jpg,\n\xff.jpg,\n",
    "late.csv": b"path\n" + (LONG.encode() + b"\n") * 10_000 + b"\xff.jpg\n",
    "note.csv": b"path,note\nx.jpg,caf\xe9\n",
    "header.csv": b"caf\xe9,path\n1,x.jpg\n",
    "txt": b"x.jpg\n\xff.jpg\n",
    "jsonl": b'{"path": "\xff.jpg"}\n',
    "late.jsonl": (json.dumps({"path": LONG}).encode() + b"\n") * 10_000 + b'{"path": "\xff.jpg"}\n',
    "listdir.jsonl": json.dumps({"path": os.fsdecode(b"\xff.jpg")}).encode(),
}
"""Texts that are no UTF-8, in the first block of a file or later."""


@pytest.mark.parametrize("name", BYTES)
def test_what_is_not_utf_8_says_so_and_what_to_do(tmp_path: Path, s3: S3Config, name: str) -> None:
    (tmp_path / f"m.{name}").write_bytes(BYTES[name])
    message = refusal(f"{tmp_path}/m.{name}", s3)
    assert message.endswith("is not UTF-8 throughout. Save it so, and rename files whose own names are not.")


@pytest.mark.parametrize("type_", [pa.binary(), pa.string()])
def test_parquet_with_names_that_are_not_utf_8_is_refused_the_same_way(
    tmp_path: Path, s3: S3Config, type_: pa.DataType
) -> None:
    names = pa.array([b"s3://photos/x.jpg", b"s3://photos/\xff.jpg"])
    paths = pa.Array.from_buffers(type_, len(names), names.buffers())
    pq.write_table(pa.table({"path": paths, "etag": ["1", "2"]}), tmp_path / "m.parquet")
    assert "is not UTF-8 throughout" in refusal(f"{tmp_path}/m.parquet", s3)


@pytest.mark.parametrize("kind", WITH_COLUMNS)
def test_a_label_that_is_a_number_is_its_text_in_all_kinds(place: Place, s3: S3Config, kind: str) -> None:
    rows: list[Row] = [{"path": "x.jpg", "label": 3}, {"path": "y.jpg", "label": -40}]
    assert [row["label"] for row in listed(place.write(f"m.{kind}", encode(kind, rows)), s3)] == ["3", "-40"]


@pytest.mark.parametrize("kind", WITH_COLUMNS)
def test_columns_that_are_only_a_little_like_ours_are_the_user_s_own(place: Place, s3: S3Config, kind: str) -> None:
    row: Row = {
        "path": "x.jpg",
        "label": "a",
        "Label": "b",
        "labeler": "me",
        "label_1": "c",
        "tag": "t",
        "paths_of": "z",
    }
    (found,) = listed(place.write(f"m.{kind}", encode(kind, [row])), s3)
    assert found["label"] == "a", "the exact name counts"
    assert found["etag"] == "" or place.url.startswith("/")


def test_the_first_rows_of_json_lines_say_which_columns_there_are(place: Place, s3: S3Config) -> None:
    rows: list[Row] = [{"path": "x.jpg"}, {"path": "y.jpg", "Label": None}, {"path": "z.jpg", "Label": 3}]
    found = {row["path"]: row["label"] for row in listed(place.write("m.jsonl", encode("jsonl", rows)), s3)}
    assert found[f"{place.url}/z.jpg"] == "3"


@pytest.mark.parametrize("kind", WITH_COLUMNS)
@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (("path", "lable"), "a column `lable`: name it `label`"),
        (("path", "Labels"), "a column `Labels`: name it `label`"),
        ((" path", "label", "Path"), "two columns `path`"),
    ],
)
def test_a_slip_in_a_column_s_name_is_refused(
    place: Place, s3: S3Config, kind: str, columns: tuple[str, ...], says: str
) -> None:
    assert says in refusal(place.write(f"m.{kind}", encode(kind, [dict.fromkeys(columns, "x")])), s3)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("columns", [("path", "label", "label"), ("path", "path")])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, s3: S3Config, kind: str, columns: tuple[str, ...]) -> None:
    table = pa.Table.from_arrays([pa.array(["x"])] * len(columns), columns)
    name = tmp_path / f"m.{kind}"
    pa.csv.write_csv(table, name) if kind == "csv" else pq.write_table(table, name)
    assert f"two columns `{columns[-1]}`" in refusal(str(name), s3)


def test_a_json_array_is_refused_with_what_is_wanted(place: Place, s3: S3Config) -> None:
    for text in ('[{"path": "x.jpg"}]', '\n[\n  {"path": "x.jpg"}\n]\n'):
        assert "an object per line" in refusal(place.write("m.jsonl", text.encode()), s3)


def test_text_has_a_path_a_line_and_nothing_else(place: Place, s3: S3Config) -> None:
    lines = ["x.jpg", " a .jpg", "tab\t.jpg", "u\u2028v.jpg", "f\fg.jpg", "a,b.jpg", "#1.jpg", '"q".jpg']
    text = "\ufeff" + "\r\n".join([*lines[:3], "", "   "]) + "\n" + "\n".join(lines[3:])
    assert [row["path"] for row in listed(place.write("m.txt", text.encode()), s3)] == [
        f"{place.url}/{line}" for line in lines
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_of_many_blocks_is_read_whole(admin: Any, s3: S3Config, prefix: str, kind: str) -> None:
    """With a further column whose values look like numbers for longer than one block."""
    count, long = 40_000, "x" * 250
    rows: list[Row] = [{"path": f"s3://{BUCKET}/{long}/{number}.jpg"} for number in range(count)]
    if kind in {"csv", "parquet"}:
        for row in rows:
            row["note"] = "7"
        rows[-1]["note"] = "not a number"
    admin.put_object(Bucket=BUCKET, Key=f"{prefix}/m.{kind}", Body=encode(kind, rows))
    found = listed(f"s3://{BUCKET}/{prefix}/m.{kind}", s3)
    assert [row["path"] for row in found] == [row["path"] for row in rows]


@pytest.mark.parametrize("kind", WITH_COLUMNS)
def test_without_paths_a_manifest_is_refused_by_the_names_that_it_has(place: Place, s3: S3Config, kind: str) -> None:
    rows = [{"file": "x.jpg", "class": "apple"}]
    message = refusal(place.write(f"m.{kind}", encode(kind, rows)), s3)
    assert "no column `path`, but file, class" in message


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.csv", b""),
        ("m.csv", b"path,label\nx.jpg\n"),
        ("m.csv", b"path,size\nx.jpg,large\n"),
        ("m.csv", b"path\n\xe9.jpg\n"),
        ("m.csv", b"path\n" + b"\x00\xff" * 500),
        ("m.jsonl", b""),
        ("m.jsonl", b"5\n"),
        ("m.jsonl", b'{"path": "x.jpg"\n'),
        ("m.jsonl", b'{"path": "x.jpg"}\n{"path": "y.jp'),
        ("m.jsonl", b'{"path": 5}\n'),
        ("m.txt", b"x.jpg\n\xff\xfe.jpg\n"),
        ("m.parquet", b""),
        ("m.parquet", b"PAR1 no parquet PAR1"),
        ("m.parquet", encode("parquet", [{"path": f"{number}.jpg"} for number in range(5000)])[:-100]),
        ("m.parquet", encode("parquet", [{"path": ["x.jpg"]}])),
        ("m.parquet", encode("parquet", [{"path": "x.jpg", "size": "large"}])),
        ("manifest.json", b""),
        ("manifest.json", b"[]"),
        ("manifest.json", b'{"run": "20260101-000000-abcd"}'),
    ],
)
def test_a_damaged_manifest_is_refused_in_one_line(place: Place, s3: S3Config, name: str, data: bytes) -> None:
    refusal(place.write(name, data), s3)


LONG = "x" * 2000 + ".jpg"


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("m.jsonl", ['{"path": "x.jpg"}', "", '{"path": "y.jpg"'], "line 3, column 17: Expecting ',' delimiter"),
        ("m.jsonl", ['{"path": "x.jpg"}', "5"], "no object in line 2"),
        ("m.jsonl", ['{"path": "x.jpg"}', '{"path": 5}'], "row 2 has a path that is a number, and no string"),
        (
            "m.jsonl",
            [*[f'{{"path": "{LONG}"}}'] * 5000, '{"path": "x", "size": "5"}'],
            "row 5001 has a size that is a string, and no number",
        ),
        ("m.csv", ["path,size", "x.jpg, 5 ", "y.jpg,large"], "row 2 has a size that is no whole number: 'large'"),
        ("m.csv", ["path,size", *[f"{LONG},5"] * 5000, "y.jpg,1.5"], "row 5001 has a size that is no whole number"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_number(
    place: Place, s3: S3Config, name: str, rows: list[str], says: str
) -> None:
    """Also where it is in another block than the first."""
    assert says in refusal(place.write(name, "\n".join(rows).encode()), s3)


def test_a_parquet_file_whose_pages_are_damaged_is_refused_in_one_line(place: Place, s3: S3Config) -> None:
    data = bytearray(encode("parquet", [{"path": f"{number}.jpg"} for number in range(5000)]))
    data[100:2000] = b"\xff" * 1900
    refusal(place.write("m.parquet", bytes(data)), s3)


@pytest.mark.parametrize(
    ("name", "data"),
    [("m.csv", b"path,label\n"), ("m.txt", b"\n \n"), ("m.parquet", encode("parquet", [{"path": None}]))],
)
def test_a_manifest_of_no_images_is_a_user_error(
    place: Place, s3: S3Config, tmp_path: Path, name: str, data: bytes
) -> None:
    with pytest.raises(UserError, match="no images in"):
        plan(Config(input=place.write(name, data), output=str(tmp_path / "out"), s3=s3))


@pytest.mark.parametrize("name", ["m.csv", "m.parquet", "a/manifest.json"])
def test_a_manifest_that_is_not_there_is_found_out_at_once(place: Place, s3: S3Config, name: str) -> None:
    url = f"{place.url}/{name}"
    with pytest.raises(UserError, match=f"no list of images {url}"):
        source.check_inputs([url], s3)
    assert "no list of images" in refusal(url, s3)
    with pytest.raises(UserError, match="no bucket no-such-bucket at"):
        source.check_inputs([f"s3://no-such-bucket/{name}"], s3)


def test_a_manifest_without_rights_is_refused_in_one_line(public_folder: Path, s3: S3Config) -> None:
    manifest = public_folder / "m.csv"
    manifest.write_text("path\nx.jpg\n")
    manifest.chmod(0)
    with nobody():
        assert "cannot read" in refusal(str(manifest), s3)


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("s3a://bucket/x.jpg", "write s3://"),
        ("https://host/x.jpg", "s3.endpoint"),
        ("https://host/x.jpg?X-Amz-Signature=5ec2e7", "credentials are not allowed in a config"),
        ("ftp://host/x.jpg", "no such scheme"),
        ("s3:/bucket/x.jpg", "expected s3://bucket/folder"),
    ],
)
def test_a_path_that_nothing_here_reads_is_refused_without_repeating_it(
    place: Place, s3: S3Config, path: str, advice: str
) -> None:
    message = refusal(place.write("m.csv", encode("csv", [{"path": "x.jpg"}, {"path": path}])), s3)
    assert advice in message
    assert "5ec2e7" not in message


def test_images_that_are_not_there_are_missing_and_others_forbidden(
    place: Place, server: Server, admin: Any, s3: S3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = f"{place.url}/there.jpg"
    place.put("there.jpg", b"x")
    paths = ["there.jpg", "gone.jpg", "s3://no-such-bucket/x.jpg", f"s3://{BUCKET}/gone.jpg"]
    name = place.write("m.csv", encode("csv", [{"path": path} for path in paths]))
    rows = listed(name, s3, allow=["s3://no-such-bucket"])
    assert [row["path"] for row in rows] == [there, f"{place.url}/gone.jpg", *paths[2:]]
    assert bytes(Reader(s3, 1).read(there, rows[0]["etag"])) == b"x"
    assert [status(row["path"], s3) for row in rows[1:]] == ["missing"] * 3
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.identities["lister"].access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.identities["lister"].secret_key)
    with Proxy(server.endpoint) as proxy:  # clients are kept by endpoint
        lister = s3.model_copy(update={"endpoint": proxy.endpoint})
        assert status(f"s3://{BUCKET}/gone.jpg", lister) == "forbidden"


def test_an_object_that_is_not_the_one_of_the_manifest_has_changed(admin: Any, s3: S3Config, prefix: str) -> None:
    admin.put_object(Bucket=BUCKET, Key=f"{prefix}/x.jpg", Body=b"new")
    reader, url = Reader(s3, 10), f"s3://{BUCKET}/{prefix}/x.jpg"
    assert bytes(reader.read(url)) == b"new"
    with pytest.raises(BadImage) as caught:
        reader.read(url, "0" * 32)
    assert caught.value.status == "changed"


# https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
COLUMNS = {
    "Bucket": pa.string(), "Key": pa.string(), "VersionId": pa.string(), "IsLatest": pa.bool_(),
    "IsDeleteMarker": pa.bool_(), "Size": pa.int64(), "LastModifiedDate": pa.timestamp("ms", "UTC"),
    "ETag": pa.string(), "StorageClass": pa.string(),
}  # fmt: skip
PARQUET_NAMES = (
    "bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag",
    "storage_class",
)  # fmt: skip
KEYS = ("apple/a b+c.jpg", 'apple/é, "q" %20&=#?.JPG', "pear/two\nlines.png", "root.jpg")
NO_IMAGES = (
    "apple/notes.txt", "apple/.hidden.jpg", ".git/x.jpg", "folder/", "m/inventory/data/0.csv.gz",
    f"out/{layout.thumbnails(layout.feature_part('d' * 64, []), 48)}",
)  # fmt: skip


def inventory_rows(objects: Sequence[Row], versions: bool) -> list[Row]:
    """Rows of an inventory; with versions, an old one and a deletion for each that is there."""
    made = []
    for each in objects:
        row = {"Bucket": BUCKET, "Key": each["Key"], "Size": each["Size"], "ETag": each["ETag"].strip('"')}
        row |= {"LastModifiedDate": each["LastModified"], "StorageClass": "STANDARD"}
        row |= {"VersionId": "2", "IsLatest": True, "IsDeleteMarker": False}
        made.append(row)
        if versions:
            made.append(row | {"VersionId": "1", "IsLatest": False, "ETag": "0" * 32})
            gone = row | {"Key": f"gone/{each['Key']}", "IsDeleteMarker": True}
            made.append(gone | dict.fromkeys(("Size", "ETag", "StorageClass")))
    return made


def inventory_part(form: str, rows: Sequence[Row], names: Sequence[str]) -> bytes:
    columns = [[row.get(name) for row in rows] for name in names]
    if form == "CSV":
        text = io.StringIO()
        for row in zip(*columns, strict=True):
            cells = [quote_plus(cell, "/") if name == "Key" else cell for name, cell in zip(names, row, strict=True)]
            cells = [str(cell).lower() if isinstance(cell, bool) else cell for cell in cells]
            csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(cells)
        return gzip.compress(text.getvalue().encode())
    arrays = [pa.array(column, COLUMNS[name]) for column, name in zip(columns, names, strict=True)]
    renamed = [dict(zip(COLUMNS, PARQUET_NAMES, strict=True))[name] for name in names]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays, renamed), sink)
    return bytes(sink.getvalue())


@pytest.fixture
def make_inventory(admin: Any) -> Callable[..., str]:
    """Have S3 make an inventory of what is below a prefix, in two parts; returns its URL."""

    def make(prefix: str, form: str, versions: bool = False) -> str:
        pages = admin.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        objects = [each for page in pages for each in page["Contents"]]
        names = [name for name in COLUMNS if versions or name not in {"VersionId", "IsLatest", "IsDeleteMarker"}]
        rows, files = inventory_rows(objects, versions), []
        for number, half in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
            key = f"{prefix}-inventory/data/{number}.{'csv.gz' if form == 'CSV' else form.lower()}"
            admin.put_object(Bucket=BUCKET, Key=key, Body=inventory_part(form, half, names))
            files.append({"key": key, "size": 1, "MD5checksum": "0" * 32})
        document = {
            "sourceBucket": BUCKET, "destinationBucket": f"arn:aws:s3:::{BUCKET}", "version": "2016-11-30",
            "creationTimestamp": "1514944800000", "fileFormat": form, "files": files,
            "fileSchema": ", ".join(names) if form == "CSV" else "message s3.inventory { … }",
        }  # fmt: skip
        key = f"{prefix}-inventory/2026-01-01T01-00Z/manifest.json"
        admin.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(document).encode())
        return f"s3://{BUCKET}/{key}"

    return make


@pytest.fixture
def shop(admin: Any, prefix: str) -> str:
    for key in (*KEYS, *NO_IMAGES):
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=key.encode())
    return prefix


@pytest.mark.parametrize("versions", [False, True], ids=["current", "versions"])
@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_an_inventory_lists_what_the_bucket_lists(
    make_inventory: Any, shop: str, s3: S3Config, form: str, versions: bool
) -> None:
    found = listed(make_inventory(shop, form, versions), s3)
    assert {row["path"] for row in found} == {f"s3://{BUCKET}/{shop}/{key}" for key in KEYS}
    in_order = sorted(found, key=lambda row: str(row["path"]))
    assert in_order == sorted(listed(f"s3://{BUCKET}/{shop}", s3), key=lambda row: str(row["path"]))
    assert {bytes(Reader(s3, 100).read(row["path"], row["etag"])).decode() for row in found} == set(KEYS)


def test_an_inventory_may_be_on_disk_and_its_parts_where_it_says(
    make_inventory: Any, shop: str, admin: Any, s3: S3Config, tmp_path: Path
) -> None:
    url = make_inventory(shop, "CSV")
    document = admin.get_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
    (tmp_path / "manifest.json").write_bytes(document)
    assert listed(f"{tmp_path}/manifest.json", s3) == listed(url, s3)


def test_an_inventory_in_orc_is_refused_in_one_line(make_inventory: Any, shop: str, s3: S3Config) -> None:
    assert "ORC: have it made as Parquet or CSV" in refusal(make_inventory(shop, "ORC"), s3)


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_an_inventory_with_a_part_that_is_gone_or_damaged_is_refused_in_one_line(
    make_inventory: Any, shop: str, admin: Any, s3: S3Config, form: str
) -> None:
    url = make_inventory(shop, form)
    part = f"{shop}-inventory/data/1.{'csv.gz' if form == 'CSV' else 'parquet'}"
    whole = admin.get_object(Bucket=BUCKET, Key=part)["Body"].read()
    admin.put_object(Bucket=BUCKET, Key=part, Body=whole[: len(whole) // 2])
    refusal(url, s3)
    admin.delete_object(Bucket=BUCKET, Key=part)
    with pytest.raises(UserError, match=f"no s3://{BUCKET}/{part}, which {url} names: take an"):
        listed(url, s3)


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_images_of_an_inventory_are_known_to_a_run_over_the_listing(
    make_inventory: Any, shop: str, s3: S3Config, store: Store, tmp_path: Path, form: str
) -> None:
    by_inventory = listed(make_inventory(shop, form, versions=True), s3)
    put_part(store, DIGEST, [Image(row["path"], row["etag"]) for row in by_inventory])
    plan = Plan(tmp_path, verify_content=False, retry="transient")
    try:
        plan.add_images(list_images(f"s3://{BUCKET}/{shop}", s3=s3), source.LISTING)
        plan.add_features(store, DIGEST)
        summary = plan.summary()
    finally:
        plan.close()
    assert (summary.images, summary.known, summary.todo) == (len(KEYS), len(KEYS), 0)


@pytest.mark.parametrize("kind", [*KINDS, "CSV", "Parquet"])
def test_planning_asks_nothing_about_single_images(
    make_inventory: Any, server: Server, admin: Any, s3: S3Config, prefix: str, tmp_path: Path, kind: str
) -> None:
    names = [f"{prefix}/{number}.jpg" for number in range(200)]
    if kind in KINDS:
        url = f"s3://{BUCKET}/{prefix}.{kind}"
        data = encode(kind, [{"path": f"s3://{BUCKET}/{name}"} for name in names])
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}.{kind}", Body=data)
    else:
        for name in names:
            admin.put_object(Bucket=BUCKET, Key=name, Body=b"x")
        url = make_inventory(prefix, kind)
    time.sleep(0.1)  # a request is counted after its answer
    before = server.requests()
    assert plan(Config(input=url, output=str(tmp_path / "out"), s3=s3)).images == len(names)
    time.sleep(0.1)
    asked = server.requests() - before
    assert 2 <= sum(asked.values()) <= 10, asked


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_empty_etag_or_label_is_none(form: str, tmp_path: Path) -> None:
    """As pandas writes them after `fillna("")`: the file is looked at, and its folder is its label."""
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind/a.jpg").write_bytes(b"12345")
    row = {"path": "kind/a.jpg", "etag": "", "label": ""}
    name = tmp_path / f"list.{form}"
    if form == "csv":
        name.write_text("path,etag,label\nkind/a.jpg,,\n")
    elif form == "jsonl":
        name.write_text(json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), name)
    (found,) = [row for batch in list_images(str(name)) for row in batch.to_pylist()]
    assert (found["etag"][:2], found["size"], found["label"]) == ("5-", 5, "kind")
