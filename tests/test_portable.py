"""Networks in files: what they give is what NumPy and Keras give, and what a sidecar says wrong is told in one line."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx_bucket
import pyarrow.parquet as pq
import pytest
import yaml
from command import fruitpipe, manifest, one_line_error, vectors
from networks import PICTURES, SIDE, WIDTH, mean_of_patches, onnx_network, patches, references, write
from numpy.typing import NDArray
from s3 import options, upload
from seaweed import BUCKET, Server, certificate

from fruitpipe.backbones import resolve
from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.family import WORKER, family_of
from fruitpipe.config import Config, Environment, S3Config, load_config
from fruitpipe.config.sidecar import NAMED, TextTower, sidecar_of
from fruitpipe.engines import EngineSpec
from fruitpipe.engines.package import Package, TextPackage
from fruitpipe.engines.reference_pictures import pixels_digest, reference_picture
from fruitpipe.engines.text import TextEncoder
from fruitpipe.errors import UserError
from fruitpipe.model.model import load_model

LIBRARIES = ("openvino", "onnxruntime")


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What runs ONNX: onnxruntime does where OpenVINO is missing."""
    if request.param == "onnxruntime":
        monkeypatch.setitem(sys.modules, "openvino", None)
    return str(request.param)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lite0: tuple[Backbone, Path]) -> None:
    """Of this test alone, but with what is converted already."""
    own = tmp_path / "cache"
    (own / "backbones").mkdir(parents=True)
    (own / "backbones" / lite0[1].parent.name).symlink_to(lite0[1].parent)
    monkeypatch.setenv("FRUITPIPE_CACHE", str(own))


def spec_of(network: Path) -> EngineSpec:
    """The engine of a network and its sidecar, which nobody has looked at."""
    package = network.with_name("package.zip")
    told = network.with_suffix(".yaml")
    Package(network.name, network.read_bytes(), told.read_bytes() if told.exists() else b"").write(package)
    return EngineSpec(network.suffix[1:], package)


