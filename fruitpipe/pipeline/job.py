"""The state of one run: its config, what it has opened, and its warnings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fruitpipe import source, streams
from fruitpipe.backbones import is_to_be_converted, resolve
from fruitpipe.backbones.family import is_learnt
from fruitpipe.backbones.own_process import end_running
from fruitpipe.backbones.resolved import ResolvedBackbone
from fruitpipe.config import Config, Environment
from fruitpipe.engines import ENGINES, EngineSpec
from fruitpipe.engines.choice import without_gpu
from fruitpipe.errors import FruitpipeError
from fruitpipe.model.model import Model
from fruitpipe.numeric.precision import Comparison
from fruitpipe.pipeline.learning import RunImages
from fruitpipe.pipeline.plan import Plan, open_plan
from fruitpipe.pipeline.progress import Reporter
from fruitpipe.pipeline.run_log import run_log
from fruitpipe.redaction import without_secrets
from fruitpipe.result.manifest import Outcome, Unpublished
from fruitpipe.scratch import leave_deleted_folder, private_folder
from fruitpipe.sinks import Sink, open_sinks
from fruitpipe.source import Reader
from fruitpipe.spark.choice import runner
from fruitpipe.storage import layout
from fruitpipe.storage.store import Store
from fruitpipe.tasks.engine_file import EngineFile
from fruitpipe.tasks.shares import Shares
from fruitpipe.tasks.warm_up import WarmUp
from fruitpipe.tracking import Audience
from fruitpipe.tracking.tracker import Begun
from fruitpipe.workers.background import background
from fruitpipe.workers.runner import Runner


@dataclass
class Job:
    """One run, from its lease to its manifest. All its stages work on this object."""

    config: Config
    store: Store
    reporter: Reporter
    id: str = field(default_factory=layout.new_run_id)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    warnings: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """further stages that failed, and have a warning each"""
    sinks: tuple[Sink, ...] = field(init=False)
    """what takes the vectors"""
    audience: Audience = field(init=False)
    """who is told how it goes"""
    compared: Comparison | None = None
    """what the precision changes, once that is known"""
    published: bool = False
    """whether there may be a manifest"""
    scratch: Path = field(init=False)
    """folder on the driver's disk, while the job is open"""
    plan: Plan = field(init=False)
    """the images and what is known of them, while the job is open"""
    reader: Reader = field(init=False)
    """reads the images, from the buckets that the inputs name, while the job is open"""
    reused: Model | None = None
    """the model to apply; None where one is to be fitted"""
    _beside: Job | None = None
    """an open job, whose Spark and listing this one shares"""
    _to_start: AbstractContextManager[Runner] = field(init=False)
    _starting: Future[Runner] | None = None
    _started: ExitStack = field(init=False)
    """what ends with the job, once it has started"""
    _resolving: Future[ResolvedBackbone | None] = field(init=False)
    _learnt: ResolvedBackbone | None = None
    _parts: int | None = None
    _engine: Callable[[], EngineSpec] | None = None

    def __post_init__(self) -> None:
        """Raises UserError where a sink, or a library of who is to be told, cannot be imported."""
        self.audience = Audience(self.config.track, self.reporter.note)
        self.sinks = open_sinks(self.config.formats, self.store, self.id, self.config.one_file)

    @contextmanager
    def open(self, verbose: bool, beside: Job | None = None) -> Iterator[None]:
        """Make the plan's database, while the backbone is resolved on another thread.

        verbose: leave Spark's own messages, and workers', on standard error.
        beside: an open job on the same images, which stays so for longer.
        """
        streams.fill()
        leave_deleted_folder()
        environment = Environment.read()
        buckets = source.buckets_of(self.config.inputs, self.config.s3)
        self.reader = Reader(self.config.s3, self.config.image.max_bytes, buckets)
        first = WarmUp(self.store, buckets)
        self._beside = beside
        with private_folder() as self.scratch:
            self._to_start = runner(self.config.spark, environment, self.scratch, verbose, first)
            with (
                ExitStack() as self._started,
                background(self._resolve(environment), give_up=end_running) as self._resolving,
                self._open_plan() as self.plan,
            ):
                yield

    def _open_plan(self) -> AbstractContextManager[Plan]:
        if self._beside:
            return closing(self._beside.plan.beside())
        return open_plan(self.config, self.scratch)

    @contextmanager
    def _resolve(self, environment: Environment) -> Iterator[ResolvedBackbone | None]:
        """Any backbone but one that is learnt, for which images must be listed first."""
        if self._beside:
            wait([self._beside._resolving])  # to convert one network takes as much memory as there may be
        yield None if is_learnt(self.config) else resolve(self.config, environment)

    @property
    def parts(self) -> int:
        """Vector parts that all images make. Asked for the first time, it writes for tasks where their features lie."""
        if self._parts is None:
            self._parts = len(self.plan.write_index(self.shares(layout.INDEX), self.backbone.facts.dimension))
        return self._parts

    def shares(self, what: str) -> Shares:
        """Of the run's work, what tasks read: layout.TODO, INDEX, FURTHER or AGAIN."""
        return Shares(self.store, self.id, what)

    def start(self) -> Future[Runner]:
        """Start what runs tasks on another thread, if it is not started yet."""
        if self._beside:
            return self._beside.start()
        if self._starting is None:
            self._starting = self._started.enter_context(background(self._to_start))
        return self._starting

    @property
    def runner(self) -> Runner:
        """What runs tasks, once it has started: Spark, or what goes before it."""
        return self.start().result()

    def wait_for_backbone(self) -> None:
        """Where its network is converted first, which takes a while, in a stage of its own."""
        is_under_way = not (self._resolving.done() or is_learnt(self.config))
        if is_under_way and is_to_be_converted(self.config, Environment.read()):
            with self.reporter.stage("convert"):
                wait([self._resolving])

    def learn(self) -> None:
        """Make a backbone that is learnt: from the plan's images, or as an earlier run did. Others are made already."""
        if is_learnt(self.config):
            with self.reporter.stage("words" if self.config.precision == "float32" else "calibrate"):
                reused = self.reused.engine if self.reused else None
                images = RunImages(self.store, self.plan, self.config.image, reused, self.reader)
                self._learnt = resolve(self.config, Environment.read(), images)

    @property
    def backbone(self) -> ResolvedBackbone:
        """What gives the features, once it is resolved."""
        resolved = self._learnt or self._resolving.result()
        assert resolved is not None, "what is learnt is learnt before it is asked for"
        return resolved

    @property
    def engine_key(self) -> str:
        """What tells the engine from others in a worker: of several, features may be the same."""
        return f"{self.backbone.features} by {self.backbone.engine.kind}"

    @property
    def engine(self) -> Callable[[], EngineSpec]:
        """What makes features, in reach of every executor; tasks call it."""
        if self._engine is None:
            self._engine = share(self.runner, self.backbone.engine, self.store, self.id)
        return self._engine

    @property
    def idle_gpus(self) -> str | None:
        """What to know where tasks have GPUs that the engine leaves alone."""
        kind = self.backbone.engine.kind
        return without_gpu(kind) if self.runner.gpu_tasks and kind in ENGINES.own else None

    @property
    def begun(self) -> Begun:
        return Begun(self.id, self.started, self.config)

    def give_up(self, status: Literal["failed", "interrupted"], reason: str) -> None:
        """Have the sinks drop what is not published, and leave a note of why the run ended, for `fruitpipe runs`."""
        self.audience.gave_up(self.begun, status, reason)
        for sink in () if self.published else self.sinks:
            try:
                sink.abort()
            except Exception as error:  # noqa: BLE001 - why the run ended is what has to be told
                said = without_secrets(str(error))
                self.reporter.note(f"{type(sink).__name__} could not drop what it has written: {said}")
        try:
            self.leave(status, reason)
            self.keep_log()
        except (OSError, FruitpipeError) as error:
            self.reporter.note(f"could not write why the run ended to {self.store.url}: {error}")

    def keep_log(self) -> None:
        """Put what the run has said beside its manifest, or why it has none."""
        in_pod = Environment.read().account is not None
        self.store.put(layout.log(self.id), run_log(self.reporter, in_pod))

    def leave(self, status: Unpublished, reason: str) -> None:
        """Leave a note of why the run ended without being published."""
        outcome = Outcome(run=self.id, status=status, reason=reason, started=self.started, finished=datetime.now(UTC))
        self.store.put(layout.outcome(self.id), outcome.model_dump_json(indent=2).encode())


def share(runner: Runner, engine: EngineSpec, store: Store, run: str) -> Callable[[], EngineSpec]:
    """Have an engine reach the tasks of a run, by its file if it is one: 500 MB take 4 s through the JVM.

    Where tasks have GPUs and the engine runs on such, it is on the task's.
    """
    shared: Callable[[], EngineSpec]
    if isinstance(engine.source, Path) and not runner.local:
        shared = EngineFile.put(engine, store, run)
    else:
        shared = runner.share(engine)
    if not runner.gpu_tasks or engine.kind not in ENGINES.own or without_gpu(engine.kind):
        return shared
    from fruitpipe.spark.cluster import gpu_address

    tasks = runner.gpu_tasks
    return lambda: shared().on_gpu(gpu_address(), tasks)
