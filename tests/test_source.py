from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import hostile
import pyarrow as pa
import pytest
from conftest import a_stranger, nobody
from faults import Proxy
from seaweed import BUCKET, Server

from fruitpipe import source
from fruitpipe.config import Config, S3Config
from fruitpipe.errors import UserError
from fruitpipe.pipeline.preview import plan
from fruitpipe.source import check_apart, list_images
from fruitpipe.source.files import read_image
from fruitpipe.storage import layout
from fruitpipe.vision.bad_image import BadImage

STRANGE = [
    "with space.jpg", "#1.png", "100%.jpg", "%20.jpg", "naïve.jpg", "日本.jpg", "🍎.jpg", "two\nlines.jpg", "tab\t.jpg",
    "-rf.jpg", "--help.jpg", "'quote\".jpg", "a;b|c&d.jpg", "back\\slash.jpg", "*?[x].jpg", "~.jpg", "$HOME.jpg",
    "x" * 250 + ".jpg",
]  # fmt: skip
LIMIT = 1 << 20


@pytest.fixture
def prefix() -> str:
    return f"source/{uuid4().hex}"


def rows(folder: Path | str, **options: object) -> dict[str, dict[str, object]]:
    """The listing by path."""
    listed = [row for batch in list_images(str(folder), **options) for row in batch.to_pylist()]  # type: ignore[arg-type]
    assert len({row["path"] for row in listed}) == len(listed)
    return {row["path"]: row for row in listed}


def names(folder: Path) -> set[str]:
    return {Path(path).relative_to(folder).as_posix() for path in rows(folder)}


def touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def status(path: Path, limit: int = LIMIT) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(str(path), limit)
    assert str(caught.value)
    return caught.value.status


def refusal(folder: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        rows(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_strange_names_are_listed_and_read(tmp_path: Path) -> None:
    for name in STRANGE:
        touch(tmp_path / name, name.encode())
    assert names(tmp_path) == set(STRANGE)
    for path in rows(tmp_path):
        assert read_image(path, LIMIT) == Path(path).name.encode()


def test_strange_names_of_folders_become_labels(tmp_path: Path) -> None:
    for name in STRANGE:
        touch(tmp_path / name / "x.jpg")
    assert {row["label"] for row in rows(tmp_path).values()} == set(STRANGE)


@pytest.mark.parametrize("glob", ["", "*/*.jpg"])
def test_a_name_that_is_not_utf8_gets_a_row_of_its_own(tmp_path: Path, glob: str) -> None:
    for name in (b"\xff.jpg", rb"\xff.jpg", b"\\xff\xff.jpg", b"\xff\xff.jpg"):
        touch(tmp_path / "in" / os.fsdecode(name), name)
    found = rows(tmp_path / glob)
    assert {path.rpartition("/")[2] for path in found} == {
        r"\xff.jpg", r"\xff.jpg (not UTF-8)", r"\\xff\xff.jpg (not UTF-8)", r"\xff\xff.jpg (not UTF-8)"
    }  # fmt: skip
    touch(tmp_path / "in" / r"\xff.jpg (not UTF-8)")
    reader = source.Reader(S3Config(), LIMIT)
    assert (
        reader.read(str(tmp_path / "in" / r"\xff.jpg"), str(found.pop(f"{tmp_path}/in/\\xff.jpg")["etag"]))
        == rb"\xff.jpg"
    )
    for path, row in found.items():
        with pytest.raises(BadImage, match="its name is not UTF-8: rename it") as caught:
            reader.read(path, str(row["etag"]))
        assert caught.value.status == "missing"


def test_a_locale_that_cannot_spell_a_name_reads_it_all_the_same(tmp_path: Path) -> None:
    touch(tmp_path / "é.jpg", "é".encode())
    (tmp_path / "l.txt").write_text("é.jpg\n")
    code = """
import sys
from fruitpipe.config import S3Config
from fruitpipe.source import Reader, list_images
for batch in list_images(sys.argv[1:]):
    row, = batch.to_pylist()
    print(row["size"], Reader(S3Config(), 1000).read(row["path"], row["etag"]).decode() in row["path"])
"""
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path), f"{tmp_path}/l.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ascii_only)
    assert done.stdout == "2 True\n" * 2, done.stderr


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    for name in (".hidden.jpg", ".git/x.jpg", "a/.thumbs/x.jpg", "a/seen.jpg"):
        touch(tmp_path / name)
    assert names(tmp_path) == {"a/seen.jpg"}


def test_results_of_earlier_runs_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "out" / layout.MARKER)
    touch(tmp_path / "out" / "runs" / "chart.png")
    touch(tmp_path / "seen.png")
    assert names(tmp_path) == {"seen.png"}


