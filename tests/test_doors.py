"""Python's own doors: the API takes what people give, wherever they stand, and says in one line what is wrong."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import command
import nbformat
import pyarrow.parquet as pq
import pytest
from command import BACKBONE, one_line_error
from conftest import unavailable
from nbclient import NotebookClient
from test_progress import play

import fruitpipe
from fruitpipe import streams
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.pipeline.preview import plan
from fruitpipe.pipeline.progress import JsonReporter, PlainReporter, reporter_for
from fruitpipe.releases.release import files_of

NAME = BACKBONE.partition("=")[2]


@pytest.fixture(scope="module")
def few(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in a folder whose name is not to be taken for HTML."""
    folder = tmp_path_factory.mktemp("few") / "a<b>&c"
    folder.mkdir()
    for path in sorted(fruits.rglob("*.jpg"))[::27]:
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def done(few: Path, tmp_path_factory: pytest.TempPathFactory) -> fruitpipe.Run:
    command.spark()
    out = tmp_path_factory.mktemp("done") / "out"
    return fruitpipe.run(fruitpipe.load_config(input=few, output=out, backbone=NAME))


KINDS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": Path,
    "list": lambda path: [path],
    "iterator": lambda path: iter([str(path)]),
}


class Given:
    """What a test gives a public function: one path, and how it is written."""

    def __init__(self, kind: str, few: Path, done: fruitpipe.Run, folder: Path) -> None:
        self.few, self.done, self.folder = few, done, folder
        self.many = KINDS[kind]
        self.one = Path if kind == "Path" else str

    def config(self, **others: Any) -> fruitpipe.Config:
        return fruitpipe.load_config(input=self.many(self.few), output=self.one(self.folder / "out"), **others)


def takes_config(given: Given) -> None:
    model = given.one(given.done.path("model"))
    made = fruitpipe.Config(input=given.many(given.few), output=given.one(given.folder), model="reuse", reuse=model)
    assert (made.inputs, made.output, made.reuse) == ([str(given.few)], str(given.folder), str(model))
    assert fruitpipe.Config(input="a", output="b", weights=given.one(Path("x.h5"))).weights == "x.h5"
    assert fruitpipe.Config(input="a", output="b", s3={"ca_file": given.one(Path("x.pem"))}).s3.ca_file == "x.pem"


def takes_load_config(given: Given) -> None:
    file = given.folder / "run.yaml"
    file.write_text("limit: 3\n")
    loaded = fruitpipe.load_config(given.one(file), input=given.many(given.few), output=given.one(given.folder))
    assert (loaded.inputs, loaded.limit) == ([str(given.few)], 3)
    for assignments in ("limit=4", ["limit=4"], iter(["limit=4"])):
        assert given.config(assignments=assignments).limit == 4


def takes_run(given: Given) -> None:
    assert fruitpipe.run(given.config(backbone=NAME, limit=3)).manifest.counts.ok == 3


def takes_run_several(given: Given) -> None:
    (made,) = fruitpipe.run_several(given.config(backbones=[{"backbone": NAME, "name": "one"}], limit=3)).values()
    assert made.manifest.counts.ok == 3


def takes_load_model(given: Given) -> None:
    assert fruitpipe.load_model(given.one(given.done.path("model"))).card == given.done.model.card


def takes_model(given: Given) -> None:
    image = min(given.few.iterdir())
    (vector,) = given.done.model.transform_images(given.many(image))
    assert (vector.path, vector.status) == (str(image), "ok")


def takes_submit(given: Given) -> None:
    file = given.folder / "run.yaml"
    file.write_text("input: s3://bucket/photos\noutput: s3://bucket/out\n")
    with patch.dict(os.environ, {"KUBECONFIG": "/nowhere"}), pytest.raises(fruitpipe.UserError, match="no cluster"):
        fruitpipe.submit(given.one(file), "fruits", values=given.many(file))
    assert files_of(given.many(file)) == [file]


