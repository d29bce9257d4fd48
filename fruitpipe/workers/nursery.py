"""A process of one thread that has loaded the code of all tasks, and forks a worker whenever one is wanted.

The one that wants them may have any number of threads, of which a fork would leave halves. It may end however it does:
the nursery and all that it has forked end with it.
"""

from __future__ import annotations

import atexit
import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn

from fruitpipe.streams import filter_output
from fruitpipe.workers.runner import WORKERS, attempt

COMMAND = (sys.executable, "-P", "-c", "from fruitpipe.workers.nursery import serve; serve()")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Keeps BLAS and Arrow from starting threads, of which a fork would leave halves."""
ONE = b"1"
"""Asks for a worker; with it comes its end of a connection."""
LONGEST = 1 << 16
"""Most bytes of the first message. With a file descriptor in each, messages do not run into one another."""


class Nursery:
    """The process, seen from the one that wants workers."""

    _ahead: ClassVar[Nursery | None] = None

    def __init__(self, module: str, output: IO[bytes] | int) -> None:
        """Start it, which takes half a second in which others can work. It goes on once it is told of its place.

        module: what it imports for all workers; output: what it prints until then.

        Raises OSError where it cannot be started.
        """
        self.module = module
        self._control, theirs = socket.socketpair()
        path = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
        ours = {"PYTHONPATH": path, "FRUITPIPE_WORKER": "1", "PYTHONUNBUFFERED": "1"}
        with theirs:
            self._process = subprocess.Popen(
                (*COMMAND, str(theirs.fileno()), module),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | WORKERS | ONE_THREAD | ours,
                start_new_session=True,  # Ctrl-C is for the one that wants workers
            )

    @classmethod
    def start_ahead(cls, module: str) -> None:
        """Start the first one of this process before anybody wants it; it ends with the process at the latest.

        Its environment and working folder are those of this moment. If it fails before it is told of its place, it does
        so unheard; the one that comes in its stead says why.
        """
        with suppress(OSError):
            cls._ahead = cls(module, subprocess.DEVNULL)
            atexit.register(cls._ahead.end)

    @classmethod
    def of(cls, module: str, output: IO[bytes]) -> Nursery:
        """The one that was started ahead, if there is one for this module; else a new one. As `__init__`."""
        ahead, cls._ahead = cls._ahead, None
        if ahead and ahead.module == module:
            return ahead
        if ahead:
            ahead.end()
        return cls(module, output)

    @classmethod
    def not_wanted(cls) -> None:
        """End the one that was started ahead."""
        if cls._ahead:
            cls._ahead.end()
        cls._ahead = None

    def tell(self, temporary: Path, output: IO[bytes]) -> None:
        """Where it is. It can be asked for workers at once.

        temporary: folder for their files; output: what they print.
        """
        with suppress(OSError):  # it has ended, which is seen where a worker is wanted
            socket.send_fds(self._control, [pickle.dumps(temporary)], [output.fileno()])

    def worker(self) -> Connection:
        """A new worker, which answers there. The connection ends when it does, or the nursery has."""
        ours, theirs = Pipe()
        with theirs, suppress(OSError):
            socket.send_fds(self._control, [ONE], [theirs.fileno()])
        return ours

    @property
    def failed(self) -> bool:
        """Whether it has ended by an error of its own, or does so at this moment."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(0.5) > 0
        return False

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """End it and all workers, whatever they do."""
        if self._control.fileno() < 0:
            return  # they have ended, and others may have its number
        with suppress(ProcessLookupError, PermissionError):  # nobody is left of them
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._control.close()


def serve() -> NoReturn:
    """What the process does: fork workers, until nobody is there who could want one."""
    control, failure = socket.socket(fileno=int(sys.argv[1])), None
    try:
        load(sys.argv[2])
    except BaseException as error:  # noqa: BLE001 - kept until somebody hears of it; a second try may fail otherwise
        failure = error
    told, descriptors = received(control, LONGEST)
    for number in (1, 2):
        os.dup2(descriptors[0], number)
    os.close(descriptors[0])
    if failure:
        raise failure
    os.environ["TMPDIR"], tempfile.tempdir = str(pickle.loads(told)), None
    gc.freeze()  # or each worker would copy the pages of all objects as it collects its garbage
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        _, descriptors = received(control, len(ONE))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            work(Connection(descriptors[0]))
        os.close(descriptors[0])


def load(module: str) -> None:
    from fruitpipe.late_pandas import let_pandas_wait  # not above: it takes Arrow, which the one that starts us has not

    import_module(module)
    let_pandas_wait()


def received(control: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """The next message, and the file descriptor that comes with it. Ends all where nobody is there to send one."""
    message, descriptors, _, _ = socket.recv_fds(control, size, 1)
    if not message:
        os.killpg(0, signal.SIGKILL)
    for each in descriptors:
        os.set_inheritable(each, False)
    return message, descriptors


def work(connection: Connection) -> NoReturn:
    """What a worker does: tasks, until one fails or nobody wants more."""
    first: Callable[[bool], None]
    task: Callable[[int], Any]
    filter_output()
    # The worker's end is that of its connection, which what a user's class forks would keep open.
    os.register_at_fork(after_in_child=connection.close)
    while True:
        try:
            packed, number, again = connection.recv()
        except EOFError:
            os._exit(0)
        try:
            if packed is not None:
                first, task = pickle.loads(packed)
            answer = pickle.dumps(attempt(first, task, number, again))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the one that wants the result has to know
            traceback.print_exception(error)
            connection.send("".join(traceback.format_exception(error)))
            os._exit(1)
        connection.send_bytes(answer)