def test_extensions_count_in_any_case_and_others_do_not(tmp_path: Path) -> None:
    for name in (
        "a.JPG",
        "b.Jpeg",
        "c.PNG",
        "d.webp",
        "e.TIFF",
        "f.tif",
        "g.bmp",
        "h.gif",
        "no.txt",
        "jpg",
        "x.jpg.bak",
        "y.mov",
    ):
        touch(tmp_path / name)
    assert names(tmp_path) == {"a.JPG", "b.Jpeg", "c.PNG", "d.webp", "e.TIFF", "f.tif", "g.bmp", "h.gif"}


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "x.jpg" / "inner.png")
    assert names(tmp_path) == {"x.jpg/inner.png"}


def test_labels_are_folder_names_or_none(tmp_path: Path) -> None:
    touch(tmp_path / "apple" / "a.jpg")
    touch(tmp_path / "deep" / "pear" / "b.jpg")
    touch(tmp_path / "c.jpg")
    labels = {Path(path).name: row["label"] for path, row in rows(tmp_path).items()}
    assert labels == {"a.jpg": "apple", "b.jpg": "pear", "c.jpg": tmp_path.name}
    assert {row["label"] for row in rows(tmp_path, labels="none").values()} == {None}


def test_a_label_is_one_however_its_accents_are_written(tmp_path: Path) -> None:
    composed, decomposed = "P\u00eache", "Pe\u0302che"
    touch(tmp_path / composed / "a.jpg")
    touch(tmp_path / decomposed / "b.jpg")
    assert [row["label"] for row in rows(tmp_path).values()] == [composed, composed]
    assert names(tmp_path) == {f"{composed}/a.jpg", f"{decomposed}/b.jpg"}, "paths stay as they are"


def test_paths_are_absolute_however_the_folder_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "./in/", str(tmp_path / "in"), "in/../in", f"../{tmp_path.name}/in/*.jpg"):
        assert list(rows(folder)) == [str(tmp_path / "in" / "a.jpg")]
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "deep" / "link").symlink_to("../in")
    assert list(rows("deep/link/../in")) == [str(tmp_path / "in" / "a.jpg")], "as the system goes"
    assert list(rows("deep/../link")) == [str(tmp_path / "link" / "a.jpg")]


