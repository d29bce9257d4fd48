"""Decoding within limits: no image takes more memory or time, reads secrets, or ends more than its own row."""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import colours
import hostile
import numpy as np
import pytest
from bombs import LARGE, exif_bomb, huge_tile, noise, with_scans
from command import manifest, run
from hostile import encode
from PIL import Image

from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.cost import CHEAP, MOST_SCANS, is_cheap
from fruitpipe.vision.decode import decode
from fruitpipe.vision.decoder import Decoder, decode_within_limits, end_idle
from fruitpipe.vision.formats import jxl

SIDE = 224
LIMIT = 32 << 20
RULES = ImageConfig()
TIGHT = ImageConfig(max_memory=LIMIT, max_seconds=2)
POISON = b"an image that its decoder does not survive"
FRAGILE = f"""
import os, signal
from PIL import Image
whole = Image.open
def fragile(file, *args, **options):
    if {POISON!r} in file.getvalue():
        os.kill(os.getpid(), signal.SIGSEGV)
    return whole(file, *args, **options)
Image.open = fragile
"""
"""A Pillow with a fault, as each process of ours loads it from a `sitecustomize.py`."""


@pytest.fixture(autouse=True)
def decoders_of_its_own() -> Iterator[None]:
    end_idle()
    yield
    end_idle()


@pytest.fixture
def in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "of_all", True)


def look(data: bytes, rules: ImageConfig = RULES) -> tuple[str, str]:
    """Status, and reason if any, of an image."""
    try:
        decode_within_limits(data, SIDE, rules)
    except BadImage as error:
        return error.status, str(error)
    return "ok", ""


def status(data: bytes, rules: ImageConfig = RULES) -> str:
    return look(data, rules)[0]


def process() -> int:
    """The id of the decoder that is there."""
    (decoder,) = Decoder.idle
    return decoder._process.pid


def memory(name: str) -> int:
    """A figure of the decoder's memory, bytes."""
    said = Path(f"/proc/{process()}/status").read_text().split(f"{name}:")[1]
    return int(said.split()[0]) << 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE)
def test_none_takes_more_memory_than_it_may(kind: str) -> None:
    data = LARGE[kind](3200)
    assert not is_cheap(data, SIDE, RULES)
    assert status(data) == "ok"
    pixels = decode_within_limits(data, SIDE, RULES).pixels
    assert (pixels == decode(data, SIDE, RULES).pixels).all()
    end_idle()
    assert status(hostile.jpeg(), TIGHT) == "ok"
    assert status(encode(noise("RGB", 8, 8), "BMP"), TIGHT) == "ok"
    own = memory("VmSize")
    assert status(data, TIGHT) == "too_large"
    if Decoder.idle:
        assert memory("VmPeak") <= own + LIMIT
    assert status(encode(noise("RGB", 8, 8), "BMP"), TIGHT) == "ok"


@pytest.mark.parametrize("data", [huge_tile(), LARGE["WebP"](7000)])
def test_a_few_bytes_do_not_take_a_gigabyte(data: bytes) -> None:
    assert len(data) < 2000
    assert status(data, ImageConfig(max_memory=2 * LIMIT)) == "too_large"


def test_where_a_library_does_not_tell_damage_from_want_of_memory_both_are_said() -> None:
    jxl()
    data = encode(noise("RGBA", 2000, 2000), "JXL", effort=1)
    assert status(data) == "ok"
    end_idle()  # what this one keeps for its threads would decide which of them meets the limit
    assert look(data, TIGHT) == ("undecodable", "damaged, or it takes more memory than image.max_memory")


def test_a_picture_of_many_scans_is_too_slow() -> None:
    data = with_scans(50_000)
    assert len(data) < 2_000_000
    assert not is_cheap(data, SIDE, RULES)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert status(data, TIGHT) == "too_slow"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < TIGHT.max_seconds + 2
    assert status(with_scans(12)) == "ok"


