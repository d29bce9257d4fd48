"""Decoding within limits of memory and time: cheap images here, all others in a process whose end costs one image."""

from __future__ import annotations

import atexit
import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn, cast

import numpy as np

from fruitpipe.config import ImageConfig
from fruitpipe.errors import in_words
from fruitpipe.vision.bad_image import BadImage, OutOfMemory
from fruitpipe.vision.cost import is_cheap, least_memory
from fruitpipe.vision.decode import Look, Picture, decode_for
from fruitpipe.vision.resampling import library

COMMAND = (sys.executable, "-P", "-c", "from fruitpipe.vision.decoder import serve; serve()")
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables that a decoder gets; no credentials are among them."""
HEAD = struct.Struct(">IQ")
"""Lengths of a message's JSON and of the bytes that follow it."""
SHORT = 3
"""Exit code of a decoder that had no memory even for the file."""


def decode_within_limits(data: bytes | memoryview, side: int, rules: ImageConfig) -> Picture:
    """As `decode` does, with `image.max_memory` and `image.max_seconds` as bounds.

    Raises BadImage as `decode` does; `too_large` or `too_slow` beyond these bounds, `undecodable` where an image ends
    its decoder, `unreadable` where something else does.
    """
    (picture,) = decode_together(data, [Look(side, rules)])
    return picture


def decode_for_all(data: bytes | memoryview, looks: Sequence[Look]) -> list[Picture | BadImage]:
    """What `decode_within_limits` gives for each of some looks, whose limits are the same, or raises.

    Decoded together as long as nothing is wrong with it: what one look takes is within what all of them do.
    """
    try:
        return [*decode_together(data, looks)]
    except BadImage as error:
        return [error.kept()] if len(looks) == 1 else [decode_for_all(data, [look])[0] for look in looks]


def decode_together(data: bytes | memoryview, looks: Sequence[Look]) -> list[Picture]:
    """The pictures for some looks, within the bounds of one. Raises BadImage as `decode_within_limits` does."""
    cheap = [not Decoder.of_all and is_cheap(data, *look) for look in looks]
    here, there = (
        [look for look, each in zip(looks, cheap, strict=True) if each is wanted] for wanted in (True, False)
    )
    if there and any(least_memory(data, *look) > look.rules.max_memory for look in there):
        raise beyond_memory(there[0].rules)
    pictures = {True: iter(decode_for(data, here) if here else ()), False: iter(decode_elsewhere(data, there))}
    return [next(pictures[each]) for each in cheap]


def decode_elsewhere(data: bytes | memoryview, looks: Sequence[Look]) -> list[Picture]:
    """The pictures that a decoder of its own makes."""
    if not looks:
        return []
    asked = [{"side": look.side, "rules": look.rules.model_dump(mode="json")} for look in looks]
    answer, pixels = answer_of({"looks": asked}, data, looks[0].rules)
    if "status" in answer:
        raise BadImage(answer["status"], answer["error"])
    shapes = [(look.side, look.side, 3) for look in looks]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(np.frombuffer(pixels, np.uint8), ends[:-1])
    size = answer["width"], answer["height"]
    return [Picture(part.reshape(shape), *size) for part, shape in zip(parts, shapes, strict=True)]


def answer_of(
    request: dict[str, Any], data: bytes | memoryview, rules: ImageConfig, again: bool = True
) -> tuple[dict[str, Any], bytes]:
    """What a decoder says, an idle one or a new one. Raises BadImage where it ends instead.

    again: ask another where it was killed, as it may have been for somebody else's memory.
    """
    try:
        decoder = Decoder.idle.pop()
    except IndexError:
        decoder = Decoder()
    try:
        answer = decoder.ask(request, data)
    except EOFError:
        code = decoder.end()
        if again and code == -signal.SIGKILL:
            return answer_of(request, data, rules, again=False)
        raise cause_of_end(code, rules) from None
    except BaseException:  # such as Ctrl-C, in the middle of a message
        decoder.kill()
        raise
    Decoder.idle.append(decoder)
    return answer


