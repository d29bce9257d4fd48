from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fruitpipe import config as configs
from fruitpipe.backbones.keras_applications import NETWORKS
from fruitpipe.config import PRESETS, Config, ConfigError, Environment, environment, load_config
from fruitpipe.config.forms import Form
from fruitpipe.config.sections import Section
from fruitpipe.config.sidecar import Sidecar
from fruitpipe.config.validation import mistake_in, section_in
from fruitpipe.errors import UserError
from fruitpipe.secret_patterns import SECRET_VALUE, says_secret

VALIDATOR = jsonschema.Draft202012Validator(Config.model_json_schema())
MINIMAL = "input: photos\noutput: out\n"
# Hypothesis draws words of the program, too, such as TOKEN; and `:/` may be of a scheme that is not known.
ANY_TEXT = st.text().filter(lambda text: not says_secret(text) and not re.search(SECRET_VALUE, text))
TEXT = ANY_TEXT.filter(lambda text: text and ":/" not in text)
TREES = st.fixed_dictionaries(
    {"input": TEXT, "output": TEXT},
    optional={
        "labels": st.sampled_from(["parent", "none"]),
        "backbone": st.sampled_from(sorted(NETWORKS)),
        "preset": st.none() | st.sampled_from(sorted(PRESETS)),
        "verify_content": st.booleans(),
        "model": st.sampled_from(["fit", "reuse"]),
        "reuse": TEXT,
        "formats": st.lists(st.sampled_from(["json", "csv"]), unique=True),
        "one_file": st.booleans(),
        "image": st.fixed_dictionaries(
            {},
            optional={
                "background": st.sampled_from(["keep", "trim"]),
                "resize": st.sampled_from(["stretch", "pad", "crop"]),
                "resample": st.sampled_from(["bicubic", "bilinear"]),
                "grey": st.booleans(),
                "equalise": st.sampled_from(["none", "histogram", "adaptive"]),
                "max_bytes": st.integers(1, 1 << 62),
                "max_pixels": st.integers(1, 1 << 62),
                "max_memory": st.integers(1 << 24, 1 << 62),
                "max_seconds": st.integers(1, 1 << 62),
                "max_aspect": st.floats(1, 1e300),
            },
        ),
        "pca": st.just("none")
        | st.fixed_dictionaries(
            {},
            optional={
                "components": st.none() | st.integers(1, 1 << 31),
                "variance": st.none() | st.floats(0, 1, exclude_min=True),
                "scale": st.booleans(),
            },
        ),
        "failures": st.fixed_dictionaries(
            {}, optional={"max_rate": st.floats(0, 1), "retry": st.sampled_from(["transient", "all", "none"])}
        ),
        "spark": st.fixed_dictionaries(
            {},
            optional={
                "master": st.from_regex(
                    r"auto|yarn|local(\[(\*|[1-9])(,[1-9])?\])?|(spark|k8s)://[a-z]{1,9}", fullmatch=True
                ),
                "memory": st.from_regex(r"[1-9][0-9]{0,3}[kmgt]", fullmatch=True),
                "conf": st.dictionaries(TEXT, ANY_TEXT),
            },
        ),
    },
).map(lambda tree: tree | {"model": "reuse"} if "reuse" in tree else tree)


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(*args: Any, **kwargs: Any) -> dict[str, configs.Mistake]:
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwargs)
    return {mistake.key: mistake for mistake in caught.value.mistakes}


def test_every_mistake_is_told_at_once_with_its_line_and_the_key_that_was_meant(tmp_path: Path) -> None:
    text = """\
input: photos
outptu: out
backbone: mobilenet_v3
pca:
  varience: 0.9
  components: 0
resample: bilinear
failures: {max_rate: 2}
formats:
  - json
  - jsom
"""
    found = mistakes(write(tmp_path, text))
    assert {key: (m.line, m.suggestion) for key, m in found.items()} == {
        "output": (None, None),
        "outptu": (2, "output"),
        "backbone": (3, "mobilenet_v2"),
        "pca.varience": (5, "variance"),
        "pca.components": (6, None),
        "resample": (7, "image.resample"),
        "failures.max_rate": (8, None),
        "formats.1": (11, "json"),
    }


