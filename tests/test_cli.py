"""What a user types, and what they read when they mistype."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from command import BACKBONE, command, fruitpipe, manifest, one_line_error, process, run, vectors
from outside import install

import fruitpipe as api
from fruitpipe.cli.options import Given


@pytest.mark.slow
def test_in_a_pod_the_reason_is_where_kubernetes_looks_for_it(tmp_path, monkeypatch):
    log = tmp_path / "termination-log"
    monkeypatch.setenv("FRUITPIPE_TERMINATION_LOG", str(log))
    done = fruitpipe("run", tmp_path / "nowhere", tmp_path / "out", "--set", BACKBONE, code=2)
    assert one_line_error(done) == f"error: {log.read_text()}"


def test_where_kubernetes_looks_for_nothing_the_reason_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUITPIPE_TERMINATION_LOG", str(tmp_path))
    assert "no folder" in one_line_error(fruitpipe("plan", tmp_path / "nowhere", tmp_path / "out", code=2))


@pytest.mark.parametrize(
    ("mistyped", "told"),
    [
        ("rnu", "error: No such command 'rnu'. Did you mean 'run'? `fruitpipe --help` shows what there is."),
        ("run --bckbone=orb", "error: No such option: --bckbone (Possible options: --backbone): `fruitpipe run"),
        ("plan a b --limit x", "error: Invalid value for '--limit': "),
        ("publish out", "error: Missing argument 'RUN': `fruitpipe publish --help` shows what there is."),
        ("presets all", "error: Got unexpected extra argument(s) (all): `fruitpipe presets --help` shows"),
    ],
)
def test_a_mistyped_command_is_one_line(mistyped: str, told: str) -> None:
    assert one_line_error(fruitpipe(*mistyped.split(), code=2)).startswith(told)


def test_nothing_asked_for_is_help() -> None:
    assert "Turn images into published vectors." in fruitpipe().stdout


def test_help_waits_for_nothing_heavy() -> None:
    program = "import sys, fruitpipe.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {
        "duckdb",
        "keras",
        "kubernetes",
        "numpy",
        "pandas",
        "pyarrow",
        "pyspark",
        "obstore",
        "botocore",
        "tensorflow",
    }
    assert heavy & set(done.stdout.split()) == set()


FIRST = """
import atexit, json, sys, psutil
loaded = {}
def heard(event, details):
    if event == "subprocess.Popen" and any("workers.nursery" in str(word) for word in details[1]):
        loaded["nursery"] = sorted({name.partition(".")[0] for name in sys.modules})
sys.addaudithook(heard)
def tell():
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    children = [child.pid for child in psutil.Process().children()]
    print(json.dumps({"modules": modules, "children": children} | loaded))