CHEAP_ONES: dict[str, tuple[Callable[[int, int], bytes], int]] = {
    "JPEG": (lambda width, height: hostile.jpeg(noise("RGB", width, height)), 16),
    "JPEG, CMYK": (lambda width, height: hostile.jpeg(noise("CMYK", width, height)), 8),
    "JPEG, progressive": (lambda width, height: hostile.jpeg(noise("RGB", width, height), progressive=True), 6),
    "PNG": (lambda width, height: hostile.png(Image.new("RGB", (width, height), "red")), 8),
    "PNG with alpha": (lambda width, height: hostile.png(Image.new("RGBA", (width, height), "red")), 8),
    "PNG, grey with alpha": (lambda width, height: hostile.png(Image.new("LA", (width, height))), 8),
    "PNG, 16 bits": (lambda width, height: hostile.png(Image.fromarray(np.ones((height, width), np.uint16))), 8),
}
"""What makes pictures of some width and height, and millions of pixels that are about as many as a cheap one has."""


@pytest.mark.slow
@pytest.mark.parametrize("aspect", [1, 40])
@pytest.mark.parametrize("kind", CHEAP_ONES)
def test_what_is_said_to_be_cheap_is(kind: str, aspect: int, in_a_process: None) -> None:
    """The largest pictures that a worker decodes itself need no more than they are said to."""
    make, millions = CHEAP_ONES[kind]
    rules = ImageConfig(decode="exact", max_memory=CHEAP)
    height = int((millions * 1e6 * aspect) ** 0.5)
    sizes = ((height * share // 100 // aspect, height * share // 100) for share in range(104, 60, -2))
    data = next(data for size in sizes if is_cheap(data := make(*size), SIDE, rules))
    assert len(data) < CHEAP // 8
    # Beside the pixels: the file, and what is converted at a time.
    found = status(data, rules.model_copy(update={"max_memory": CHEAP + len(data) + (4 << 20)}))
    assert found == "ok"
    assert status(data, rules.model_copy(update={"max_memory": CHEAP // 4})) == "too_large"


def frame(width: int, height: int) -> bytes:
    return b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"


def two_frames() -> bytes:
    data = hostile.jpeg(noise("L", 64, 64))
    at = data.index(b"\xff\xc0")
    return data[:at] + frame(7000, 7000) + data[at:]


SLY: dict[str, Callable[[], bytes]] = {
    "two frames": two_frames,
    "bytes between segments": lambda: hostile.jpeg()[:2] + b"\xff" + hostile.jpeg()[2:],
    "a header of many segments": lambda: hostile.jpeg()[:2] + 1000 * b"\xff\xfe\0\x02" + hostile.jpeg()[2:],
    "EXIF that is all of its entries": lambda: hostile.jpeg(exif=exif_bomb()),
    "many scans": lambda: with_scans(MOST_SCANS + 1),
    "a PNG of many chunks": lambda: hostile.png()[:33] + 200_000 * hostile.chunk(b"xxXx", b"") + hostile.png()[33:],
    "a PNG with EXIF as text": lambda: (
        hostile.png()[:33]
        + hostile.chunk(b"tEXt", b"Raw profile type exif\0\nexif\n10\n00000000000000000000")
        + hostile.png()[33:]
    ),
    "a PNG of two headers": lambda: hostile.png()[:33] + hostile.png_bomb()[8:],
    "no header": lambda: b"\x89PNG\r\n\x1a\n",
    "no frame": lambda: b"\xff\xd8\xff\xda\0\x08\x01\x01\0\0\x3f\0",
    "nothing": lambda: b"\xff\xd8",
}
"""Files whose headers say little, but whose decoders may take more."""


@pytest.mark.parametrize("kind", SLY)
def test_what_a_header_does_not_say_for_sure_is_left_to_a_decoder(kind: str) -> None:
    data = SLY[kind]()
    assert not is_cheap(data, SIDE, RULES)
    assert status(data, TIGHT) in ("ok", "undecodable", "too_large")


def test_usual_photographs_are_cheap(fruits: Path) -> None:
    for path in itertools.islice(sorted(fruits.rglob("*.jpg")), 20):
        assert is_cheap(path.read_bytes(), SIDE, RULES)
    phone = hostile.jpeg(noise("RGB", 4032, 3024), quality=85, subsampling=2)
    assert is_cheap(phone, SIDE, RULES), "as it is decoded at a half"
    assert is_cheap(hostile.jpeg(noise("RGB", 1600, 1200), progressive=True), SIDE, RULES)
    assert is_cheap(hostile.phone(), SIDE, RULES)


def test_a_decoder_that_crashes_costs_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_a_process: None
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadImage, match=r"crash \(SIGSEGV\)") as caught:
        decode_within_limits(hostile.jpeg() + POISON, SIDE, RULES)
    assert caught.value.status == "undecodable"
    assert status(hostile.jpeg()) == "ok"


def test_a_decoder_that_is_killed_once_costs_nothing(in_a_process: None) -> None:
    assert status(hostile.jpeg()) == "ok"
    os.kill(process(), signal.SIGKILL)
    assert status(hostile.jpeg()) == "ok"


def test_decoders_that_are_killed_are_none_of_their_images_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_a_process: None
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FRAGILE.replace("SIGSEGV", "SIGKILL"))
    monkeypatch.syspath_prepend(tmp_path)
    assert status(hostile.jpeg() + POISON) == "unreadable"
    assert status(hostile.jpeg()) == "ok"


def test_a_decoder_has_no_secrets_and_ends_with_its_user(monkeypatch: pytest.MonkeyPatch, in_a_process: None) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for decoders")
    assert status(hostile.jpeg()) == "ok"
    assert b"not for decoders" not in Path(f"/proc/{process()}/environ").read_bytes()
    (decoder,) = Decoder.idle
    assert decoder.end() == 0, "as at the end of its standard input"
    Decoder.idle.clear()


def test_decoders_end_though_what_was_forked_meanwhile_has_their_input(in_a_process: None) -> None:
    assert status(hostile.jpeg()) == "ok"
    at_work = Decoder.idle.pop()
    if not (child := os.fork()):
        time.sleep(1000)
        os._exit(0)
    Decoder.idle.append(at_work)
    try:
        end = threading.Thread(target=end_idle, daemon=True)
        end.start()
        end.join(30)
        assert not end.is_alive()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_forked_process_has_decoders_of_its_own(in_a_process: None) -> None:
    assert status(hostile.jpeg()) == "ok"
    if not (child := os.fork()):
        fine = False
        try:
            fine = not Decoder.idle and status(hostile.jpeg()) == "ok"
        finally:
            os._exit(not fine)  # or the child would go on with the tests, as its parent does
    assert os.waitpid(child, 0)[1] == 0
    assert status(hostile.jpeg()) == "ok"


@pytest.mark.slow
def test_an_image_that_ends_workers_is_a_row(fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cheap by its header, so a worker decodes it, and dies; the next one has all of its part decoded apart."""
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(fruits.rglob("*.jpg"))[:60]:
        (images / f"{path.parent.name} {path.name}").write_bytes(path.read_bytes())
    (images / "poison.jpg").write_bytes(hostile.jpeg() + POISON)
    (tmp_path / "sitecustomize.py").write_text(FRAGILE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    run(images, tmp_path / "out", "backbone=efficientnet_lite0")
    assert manifest(tmp_path / "out")["counts"]["by_status"] == {"ok": 60, "undecodable": 1}


def mutants(count: int) -> Iterator[bytes]:
    """Pictures of all kinds with some bytes changed, cut out, doubled or moved, the same ones each time."""
    chance = random.Random(0)
    corpus = [case.data for case in colours.all_cases()] + [make() for _, make in hostile.CASES.values()]
    corpus = [data for data in corpus if 0 < len(data) < 20_000]
    for _ in range(count):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            at, length = chance.randrange(len(data) + 1), chance.choice((1, 2, 4, 16, 256))
            piece = bytes(data[at : at + length])
            match chance.randrange(4):
                case 0:
                    data[at : at + 1] = chance.choice((b"\0", b"\xff", b"\x7f", chance.randbytes(1)))
                case 1:
                    data[at : at + length] = chance.choice((b"", bytes(length), b"\xff" * length))
                case 2:
                    data[at:at] = piece
                case 3:
                    other = chance.randrange(len(data) + 1)
                    data[other : other + length] = piece
        yield bytes(data)


@pytest.mark.slow
def test_damaged_pictures_stay_within_the_limits(in_a_process: None) -> None:
    """`benchmarks/fuzz.py` looks for others, led by what of Pillow's code they reach."""
    found: dict[str, int] = {}
    for data in mutants(5000):
        cheap = is_cheap(data, SIDE, RULES)
        outcome, reason = look(data, TIGHT.model_copy(update={"max_memory": CHEAP + (4 << 20)}))
        assert "crash" not in reason, data
        assert not cheap or "max_memory" not in reason, data
        assert not cheap or outcome != "too_slow", data
        found[outcome] = found.get(outcome, 0) + 1
    assert found.keys() <= {"ok", "undecodable", "too_large", "too_slow"}
    assert found["ok"] > 500
    assert found["undecodable"] > 1000