def test_each_mistake_is_one_line_that_begins_with_the_file_if_it_is_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, "input: photos\noutptu: out\npca: {scale: maybe}\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert [line.startswith(f"{path}: ") for line in lines] == [False, True, True], "`output` is nowhere in the file"
    assert f"{path}: line 2: outptu: no such key. Did you mean 'output'?" in lines


def test_later_sources_win_over_earlier_ones(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "backbone: efficientnet_lite0\nlabels: none\npca: {variance: 0.5, scale: false}\n")
    config = load_config(path, ["pca.variance=0.6", "labels=parent", "input=assigned"], input="given", output=None)
    assert config.failures.max_rate == 0.05, "default"
    assert config.backbone == "efficientnet_lite0", "file over default"
    assert config.pca == configs.PcaConfig(variance=0.6, scale=False), "assignment over file, key by key"
    assert config.labels == "parent"
    assert config.input == "given", "keyword over assignment"
    assert config.output == "out", "None is not a value"


def test_no_file_is_needed() -> None:
    assert load_config(input="photos", output="out") == Config(input="photos", output="out")


def test_spark_settings_keep_their_dots_in_yaml_and_in_assignments(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        MINIMAL + "spark:\n  conf:\n    spark.executor.cores: '2'\n    spark.a.b: x\n    spark.c: 3\n    spark.d: on\n",
    )
    config = load_config(path, ["spark.conf.spark.executor.cores=4", "spark.conf.spark.sql.ansi.enabled=true"])
    assert config.spark.conf == {
        "spark.executor.cores": "4",
        "spark.a.b": "x",
        "spark.c": "3",
        "spark.d": "true",
        "spark.sql.ansi.enabled": "true",
    }
    assert load_config(path, **{"spark.conf.spark.ui.enabled": "false"}).spark.conf["spark.ui.enabled"] == "false"


@pytest.mark.parametrize("text", ["pca.variance", "=3", "pca.variance: 0.9"])
def test_an_assignment_without_a_key_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        load_config(None, [text], input="a", output="b")


@pytest.mark.parametrize("value", ["[json", "2024-13-45", "0b_", "[" * 3000])
def test_an_assignment_that_is_not_yaml_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set limit: the value is not YAML: check its quotes and brackets\.$"):
        load_config(None, [f"limit={value}"], input="a", output="b")


def test_mistakes_in_assignments_are_told_together_with_the_others() -> None:
    assert mistakes(None, ["nonsense", "pca.varience=1"], input="a", output="b").keys() == {"", "pca.varience"}


def test_a_wrong_assignment_is_not_blamed_on_a_line_of_the_file(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, MINIMAL + "labels: parent\n"), ["labels=nobody"])
    assert found["labels"].line is None


def test_a_wrong_keyword_is_not_blamed_on_a_line_of_the_file(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, MINIMAL + "labels: parent\n"), labels="nobody")
    assert found["labels"].line is None


def test_a_key_named_twice_is_told_with_both_lines(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, MINIMAL + "pca:\n  scale: true\n  scale: false\n"))
    assert found["pca.scale"].line == 5
    assert "line 4" in found["pca.scale"].message


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "3\n"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="key: value"):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("input: a\npca: {scale: true\n", 3),
        ("input: a\n\tpca: 1\n", 2),
        ("input: a: b\n", 1),
        ("input: a\n? [x, y]\n: 1\n", 2),
    ],
)
def test_what_is_not_yaml_is_told_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert [mistake.line for mistake in caught.value.mistakes] == [line]
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).endswith(": check the indentation, quotes and brackets here and on the line before.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "input: a\nlimit: 2024-13-45\n",
            "cannot read '2024-13-45' (month must be in 1..12): put it in quotes if it is text.",
        ),
        ("input: a\nlimit: *nobody\n", "YAML aliases (*name) are not supported: write out what they stand for."),
    ],
)
def test_what_yaml_cannot_read_as_a_value_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(path := write(tmp_path, text))
    assert str(caught.value) == f"{path}: line 2: {said}"


def test_a_key_that_is_missing_is_told_with_the_line_of_its_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, f"{MINIMAL}publish:\n  iceberg: {{catalog: x}}\n"))
    ((line, key),) = ((mistake.line, mistake.key) for mistake in caught.value.mistakes)
    assert (line, key) == (MINIMAL.count("\n") + 2, "publish.iceberg.table")