atexit.register(tell)
from fruitpipe.__main__ import main
main()
"""
"""A command that tells at its end what it has imported, before it started its workers and after, and which are left."""


def told(*words: object) -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", FIRST, *map(str, words)], capture_output=True, text=True, check=False)
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_workers_are_started_before_anything_is_imported_that_they_would_wait_for(tmp_path: Path) -> None:
    of_run = told("run", tmp_path / "nowhere", tmp_path / "out")
    late = {"typer", "pydantic", "yaml", "numpy", "pyarrow", "duckdb", "PIL"}
    assert late & set(of_run["nursery"]) == set()
    assert late <= set(of_run["modules"])
    assert of_run["children"] == [], "it ends with the command, though nobody wanted it"


@pytest.mark.parametrize(
    "words",
    ["--help", "run --help", "run nowhere out --set spark.master=local[1]", "plan nowhere out", "version"],
)
def test_other_commands_start_none(words: str) -> None:
    assert "nursery" not in told(*words.split())


def test_a_plan_imports_no_findings_and_no_pandas(fruits: Path, tmp_path: Path) -> None:
    needless = {"pandas", "sklearn", "pyspark", "keras", "tensorflow", "kubernetes", "obstore", "botocore", "cv2"}
    assert needless & set(told("plan", fruits, tmp_path / "out", "--set", BACKBONE)["modules"]) == set()


def test_a_model_to_reuse_is_fitted_first(fruits: Path, tmp_path: Path) -> None:
    words = (fruits, tmp_path / "out", "--set", BACKBONE, "--set", "model=reuse")
    for verb in ("plan", "run"):
        assert "run with model: fit first" in one_line_error(fruitpipe(verb, *words, code=2))


AMID_IMPORTS = """
import sys
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "fruitpipe.cli.app":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from fruitpipe.__main__ import main
main()
"""


def test_ctrl_c_amid_the_imports_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", AMID_IMPORTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "error: stopped.\n")


def test_public_names_are_listed_before_they_are_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import fruitpipe; print(*dir(fruitpipe))"], capture_output=True, text=True, check=True
    )
    assert set(api.__all__) <= set(done.stdout.split())


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    done = fruitpipe("run", tmp_path / "nowhere", tmp_path / "out", "--set", BACKBONE, code=2)
    assert "no folder" in one_line_error(done)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = fruitpipe("plan", tmp_path / "empty", tmp_path / "out", code=2)
    assert "no images in" in one_line_error(done)


@pytest.mark.slow
def test_a_run_without_weights_is_one_line_with_the_ways_out(fruits: Path, tmp_path: Path) -> None:
    environment = os.environ | {"KERAS_HOME": str(tmp_path / "keras"), "FRUITPIPE_CACHE": str(tmp_path / "cache")}
    environment |= {"https_proxy": "http://127.0.0.1:9", "no_proxy": ""}  # a closed site
    line = one_line_error(fruitpipe("run", fruits, tmp_path / "out", code=2, variables=environment))
    assert "KERAS_HOME" in line
    assert "--backbone efficientnet_lite0" in line


def test_spark_without_java_is_one_line(fruits: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"} | {"PATH": "/nowhere"}
    settings = ("--set", BACKBONE, "--set", "spark.master=local[2]")
    done = process("run", fruits, tmp_path / "out", *settings, code=2, variables=environment)
    assert "no Java" in one_line_error(done)


def test_a_run_needs_no_java_and_doctor_says_so(fruits: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"} | {"PATH": "/nowhere"}
    process("run", fruits, tmp_path / "out", "--set", BACKBONE, "--limit", 12, variables=environment)
    assert manifest(tmp_path / "out")["counts"]["ok"] == 12
    found = process("doctor", "--set", BACKBONE, variables=environment).stdout
    assert "ok    java: only long runs need it: no Java, which Spark needs." in found


def test_what_validate_cannot_read_is_json_too(tmp_path: Path) -> None:
    (mistake,) = json.loads(fruitpipe("validate", tmp_path / "nowhere.yaml", "--json", code=2).stdout)
    assert mistake["message"] == f"no config file {tmp_path}/nowhere.yaml: check the path."


@pytest.mark.parametrize("place", ["features/more", "runs/more"])
def test_a_result_is_not_put_among_the_features_and_runs_of_another(place: str, fruits: Path, tmp_path: Path) -> None:
    run(fruits, out := tmp_path / "out", "limit=1")
    done = fruitpipe("run", fruits, out / place, "--set", BACKBONE, code=2)
    assert f"{out}/{place} is within the result {out}: choose another output." in one_line_error(done)
    run(fruits, tmp_path / "features" / "of mine", "limit=1")


def test_what_comes_next_can_be_given_whatever_a_place_is_called(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-img").symlink_to(fruits)
    done = fruitpipe("plan", "--backbone", "efficientnet_lite0", "--", "-img", "out")
    assert done.stdout.splitlines()[-1] == "next: fruitpipe run --backbone efficientnet_lite0 -- -img out"


def test_validate_names_every_mistake_with_line_and_meaning(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("backbon: mobilenet_v2\npca:\n  varience: 0.9\n  components: 0\nscale: true\n")
    done = fruitpipe("validate", config, code=2)
    lines = [line.removeprefix(f"error: {config}: ") for line in done.stderr.splitlines()]
    assert [line.split(":")[0] for line in lines] == ["line 1", "line 3", "line 4", "line 5"]
    assert "'backbone'" in lines[0]
    assert "'variance'" in lines[1]
    assert "'pca.scale'" in lines[3]
    mistakes = json.loads(fruitpipe("validate", config, "--json", code=2).stdout)
    assert [mistake["line"] for mistake in mistakes] == [1, 3, 4, 5]
    config.write_text("pca: {variance: 0.9}\n")
    assert fruitpipe("validate", config).stdout == f"{config}: ok\n"


def test_the_schema_accepts_what_the_config_accepts_and_refuses_typos() -> None:
    schema = json.loads(fruitpipe("schema").stdout)
    valid = api.load_config(input="a", output="b").model_dump(mode="json")
    jsonschema.validate(valid, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(valid | {"backbon": "mobilenet_v2"}, schema)
    described = [key for key, value in schema["properties"].items() if "description" in value or "$ref" in value]
    assert described == list(schema["properties"])


def test_plan_counts_without_writing_anything(fruits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = json.loads(fruitpipe("plan", fruits, out, "--set", BACKBONE, "--json").stdout)
    assert (summary["images"], summary["new"], summary["todo"]) == (320, 320, 320)
    assert summary["bytes"] == sum(path.stat().st_size for path in fruits.rglob("*.jpg"))
    assert summary["labels"]["Apple"] == 40
    assert not out.exists()


@pytest.mark.slow
def test_a_bar_shows_on_a_terminal_and_the_last_lines_say_what_to_do_next(fruits: Path, tmp_path: Path) -> None:
    """`script` gives the command a terminal."""
    line = " ".join(map(repr, command("run", str(fruits), str(tmp_path / "out"), "--set", BACKBONE)))
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", line, "/dev/null"],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "100", "TERM": "xterm"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)
    assert re.search(r"featurize .*\d+/320 .*img/s, 0 failed, .* left", text)
    assert "next: fruitpipe show" in text.splitlines()[-1]


def test_what_is_no_image_by_name_is_one_line_of_plan_run_show_and_report(fruits: Path, tmp_path: Path) -> None:
    shutil.copytree(fruits / "Apple", tmp_path / "in")
    for name in ("a.mov", "b.mov", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"x")
    out = tmp_path / "out"
    assert re.search(r"not images +2 mov, 1 txt\n", fruitpipe("plan", tmp_path / "in", out).stdout)
    said = "files that are hidden or no images by name were passed over: 2 mov, 1 txt"
    assert said in fruitpipe("run", tmp_path / "in", out, "--set", BACKBONE).stdout
    assert said in fruitpipe("show", out).stdout
    found = manifest(out)
    assert found["plan"]["passed_over"] == {"mov": 2, "txt": 1}
    assert said in (out / "runs" / found["run"] / "report.html").read_text()


def test_plain_lines_and_json_lines_name_every_stage(fruits: Path, tmp_path: Path) -> None:
    done = fruitpipe("run", fruits, tmp_path / "out", "--set", BACKBONE)
    stages = ["list", "plan", "start", "featurize", "fit", "project", "publish"]
    # A stage of more than ten seconds says so meanwhile.
    assert list(dict.fromkeys(line.split(":")[0] for line in done.stderr.splitlines())) == stages
    done = fruitpipe(
        "run", fruits, tmp_path / "out", "--set", BACKBONE, "--set", "image.resample=bilinear", "--log", "json"
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["stage"] for line in lines] == stages
    assert next(line for line in lines if line["stage"] == "featurize")["images"] == 320


def test_a_network_that_is_converted_has_a_stage_of_its_own(fruits: Path, tmp_path: Path) -> None:
    variables = os.environ | {"FRUITPIPE_CACHE": str(tmp_path / "cache")}
    words = ("run", fruits, tmp_path / "out", "--set", BACKBONE, "--limit")
    for limit, stages in ((8, ["list", "convert", "plan"]), (9, ["list", "plan", "start"])):
        told = fruitpipe(*words, limit, variables=variables).stderr.splitlines()
        assert [line.split(":")[0] for line in told[:3]] == stages


@pytest.mark.slow
def test_verbose_brings_back_what_spark_says(fruits: Path, tmp_path: Path) -> None:
    options = ("--set", BACKBONE, "--set", "spark.master=local[1]", "--verbose")
    done = fruitpipe("run", fruits / "Apple", tmp_path / "out", *options)
    assert "WARN" in done.stderr or "INFO" in done.stderr


def test_configs_merge_in_one_order(fruits: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump({"input": "elsewhere", "backbone": "efficientnet_lite0", "pca": {"components": 9}})
    )
    out = tmp_path / "out"
    done = fruitpipe("run", fruits / "Apple", out, "--config", config, "--set", "pca.components=4", "--json")
    facts = json.loads(done.stdout)
    assert facts["components"] == 4
    shown = json.loads(fruitpipe("show", out, "--json").stdout)
    assert shown["config"]["input"] == str(fruits / "Apple")
    kept = yaml.safe_load((out / "runs" / facts["run"] / "config.yaml").read_text())
    assert kept == shown["config"]
    assert f"components  4, {shown['model']['explained']:.2%}" in fruitpipe("show", out).stdout


def test_a_folder_that_is_no_result_is_one_line(tmp_path: Path) -> None:
    for verb in ("runs", "show", "gc"):
        assert "is not a fruitpipe result" in one_line_error(fruitpipe(verb, tmp_path, code=2))
    assert "is not a model" in one_line_error(
        fruitpipe("transform", tmp_path, tmp_path, tmp_path / "o.parquet", code=2)
    )


@pytest.mark.slow
def test_under_spark_submit_its_settings_count(fruits: Path, tmp_path: Path) -> None:
    submit = [
        Path(sys.executable).with_name("spark-submit"),
        "--master",
        "local[1]",
        "--conf",
        "spark.ui.enabled=false",
    ]
    program = Path(api.__file__).with_name("__main__.py")
    arguments = ["run", fruits / "Apple", tmp_path / "out", "--set", BACKBONE, "--json"]
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    done = subprocess.run([*submit, program, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 40  # spark-submit puts both streams into one


WHAT_WORKERS_SEE = """
import fruitpipe, numpy, os
class Seen:
    def describe(self): return fruitpipe.Description(8, 2, "1")
    def load(self): pass
    def feature(self, pixels):
        return numpy.float32([os.environ["TOKIO_WORKER_THREADS"], "hugetlb=1" in os.environ["GLIBC_TUNABLES"]])
