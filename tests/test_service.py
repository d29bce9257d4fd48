"""`fruitpipe serve`, asked as its users ask: over HTTP, from many threads, with what is no image."""

from __future__ import annotations

import io
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from command import fruitpipe, one_line_error
from PIL import Image
from saved import write_model
from served import Answer, Served, serving

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.config import ImageConfig
from fruitpipe.engines import EngineSpec
from fruitpipe.model.model import Card, Model
from fruitpipe.numeric.pca import Pca

MOST = 200_000


@pytest.fixture(scope="module")
def folder(lite0: tuple[Backbone, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose components are some."""
    components = np.linalg.qr(np.random.default_rng(7).standard_normal((1280, 16)))[0].T
    pca = Pca(np.zeros(1280), np.ones(1280), np.ascontiguousarray(components), np.ones(1280))
    spec = EngineSpec("litert", lite0[1].read_bytes())
    card = Card(
        run="20260101-000000-abcd",
        backbone="efficientnet_lite0",
        features="d",
        image=ImageConfig(max_bytes=MOST, max_pixels=1_000_000),
        images=9,
        reconstruction_error=0.25,
        reconstruction_error_p99=0.5,
        extractor=spec.digest,
    )
    return write_model(Model(card, pca, spec), tmp_path_factory.mktemp("service") / "model")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving(folder) as started:
        yield started


def test_vectors_are_those_of_transform_images(served: Served, fruits: Path) -> None:
    """To the bit, though many ask at once."""
    images = sorted(fruits.rglob("*.jpg"))[::40]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(served.ask, [path.read_bytes() for path in images]))
    for answer, wanted in zip(answers, served.model.transform_images(images), strict=True):
        assert (answer.code, answer.content["status"]) == (200, "ok")
        assert np.array_equal(np.float32(answer.content["vector"]), wanted.vector)
    about = {"run": "20260101-000000-abcd", "backbone": "efficientnet_lite0", "components": 16}
    assert served.ask(path="/") == Answer(200, about)


def test_a_bad_image_is_told_so(served: Served) -> None:
    for body, code, status in ((b"no image", 422, "undecodable"), (b"", 422, "undecodable")):
        answer = served.ask(body)
        assert (answer.code, answer.content["status"]) == (code, status)
        assert answer.content["error"]
        assert "vector" not in answer.content


def test_what_is_too_large_is_refused_before_it_is_read(served: Served) -> None:
    told = served.ask(b"\0" * (MOST + 1))
    untold = served.ask(iter([b"\0" * 1000] * 1000))  # in chunks, so that nothing says how many
    for answer in (told, untold):
        assert (answer.code, answer.content["status"]) == (413, "too_large")
        assert str(MOST) in answer.content["error"]


def test_many_pixels_are_not_decoded(served: Served) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (2000, 1000)).save(sink, "PNG")
    answer = served.ask(sink.getvalue())
    assert (answer.code, answer.content["status"]) == (413, "too_large")
    assert "max_pixels" in answer.content["error"]


def test_pages_of_other_hosts_get_nothing(served: Served, fruits: Path) -> None:
    """A name of theirs may lead to this machine."""
    image = next(fruits.rglob("*.jpg")).read_bytes()
    assert served.ask(image, headers={"Host": "evil.example"}).code == 400
    assert served.ask(image, headers={"Host": "localhost"}).code == 200
    assert served.ask(path="/vectors").code == 405
    assert served.ask(path="/docs").code == 404


@pytest.mark.parametrize(("address", "own"), [("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")])
def test_all_addresses_of_this_machine_alone_are_asked_by_their_own_names(address: str, own: str, folder: Path) -> None:
    with serving(folder, "--host", address) as served:
        for host in (own, f"{own}:{served.port}", "localhost", f"localhost:{served.port}"):
            assert served.ask(path="/", headers={"Host": host}).code == 200
        assert served.ask(path="/").code == 200, "as a client names it"
        for host in ("evil.example", f"evil.example:{served.port}", "[::1].evil.example", f"{own}.evil.example", ""):
            assert served.ask(path="/", headers={"Host": host}).code == 400


def test_too_many_at_once_are_told_to_come_again_and_it_ends_when_told(folder: Path, fruits: Path) -> None:
    """Images that never arrive take all places, until they are gone."""
    image = next(fruits.rglob("*.jpg")).read_bytes()
    head = b"POST /vectors HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    with serving(folder) as served:
        held = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(4 * len(os.sched_getaffinity(0)))]
        for each in held:
            each.sendall(head)
        answer = until(served, image, 503)
        assert answer.content["status"] == "busy"
        for each in held:
            each.close()
        assert until(served, image, 200).content["status"] == "ok"
        served.process.send_signal(signal.SIGTERM)
        out, said = served.process.communicate()
        assert (served.process.returncode, out, said) == (130, "", "")


def until(served: Served, image: bytes, code: int) -> Answer:
    """The first answer of this code."""
    while (answer := served.ask(image)).code != code:
        time.sleep(0.05)
    return answer


def test_mistakes_are_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in one_line_error(fruitpipe("serve", folder, "--port", port, code=2))
    assert "192.0.2.77" in one_line_error(fruitpipe("serve", folder, "--host", "192.0.2.77", code=2))
    assert "--port" in one_line_error(fruitpipe("serve", folder, "--port", 99999, code=2))
    assert "is not a model" in one_line_error(fruitpipe("serve", folder / "nowhere", code=2))
    for alone in (("--run", "latest"), ("--metric", "cosine")):
        assert "name it by --result, or leave them out" in one_line_error(fruitpipe("serve", folder, *alone, code=2))
