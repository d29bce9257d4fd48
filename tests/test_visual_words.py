"""Bags of visual words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import cv2
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from command import ANEW, fruitpipe, manifest, one_line_error, run, same_vectors, vectors
from numpy.typing import NDArray
from PIL import Image
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances_argmin
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from fruitpipe.backbones import resolve
from fruitpipe.backbones.visual_words import ROUNDS, cluster, learn
from fruitpipe.config import Config, Environment, ImageConfig, S3Config
from fruitpipe.engines.visual_words import Detector, Vocabulary, WordCounts
from fruitpipe.errors import NotLearnt, UserError
from fruitpipe.pipeline.learning import RunImages
from fruitpipe.source import Reader

SIDE = 320


def grey(path: Path, side: int = SIDE) -> NDArray[np.uint8]:
    """Luminance, which bags of words see by default: it is taken before the resizing."""
    return np.asarray(Image.open(path).convert("L").resize((side, side), Image.Resampling.BICUBIC))


def descriptors(path: Path, name: str) -> NDArray[Any]:
    """OpenCV's own, as points: ORB's bits one by one."""
    found = (cv2.ORB if name == "orb" else cv2.SIFT).create(500).detectAndCompute(grey(path), None)[1]
    if found is None:
        return np.zeros((0, 256 if name == "orb" else 128))
    if name == "sift":
        return np.asarray(found)
    return np.unpackbits(np.asarray(found), axis=1)


def learnt(paths: list[Path], name: Any = "orb", size: int = 48) -> Vocabulary:
    nothing = cast(Any, None)
    images = RunImages(nothing, nothing, ImageConfig(grey=True), None, Reader(S3Config(), 1 << 20))
    return learn(images, [(str(path), "") for path in paths], Detector(name, SIDE, 500), size)


def histograms(paths: list[Path], words: NDArray[Any], name: str = "orb") -> NDArray[np.float64]:
    """What features must be: roots of how many descriptors have each word for the nearest."""
    return counts([descriptors(path, name) for path in paths], words)


def counts(found: list[NDArray[Any]], words: NDArray[Any]) -> NDArray[np.float64]:
    nearest = pairwise_distances_argmin(np.concatenate(found), words)
    images = np.split(nearest, np.cumsum([len(points) for points in found])[:-1])
    return np.sqrt([np.bincount(each, minlength=len(words)) for each in images])


@pytest.mark.parametrize("name", ["orb", "sift"])
def test_a_feature_counts_the_descriptors_nearest_to_each_word(fruits: Path, name: str) -> None:
    paths = sorted(fruits.rglob("*.jpg"))[::20]
    vocabulary = learnt(paths, name, 20)
    engine = WordCounts(vocabulary.to_bytes())
    assert (engine.side, engine.dimension) == (SIDE, 20)
    found = np.zeros((len(paths), 20), np.float32)
    engine.run(np.stack([np.repeat(grey(path)[..., np.newaxis], 3, axis=2) for path in paths]), found)
    expected = histograms(paths, vocabulary.words, name)
    assert (expected > 0).any(axis=0).all(), "every word comes up"
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_where_nothing_stands_out_all_counts_are_zero(fruits: Path) -> None:
    engine = WordCounts(learnt(sorted(fruits.rglob("*.jpg"))[::20], size=8).to_bytes())
    out = np.full((1, 8), -1, np.float32)
    engine.run(np.full((1, SIDE, SIDE, 3), 127, np.uint8), out)
    assert not out.any()


def accuracy(features: NDArray[Any], labels: NDArray[Any]) -> float:
    """of nearest neighbours, each image left out in turn"""
    reduced = PCA(0.95).fit_transform(StandardScaler().fit_transform(features))
    nearest = NearestNeighbors(n_neighbors=1).fit(reduced).kneighbors(return_distance=False)[:, 0]
    return float((labels[nearest] == labels).mean())


@pytest.mark.slow
def test_words_tell_real_fruits_apart_and_better_than_words_learnt_from_bytes(data: Path) -> None:
    paths = sorted((data / "fruits-360" / "Sample").rglob("*.jpg"))
    labels = np.array([path.parent.name for path in paths])
    bits = [descriptors(path, "orb").astype(np.uint8) for path in paths]
    ours = accuracy(counts(bits, learnt(paths).words), labels)
    found = [np.packbits(each, axis=1).astype(np.float64) for each in bits]
    chosen = np.concatenate(found)[np.random.default_rng(0).permutation(sum(map(len, found)))[:50_000]]
    naive = MiniBatchKMeans(48, batch_size=4096, n_init=1, random_state=0).fit(chosen).cluster_centers_
    assert ours > 0.77, "0.82 when this was written; chance is 0.04"
    assert ours > accuracy(counts(found, naive), labels)


def test_the_same_images_give_the_same_words_and_bad_ones_are_passed_over(fruits: Path, tmp_path: Path) -> None:
    paths = sorted(fruits.rglob("*.jpg"))[::20]
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    words = learnt(paths).to_bytes()
    assert learnt(paths).to_bytes() == words
    assert learnt([*paths, tmp_path / "broken.jpg", tmp_path / "gone.jpg"]).words.shape == (48, 256)
    assert learnt(paths[1:]).to_bytes() != words


def test_too_few_keypoints_are_a_user_error_of_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100), "white").save(tmp_path / "blank.png")
    with pytest.raises(
        UserError, match=r"1 images have too few keypoints for 48 words: set words.size lower"
    ) as caught:
        learnt([tmp_path / "blank.png"])
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def result(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over drawn fruits and one image where nothing stands out."""
    images = tmp_path_factory.mktemp("images")
    for path in fruits.rglob("*.jpg"):
        target = images / path.relative_to(fruits)
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(path)
    Image.new("RGB", (100, 100), "white").save(images / "blank.png")
    out = images.parent / f"{images.name}-out"
    run(images, out, "backbone=orb", "words.images=100")
    return out