"""


@pytest.mark.slow
def test_workers_under_spark_submit_have_our_environment_but_where_it_says_otherwise(
    fruits: Path, tmp_path: Path
) -> None:
    (tmp_path / "seen.py").write_text(WHAT_WORKERS_SEE)
    submit = [Path(sys.executable).with_name("spark-submit"), "--master", "local[1]"]
    submit += ["--conf", "spark.ui.enabled=false", "--conf", "spark.executorEnv.TOKIO_WORKER_THREADS=2"]
    program = Path(api.__file__).with_name("__main__.py")
    arguments = ["run", fruits / "Apple", tmp_path / "out", "--set", "backbone=seen:Seen", "--set", "pca=none"]
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    environment["PYTHONPATH"] = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run([*submit, program, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert set(map(tuple, vectors(tmp_path / "out")["vector"].to_pylist())) == {(2, 1)}


@pytest.mark.slow
def test_the_python_interface_runs_twice_in_one_process(fruits: Path, tmp_path: Path) -> None:
    """In a process of its own, since the tests' own may have another Spark running."""
    program = """
import sys, fruitpipe
config = fruitpipe.load_config(input=sys.argv[1], output=sys.argv[2], backbone="efficientnet_lite0")
first, second = fruitpipe.run(config), fruitpipe.run(config.model_copy(update={"formats": ("csv",)}))
assert second.manifest.plan.known == first.manifest.counts.ok == 40
print(second.model.transform(__import__("numpy").zeros((2, 1280))).shape[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, fruits / "Apple", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_the_next_command_has_the_settings_of_this_one(fruits: Path, tmp_path: Path) -> None:
    done = fruitpipe("plan", fruits, tmp_path / "out", "--set", BACKBONE, "--verify-content")
    assert done.stdout.splitlines()[-1].endswith(f" --set {BACKBONE} --verify-content")


def test_a_config_that_comes_through_a_pipe_is_there_for_all_that_asks_for_it() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"limit: 3\ns3: {region: eu-west-1}\n")
    os.close(writing)
    given = Given(Path(f"/dev/fd/{reading}"), [])
    first, second = (given.config(["IMAGES", out]) for out in ("out", "out/part"))
    os.close(reading)
    assert (first.limit, first.s3.region) == (second.limit, second.s3.region) == (3, "eu-west-1")


def test_what_is_said_directly_wins_and_comes_back_in_the_next_command(fruits: Path, tmp_path: Path) -> None:
    """Preset, then config file, then `--set`, then the options; at each key, the next one wins over those before."""
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text("preset: vgg16-csv\nbackbone: resnet50\npca: none\nformats: [json]\nlimit: 3\n")
    direct = ["--backbone", "efficientnet_lite0", "--variance", "0.999", "--components", "4"]
    direct += ["--format", "csv", "--format", "json", "--limit", "7"]
    options = ["--config", str(config), "--set", "backbone=vgg19", "--set", "limit=5"]
    done = fruitpipe("plan", fruits, out, *direct, *options)
    assert re.search(r"^images +7,", done.stdout, re.MULTILINE)
    assert "featurize 7 images with efficientnet_lite0" in done.stdout
    again = done.stdout.splitlines()[-1].removeprefix("next: fruitpipe ")
    assert again.endswith(f"{shlex.join(options)} {shlex.join(direct)}")
    facts = json.loads(fruitpipe(*shlex.split(again), "--json").stdout)
    assert (facts["images"], facts["components"]) == (7, 4)
    shown = json.loads(fruitpipe("show", out, "--json").stdout)
    assert shown["config"]["formats"] == ["csv", "json"]
    assert shown["config"]["pca"] == {"components": 4, "variance": 0.999, "scale": True}
    assert vectors(out)["path"].to_pylist() == sorted(map(str, fruits.rglob("*.jpg")))[:7]


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("--backbone", "resnet5", "backbone"),
        ("--backbone", "", "backbone"),
        ("--variance", "0", "pca.variance"),
        ("--components", "0", "pca.components"),
        ("--format", "jsom", "formats.0"),
        ("--limit", "0", "limit"),
    ],
)
def test_a_wrong_value_of_an_option_is_one_line_that_names_the_key(option: str, value: str, key: str) -> None:
    line = one_line_error(fruitpipe("plan", "images", "out", option, value, code=2))
    assert line.startswith(f"error: {key}: ")


def test_other_verbs_take_the_backbone_directly_too() -> None:
    assert json.loads(fruitpipe("convert", "--backbone", "efficientnet_lite0", "--json").stdout)["dimension"] == 1280
    assert "there is nothing to convert" in one_line_error(
        fruitpipe("convert", "--backbone", "orb", "--set", BACKBONE, code=2)
    )
    line = one_line_error(fruitpipe("doctor", "--backbone", "resnet5", code=2))
    assert "Did you mean 'resnet50'?" in line


def test_what_nobody_foresaw_is_one_line_and_a_traceback_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "odd_family", "1 / 0", {"fruitpipe.backbones": {"odd": "odd_family:Odd"}}, monkeypatch)
    line = one_line_error(fruitpipe("backbones", code=1))
    assert "ZeroDivisionError" in line
    assert "fruitpipe --verbose" in line
    done = fruitpipe("--verbose", "backbones", code=1)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == line


@pytest.mark.parametrize("url", ["https://x/model", "s3a://x/model", "s3://key:hush@x/model", "file:/x/model"])
def test_a_model_s_url_is_checked_as_those_of_a_config(url: str, fruits: Path, tmp_path: Path) -> None:
    error = one_line_error(fruitpipe("transform", url, fruits, tmp_path / "out.parquet", code=2))
    assert "cannot use a URL" in error
    assert "hush" not in error