def takes_nothing(given: Given) -> None:
    """No paths."""


DOORS = {
    "Config": takes_config,
    "CustomBackbone": takes_nothing,
    "Description": takes_nothing,
    "FruitpipeError": takes_nothing,
    "Interrupted": takes_nothing,
    "Model": takes_model,
    "Release": takes_nothing,
    "Run": takes_nothing,
    "SomeFailed": takes_nothing,
    "TooManyFailures": takes_nothing,
    "UserError": takes_nothing,
    "load_config": takes_load_config,
    "load_model": takes_load_model,
    "reference_picture": takes_nothing,
    "run": takes_run,
    "run_several": takes_run_several,
    "submit": takes_submit,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", fruitpipe.__all__)
def test_paths_come_as_people_have_them(name: str, kind: str, few: Path, done: fruitpipe.Run, tmp_path: Path) -> None:
    DOORS[name](Given(kind, few, done, tmp_path))


@pytest.mark.parametrize("value", [3, [], {"a": "b"}, ["a", None], Path("s3://bucket/photos")])
def test_what_is_no_path_is_one_line(value: Any) -> None:
    with pytest.raises(fruitpipe.UserError) as caught:
        fruitpipe.load_config(input=value, output="out")
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("input")


def test_what_a_prompt_shows_is_one_line(done: fruitpipe.Run, few: Path, tmp_path: Path) -> None:
    config = fruitpipe.load_config(input=few, output=tmp_path / "out", backbone=NAME)
    shown = [config, done, done.model, fruitpipe.Description(8, 2, "1"), plan(config), fruitpipe.UserError("why")]
    for each in shown:
        assert repr(each).startswith(type(each).__name__)
        assert len(repr(each).splitlines()) == 1


def test_what_a_notebook_shows_is_a_table_of_what_the_command_line_says(done: fruitpipe.Run, few: Path) -> None:
    table = done._repr_html_()
    assert "a<b>" not in table
    assert "a&lt;b&gt;&amp;c" in table
    for line in command.fruitpipe("show", Path(done.path()).parents[1]).stdout.splitlines():
        if not line.startswith("input"):
            assert line[12:].rstrip(".") in table
    summary = plan(done.manifest.config)
    assert '<td style="text-align: left">a&lt;b&gt;&amp;c 12</td>' in summary._repr_html_()


def test_a_run_works_within_an_event_loop_and_beside_one(done: fruitpipe.Run, tmp_path: Path) -> None:
    within, beside = (
        done.manifest.config.model_copy(update={"output": str(tmp_path / name)}) for name in ("within", "beside")
    )

    async def both() -> None:
        fruitpipe.run(within)
        await asyncio.to_thread(fruitpipe.run, beside)

    asyncio.run(both())
    expected = command.vectors(Path(done.path()).parents[1])
    for config in (within, beside):
        assert command.same_vectors(command.vectors(Path(config.output)), expected)


class Bare:
    """A stream without a file, as some services put in place of standard error."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def closed() -> io.TextIOBase:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [lambda: None, closed, io.StringIO, Bare, object])
def test_progress_goes_to_any_stream_or_nowhere(make: Callable[[], Any]) -> None:
    stream = make()
    assert not streams.is_terminal(stream)
    assert streams.descriptor(stream) is None
    for log, kind in (("auto", PlainReporter), ("json", JsonReporter)):
        reporter = reporter_for(stream, log)
        assert type(reporter) is kind
        play(reporter)
    if isinstance(stream, io.StringIO) and not stream.closed:
        assert "featurize" in stream.getvalue()
    if isinstance(stream, Bare):
        assert "featurize" in stream.text


def test_lines_are_for_the_standard_error_of_now(capsys: pytest.CaptureFixture[str]) -> None:
    play(PlainReporter())
    assert "featurize" in capsys.readouterr().err


ROOT = str(Path(fruitpipe.__file__).parents[1])


def in_a_process(program: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program of a user's, which ends well."""
    words = [sys.executable, "-c", program, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": ROOT} | variables
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, cwd="/", env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended


ANY_STREAM = """
import io, sys
import fruitpipe
from fruitpipe.pipeline.progress import reporter_for
closed = io.StringIO()
closed.close()
for number, stream in enumerate((None, io.StringIO(), closed)):
    sys.stderr = stream
    config = fruitpipe.load_config(input=sys.argv[1], output=f"{sys.argv[2]}/{number}", backbone=sys.argv[3])
    assert fruitpipe.run(config, reporter_for(stream), verbose=True).manifest.counts.ok == 12
    sys.stderr = sys.__stderr__
"""


@pytest.mark.slow
def test_a_run_needs_no_standard_error(few: Path, tmp_path: Path) -> None:
    in_a_process(ANY_STREAM, few, tmp_path, NAME)


@pytest.mark.slow
def test_a_command_needs_no_standard_streams(few: Path, tmp_path: Path) -> None:
    """With a descriptor closed, the next file that opens would have what is meant for standard error in it."""
    out, transformed = tmp_path / "out", tmp_path / "transformed.parquet"

    def without_streams(*arguments: object) -> None:
        words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command.command(*arguments)]
        assert subprocess.run(words, check=False, timeout=300).returncode == 0, arguments

    without_streams("run", few, out, "--set", BACKBONE, "--verbose")
    without_streams("runs", out)
    without_streams("transform", out / "runs" / command.manifest(out)["run"] / "model", few, transformed)
    assert command.vectors(out).num_rows == pq.read_table(transformed).num_rows == 12


TWO_AT_ONCE = """
import os, sys, threading
from pathlib import Path
import fruitpipe
from pyspark import SparkContext
images, folder, backbone = sys.argv[1:]
by_spark = {"spark.master": "local[*]"}
before = {name: value for name, value in os.environ.items() if "SPARK" in name}
together, found = threading.Barrier(3), {}
def go(key, out):
    config = fruitpipe.load_config(input=images, output=Path(folder, out), backbone=backbone, **by_spark)
    together.wait()
    try:
        found[key] = fruitpipe.run(config)
    except Exception as error:
        found[key] = error
threads = [threading.Thread(target=go, args=each) for each in ((0, "a"), (1, "b"), (2, "b"))]
for each in threads:
    each.start()
for each in threads:
    each.join()
won, lost = sorted((found[1], found[2]), key=lambda each: isinstance(each, Exception))
assert isinstance(found[0], fruitpipe.Run), found[0]
assert isinstance(won, fruitpipe.Run), won
assert isinstance(lost, fruitpipe.UserError), lost
assert " to " + folder + "/b: wait for it to end" in str(lost), lost
assert len(str(lost).splitlines()) == 1, lost
assert SparkContext._active_spark_context is None, "the last one stops Spark"
assert {name: value for name, value in os.environ.items() if "SPARK" in name} == before
config = fruitpipe.load_config(input=images, output=Path(folder, "c"), backbone=backbone, **by_spark)
for each in (found[0], won, fruitpipe.run(config)):
    assert each.manifest.warnings == ["left aside, as they are for another Spark: SPARK_HOME"], each.manifest.warnings
    print(each.id)
"""


@pytest.mark.slow
def test_two_runs_at_once_share_a_spark_and_give_what_they_give_alone(fruits: Path, tmp_path: Path) -> None:
    ended = in_a_process(TWO_AT_ONCE, fruits, tmp_path, NAME, SPARK_HOME="/nowhere")
    first, second, alone = (
        command.vectors(tmp_path / out, run) for out, run in zip("abc", ended.stdout.split(), strict=True)
    )
    assert alone.num_rows == 320
    assert command.same_vectors(first, alone)
    assert command.same_vectors(second, alone)


SESSION = """
import os, sys
sys.path.insert(0, os.environ.get("ROOT", ""))
import fruitpipe
from pyspark import SparkContext
from pyspark.sql import SparkSession
from fruitpipe.pipeline.progress import Reporter
images, out, backbone = sys.argv[1:4]
config = fruitpipe.load_config(input=images, output=out, backbone=backbone)
def session():
    started = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    started.sparkContext.setLogLevel("OFF")
    return started
def refused(kind, *words, reporter=None):
    try:
        done = fruitpipe.run(config, reporter)
    except fruitpipe.FruitpipeError as error:
        assert type(error) is kind, repr(error)
        assert len(str(error).splitlines()) == 1, error
        assert len(str(error)) < 400, error
        for word in words:
            assert word in str(error), error
    else:
        raise AssertionError(done)
"""
OTHER_PYTHON = """
spark = session()
refused(fruitpipe.UserError, "no module fruitpipe", "PYSPARK_PYTHON", sys.executable)
context = spark.sparkContext
context.pythonExec = "/nowhere/python"
refused(fruitpipe.UserError, "cannot start /nowhere/python", "PYSPARK_PYTHON")
context.pythonExec = sys.executable
context.pythonVer = "3.9"
refused(fruitpipe.UserError, "workers run Python 3.", "this process 3.9", "PYSPARK_PYTHON")
context.pythonVer = f"{sys.version_info[0]}.{sys.version_info[1]}"
context.environment["PYTHONPATH"] = os.environ["ROOT"]
assert fruitpipe.run(config).manifest.counts.ok == 12
assert context._jsc is not None, "the session stays"
"""


@pytest.mark.slow
def test_a_session_whose_workers_have_another_python_is_told_so(few: Path, tmp_path: Path) -> None:
    """The session is the user's, made with a Python in which there is nothing."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    python = str(bare / "bin" / "python")
    # The path reaches workers too.
    lacking = {"PYSPARK_PYTHON": python, "PYTHONPATH": "", "ROOT": ROOT}
    ended = in_a_process(SESSION + OTHER_PYTHON, few, tmp_path / "out", NAME, **lacking)
    assert "Traceback" not in ended.stderr


STOPPED = """
class Stopping(Reporter):
    def __init__(self, stop):
        super().__init__()
        self.stop = stop
    def poll(self):
        stop, self.stop = self.stop, lambda: None
        stop()
during = "Spark was stopped during the run"
spark = session()
"""
# A process each: tasks that Spark leaves behind as it stops can keep workers from the next session of the same JVM.
STOPS = {
    "in the JVM": """
spark._jsc.sc().stop()
refused(fruitpipe.UserError, "spark.stop()")
spark.stop()
refused(fruitpipe.FruitpipeError, during, reporter=Stopping(session().sparkContext._jsc.stop))
""",
    "in Python": """
refused(fruitpipe.FruitpipeError, during, reporter=Stopping(spark.stop))
assert fruitpipe.run(config).manifest.counts.ok == 12, "on one of our own, beside the JVM of the one that was stopped"
assert session().range(3).count() == 3, "and PySpark goes on with that"
""",
    "killed": """
refused(fruitpipe.FruitpipeError, "JVM died", reporter=Stopping(SparkContext._gateway.proc.kill))
refused(fruitpipe.UserError, "lost its JVM", "restart Python")
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS)
def test_a_session_that_is_stopped_or_killed_is_one_line(how: str, few: Path, tmp_path: Path) -> None:
    program = SESSION + STOPPED + STOPS[how]
    ended = in_a_process(program, few, tmp_path / "out", NAME, PYSPARK_PYTHON=sys.executable)
    assert "Traceback" not in ended.stderr
    assert ".java:" not in ended.stderr