def test_a_run_reduces_histograms_of_words_that_its_model_holds(result: Path) -> None:
    done = manifest(result)
    assert (done["backbone"]["name"], done["backbone"]["dimension"], done["backbone"]["engine"]) == ("orb", 48, "words")
    assert "1 image has a feature of zeros" in " ".join(done["warnings"])
    assert done["counts"]["failed"] == 0
    query = f"SELECT path, feature FROM '{result}/features/*/*.parquet' ORDER BY path"
    rows = duckdb.sql(query).fetchall()
    features = np.stack([np.frombuffer(feature, np.float32) for _, feature in rows])
    with np.load(result / "runs" / done["run"] / "model" / "vocabulary.npz") as arrays:
        expected = histograms([Path(path) for path, _ in rows], arrays["words"])
    np.testing.assert_allclose((features**2).sum(axis=1), (expected**2).sum(axis=1), rtol=1e-5)
    assert (np.abs(features - expected).max(axis=1) < 1e-5).mean() > 0.97, "a descriptor can lie between two words"
    table = vectors(result)
    assert table["path"].to_pylist() == [path for path, _ in rows]
    standard = StandardScaler().fit_transform(features.astype(np.float64))
    reduced = PCA(0.95, svd_solver="full").fit_transform(standard)
    found = np.stack(table["vector"].to_pylist())
    assert found.shape == reduced.shape
    np.testing.assert_allclose(np.abs(found), np.abs(reduced), atol=1e-4)


def test_words_are_learnt_once_and_applied_again(result: Path, fruits: Path, tmp_path: Path) -> None:
    first = manifest(result)
    images = Path(first["config"]["input"])
    again = run(images, result, "backbone=orb", "words.images=100", ANEW)
    assert again["plan"]["known"] == 321
    assert same_vectors(vectors(result, again["run"]), vectors(result, first["run"]))
    few = sorted(fruits.iterdir())[0]
    model = result / "runs" / first["run"] / "model"
    reused = run(few, tmp_path / "out", "backbone=orb", "model=reuse", f"reuse={model}")
    fruitpipe("transform", model, few, tmp_path / "few.parquet")
    applied = np.stack(pq.read_table(tmp_path / "few.parquet").sort_by("path")["vector"].to_pylist())
    expected = np.stack(vectors(tmp_path / "out", reused["run"])["vector"].to_pylist())
    np.testing.assert_allclose(applied, expected, atol=1e-5)
    told = fruitpipe("run", few, tmp_path / "out", "--set", "backbone=sift", "--set", "model=reuse",
                     "--set", f"reuse={model}", code=2)  # fmt: skip
    assert "takes features with backbone=orb" in one_line_error(told)
    name, *_ = (result / "features" / "vocabularies").iterdir()
    learnt_before = name.read_bytes()
    name.write_bytes(learnt_before[:100])
    assert fruitpipe("plan", images, result, "--set", "backbone=orb", "--set", "words.images=100").returncode == 0
    mended = run(images, result, "backbone=orb", "words.images=100", "pca.components=3")
    assert (mended["plan"]["known"], name.read_bytes()) == (321, learnt_before), "learnt anew, to the bit"
    kept = json.loads(fruitpipe("gc", result, "--json").stdout)["objects"]
    assert not [name for name in kept if "vocabularies" in name]


def test_words_are_those_that_k_means_of_scikit_learn_finds() -> None:
    random = np.random.default_rng(1)
    points = random.normal(size=(3000, 32)).astype(np.float32)
    points[np.arange(3000), np.arange(3000) % 12] += 2
    start = points[random.permutation(3000)[:8]]
    theirs = KMeans(8, init=start, n_init=1, max_iter=ROUNDS, tol=0, algorithm="lloyd").fit(points)
    np.testing.assert_allclose(cluster(points, start), theirs.cluster_centers_, atol=1e-4)


def test_words_see_grey_images_unless_the_config_says_otherwise() -> None:
    places = {"input": "a", "output": "b"}
    assert Config(**places, backbone="orb", image={"contrast": True}).image == ImageConfig(
        decode="exact", grey=True, contrast=True
    )
    assert Config(**places, backbone="orb", image=ImageConfig(contrast=True)).image.grey
    assert Config(**places, preset="orb-bovw-48").image.grey
    assert not Config(**places, backbone="orb", image={"grey": False}).image.grey
    assert not Config(**places, backbone="orb", image=ImageConfig(grey=False)).image.grey
    assert not Config(**places).image.grey


def test_what_networks_have_and_words_do_not_is_refused(fruits: Path, tmp_path: Path) -> None:
    told = fruitpipe("run", fruits, tmp_path / "out", "--set", "backbone=orb", "--set", "layer=fc2", code=2)
    assert "orb has no layer: leave `layer` out" in one_line_error(told)


def test_words_are_learnt_from_images_so_that_there_is_nothing_to_convert() -> None:
    told = fruitpipe("convert", "--backbone", "sift", code=2)
    assert "sift is used as it is: there is nothing to convert" in one_line_error(told)
    with pytest.raises(NotLearnt, match="sift needs none, 48 words are learnt from images"):
        resolve(Config(input="a", output="b", backbone="sift"), Environment.read())