class Decoder:
    """A process that decodes images one after the other, each within limits."""

    idle: ClassVar[list[Decoder]] = []
    """Those of this process that wait for work: as many as have worked at once."""
    of_all: ClassVar[bool] = False
    """Whether cheap images are decoded by one, too: a worker died of what it did before."""

    def __init__(self) -> None:
        """Raises BadImage, `unreadable`, where no process can be started."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        path = os.pathsep.join(folder for folder in sys.path if folder)
        try:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=kept | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for those who use it
            )
        except OSError as error:
            raise BadImage("unreadable", f"no process to decode it can be started: {in_words(error)}") from error

    def ask(self, request: dict[str, Any], data: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
        """Its answer, and the bytes that come with it. Raises EOFError where it ends instead."""
        with suppress(BrokenPipeError):  # reading finds out the same
            send(cast(BinaryIO, self._process.stdin), request, data)
        return receive(cast(BinaryIO, self._process.stdout))

    def kill(self) -> None:
        """End it, whatever it does. Not by its input's end: what was forked meanwhile may keep that open."""
        self._process.kill()
        self.end()

    def end(self) -> int:
        """Wait for its end; its exit code, or the negative number of the signal that ended it."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                cast(BinaryIO, stream).close()
        return self._process.wait()


os.register_at_fork(after_in_child=Decoder.idle.clear)  # two processes would mix what they ask and are told


@atexit.register
def end_idle() -> None:
    while Decoder.idle:
        Decoder.idle.pop().kill()


def send(stream: BinaryIO, content: dict[str, Any], data: bytes | memoryview = b"") -> None:
    text = json.dumps(content).encode()
    stream.write(HEAD.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def receive(
    stream: BinaryIO, prepare: Callable[[dict[str, Any]], None] = lambda _: None
) -> tuple[dict[str, Any], bytes]:
    """A message; `prepare` is called between its two parts. Raises EOFError where the stream ends."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        raise EOFError
    text, length = HEAD.unpack(head)
    content = json.loads(stream.read(text))
    prepare(content)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return content, data


def cause_of_end(code: int, rules: ImageConfig) -> BadImage:
    """What an image is whose decoder ended so."""
    if code == -signal.SIGXCPU:
        return BadImage("too_slow", f"decoding it takes more than image.max_seconds ({rules.max_seconds}) of CPU time")
    if code in (SHORT, -signal.SIGABRT):  # as libraries in C++ and Rust end where they get no memory
        return beyond_memory(rules)
    if code in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE):
        return BadImage("undecodable", f"it made its decoder crash ({signal.Signals(-code).name})")
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return BadImage("unreadable", f"its decoder was ended ({how}), as happens where a machine's memory runs out")


def beyond_memory(rules: ImageConfig) -> BadImage:
    return BadImage("too_large", f"decoding it takes more than image.max_memory ({rules.max_memory} bytes)")


def serve() -> NoReturn:
    """What a decoder's process does: answer on standard output, until standard input ends."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library()  # now, not when an image's limit holds
    own = address_space()

    def limit(request: dict[str, Any]) -> None:
        request["looks"] = [Look(each["side"], ImageConfig(**each["rules"])) for each in request["looks"]]
        rules = request["looks"][0].rules
        used = time.process_time()
        set_limit(resource.RLIMIT_CPU, math.ceil(used + rules.max_seconds))
        if own:
            set_limit(resource.RLIMIT_AS, own + rules.max_memory)

    while True:
        try:
            request, data = receive(questions, limit)
        except EOFError:
            sys.exit(0)
        except MemoryError:
            sys.exit(SHORT)
        found = pictures_or_reason(data, request["looks"])
        if isinstance(found, BadImage):
            send(answers, {"status": found.status, "error": str(found)})
        else:
            size = {"width": found[0].width, "height": found[0].height}
            send(answers, size, b"".join(picture.pixels.tobytes() for picture in found))


def pictures_or_reason(data: bytes, looks: Sequence[Look]) -> list[Picture] | BadImage:
    try:
        return decode_for(data, looks)
    except (OutOfMemory, MemoryError):
        return beyond_memory(looks[0].rules)
    except BadImage as error:
        return error.kept()


def set_limit(kind: int, soft: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def address_space() -> int:
    """Bytes of address space that this process has; 0 where the system does not say (and limits nothing)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