def test_the_etag_changes_with_size_and_with_time(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.jpg", b"1")
    os.utime(path, ns=(10**18, 10**18))
    first = rows(tmp_path)[str(path)]
    path.write_bytes(b"12")
    os.utime(path, ns=(10**18, 10**18))
    longer = rows(tmp_path)[str(path)]
    os.utime(path, ns=(10**18, 10**18 + 1))
    later = rows(tmp_path)[str(path)]
    assert len({first["etag"], longer["etag"], later["etag"]}) == 3
    assert (first["size"], longer["size"], first["content"]) == (1, 2, None)


def test_a_file_that_is_replaced_after_it_was_listed_is_changed(tmp_path: Path) -> None:
    path, link = touch(tmp_path / "a.jpg", b"old"), tmp_path / "link.jpg"
    os.utime(path, ns=(10**18, 10**18))
    link.symlink_to(tmp_path / "b.jpg")
    etags = {name: str(row["etag"]) for name, row in rows(tmp_path).items()}
    reader = source.Reader(S3Config(), LIMIT)
    assert reader.read(str(path), etags[str(path)]) == b"old"
    path.write_bytes(b"new")
    touch(tmp_path / "b.jpg")
    for name, etag in etags.items():
        with pytest.raises(BadImage, match="changed between listing and reading: run again") as caught:
            reader.read(name, etag)
        assert caught.value.status == "changed"


@pytest.mark.parametrize("etag", ["", "abc", "12-3", "2026-11-29", "d41d8cd98f00b204e9800998ecf8427e-12"])
def test_a_list_s_own_etag_says_nothing_of_a_file(tmp_path: Path, etag: str) -> None:
    path = touch(tmp_path / "x.jpg")
    (tmp_path / "l.csv").write_text(f"path,etag\nx.jpg,{etag}\n")
    listed = rows(tmp_path / "l.csv")[str(path)]
    assert source.Reader(S3Config(), LIMIT).read(str(path), str(listed["etag"])) == b"x"


def test_content_is_a_digest_of_the_bytes_where_asked_for(tmp_path: Path) -> None:
    for name, data in {"a.jpg": b"same", "b.jpg": b"same", "c.jpg": b"other"}.items():
        touch(tmp_path / name, data)
    content = {Path(path).name: row["content"] for path, row in rows(tmp_path, verify_content=True).items()}
    assert content["a.jpg"] == content["b.jpg"] == source.digest(b"same")
    assert content["c.jpg"] == source.digest(b"other") != content["a.jpg"]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a.jpg", b"content")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "b.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    assert names(folder) == {"linked/a.jpg", "b.jpg"}
    assert {read_image(path, LIMIT) for path in rows(folder)} == {b"content"}


def test_a_dangling_link_is_listed_and_missing(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert names(tmp_path) == {"x.jpg"}
    assert status(tmp_path / "x.jpg") == "missing"
    assert rows(tmp_path, verify_content=True)[str(tmp_path / "x.jpg")]["content"] is None


def test_a_link_to_itself_is_listed_and_missing(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to(tmp_path / "x.jpg")
    touch(tmp_path / "y.jpg")
    assert status(tmp_path / "x.jpg") == "missing"
    assert names(tmp_path) == {"x.jpg", "y.jpg"}


def test_a_link_through_a_file_is_listed_and_not_ok(tmp_path: Path) -> None:
    touch(tmp_path / "y.jpg")
    (tmp_path / "x.jpg").symlink_to(tmp_path / "y.jpg" / "z.jpg")
    assert status(tmp_path / "x.jpg") in {"missing", "unreadable"}
    assert names(tmp_path) == {"x.jpg", "y.jpg"}


def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.jpg")
    touch(tmp_path / "b" / "y.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "across").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "across").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    others = Counter[str]()
    assert len(rows(tmp_path, others=others)) == 2
    assert names(tmp_path) == {"a/x.jpg", "b/y.jpg"}, "their own paths come before those by links"
    assert others == {"linked": 4}


def test_a_fan_of_links_makes_no_more_images_than_there_are(tmp_path: Path) -> None:
    """Eight folders with links to one another: 4,000 paths of four folders, and a million of seven."""
    folders = [tmp_path / str(number) for number in range(8)]
    for folder in folders:
        touch(folder / "x.jpg")
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)
        (folder / "up").symlink_to(tmp_path)
    summary = plan(Config(input=str(tmp_path), output=str(tmp_path / "out")))
    assert (summary.images, summary.passed_over) == (8, {"linked": 8 * 9})
    assert source.passed_over(summary.passed_over).endswith(
        "passed over, as were links to folders that are listed anyway: 72 linked"
    )


def test_a_folder_elsewhere_stands_under_the_first_link_to_it(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "below" / "x.jpg")
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    for link in ("z", "m", "a/y"):
        (folder / link).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "below" / "again").symlink_to(tmp_path / "elsewhere" / "below")
    assert names(folder) == {"a/y/below/x.jpg"}
    (folder / "b").symlink_to(tmp_path / "elsewhere" / "below")
    assert names(folder) == {"a/y/below/x.jpg"}
    (folder / "a" / "y").unlink()
    assert names(folder) == {"b/x.jpg"}


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("link*/*.jpg", {"link/x.jpg"}),
        ("*/*.jpg", {"real/x.jpg"}),
        ("**/*.jpg", {"real/x.jpg"}),
        ("l*/**", {"link/x.jpg"}),
        ("*/*/*.jpg", {"deep/link/x.jpg"}),
    ],
)
def test_a_glob_finds_a_folder_by_the_link_that_it_names(tmp_path: Path, glob: str, found: set[str]) -> None:
    touch(tmp_path / "real" / "x.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "link").symlink_to(tmp_path / "real")
    assert set(rows(f"{tmp_path}/{glob}")) == {f"{tmp_path}/{name}" for name in found}


def test_a_file_without_read_rights_is_listed_and_forbidden(public_folder: Path) -> None:
    path = touch(public_folder / "x.jpg")
    path.chmod(0)
    (public_folder / "y.jpg").write_bytes(b"x")
    with nobody():
        assert names(public_folder) == {"x.jpg", "y.jpg"}
        assert status(path) == "forbidden"
        assert read_image(str(public_folder / "y.jpg"), LIMIT) == b"x"


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_a_folder_without_rights_is_a_user_error_that_names_it(public_folder: Path, mode: int) -> None:
    closed = public_folder / "closed"
    touch(closed / "x.jpg")
    if not os.geteuid():
        os.chown(closed, 65534, 65534)
    closed.chmod(mode)
    try:
        with nobody():
            if mode == 0o400:  # names can be read, files cannot
                assert names(public_folder) == {"closed/x.jpg"}
                assert status(closed / "x.jpg") == "forbidden"
            else:
                assert str(closed) in refusal(public_folder)
                assert str(closed) in refusal(closed)
    finally:
        closed.chmod(0o700)


def test_a_link_into_a_folder_without_rights_is_listed_and_forbidden(public_folder: Path) -> None:
    target = touch(public_folder / "secret" / "x.jpg")
    target.parent.chmod(0o700)
    folder = public_folder / "in"
    folder.mkdir()
    (folder / "x.jpg").symlink_to(target)
    with a_stranger():
        assert status(folder / "x.jpg") == "forbidden"
        assert names(folder) == {"x.jpg"}


READ = """
import sys
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.source.files import read_image
try:
    read_image(sys.argv[1] + "/x.jpg", 1000)
except BadImage as error:
    print(error.status)
"""
LIST_WITH_CONTENT = """
import sys
from fruitpipe.source import list_images
print(sum(map(len, list_images(sys.argv[1], verify_content=True))))
"""


@pytest.mark.parametrize(
    ("code", "printed"), [(READ, "unreadable\n"), (LIST_WITH_CONTENT, "1\n")], ids=["read", "digest"]
)
def test_a_named_pipe_holds_nobody_up(tmp_path: Path, code: str, printed: str) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    assert names(tmp_path) == {"x.jpg"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == printed, done.stderr


def test_a_socket_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.jpg")
        assert status(tmp_path / "x.jpg") == "unreadable"


def test_a_folder_in_place_of_a_file_is_unreadable_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        assert status(tmp_path) == "unreadable"
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_file_that_is_gone_is_missing(tmp_path: Path) -> None:
    assert status(tmp_path / "gone.jpg") == "missing"


@pytest.mark.parametrize("name", ["a\0.jpg", "\ud800.jpg"])
def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path, name: str) -> None:
    assert status(tmp_path / name) == "missing"
    (tmp_path / "l.txt").write_bytes(b"a\0.jpg\n")
    assert [row["size"] for row in rows(str(tmp_path / "l.txt")).values()] == [0]


def test_a_file_is_read_up_to_the_limit_and_refused_beyond(tmp_path: Path) -> None:
    path = touch(tmp_path / "x.jpg", bytes(100))
    assert read_image(str(path), 100) == bytes(100)
    assert status(path, 99) == "too_large"


def test_a_huge_sparse_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(1 << 40)
    assert status(tmp_path / "x.jpg", 64 << 20) == "too_large"


def test_a_folder_that_is_missing_or_no_folder_is_a_user_error_of_one_line(tmp_path: Path) -> None:
    path = touch(tmp_path / "x.jpg")
    assert "no folder" in refusal(tmp_path / "nowhere")
    assert "not a folder" in refusal(path)
    for name in ("y" * 300, "y" * 300 + ".csv", "y" * 300 + "/*.jpg"):
        assert refusal(name)


def test_an_empty_folder_gives_no_batch(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert list(list_images(str(tmp_path))) == []


def test_batches_have_the_schema_and_the_size_asked_for(tmp_path: Path) -> None:
    hostile.make(tmp_path)
    total = len(hostile.CASES)
    batches = list(list_images(str(tmp_path), batch=4))
    assert [len(batch) for batch in batches[:-1]] == [4] * (total // 4)
    assert sum(map(len, batches)) == total
    assert all(batch.schema == source.LISTING for batch in batches)
    assert pa.Table.from_batches(batches)["etag"].null_count == 0


PEAK = """
import sys, tracemalloc
from fruitpipe.source import list_images
list(list_images(sys.argv[1]))  # imports
for folder in sys.argv[1:]:
    tracemalloc.start()
    seen = sum(len(batch) for batch in list_images(folder, batch=1000))
    print(seen, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""


@pytest.mark.slow
def test_ten_times_the_images_need_no_more_memory(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    for image in range(1000):
        touch(tmp_path / "images" / f"{image}.jpg")
    for root, folders in ((few, 4), (many, 40)):
        root.mkdir()
        for number in range(folders):
            (root / str(number)).mkdir()
            for image in (tmp_path / "images").iterdir():
                (root / str(number) / image.name).hardlink_to(image)
    command = [sys.executable, "-c", PEAK, str(few), str(many)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    images_of_few, peak_of_few, images_of_many, peak_of_many = map(int, printed)
    assert (images_of_few, images_of_many) == (4000, 40_000)
    assert peak_of_many < peak_of_few + 500_000, "36,000 rows held at once would be ten million bytes"


FOREST = (
    "1.jpg", "a1.jpg", "apple/a1.jpg", "apple/b1.png", "apple/deep/a2.JPG", "banana/a3.jpg", "banana/c.jpg",
    "banana/notes.txt", "apple/.hidden.jpg", ".git/a4.jpg", "[ab]/a5.jpg",
)  # fmt: skip
GLOBS = {
    "*": {"1.jpg", "a1.jpg"},
    "*.jpg": {"1.jpg", "a1.jpg"},
    "?.jpg": {"1.jpg"},
    "*/*.jpg": {"apple/a1.jpg", "banana/a3.jpg", "banana/c.jpg", "[ab]/a5.jpg"},
    "**": {name for name in FOREST if "/." not in f"/{name}" and not name.endswith(".txt")},
    "**/a*.jpg": {"a1.jpg", "apple/a1.jpg", "banana/a3.jpg", "[ab]/a5.jpg"},
    "[!a]*/*": {"banana/a3.jpg", "banana/c.jpg", "[ab]/a5.jpg"},
    "apple/**/[ab]*": {"apple/a1.jpg", "apple/b1.png", "apple/deep/a2.JPG"},
    "[[]ab]/*": {"[ab]/a5.jpg"},
    "b*a/c.jpg": {"banana/c.jpg"},
    "nothing*/*": set(),
}


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    for name in FOREST:
        touch(tmp_path / "forest" / name)
    return tmp_path / "forest"


@pytest.fixture(scope="module")
def forest_in_s3(admin: Any) -> str:
    for name in FOREST:
        admin.put_object(Bucket=BUCKET, Key=f"forest/{name}", Body=name.encode())
    return f"s3://{BUCKET}/forest"


@pytest.mark.parametrize("glob", GLOBS)
def test_a_glob_takes_what_it_says_on_disk(forest: Path, glob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {str(forest / name) for name in GLOBS[glob]}
    assert set(rows(forest / glob)) == set(rows(f"file://{forest}/{glob}")) == expected
    monkeypatch.chdir(forest)
    assert set(rows(glob)) == expected


@pytest.mark.parametrize("glob", GLOBS)
def test_a_glob_takes_what_it_says_in_a_bucket(forest_in_s3: str, s3: S3Config, glob: str) -> None:
    assert set(rows(f"{forest_in_s3}/{glob}", s3=s3)) == {f"{forest_in_s3}/{name}" for name in GLOBS[glob]}


@pytest.mark.parametrize("wild", ["set[1]", "*", "what?", "[", "a*b[!c]"])
def test_a_folder_with_a_wild_name_is_meant_as_it_is(
    tmp_path: Path, wild: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {str(touch(tmp_path / wild / name)) for name in ("x.jpg", "deep/y.jpg")}
    for other in ("set1", "axxb", "whatx"):
        touch(tmp_path / other / "x.jpg")
    assert set(rows(tmp_path / wild)) == images
    assert set(rows(tmp_path / wild / "**")) == images
    assert set(rows(tmp_path / wild / "*.jpg")) == {str(tmp_path / wild / "x.jpg")}
    monkeypatch.chdir(tmp_path / wild)
    assert set(rows("deep/?.jpg")) == {str(tmp_path / wild / "deep" / "y.jpg")}


def test_a_glob_that_starts_nowhere_is_a_user_error_that_names_the_folder(tmp_path: Path, s3: S3Config) -> None:
    touch(tmp_path / "x.jpg")
    assert f"no folder {tmp_path}/nowhere/deep:" in refusal(tmp_path / "nowhere" / "deep" / "*.jpg")
    assert f"{tmp_path}/x.jpg is not a folder" in refusal(tmp_path / "x.jpg" / "*.jpg")
    assert "a glob in quotes" in refusal(tmp_path / "x.jpg")
    for glob in (f"{tmp_path}/**.jpg", f"s3://{BUCKET}/**.jpg"):
        with pytest.raises(UserError, match=r"\*\* stands for folders"):
            source.check_inputs([glob], s3)


def test_a_bucket_is_listed_from_its_root(admin: Any, s3: S3Config) -> None:
    admin.create_bucket(Bucket="orchard")
    keys = ["root.jpg", "apple/a.jpg", "pear/deep/b.png"]
    for key in (*keys, "readme.txt", ".hidden.jpg", ".cache/c.jpg", "apple/.d.jpg"):
        admin.put_object(Bucket="orchard", Key=key, Body=key.encode())
    for url in ("s3://orchard", "s3://orchard/"):
        listed = rows(url, s3=s3)
        assert {path: row["label"] for path, row in listed.items()} == {
            "s3://orchard/root.jpg": "orchard",
            "s3://orchard/apple/a.jpg": "apple",
            "s3://orchard/pear/deep/b.png": "deep",
        }
    assert {row["label"] for row in rows("s3://orchard", s3=s3, labels="none").values()} == {None}
    for key in keys:
        head = admin.head_object(Bucket="orchard", Key=key)
        row = listed[f"s3://orchard/{key}"]
        assert (row["size"], row["etag"]) == (head["ContentLength"], head["ETag"].strip('"'))


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(admin: Any, s3: S3Config, prefix: str) -> None:
    for key in ("a/x.jpg", "a/deep/y.jpg", "ab/z.jpg", "a.jpg"):
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"")
    url = f"s3://{BUCKET}/{prefix}/a"
    assert set(rows(url, s3=s3)) == set(rows(f"{url}/", s3=s3)) == {f"{url}/x.jpg", f"{url}/deep/y.jpg"}


def test_what_is_hidden_is_hidden_below_the_input_alone(admin: Any, s3: S3Config, prefix: str, tmp_path: Path) -> None:
    for key in (".cache/x.jpg", ".cache/.y.jpg", ".cache/.deep/z.jpg"):
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"")
        touch(tmp_path / key)
    for root in (f"s3://{BUCKET}/{prefix}", str(tmp_path)):
        assert set(rows(root, s3=s3)) == set()
        assert set(rows(f"{root}/.cache", s3=s3)) == {f"{root}/.cache/x.jpg"}
        assert set(rows(f"{root}/.cache/*", s3=s3)) == {f"{root}/.cache/x.jpg"}


def test_a_result_is_no_input_of_the_next_run(admin: Any, s3: S3Config, prefix: str) -> None:
    run = "20260101-000000-abcd"
    written = [
        *(layout.MARKER, layout.LEASE, layout.LATEST, layout.feature_part("d" * 64, []), layout.config(run)),
        *(layout.manifest(run), layout.report(run), layout.outcome(run), layout.failures(run), layout.log(run)),
        *(layout.vectors(run, 0, kind) for kind in ("parquet", "json", "csv")),
        *(layout.model(run, name) for name in ("pca.npz", "model.json", "backbone.tflite")),
        *(layout.shares(run, what, 0) for what in (layout.TODO, layout.INDEX)),
        layout.thumbnails(layout.feature_part("d" * 64, []), 48),
    ]
    for name in written:
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"")
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/out/{name}", Body=b"")
    admin.put_object(Bucket=BUCKET, Key=f"{prefix}/apple/x.jpg", Body=b"")
    assert set(rows(f"s3://{BUCKET}/{prefix}", s3=s3)) == {f"s3://{BUCKET}/{prefix}/apple/x.jpg"}


def test_content_of_objects_is_a_digest_of_their_bytes(server: Server, admin: Any, s3: S3Config, prefix: str) -> None:
    bodies = {"a.jpg": b"same", "b.jpg": b"same", "c.jpg": b"other", "large.jpg": bytes(101), "tab\t.jpg": b"tab"}
    for name, body in bodies.items():
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=body)
    url = f"s3://{BUCKET}/{prefix}"
    content = {path: row["content"] for path, row in rows(url, s3=s3, verify_content=True, max_bytes=100).items()}
    expected = {f"{url}/{name}": source.digest(body) for name, body in bodies.items()}
    assert content == expected | {f"{url}/large.jpg": None}
    with Proxy(server.endpoint) as proxy:
        listed = rows(url, s3=s3.model_copy(update={"endpoint": proxy.endpoint}))
        assert {row["content"] for row in listed.values()} == {None}
        assert not [request for request in proxy.log if f"/{prefix}/" in request.path], "nothing is read unasked"


def test_inputs_of_all_kinds_are_listed_together(forest: Path, forest_in_s3: str, s3: S3Config) -> None:
    manifest = forest / "m.csv"
    manifest.write_text(f"path\n{forest_in_s3}/1.jpg\nbanana/c.jpg\n")
    inputs = [str(forest / "apple"), f"{forest_in_s3}/banana", f"{forest}/*.jpg", str(manifest)]
    listed = [path for batch in list_images(inputs, s3=s3) for path in batch["path"].to_pylist()]
    on_disk = ("1.jpg", "a1.jpg", "apple/a1.jpg", "apple/b1.png", "apple/deep/a2.JPG", "banana/c.jpg")
    in_s3 = ("1.jpg", "banana/a3.jpg", "banana/c.jpg")
    expected = [*(f"{forest}/{name}" for name in on_disk), *(f"{forest_in_s3}/{name}" for name in in_s3)]
    assert sorted(listed) == sorted(expected)


def test_an_image_of_several_inputs_counts_once(forest: Path, forest_in_s3: str, s3: S3Config, tmp_path: Path) -> None:
    manifest = tmp_path / "m.txt"
    manifest.write_text(f"{forest}/apple/a1.jpg\n{forest_in_s3}/1.jpg\n" * 2)
    inputs = [str(forest), f"{forest}/apple", f"{forest_in_s3}/**", f"{forest_in_s3}/[ab]pple", str(manifest)]
    summary = plan(Config(input=inputs, output=str(tmp_path / "out"), s3=s3))
    assert summary.images == summary.new == 2 * len(GLOBS["**"])
    again = plan(Config(input=str(manifest), output=str(tmp_path / "out"), s3=s3))
    assert again.images == 2
    assert not (tmp_path / "out").exists()


def test_what_is_no_image_by_name_is_counted_by_extension(
    admin: Any, s3: S3Config, prefix: str, tmp_path: Path
) -> None:
    keys = ["a.jpg", "x/b.mov", "x/c.MOV", "x/notes.txt", "README", "x/z.parquet~1", ".hidden/d.mov", ".e.mov"]
    keys += ["x/@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", "x/._a.jpg"]
    for key in keys:
        touch(tmp_path / "in" / key)
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"x")
    admin.put_object(Bucket=BUCKET, Key=f"{prefix}/folder/", Body=b"")
    expected = {"mov": 2, "txt": 1, "without extension": 1, "other": 1, "hidden": 4}
    for place in (str(tmp_path / "in"), f"s3://{BUCKET}/{prefix}"):
        summary = plan(Config(input=place, output=str(tmp_path / "out"), s3=s3))
        assert summary.images == 1
        assert summary.passed_over == expected
        glob = plan(Config(input=f"{place}/[ax]*", output=str(tmp_path / "out"), s3=s3))
        assert glob.passed_over == {}, "nothing but a glob's own matches"
        with pytest.raises(UserError, match="and found 2 hidden, 2 mov, 1 other, 1 txt"):
            plan(Config(input=f"{place}/x", output=str(tmp_path / "out"), s3=s3))


def test_a_glob_of_folders_is_told_of_the_glob_of_what_is_in_them(
    server: Server, admin: Any, s3: S3Config, prefix: str, tmp_path: Path
) -> None:
    for key in ("Apple/a.jpg", "Apple/deep/b.jpg"):
        touch(tmp_path / "in" / key)
        admin.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=b"x")
    for place in (str(tmp_path / "in"), f"s3://{BUCKET}/{prefix}"):
        for glob in (f"{place}/A*", f"{place}/A*/"):
            with pytest.raises(
                UserError, match=r"means files, not folders: \S*/A\*/\* takes .* and \S*/A\*/\*\* those"
            ):
                plan(Config(input=glob, output=str(tmp_path / "out"), s3=s3))
        for glob, images in ((f"{place}/A*/*", 1), (f"{place}/A*/**", 2)):
            assert plan(Config(input=glob, output=str(tmp_path / "out"), s3=s3)).images == images
        with pytest.raises(UserError, match=r"there\.$"):
            plan(Config(input=f"{place}/A*/*.png", output=str(tmp_path / "out"), s3=s3))


def test_an_input_without_images_is_a_user_error(s3: S3Config, prefix: str, tmp_path: Path) -> None:
    for empty in (f"s3://{BUCKET}/{prefix}", f"s3://{BUCKET}/{prefix}/*/x*.jpg", str(tmp_path), f"{tmp_path}/*.png"):
        with pytest.raises(UserError, match="no images in"):
            plan(Config(input=empty, output=str(tmp_path / "out"), s3=s3))


@pytest.mark.parametrize("output", ["out[1]", "*", "a?"])
def test_an_output_is_no_glob(output: str, tmp_path: Path) -> None:
    check_apart([str(tmp_path)], str(tmp_path / output))
    check_apart(["s3://b/x"], f"s3://b/x/{output}")
    with pytest.raises(UserError, match="is input and output"):
        check_apart([f"{tmp_path}/*.jpg"], str(tmp_path))