def features(spec: EngineSpec, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    engine = spec.start()
    out = np.full((len(pictures), engine.dimension), np.nan, np.float32)
    assert engine.run(np.stack(pictures), out) == {}
    return out


def drawn(side: int = SIDE) -> list[NDArray[np.uint8]]:
    """Pictures beside those of the references."""
    return [reference_picture(kind, seed, side) for kind in ("tiles", "noise") for seed in (11, 12)]


def refused(network: Path) -> str:
    """Why an engine does not start, in one line."""
    with pytest.raises(UserError) as caught:
        spec_of(network).start()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_reference_pictures_are_the_same_everywhere() -> None:
    """Digests that nothing here may change: sidecars have them."""
    assert pixels_digest(reference_picture("noise", 2, 32)) == hashlib.sha256(
        hashlib.shake_256(b"fruitpipe noise 2").digest(32 * 32 * 3)
    ).hexdigest()  # fmt: skip
    tiles = reference_picture("tiles", 0, 20)
    colours = np.frombuffer(hashlib.shake_256(b"fruitpipe tiles 0").digest(192), np.uint8).reshape(8, 8, 3)
    for y, x in ((0, 0), (2, 3), (19, 19), (7, 12)):
        assert (tiles[y, x] == colours[8 * y // 20, 8 * x // 20]).all()
    assert pixels_digest(reference_picture("tiles", 0, 32)) == TILES_0


TILES_0 = "598a52890621c1b8b95520fced11a800e35607b8fe4c43c8f7e0979c6eba7494"


@pytest.mark.parametrize("shape", ["as they are", "free"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("gives", "pooling"), [("features", None), ("maps", None), ("tokens", "mean"), ("tokens", "cls")]
)
def test_a_network_in_onnx_gives_what_numpy_gives(
    library: str, layout: str, gives: str, pooling: str | None, shape: str, tmp_path: Path
) -> None:
    """The side, and of two of three the layout, are read from the file, where they are in it."""

    def feature(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        tokens = patches(pixels)
        return np.asarray(tokens[0] if pooling == "cls" else tokens.mean(axis=0))

    keys: dict[str, Any] = {"pooling": pooling, "references": references(feature)}
    axes: networks.Shape | None = None
    if shape == "free":
        axes = ["batch", 3, "h", "w"] if layout == "NCHW" else ["batch", "h", "w", 3]
        keys["size"] = SIDE
    network = write(tmp_path, onnx_network(layout, gives, axes), **keys)
    found = features(spec_of(network), drawn())
    np.testing.assert_allclose(found, np.stack(list(map(feature, drawn()))), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*NAMED, "mean and std", "BGR", "l2"])
def test_preprocessing_is_what_it_is_called(name: str, tmp_path: Path) -> None:
    """By NumPy in float64, from the definitions."""
    known = NAMED.get(name, NAMED["symmetric"])
    mean, std, bgr = known.mean, known.std, known.channels == "BGR"
    keys: dict[str, Any] = {"preprocessing": name if name in NAMED else "symmetric"}
    if name == "mean and std":
        mean, std = (0.2, 0.3, 0.4), (0.5, 0.25, 0.125)
        keys = {"mean": list(mean), "std": list(std), "preprocessing": None}
    if name == "BGR":
        keys["channels"], bgr = "BGR", True
    if name == "l2":
        keys["l2_normalise"] = True

    def feature(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        found = patches(pixels, mean, std, bgr).mean(axis=0)
        return np.asarray(found / np.linalg.norm(found) if name == "l2" else found)

    network = write(tmp_path, references=references(feature), **keys)
    expected = np.stack(list(map(feature, drawn())))
    np.testing.assert_allclose(features(spec_of(network), drawn()), expected, rtol=1e-4, atol=1e-5 * expected.max())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "channels": ({"channels": "BGR"}, "with channels: RGB, all references fit"),
    "preprocessing": ({"preprocessing": "imagenet"}, "with preprocessing: symmetric, all references fit"),
    "mean": ({"preprocessing": None, "mean": [0.5, 0.5, 0.4], "std": [0.5, 0.5, 0.5]}, "preprocessing: symmetric, all"),
    "network": ({"references": references(lambda pixels: patches(pixels, 0.3, 0.2).mean(0))}, "mean, std or channels"),
    "l2_normalise": ({"l2_normalise": True}, "l2_normalise is likely to be false"),
    "length": (
        {"references": references(lambda pixels: patches(pixels)[0, :5])},
        "has 5 numbers, and patches.onnx gives",
    ),
    "no numbers": ({"references": references(lambda _: np.full(WIDTH, np.nan))}, "mean, std or channels are likely"),
    "size": ({"references": references(mean_of_patches, side=2 * SIDE)}, "has other pixels at 32 x 32"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_a_sidecar_says_wrong_is_refused_and_named(key: str, library: str, tmp_path: Path) -> None:
    keys, said = WRONG[key]
    message = refused(write(tmp_path, **keys))
    assert message.startswith("patches.yaml: ")
    assert said in message


def test_another_pooling_is_refused_and_named(tmp_path: Path) -> None:
    network = write(tmp_path, onnx_network(gives="tokens"), pooling="cls")
    assert "with pooling: mean, all references fit" in refused(network)


def test_all_that_is_missing_is_asked_for_in_one_line(library: str, tmp_path: Path) -> None:
    network = tmp_path / "patches.onnx"
    network.write_bytes(onnx_network(gives="both", shape=["n", "c", "h", "w"]))
    assert refused(network) == (
        "patches.onnx does not describe itself completely: write patches.yaml beside it with layout (NCHW or NHWC); "
        "size (pixels); preprocessing (levels, unit, symmetric, imagenet, clip, caffe) or mean and std; output (tokens "
        "or features); references ([] for none)."
    )
    network.write_bytes(onnx_network(gives="tokens"))
    assert refused(network) == (
        "patches.onnx does not describe itself completely: write patches.yaml beside it with preprocessing (levels, "
        "unit, symmetric, imagenet, clip, caffe) or mean and std; pooling (mean or cls); references ([] for none)."
    )


def test_one_of_several_outputs_is_chosen_by_its_name(library: str, tmp_path: Path) -> None:
    network = write(tmp_path, onnx_network(gives="both"), output="features")
    np.testing.assert_allclose(features(spec_of(network), drawn())[0], mean_of_patches(drawn()[0]), rtol=1e-4)


UNFIT: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "batch": (onnx_network(shape=[4, 3, SIDE, SIDE]), {}, "a free batch or one of 1"),
    "size": (onnx_network(), {"size": 64}, "takes 1 x 3 x 32 x 32, which is not 1 x 3 x 64 x 64"),
    "oblong": (onnx_network(shape=[1, 3, SIDE, 2 * SIDE]), {}, "which is not 1 x 3 x 32 x 32"),
    "layout": (onnx_network(), {"layout": "NHWC", "size": SIDE}, "which is not 1 x 32 x 32 x 3"),
    "inputs": (onnx_network(further="input_ids"), {}, "pixels, input_ids: export the part that takes an image"),
    "uint8": (onnx_network(dtype=2), {}, "takes uint8 of 1 x 3 x 32 x 32"),
    "input": (onnx_network(), {"input": "image"}, "patches.onnx has no input image: it takes pixels"),
    "output": (onnx_network(), {"output": "logits"}, "patches.onnx has no output logits: it gives features"),
    "pooling": (onnx_network(), {"pooling": "cls"}, "pooling cls does not fit an output of 2 axes"),
    "external": (onnx_network(weights_in="weights.bin"), {}, "its weights are in another file"),
    "damaged": (onnx_network()[:700], {}, "It is damaged"),
    "no onnx": (b"<html>404</html>", {}, "It is damaged"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_network_that_cannot_be_used_is_one_line(what: str, library: str, tmp_path: Path) -> None:
    data, keys, said = UNFIT[what]
    assert said in refused(write(tmp_path, data, **keys))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preprocesing: clip", "line 1: preprocesing: no such key. Did you mean 'preprocessing'?"),
        ("size: 224\npreprocessing: torch", "line 2: preprocessing: 'torch' is not one of levels"),
        ("mean: [0.5, 0.5, 0.5]", "mean and std go together"),
        ("mean: [123.7, 116.3, 103.5]\nstd: [58.4, 57.1, 57.4]", "divide those of 0 to 255 by 255"),
        ("mean: [.nan, 0.1, 0.1]\nstd: [0.5, 0.5, 0.5]", "divide those of 0 to 255"),
        ("mean: [0.5, 0.5]\nstd: [0.5, 0.5, 0.5]", "line 1: mean"),
        ("preprocessing: clip\nmean: [0, 0, 0]\nstd: [1, 1, 1]", "leave one of them out"),
        ("references: [{kind: tiles, seed: 0}]", "references.0.pixels: missing"),
        ("references: [{kind: noise, seed: 0, pixels: " + 64 * "a" + ", vector: hello}]", "base64 of float32"),
        ("references: [" + 5 * "{}," + "]", "references"),
        ("size: &a 5\nother: *a", "aliases"),
        ("size: 1\nsize: 2", "named twice"),
        ("[" * 5000, "patches.yaml: "),
        ("- a list", "expected `key: value`"),
        ("size: 2024-13-45", "patches.yaml: "),
        ("!!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("size: \x00", "patches.yaml: "),
        (b"\xff\xfe", "not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sidecar_is_one_line(text: str | bytes, said: str) -> None:
    with pytest.raises(UserError) as caught:
        sidecar_of(text.encode() if isinstance(text, str) else text, "patches.yaml")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_package_is_made_of_what_it_is_made_of_and_of_nothing_else(tmp_path: Path) -> None:
    """The same bytes each time; an archive of anything else does not start."""
    spec = spec_of(write(tmp_path))
    first = spec.digest
    os.utime(tmp_path / "patches.onnx", (1, 1))
    assert spec_of(tmp_path / "patches.onnx").digest == first
    for number, kind in enumerate(("compressed", "more", "other names", "none")):
        bad = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED) as archive:
            names = {"other names": ["../a.onnx", "b.yaml"]}.get(kind, ["a.onnx", "a.yaml"])
            for name in [*names, *(["c"] if kind == "more" else [])]:
                archive.writestr(name, onnx_network())
        if kind == "none":
            bad.write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(UserError, match=r"onnx cannot run backbone\.zip: ") as caught:
            EngineSpec("onnx", bad).start()
        assert len(str(caught.value).splitlines()) == 1


def resolved(network: str | Path, **keys: Any) -> Any:
    return resolve(load_config(input="a", output="b", backbone=network, **keys), Environment.read())


def test_features_are_known_by_network_and_what_decides_them(tmp_path: Path) -> None:
    """Wherever the file lies, and whatever else its sidecar says."""
    first = resolved(write(tmp_path))
    assert (first.facts.input_size, first.facts.dimension, first.engine.kind) == (SIDE, WIDTH, "onnx")
    (tmp_path / "other").mkdir()
    same = resolved(write(tmp_path / "other", licence="MIT", source="elsewhere", layout="NCHW", references=[]))
    assert same.features == first.features
    assert same.engine.digest != first.engine.digest
    levels = NAMED["symmetric"]
    told = {"mean": list(levels.mean), "std": list(levels.std), "preprocessing": None}
    assert resolved(write(tmp_path, **told)).features == first.features
    assert resolved(write(tmp_path, channels="BGR", references=[])).features != first.features
    assert resolved(write(tmp_path, onnx_network("NHWC"))).features != first.features


def test_a_network_is_run_once_before_it_is_taken_and_what_happens_is_one_line(tmp_path: Path) -> None:
    network = write(tmp_path, onnx_network()[:700])
    for _ in range(2):
        with pytest.raises(UserError, match=rf"backbone {network}: .* damaged") as caught:
            resolved(network)
        assert len(str(caught.value).splitlines()) == 1
    write(tmp_path, channels="BGR")
    with pytest.raises(UserError, match="with channels: RGB, all references fit"):
        resolved(network)
    write(tmp_path, resize="crop", resample="bilinear")
    with pytest.raises(UserError, match=r"add `image: \{resize: crop, resample: bilinear\}` to the config"):
        resolved(network)
    resolved(network, **{"image.resize": "crop", "image.resample": "bilinear"})
    with pytest.raises(UserError, match=r"there is no nowhere\.tflite"):
        resolved("nowhere.tflite")
    with pytest.raises(UserError, match="is not a regular file"):
        resolved((tmp_path / "folder.onnx").mkdir() or tmp_path / "folder.onnx")


def test_where_the_cache_cannot_be_written_a_network_is_the_processs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, where only /tmp can: it is looked at once, and gone when the process is."""
    monkeypatch.setenv("FRUITPIPE_CACHE", "/proc/nowhere")
    first = resolved(write(tmp_path))
    assert resolved(tmp_path / "patches.onnx") == first
    assert first.engine.source.exists()
    assert not first.engine.source.is_relative_to("/proc")
    program = "import sys, test_portable as here; print(here.resolved(sys.argv[1]).engine.source)"
    command = [sys.executable, "-c", program, str(tmp_path / "patches.onnx")]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).parents[1].exists()
    with pytest.raises(UserError, match="which cannot be written"):
        resolved("efficientnet_lite0")


def test_another_file_than_the_config_means_is_refused(tmp_path: Path) -> None:
    network = write(tmp_path)
    actual = hashlib.sha256(network.read_bytes()).hexdigest()
    assert resolved(network, sha256=actual).facts.dimension == WIDTH
    with pytest.raises(UserError, match=f"has the SHA-256 {actual}, and sha256 says {64 * '0'}"):
        resolved(network, sha256=64 * "0")
    with pytest.raises(UserError, match="needs its `sha256`"):
        resolved("https://models.example/patches.onnx")
    with pytest.raises(UserError, match="resnet50 has no sha256"):
        resolved("resnet50", sha256=actual)
    for name in ("http://a/b.onnx", "https://user:word@a/b.onnx", "https://a/b.onnx?sig=1", "model.pt"):
        with pytest.raises(UserError) as caught:
            load_config(input="a", output="b", backbone=name, sha256=actual)
        assert len(str(caught.value).splitlines()) == 1


def test_a_worker_has_room_for_the_network_three_times(tmp_path: Path) -> None:
    network = tmp_path / "large.tflite"
    with network.open("wb") as file:
        file.truncate(100 << 20)
    config = load_config(input="a", output="b", backbone=network)
    assert family_of(config.backbone).worker_memory(config) == WORKER + 300


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder; /moved/ is elsewhere, without TLS."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/patches.onnx")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A web server with TLS over tmp_path/web, whose authority is trusted, and what it was asked for."""
    folder = tmp_path / "web"
    folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.asked = []  # type: ignore[attr-defined]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_network_behind_https_is_asked_for_once_and_held_to_its_digest(
    web: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, asked = web
    digest = hashlib.sha256(write(tmp_path / "web").read_bytes()).hexdigest()
    with pytest.raises(UserError, match="it is another file, or was changed"):
        resolved(f"{url}/patches.onnx", sha256=64 * "0")
    first = resolved(f"{url}/patches.onnx", sha256=digest)
    assert first.features == resolved(tmp_path / "web/patches.onnx").features
    asked.clear()
    assert resolved(f"{url}/patches.onnx", sha256=digest) == first
    assert asked == []
    (tmp_path / "web" / "text.onnx").write_bytes(networks.text_network(networks.text_table(networks.WORDS)))
    (tmp_path / "web" / "words.json").write_bytes(networks.tokenizer(networks.WORDS))
    told = {"network": "text.onnx", "tokenizer": "words.json", "padding": networks.PAD, "references": []}
    write(tmp_path / "web", name="two.onnx", l2_normalise=True, references=[], text=told)
    assert TextEncoder(resolved(f"{url}/two.onnx", sha256=digest).text).dimension == WIDTH
    for name, said in (("gone.onnx", "there is no"), ("moved/patches.onnx", "redirects to a place without TLS")):
        with pytest.raises(UserError, match=said) as caught:
            resolved(f"{url}/{name}", sha256=digest)
        assert len(str(caught.value).splitlines()) == 1


def test_a_run_with_a_network_in_a_file_and_its_model_applied_again(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder to vectors; the same bits by the model alone; and as long as nothing changes, nothing to do."""
    network, out = write(tmp_path), tmp_path / "out"
    images = fruits / "Apple"
    assert fruitpipe("run", images, out, "--backbone", network, "--components", "5").returncode == 0
    found = manifest(out)
    assert (found["backbone"]["name"], found["backbone"]["engine"]) == ("patches.onnx", "onnx")
    rows = vectors(out)
    model = load_model(Path(out, "runs", found["run"], "model"))
    network.unlink()
    again = [np.asarray(each.vector).tolist() for each in model.transform_images(rows["path"].to_pylist())]
    assert again == rows["vector"].to_pylist()
    write(tmp_path, preprocessing="imagenet")
    assert "preprocessing: symmetric" in one_line_error(fruitpipe("run", images, out, "--backbone", network, code=2))
    write(tmp_path, licence="Apache-2.0")
    plan = json.loads(fruitpipe("plan", images, out, "--backbone", network, "--json").stdout)
    assert plan["todo"] == 0
    model_folder = Path(out, "runs", found["run"], "model")
    assert "only those become ONNX" in one_line_error(fruitpipe("export", model_folder, code=2))


def test_a_converted_network_is_a_file_for_elsewhere(lite0: tuple[Backbone, Path], tmp_path: Path) -> None:
    """Its sidecar holds, and it gives the bits of the network that it is of."""
    done = fruitpipe("convert", "--backbone", "efficientnet_lite0", "-o", tmp_path / "mine.tflite")
    assert f"--backbone {tmp_path}/mine.tflite" in done.stdout
    told = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert (told["preprocessing"], len(told["references"])) == ("levels", 4)
    found = features(resolved(tmp_path / "mine.tflite").engine, drawn(224))
    assert np.array_equal(found, features(EngineSpec("litert", lite0[1]), drawn(224)))
    for arguments, said in (
        (["efficientnet_lite0", "-o", "mine.h5"], "a network is written as .onnx or .tflite"),
        ([tmp_path / "mine.tflite", "-o", "copy.tflite"], "is such a file already: copy it with mine.yaml"),
        (["orb", "-o", "orb.onnx"], "there is nothing to convert"),
    ):
        assert said in one_line_error(fruitpipe("convert", "--backbone", *arguments, code=2))


def test_a_converted_network_replaces_only_its_own_sidecar(
    lite0: tuple[Backbone, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Path("run.yaml")
    config.write_text("backbone: efficientnet_lite0\n")
    monkeypatch.setenv("FRUITPIPE_CACHE", str(tmp_path / "empty"))  # it is said before anything is converted
    said = one_line_error(fruitpipe("convert", "--config", config, "-o", "run.tflite", code=2))
    assert "would replace run.yaml, which `fruitpipe convert` did not write: choose another name" in said
    assert (config.read_text(), list(tmp_path.glob("empty/*"))) == ("backbone: efficientnet_lite0\n", [])
    monkeypatch.setenv("FRUITPIPE_CACHE", str(tmp_path / "cache"))
    convert = ("convert", "--config", config, "-o")
    for _ in range(2):
        assert "mine.tflite and mine.yaml: " in fruitpipe(*convert, "mine.tflite").stdout
    mine = Path("mine.yaml")
    mine.write_text(mine.read_text().replace("efficientnet_lite0", "another"))
    said = one_line_error(fruitpipe(*convert, "mine.onnx", code=2))
    assert "would replace mine.yaml, which is that of mine.tflite, another network" in said
    assert "another" in mine.read_text()
    assert not Path("mine.onnx").exists()


@pytest.fixture(scope="module")
def of_keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seeded networks, by tf2onnx and TensorFlow's converter, and what Keras gives."""
    folder = tmp_path_factory.mktemp("keras")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, networks.__file__, folder], env=os.environ | quiet, check=True, capture_output=True)
    return folder


FILES = ("NHWC.onnx", "NCHW.onnx", "NHWC.tflite")
POOLED = {
    "average": lambda maps: maps.mean(axis=(1, 2)),
    "mean": lambda tokens: tokens.mean(axis=1),
    "cls": lambda tokens: tokens[:, 0],
}
KERAS = [("convnet", 96, "average"), ("vit", 64, "mean"), ("vit", 64, "cls")]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("kind", "side", "pooling"), KERAS)
def test_networks_of_keras_give_what_keras_gives(
    of_keras: Path, library: str, kind: str, side: int, pooling: str, file: str, tmp_path: Path
) -> None:
    """Of a network with tokens, another pooling is told from the right one."""
    expected = POOLED[pooling](np.load(of_keras / f"{kind}.npy"))
    pictures = [reference_picture(*each, side) for each in PICTURES]
    vectors_of = {pixels_digest(picture): vector for picture, vector in zip(pictures, expected, strict=True)}
    held = references(lambda pixels: vectors_of[pixels_digest(pixels)], side)
    network = (of_keras / f"{kind}_{file}").read_bytes()
    found = features(spec_of(write(tmp_path, network, file, references=held, pooling=pooling)), pictures)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.9999
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4 * np.abs(expected).max())
    if kind == "vit":
        other = {"mean": "cls", "cls": "mean"}[pooling]
        wrong = write(tmp_path, network, file, references=held, pooling=other)
        assert f"with pooling: {pooling}, all references fit" in refused(wrong)


@pytest.mark.slow
def test_a_text_tower_in_tflite_gives_what_numpy_gives(of_keras: Path, tmp_path: Path) -> None:
    """Its inputs come in an order of TensorFlow's, by names of its making."""
    words, texts, package = networks.WORDS, ["a ripe banana", "kiwi"], tmp_path / "text.zip"
    told = TextTower(network="text.tflite", tokenizer="tokenizer.json", padding=networks.PAD, references=())
    TextPackage(told, (of_keras / "text.tflite").read_bytes(), networks.tokenizer(words)).write(package)
    table, numbers = networks.text_table(words), [networks.tokens(text, words) for text in texts]
    expected = np.stack([mask @ table[ids] for ids, mask in numbers])
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(TextEncoder(package).vectors(texts), expected / lengths, atol=1e-5)


@pytest.mark.slow
def test_a_converted_network_in_onnx_gives_litert_features(lite0: tuple[Backbone, Path], tmp_path: Path) -> None:
    fruitpipe("convert", "--backbone", "efficientnet_lite0", "-o", tmp_path / "mine.onnx")
    found = features(resolved(tmp_path / "mine.onnx").engine, drawn(224))
    np.testing.assert_allclose(found, features(EngineSpec("litert", lite0[1]), drawn(224)), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_network_and_images_in_a_bucket_become_vectors(
    server: Server, s3: S3Config, admin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `tests/test_cluster.py` has it on a cluster; here, too, with a cache that cannot be written."""
    monkeypatch.setenv("FRUITPIPE_CACHE", "/proc/nowhere")
    network = onnx_bucket.fill(admin, "portable-run", tmp_path)
    images, out = (f"s3://{BUCKET}/portable-run/{name}" for name in ("images", "out"))
    arguments = ("--backbone", network, "--components", onnx_bucket.COMPONENTS, *options(server.endpoint))
    fruitpipe("run", images, out, *arguments)
    onnx_bucket.require_right(admin, "portable-run/out")


@pytest.mark.slow
def test_a_network_in_a_bucket(server: Server, s3: S3Config, admin: Any, fruits: Path, tmp_path: Path) -> None:
    """Network, images and result in one: vectors are those of the same network on disk."""
    folder = tmp_path / "models"
    folder.mkdir()
    network = write(folder)
    upload(admin, folder, "portable/models")
    upload(admin, fruits / "Apple", "portable/images/Apple")
    place = f"s3://{BUCKET}/portable"
    to = options(server.endpoint)
    arguments = ("--backbone", f"{place}/models/patches.onnx", "--components", "5", *to)
    fruitpipe("run", f"{place}/images", f"{place}/out", *arguments)
    fruitpipe("run", fruits / "Apple", tmp_path / "out", "--backbone", network, "--components", "5")
    shown = json.loads(fruitpipe("show", f"{place}/out", "--json", *to).stdout)
    here = manifest(tmp_path / "out")
    assert shown["features_digest"] == here["features_digest"]
    fruitpipe("transform", f"{place}/out/runs/{shown['run']}/model", fruits / "Apple", tmp_path / "again.parquet", *to)
    again = pq.read_table(tmp_path / "again.parquet").sort_by("path")
    assert again["vector"].to_pylist() == vectors(tmp_path / "out")["vector"].to_pylist()
    gone = f"{place}/models/gone.onnx"
    line = one_line_error(fruitpipe("plan", f"{place}/images", f"{place}/out", "--backbone", gone, *to, code=2))
    assert f"there is no {gone}" in line
    config = Config(input="a", output="b", backbone=f"{place}/models/patches.onnx", s3=s3)
    assert family_of(config.backbone).worker_memory(config) == WORKER + 10