@pytest.mark.parametrize("text", ["input: &a [*a]\n", "1: 2\n", "input: !!python/object/apply:os.getcwd []\n"])
def test_strange_yaml_is_a_mistake_and_no_crash(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, text))


def test_a_file_that_is_missing_or_binary_or_a_folder_is_a_user_error_of_one_line(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00input")
    for path in (tmp_path / "nowhere.yaml", binary, tmp_path):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert ("is not UTF-8: save it so" in str(caught.value)) == (path == binary)


def test_a_config_in_a_bucket_is_none() -> None:
    with pytest.raises(UserError, match=r"^s3://bucket/run\.yaml is no file of this machine: download it first\.$"):
        load_config(Path("s3://bucket/run.yaml"))


def test_a_file_s_url_is_of_this_machine() -> None:
    with pytest.raises(UserError, match=r"^no config file file:/nowhere/run\.yaml: check the path\.$"):
        load_config(Path("file:///nowhere/run.yaml"))


@pytest.mark.parametrize("key", ["input", "output"])
def test_a_name_that_is_not_utf_8_is_shown_and_to_be_renamed(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(**({"input": "a", "output": "b"} | {key: os.fsdecode(b"caf\xe9")}))
    assert str(caught.value) == f"{key}: caf\\xe9 is not UTF-8: rename it."


@pytest.mark.parametrize("url", ["file:/photos", "file://host/photos"])
def test_a_url_of_a_file_that_would_be_a_folder_beside_the_command_is_refused(url: str) -> None:
    found = mistakes(None, input=url, output="file:///results")
    assert {key: each.message for key, each in found.items()} == {
        "input": "write file:///folder here, or /folder alone."
    }


def test_an_empty_file_is_a_config_without_values(tmp_path: Path) -> None:
    assert mistakes(write(tmp_path, "")).keys() == {"input", "output"}


def test_a_file_may_leave_input_and_output_to_the_command_line(tmp_path: Path) -> None:
    configs.validate(write(tmp_path, "pca: {variance: 0.9}\n"))
    with pytest.raises(ConfigError, match="line 1"):
        configs.validate(write(tmp_path, "pca: {variance: 9}\n"))


def test_a_config_may_do_without_pca(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "pca: none\n")
    assert load_config(path).pca == load_config(None, ["pca=none"], input="a", output="b").pca == "none"
    assert load_config(path, ["pca.variance=0.9"]).pca == configs.PcaConfig(variance=0.9)
    path = write(tmp_path, MINIMAL + "pca: {variance: 0.9}\n")
    assert load_config(path, ["pca=none"]).pca == "none"


def test_a_model_to_reuse_is_named_for_a_run_that_reuses_one() -> None:
    assert load_config(None, ["reuse=a/model", "model=reuse"], input="a", output="b").reuse == "a/model"
    (mistake,) = mistakes(None, ["reuse=a/model"], input="a", output="b").values()
    assert mistake.message.endswith("set model: reuse, or leave reuse out.")


@pytest.mark.parametrize("wrong", ["", "0.9", "nothing", "[none]"])
def test_a_pca_that_is_neither_none_nor_a_mapping_is_told_with_both(tmp_path: Path, wrong: str) -> None:
    (mistake,) = mistakes(write(tmp_path, MINIMAL + f"pca: {wrong}\n")).values()
    assert str(mistake) == "line 3: pca: expected none, or a mapping such as {variance: 0.95}."


@given(TREES)
def test_any_config_dumped_to_yaml_loads_back_equal(tree: dict[str, Any]) -> None:
    config = Config.model_validate(tree)
    with TemporaryDirectory() as folder:
        path = write(Path(folder), yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        assert load_config(path) == config


@given(TREES)
def test_the_schema_accepts_every_config(tree: dict[str, Any]) -> None:
    dumped = Config.model_validate(tree).model_dump(mode="json")
    VALIDATOR.validate(dumped)


@pytest.mark.parametrize(
    "wrong",
    [{"outptu": "x"}, {"labels": "nobody"}, {"pca": {"variance": 0}}, {"pca": 0.9}, {"spark": {"memory": "lots"}}]
    + [{"limit": 10**20}, {"image": {"max_seconds": 10**21}}, {"image": {"max_memory": 10**20}}]
    + [{"weights": "random:99999999999999999999999"}]
    + [
        {"spark": {"master": wrong}} for wrong in ("lokal", "local[0]", "local[2", "local[*]x", "mesos://x", "spark://")
    ],
)
def test_the_schema_refuses_what_load_refuses(wrong: dict[str, Any]) -> None:
    tree = {"input": "a", "output": "b"} | wrong
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(tree)
    with pytest.raises(ConfigError):
        load_config(None, (), **tree)


MASTERS = ("auto", "local", "local[4]", "local[*]", "local[2,4]", "local[*, 3]", "local-cluster[2, 1, 1024]", "yarn")


@pytest.mark.parametrize("master", [*MASTERS, "spark://a:7077,b:7077", "k8s://https://10.0.0.1:443"])
def test_all_masters_of_spark_are_taken(master: str) -> None:
    config = load_config(None, [f"spark.master={master}"], input="a", output="b")
    assert config.spark.master == master
    VALIDATOR.validate(config.model_dump(mode="json"))


def test_a_master_that_was_passed_over_can_be_read_from_a_result() -> None:
    recorded = Config(input="a", output="b").model_dump(mode="json") | {"spark": {"master": "lokal"}}
    assert Config.model_validate(recorded, context=configs.RECORDED).spark.master == "lokal"


def test_what_has_another_form_is_told_in_words() -> None:
    wrong = ["spark.master=lokal", "spark.memory=lots", "track.openlineage=ftp://x", "sha256=abc", "s3.endpoint=minio"]
    assert {key: mistake.message for key, mistake in mistakes(None, wrong, input="a", output="b").items()} == {
        "spark.master": "'lokal' is not auto or a Spark master, such as local[4], local[*], spark://host:7077, "
        "k8s://https://host:443 or yarn.",
        "spark.memory": "'lots' is not a size such as 2g or 512m.",
        "track.openlineage": "'ftp://x' is not a URL such as https://marquez.example, or the path of a file.",
        "sha256": "'abc' is not a SHA-256: 64 of the digits 0 to 9 and a to f.",
        "s3.endpoint": "'minio' is not a URL such as https://s3.example:9000.",
    }


WRONG_TYPES = [None, [], {}, -1, 7, 1.5, float("nan"), True, "", "word", ["x"], [[1]], {"a": 1}, {1: 2}]


def keys_of(section: type[Section], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        yield (*above, name)
        if below := section_in(field.annotation):
            yield from keys_of(below, (*above, name))


def nest(below: Any, name: str) -> dict[str, Any]:
    return {name: below}


@pytest.mark.parametrize("section", [Config, Sidecar])
def test_a_value_of_another_type_is_told_in_words_of_ours(section: type[Section]) -> None:
    for key in keys_of(section):
        for value in WRONG_TYPES:
            tree = reduce(nest, reversed(key), value)
            try:
                section.model_validate({"input": "a", "output": "b"} | tree)
            except ValidationError as error:
                for detail in error.errors(include_url=False):
                    mistake = mistake_in(detail, {}, section)
                    assert detail["type"] in {"missing", "value_error"} or "hould" not in mistake.message, mistake


def test_a_value_of_another_type_is_told_with_an_example() -> None:
    wrong = ["neighbours=12", "formats=json", "backbones=[]", "evaluate=maybe", "s3.tags=x", "one_file=[1]"]
    assert {key: mistake.message for key, mistake in mistakes(None, wrong, input="a", output="b").items()} == {
        "neighbours": "expected a mapping, such as {k: 12}, got 12.",
        "formats": "expected a list, such as [json], got 'json'.",
        "backbones": "is empty: fill it, or leave it out.",
        "evaluate": "expected true or false, got 'maybe'.",
        "s3.tags": "expected a mapping, such as {name: value}, got 'x'.",
        "one_file": "expected true or false, got a list.",
    }


@pytest.mark.parametrize("section", [Config, Sidecar])
def test_no_field_has_a_pattern_without_words(section: type[Section]) -> None:
    """What pydantic itself compares with a pattern, it would tell by that pattern."""
    checked, told = [], []

    def walk(schema: Any) -> None:
        if isinstance(schema, dict):
            checked.extend([schema["pattern"]] if schema.get("type") == "str" and "pattern" in schema else [])
            function = schema.get("function")
            form = getattr(function["function"], "__self__", None) if isinstance(function, dict) else None
            told.extend([form] if isinstance(form, Form) else [])
        for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list | tuple) else ():
            walk(each)

    walk(section.__pydantic_core_schema__)
    assert checked == []
    assert len({form.pattern for form in told}) >= 3
    for form in told:
        assert form.pattern.startswith("^")
        assert form.pattern.endswith("$")
        with pytest.raises(ValidationError, match=re.escape(f"is not {form.words}.")):
            TypeAdapter(Annotated[str, form]).validate_python(":")


@pytest.mark.parametrize(
    ("weights", "suggestion"),
    [("imagenets", "imagenet"), ("random", None), ("random:x", None), ("mine.h4", None), ("saved_model", None)],
)
def test_weights_are_a_known_word_a_file_or_a_folder_with_a_slash(weights: str, suggestion: str | None) -> None:
    found = mistakes(None, [f"weights={weights}"], input="a", output="b")["weights"]
    assert found.message.startswith(f"{weights!r} is not imagenet, ")
    assert found.suggestion == suggestion
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({"input": "a", "output": "b", "weights": weights})
    for right in ("imagenet", "random:7", "mine.weights.h5", "mine.keras", "saved_model/", "../models.v2/"):
        VALIDATOR.validate(
            {"input": "a", "output": "b", "weights": load_config(input="a", output="b", weights=right).weights}
        )


@pytest.mark.parametrize("layer", ["fc", 0])
def test_a_layer_of_a_saved_model_is_a_mistake(tmp_path: Path, layer: str | int) -> None:
    found = mistakes(write(tmp_path, MINIMAL + f"weights: model/\nlayer: {layer}\n"))
    assert {key: mistake.line for key, mistake in found.items()} == {"weights": 3}
    assert "export a model that ends at it" in found["weights"].message


def test_every_key_of_the_schema_is_described() -> None:
    schema = Config.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    bare = [
        name for section in sections for name, key in section["properties"].items()
        if "description" not in key and "$ref" not in key
    ]  # fmt: skip
    assert not bare


@pytest.mark.parametrize("limit", [math.inf, 12.5])
def test_any_config_survives_json(limit: float) -> None:
    """Manifests and model cards hold configs as JSON, which knows no infinity."""
    try:
        config = load_config(input="a", output="b", image={"max_aspect": limit})
    except ConfigError:
        return  # refusing it is as good
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_the_commit_of_a_release_is_known_in_its_pod_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "DEPLOYED", tmp_path / "revision")
    (tmp_path / "revision").write_text("0123456789ab\n")
    assert Environment.read().deployed is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert Environment.read().deployed == "0123456789ab"
    for nothing in ((tmp_path / "revision").write_text, lambda _: (tmp_path / "revision").unlink()):
        nothing("")
        assert Environment.read().deployed is None


def test_paths_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FRUITPIPE_CACHE", "KERAS_HOME", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    plain = Environment.read()
    assert (plain.cache, plain.keras_home) == (Path("/xdg/fruitpipe"), Path("/home/somebody/.keras"))
    assert plain.java_home is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Environment.read().cache == Path("/home/somebody/.cache/fruitpipe")
    monkeypatch.setenv("FRUITPIPE_CACHE", "/cache")
    monkeypatch.setenv("KERAS_HOME", "/keras")
    monkeypatch.setenv("JAVA_HOME", "/java")
    chosen = Environment.read()
    assert (chosen.cache, chosen.keras_home, chosen.java_home) == (Path("/cache"), Path("/keras"), Path("/java"))


@pytest.mark.parametrize(
    "assignment",
    ["limit=yes", "pca.components=on", "pca.variance=true", "failures.max_rate=yes", "image.max_pixels=true"],
)
def test_yes_is_no_number(assignment: str) -> None:
    """Though Python takes it for 1: a run of one image would be the result."""
    with pytest.raises(ConfigError, match=r"true is no number"):
        load_config(None, [assignment], input="a", output="b")


def test_switches_stay_switches() -> None:
    config = load_config(None, ["image.grey=yes", "explore=on", "s3.path_style=no"], input="a", output="b")
    assert (config.image.grey, config.explore, config.s3.path_style) == (True, True, False)
