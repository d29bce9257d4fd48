"""Several backbones at a time: each result is that of a run alone, and an image is fetched and decoded once for all."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import command as command_line
import hostile
import numpy as np
import pytest
from command import BACKBONE, command, fruitpipe, manifest, one_line_error, same_vectors, vectors
from faults import Proxy
from numpy.typing import NDArray
from outside import install
from processes import jvms_of, lives, wait
from s3 import image_requests, options, upload
from seaweed import BUCKET
from test_crash import amid, ended, finished_parts, held

import fruitpipe as api
from fruitpipe.config import ConfigError, ImageConfig, S3Config, load_config
from fruitpipe.pipeline.preview import plan_several
from fruitpipe.source import Reader, fetching
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.featurize import View, featurize, featurize_for
from fruitpipe.vision import decode as decoding
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decode import Look, decode_for
from fruitpipe.vision.decoder import Decoder, decode_for_all, decode_within_limits

NAME = BACKBONE.partition("=")[2]
CLASSES = """
    import numpy as np
    from fruitpipe import Description


    class Means:
        def describe(self):
            return Description(32, 3, "1")

        def load(self):
            pass

        def feature(self, pixels):
            return pixels.mean(axis=(0, 1)).astype(np.float32)


    class Deaf(Means):
        def feature(self, pixels):
            raise ValueError("it likes none")


    class Broken(Means):
        def feature(self, pixels):
            return np.zeros(7, np.float32)
"""
OF_ITS_RUN = {"run", "started", "finished", "timings", "worker_memory", "config", "config_digest"}


@pytest.fixture(scope="module", autouse=True)
def classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Backbones of somebody's own: `several_classes:Means` and others."""
    with pytest.MonkeyPatch.context() as patched:
        install(tmp_path_factory.mktemp("site"), "several_classes", CLASSES, {}, patched)
        yield