@pytest.mark.slow
def test_a_user_without_name_and_home_needs_a_cache_only(
    lite0: tuple[Backbone, Path], few: Path, public_folder: Path
) -> None:
    """A uid as containers make them up. It may read all that there is, as Python may be in root's home."""
    reading = "+dac_read_search"
    somebody = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    somebody += ["--inh-caps", reading, "--ambient-caps", reading, "env", "-u", "HOME", "-u", "XDG_CACHE_HOME"]
    if os.geteuid() or subprocess.run([*somebody, "true"], check=False, capture_output=True).returncode:
        unavailable("only root may act as a user without a name")
    public_folder.chmod(0o777)
    out, cache = public_folder / "out", public_folder / "cache"
    run = command.command("run", few, out, "--set", BACKBONE, "--set", "spark.master=local[2]")
    variables = {name: value for name, value in os.environ.items() if name != "FRUITPIPE_CACHE"}
    done = subprocess.run([*somebody, *run], capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 2
    assert "set FRUITPIPE_CACHE" in one_line_error(done)
    shutil.copytree(lite0[1].parent, cache / "backbones" / lite0[1].parent.name)
    done = subprocess.run(
        [*somebody, f"FRUITPIPE_CACHE={cache}", *run], capture_output=True, text=True, check=False, env=variables
    )
    assert done.returncode == 0, done.stderr
    assert {command.vectors(out).num_rows, out.stat().st_uid} == {12, 12345}
    assert "no name in /etc/passwd" in " ".join(command.manifest(out)["warnings"])


CELLS = """
import sys
sys.modules["ipywidgets"] = None  # as where it is not installed
import fruitpipe
from fruitpipe.pipeline.progress import BarReporter, reporter_for
from fruitpipe.pipeline.preview import plan
from fruitpipe.releases.release import files_of
from fruitpipe.result.runs import open_run
from fruitpipe.storage.store import open_store
from rich.console import Console

config = fruitpipe.load_config(input=IMAGES, output=OUT, backbone=BACKBONE)
# %%
plan(config)
# %%
run = fruitpipe.run(config, reporter_for(sys.stderr))
run
# %%
bars = BarReporter(Console())
with bars.stage("rich", 12):
    bars.poll()
bars.close()
# %%
open_run(open_store(OUT)).model
# %%
model = fruitpipe.load_model(run.path("model"))
[vector.status for vector in model.transform_images(f"{IMAGES}/{IMAGE}")]
# %%
!{sys.executable} -m fruitpipe show {OUT}
# %%
fruitpipe.load_config(input=3, output=OUT)
"""


@pytest.mark.slow
def test_a_notebook_runs_without_ipywidgets_and_shows_what_is_asked_for(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    given = {"IMAGES": str(few), "OUT": str(tmp_path / "out"), "BACKBONE": NAME, "IMAGE": min(few.iterdir()).name}
    first = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in f"{first}\n{CELLS}".split("# %%")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=300, allow_errors=True).execute()
    start, planned, ran, bar, opened, transformed, shown, refused = (cell.outputs for cell in notebook.cells)
    assert start == []
    assert "<th" in only(planned, "execute_result").data["text/html"]
    *lines, result = ran
    assert {each.name for each in lines} == {"stderr"}
    stages = [line.partition(":")[0] for line in "".join(each.text for each in lines).splitlines()]
    assert [name for name in stages if name] == ["list", "plan", "start", "featurize", "fit", "project", "publish"]
    assert result.data["text/plain"].startswith("Run(")
    assert "a&lt;b&gt;&amp;c" in result.data["text/html"]
    assert only(bar, "display_data").data["text/plain"].startswith("rich ")
    assert only(opened, "execute_result").data["text/plain"].startswith("Model(")
    assert only(transformed, "execute_result").data["text/plain"] == "['ok']"
    text = "".join(each.text for each in shown)
    assert {each.name for each in shown} == {"stdout"}
    assert str(few) in text
    assert only(refused, "error").evalue.startswith("input: ")


def only(outputs: list[Any], kind: str) -> Any:
    (output,) = outputs
    assert output.output_type == kind, output
    return output