@pytest.fixture(scope="module")
def pictures(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some drawn fruits, all that breaks naive pipelines, and two that networks see decoded smaller."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, path in enumerate(sorted(fruits.rglob("*.jpg"))[::20]):
        shutil.copyfile(path, folder / f"{number}.jpg")
    for name, (_, make) in hostile.CASES.items():
        (folder / name).write_bytes(make())
    large = hostile.picture(2600, 2400)
    (folder / "large.jpg").write_bytes(hostile.jpeg(large))
    (folder / "progressive.jpg").write_bytes(hostile.jpeg(large, progressive=True, exif=hostile.exif(6)))
    return folder


def setting(*backbones: object, **others: object) -> list[str]:
    """Options of backbones, and of other keys of a config."""
    given = {"backbones": [*backbones]} | others
    return [part for key, value in given.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def objects(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def require_same(one: Path, other: Path) -> None:
    """Two results are the same, features and vectors to the last bit."""
    assert objects(one / "features") == objects(other / "features")
    assert same_vectors(vectors(one), vectors(other))
    first, second = manifest(one), manifest(other)
    assert first.keys() == second.keys()
    assert first["config"] | {"output": ""} == second["config"] | {"output": ""}
    for key in first.keys() - OF_ITS_RUN - {"files", "model"}:
        assert first[key] == second[key], key
    assert first["model"] | {"fitted_by": ""} == second["model"] | {"fitted_by": ""}
    assert [file["name"] for file in first["files"]] == [file["name"] for file in second["files"]]


def test_each_result_is_that_of_a_run_alone(pictures: Path, tmp_path: Path) -> None:
    """Which sees images in another size, after other steps or decoded whole, and some of them in another process."""
    several: dict[str, dict[str, Any]] = {
        NAME: {"backbone": NAME},
        "orb": {"backbone": "orb", "words": {"size": 24}},
        "padded": {"backbone": "several_classes:Means", "image": {"resize": "pad", "grey": True}},
    }
    entries = [NAME, several["orb"], {"name": "padded"} | several["padded"]]
    others = {"thumbnails": 16, "failures.max_rate": 0.9, "failures.retry": "all", "pca.components": 3}
    done = fruitpipe("run", pictures, tmp_path / "out", *setting(*entries, **others), "--json")
    assert {name: facts["status"] for name, facts in json.loads(done.stdout).items()} == dict.fromkeys(
        several, "published"
    )
    for name, keys in several.items():
        words = [part for key, value in (keys | others).items() for part in ("--set", f"{key}={json.dumps(value)}")]
        fruitpipe("run", pictures, tmp_path / "alone" / name, *words)
        require_same(tmp_path / "out" / name, tmp_path / "alone" / name)
    counts = {name: manifest(tmp_path / "out" / name)["counts"] for name in several}
    assert counts[NAME]["by_status"] == counts["orb"]["by_status"]
    assert counts[NAME]["failed"] > 5
    assert not list((tmp_path / "out").glob("*/lease.json")) + list((tmp_path / "out").glob("*/runs/*/work"))


def test_an_image_is_fetched_once_for_all_that_miss_it(
    admin: Any, s3: S3Config, proxy: Proxy, fruits: Path, tmp_path: Path
) -> None:
    """Also where some have features of some images, and others of others."""
    few = sorted(fruits.rglob("*.jpg"))[::20]
    for path in few:
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / path.parent.name / path.name)
    upload(admin, tmp_path, "several/images")
    images, out = f"s3://{BUCKET}/several/images", f"s3://{BUCKET}/several/out"
    reaching = options(proxy.endpoint)

    def asked(*words: object) -> tuple[Counter[int], dict[str, Any]]:
        """How many images were asked for how often, and what the command printed."""
        proxy.log.clear()
        done = fruitpipe(*words, *reaching, "--json")
        return Counter(image_requests(proxy.log, "several/images").values()), json.loads(done.stdout)

    fruitpipe("run", f"{images}/Apple", f"{out}/{NAME}", "--set", BACKBONE, *reaching)
    fruitpipe("run", f"{images}/Kiwi", f"{out}/means", "--backbone", "several_classes:Means", *reaching)
    means = {"backbone": "several_classes:Means", "name": "means"}
    _, planned = asked("plan", images, out, *setting(NAME, means))
    apples = sum(path.parent.name == "Apple" for path in few)
    assert {name: (each["new"], each["known"]) for name, each in planned.items()} == {
        name: (len(few) - apples, apples) for name in (NAME, "means")
    }
    counts, _ = asked("run", images, out, *setting(NAME, means))
    assert counts == {1: len(few)}
    second = {"backbone": "several_classes:Means", "name": "second"}
    counts, facts = asked("run", images, out, *setting(NAME, means, second))
    assert counts == {1: len(few)}
    assert [each["status"] for each in facts.values()] == ["unchanged", "unchanged", "published"]
    counts, facts = asked("run", images, out, *setting(NAME, means, model="reuse"))
    assert (counts, {each["status"] for each in facts.values()}) == ({}, {"published"})


def test_too_many_failures_of_one_backbone_are_its_own(pictures: Path, tmp_path: Path) -> None:
    command_line.spark()
    entries = ["several_classes:Deaf", "several_classes:Means"]
    given: dict[str, Any] = {"backbones": entries, "failures.max_rate": 0.9}
    with pytest.raises(api.SomeFailed) as caught:
        api.run_several(load_config(input=pictures, output=tmp_path, **given))
    (error,) = caught.value.errors.values()
    assert isinstance(error, api.TooManyFailures)
    assert caught.value.exit_code == error.exit_code
    assert str(caught.value) == f"several_classes-Deaf: {error}"
    (published,) = caught.value.runs.values()
    assert published.id == manifest(tmp_path / "several_classes-Means")["run"]
    assert published.manifest.counts.ok > 0
    (failed,) = json.loads(fruitpipe("runs", tmp_path / "several_classes-Deaf", "--json").stdout)
    assert (failed["status"], failed["reason"]) == ("failed", str(error))


@pytest.mark.slow
def test_what_ends_the_run_of_one_backbone_is_no_matter_to_the_others(pictures: Path, tmp_path: Path) -> None:
    entries = ["several_classes:Deaf", "several_classes:Means", "several_classes:Broken"]
    words = ["run", pictures, tmp_path, *setting(*entries, **{"failures.max_rate": 0.9})]
    done = fruitpipe(*words, "--json", code=1)
    first, second = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert first.startswith("error: several_classes-Deaf: ")
    assert "all of them: nothing was published" in first
    assert second.startswith("error: several_classes-Broken: ")
    assert "each backbone goes on alone" in done.stderr
    assert {name: each["status"] for name, each in json.loads(done.stdout).items()} == {
        "several_classes-Deaf": "failed", "several_classes-Means": "published", "several_classes-Broken": "failed",
    }  # fmt: skip
    for name in ("Deaf", "Broken"):
        (run,) = json.loads(fruitpipe("runs", tmp_path / f"several_classes-{name}", "--json").stdout)
        assert (run["status"], run["reason"] in done.stderr) == ("failed", True)


def test_a_damaged_result_of_one_backbone_is_no_matter_to_the_others(pictures: Path, tmp_path: Path) -> None:
    words = ["run", pictures, tmp_path, *setting("several_classes:Means", NAME, **{"failures.max_rate": 0.9})]
    fruitpipe(*words)
    (tmp_path / "several_classes-Means" / "latest.json").write_text("{")
    done = fruitpipe(*words, "--set", "pca.components=2", "--json", code=2)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "several_classes-Means/latest.json" in line
    assert {name: each["status"] for name, each in json.loads(done.stdout).items()} == {
        "several_classes-Means": "failed", NAME: "published",
    }  # fmt: skip


def test_what_is_for_one_backbone_is_refused_in_one_line(fruits: Path, tmp_path: Path) -> None:
    config = load_config(input=fruits, output=tmp_path / "out", backbones=[NAME])
    with pytest.raises(api.UserError, match="run_several runs them"):
        api.run(config)
    with pytest.raises(api.UserError, match=r"fruitpipe\.run runs it"):
        api.run_several(load_config(input=fruits, output=tmp_path / "out"))
    (tmp_path / "run.yaml").write_text(f"backbones: [{NAME}]\n")
    said = one_line_error(fruitpipe("convert", "--config", tmp_path / "run.yaml", code=2))
    assert "convert one at a time" in said
    LocalStore(str(tmp_path / "out")).create()
    (tmp_path / "out" / "fruitpipe.json").write_text('{"layout": 1}')
    for verb in ("plan", "run"):
        said = one_line_error(fruitpipe(verb, fruits, tmp_path / "out", "--config", tmp_path / "run.yaml", code=2))
        assert "is the result of one backbone" in said
    with pytest.raises(api.UserError, match="is the result of one backbone"):
        plan_several(config)


def test_a_run_of_one_does_not_begin_where_those_of_several_lie(fruits: Path, tmp_path: Path) -> None:
    marker = tmp_path / "out" / NAME / "fruitpipe.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(f'{{"layout": {layout.VERSION}}}')
    for verb in ("plan", "run"):
        said = one_line_error(fruitpipe(verb, fruits, tmp_path / "out", "--set", BACKBONE, code=2))
        assert f"holds results of their own, such as {NAME}, as of several backbones" in said
    assert not (tmp_path / "out" / "fruitpipe.json").exists()


MISTAKES: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "both": ({"backbones": ["orb"], "backbone": "orb"}, "", "set `backbone` or `backbones`, not both"),
    "none": ({"backbones": []}, "backbones", "is empty: fill it"),
    "no list": ({"backbones": "orb"}, "backbones", "a list, such as [orb]"),
    "a preset": ({"backbones": ["orb"], "preset": "vgg16-csv"}, "", "has a backbone of its own"),
    "a key of one": ({"backbones": ["vgg16"], "layer": "fc2"}, "", "backbones: [{backbone: …, layer: …}]"),
    "twice": ({"backbones": ["vgg16", {"backbone": "vgg16", "layer": "fc2"}]}, "", "two backbones are called vgg16"),
    "twice by case": (
        {"backbones": ["orb", {"backbone": "sift", "name": "ORB"}]}, "", "two backbones are called orb",
    ),
    "a typo": ({"backbones": ["orbb"]}, "backbones.0", "is not a known backbone"),
    "a typo of a key": ({"backbones": ["orb", {"backbone": "vgg16", "layr": 1}]}, "backbones.1.layr", "no such key"),
    "nothing": ({"backbones": [{"layer": 1}]}, "backbones.0.backbone", "missing: add"),
    "a key that it has not": ({"backbones": [{"backbone": "orb", "layer": 1}]}, "backbones.0", "orb has no layer"),
    "limits": (
        {"backbones": [{"backbone": "orb", "image": {"max_bytes": 1}}]}, "backbones.0.image.max_bytes", "no such key",
    ),
    "a name": ({"backbones": [{"backbone": "orb", "name": "../x"}]}, "backbones.0.name", "name of at most 64 letters"),
    "a model": ({"backbones": ["orb"], "model": "reuse", "reuse": "a/model"}, "", "set reuse: latest"),
    "a table": ({"backbones": ["orb"], "publish": {"iceberg": {"table": "a.b"}}}, "", "one table"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(case: str) -> None:
    values, key, words = MISTAKES[case]
    with pytest.raises(ConfigError) as caught:
        load_config(input="a", output="b", **values)
    (mistake,) = caught.value.mistakes
    assert mistake.key == key
    assert words in str(mistake)
    assert len(str(caught.value).splitlines()) == 1


def test_parts_of_a_config_are_what_one_would_say_of_each() -> None:
    shared = {"labels": "none", "image": {"resize": "pad", "max_pixels": 1000}, "input": ["a", "b"]}
    entries = [
        "orb",
        "models/dino.onnx",
        {"backbone": "vgg16", "layer": "fc2", "image": {"crop": "centre"}, "name": "v"},
    ]
    parts = load_config(output="s3://bucket/out/", backbones=entries, **shared).parts
    alone: dict[str, dict[str, Any]] = {
        "orb": {"backbone": "orb"},
        "dino.onnx": {"backbone": "models/dino.onnx"},
        "v": {"backbone": "vgg16", "layer": "fc2", "image.crop": "centre"},
    }
    assert parts == {
        name: load_config(output=f"s3://bucket/out/{name}", **shared, **keys) for name, keys in alone.items()
    }
    assert parts["orb"].image.grey
    one = load_config(input="a", output="b")
    assert one.parts == {"": one}


LOOKS = [
    Look(side, ImageConfig(**keys))
    for side in (32, 224, 320)
    for keys in ({}, {"grey": True, "decode": "exact"}, {"resize": "pad", "crop": "centre"}, {"background": "trim"})
]


def outcome(data: bytes, look: Look) -> tuple[Any, ...]:
    try:
        found = decode_within_limits(data, *look)
    except BadImage as error:
        return error.status, str(error)
    return found.pixels.tobytes(), found.width, found.height


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in a process"])
def test_pictures_for_several_are_those_for_each(
    pictures: Path, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "of_all", elsewhere)
    for path in sorted(pictures.iterdir()):
        data = path.read_bytes()
        looks = LOOKS[::3] if elsewhere or len(data) > 1 << 18 else LOOKS
        found = [
            (each.status, str(each)) if isinstance(each, BadImage) else (each.pixels.tobytes(), each.width, each.height)
            for each in decode_for_all(data, looks)
        ]
        assert found == [outcome(data, look) for look in looks], path.name


def test_what_is_beyond_the_limits_for_one_look_is_no_matter_to_another() -> None:
    """A progressive JPEG takes more memory whole than at half the size; both are decoded in a process."""
    rules = ImageConfig(max_memory=64 << 20)
    looks = [Look(32, rules), Look(32, rules.model_copy(update={"decode": "exact"}))]
    data = hostile.jpeg(hostile.picture(3200, 2800), progressive=True)
    found = decode_for_all(data, looks)
    assert [getattr(each, "status", "ok") for each in found] == ["ok", "too_large"]
    assert [getattr(each, "status", "ok") for each in decode_for_all(data, looks[::-1])] == ["too_large", "ok"]


def test_a_file_is_decoded_once_for_each_scale() -> None:
    data = hostile.jpeg(hostile.picture(2600, 2400))
    with patch.object(decoding, "load", wraps=decoding.load) as load:
        decode_for(data, [Look(224, ImageConfig()), Look(224, ImageConfig(resize="pad")), Look(200, ImageConfig())])
        assert [call.args[1] for call in load.call_args_list] == [2]
        load.reset_mock()
        decode_for(data, [Look(224, ImageConfig()), Look(320, ImageConfig(decode="exact")), Look(320, ImageConfig())])
        assert [call.args[1] for call in load.call_args_list] == [2, 1]


class Engine:
    """Mean colours of squares of a size, some images at once."""

    dimension = 3

    def __init__(self, side: int, batch: int) -> None:
        self.side, self.batch = side, batch
        self.most = 0
        """images that it had at once"""

    def run(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
        self.most = max(self.most, len(pixels))
        out[...] = pixels.mean(axis=(1, 2))
        return {number: BadImage("rejected", "dark") for number, each in enumerate(out) if each.mean() < 100}


def test_engines_that_like_other_numbers_of_images_get_them(pictures: Path) -> None:
    images = [fetching.Image(str(path)) for path in sorted(pictures.iterdir())]
    reader = Reader(S3Config(), 64 << 20)
    engines = [Engine(32, 16), Engine(32, 5), Engine(64, 7)]
    together = featurize_for(images, [View(each, ImageConfig()) for each in engines], reader)
    assert [engine.most for engine in engines] == [engine.batch for engine in engines]
    for engine, (facts, features) in zip(engines, together, strict=True):
        alone, expected = featurize(images, engine, ImageConfig(), reader)
        assert facts == alone
        assert np.array_equal(features, expected)
        assert {"ok", "rejected", "undecodable"} <= set(facts.status)


@pytest.fixture(scope="module")
def many(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images that take long enough, and what runs alone make of them."""
    out = tmp_path_factory.mktemp("alone")
    for backbone in (NAME, "several_classes:Means"):
        fruitpipe("run", fruits, out / backbone.replace(":", "-"), "--backbone", backbone)
    return fruits, out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_after_a_crash_the_same_command_goes_on(number: int, many: tuple[Path, Path], tmp_path: Path) -> None:
    images, alone = many
    names = [NAME, "several_classes-Means"]
    words = ["run", images, tmp_path, *setting(NAME, "several_classes:Means")]

    def parts() -> dict[Path, int]:
        return {path: time for name in names for path, time in finished_parts(tmp_path / name).items()}

    with amid(command(*words, "--set", "spark.master=local[1]"), parts) as process:
        jvm = jvms_of(process.pid)[0]
        with held(process):
            process.send_signal(number)
            if number == signal.SIGKILL:
                process.wait()
        if number == signal.SIGINT:
            assert "continues from them" in one_line_error(ended(process))
    wait(lambda: not lives(jvm))
    assert not list(tmp_path.glob("*/runs/*/manifest.json"))
    leases = {path.parent.name for path in tmp_path.glob("*/lease.json")}
    assert leases == (set(names) if number == signal.SIGKILL else set())
    before = parts()
    assert before
    fruitpipe(*words)
    assert {path: time for path, time in parts().items() if path in before} == before
    for name in names:
        document = manifest(tmp_path / name)
        assert 0 < document["plan"]["known"] < 320
        assert same_vectors(vectors(tmp_path / name), vectors(alone / name))
        statuses = [run["status"] for run in json.loads(fruitpipe("runs", tmp_path / name, "--json").stdout)]
        assert statuses[-1] == "latest"
        assert (statuses[0] == "interrupted") is (number == signal.SIGINT)


@pytest.mark.slow
def test_two_networks_and_two_layers_of_one_give_what_each_gives_alone(
    mobilenet: Any, pictures: Path, tmp_path: Path
) -> None:
    layers = {"backbone": NAME, "layer": -3, "pooling": "max", "name": "maxima"}
    entries: dict[str, dict[str, Any]] = {
        "mobilenet_v2": {"backbone": "mobilenet_v2"}, NAME: {"backbone": NAME}, "maxima": layers,
    }  # fmt: skip
    others = {"failures.max_rate": 0.9, "pca.components": 3}
    fruitpipe("run", pictures, tmp_path / "out", *setting(*entries.values(), **others))
    for name, entry in entries.items():
        keys = {key: value for key, value in (entry | others).items() if key != "name"}
        words = [part for key, value in keys.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        fruitpipe("run", pictures, tmp_path / name, *words)
        require_same(tmp_path / "out" / name, tmp_path / name)
