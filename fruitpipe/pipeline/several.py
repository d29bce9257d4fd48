"""Several backbones on the same images: a run and a result each, and one stage for all that featurizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from fruitpipe.config import Config
from fruitpipe.errors import FruitpipeError, Interrupted, UserError
from fruitpipe.pipeline import stages
from fruitpipe.pipeline.comparison import require_bound
from fruitpipe.pipeline.job import Job
from fruitpipe.pipeline.precedent import precedents
from fruitpipe.pipeline.progress import PartReporter, Reporter
from fruitpipe.pipeline.run import (
    Ahead,
    begun,
    carry_out,
    finish,
    job_of,
    listed,
    look_ahead,
    told,
    wanted_stages,
)
from fruitpipe.pipeline.stage import Stage
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import Run, is_result
from fruitpipe.storage.lease import Lease
from fruitpipe.storage.store import open_store


class SomeFailed(FruitpipeError):
    """Some of several runs ended without vectors; a line for each says why. Its exit code is theirs, or 1."""

    def __init__(self, runs: Mapping[str, Run], errors: Mapping[str, FruitpipeError]) -> None:
        super().__init__("\n".join(f"{name}: {error}" for name, error in errors.items()))
        self.runs, self.errors = dict(runs), dict(errors)
        codes = {error.exit_code for error in errors.values()}
        self.exit_code = codes.pop() if len(codes) == 1 else FruitpipeError.exit_code


def run_several(config: Config, reporter: Reporter | None = None, verbose: bool = False) -> dict[str, Run]:
    """Turn the images of `config.input` into vectors of each of its backbones, in a folder each of `config.output`.

    Each gets what `run` gives for it alone, bit for bit. An image whose features are missing is fetched once for all,
    and decoded once for all that want the same scale. What ends one run does not end the others.

    Returns the runs by the names of their backbones.

    Parameters
    ----------
    config, reporter, verbose: as `run` has them.

    Raises
    ------
    UserError: as `run`, before anything is made.
    SomeFailed: some of the runs have failed; the others are published.
    Interrupted, FruitpipeError: as `run`, of all that were not published yet.
    """
    parts = parts_of(config)
    whole = reporter or Reporter()
    reporters = {name: PartReporter(whole=whole, name=name) for name in parts}
    jobs = {name: job_of(part, reporters[name]) for name, part in parts.items()}
    further = {name: wanted_stages(part) for name, part in parts.items()}
    with ExitStack() as stack:
        # In one order, or two that wait for each other's places would wait forever.
        leases = {name: stack.enter_context(begun(jobs[name])) for name in sorted(jobs)}
        several = Several(whole, reporters, jobs, leases, further)
        several.work(verbose)
    if several.failed:
        raise SomeFailed(several.done, several.failed)
    return {name: several.done[name] for name in jobs}


def parts_of(config: Config) -> dict[str, Config]:
    """A config for each backbone. Raises UserError where there is but one, or the output is the result of one."""
    if not config.backbones:
        raise UserError("this config has one backbone: fruitpipe.run runs it.")
    if is_result(open_store(config.output, config.s3)):
        raise UserError(f"{config.output} is the result of one backbone: choose another output for several.")
    return config.parts


@dataclass
class Several:
    """Runs on the same images, from their leases to their manifests."""

    whole: Reporter
    """told how all of them go"""
    reporters: dict[str, PartReporter]
    jobs: dict[str, Job]
    leases: dict[str, Lease]
    further: dict[str, dict[str, Stage | None]]
    done: dict[str, Run] = field(default_factory=dict)
    failed: dict[str, FruitpipeError] = field(default_factory=dict)

    def work(self, verbose: bool) -> None:
        """All stages in their order, as `fruitpipe.pipeline.run.work` has them."""
        with self.told_to_all(), ExitStack() as opened:
            last = None
            for job in self.jobs.values():
                opened.enter_context(job.open(verbose, beside=last))
                last = job
            ahead = self.look_ahead()
            if not ahead:
                return
            jobs = {name: self.jobs[name] for name in ahead}
            first = next(iter(jobs.values()))
            with self.whole.stage("start"):
                first.runner  # noqa: B018 - waits for it
            self.take_over(jobs)
            if not (jobs := self.within_bounds(jobs)):
                return
            is_featurized = self.featurize(jobs)
            for name, job in jobs.items():
                with self.apart(name):
                    with told(job):
                        if not is_featurized:
                            job.plan.add_features(job.store, job.backbone.features, job.backbone.twin)
                            stages.featurize([job], job.reporter)
                        run = carry_out(job, self.further[name], self.leases[name], ahead[name])
                    self.end(name, run)

    def look_ahead(self) -> dict[str, Ahead]:
        """What there is to do, by the names of those that have something to do."""
        earlier: dict[str, list[Manifest]] = {}
        for name, job in self.jobs.items():
            with self.apart(name), told(job):
                earlier[name] = precedents(job.store, job.config)
        first = next(iter(self.jobs.values()))
        if not all(earlier.values()):
            first.start()
        images_digest = listed(first, self.whole)
        self.take_over(self.jobs)
        ahead = {}
        for name, manifests in earlier.items():
            job = self.jobs[name]
            with self.apart(name):
                with told(job):
                    found = look_ahead(job, self.leases[name], images_digest, manifests)
                if isinstance(found, Run):
                    self.end(name, found)
                else:
                    ahead[name] = found
        return ahead

    def within_bounds(self, jobs: Mapping[str, Job]) -> dict[str, Job]:
        """Those whose precision changes features little enough."""
        within = {}
        for name, job in jobs.items():
            with self.apart(name):
                with told(job):
                    require_bound(job)
                within[name] = job
        return within

    def featurize(self, jobs: Mapping[str, Job]) -> bool:
        """Compute the features that are missing, each image once. Whether all went well: else each may try it alone."""
        try:
            if stages.featurize(list(jobs.values()), self.whole):
                self.take_over(jobs)
        except FruitpipeError as error:
            self.whole.note(f"each backbone goes on alone, as featurizing for all at a time failed: {error}")
            return False
        return True

    def end(self, name: str, run: Run) -> None:
        """A run is published, or there was nothing to do."""
        self.done[name] = run
        finish(self.jobs[name], run)

    def take_over(self, names: Iterable[str]) -> None:
        """Note a stage that was of all for each."""
        for name in names:
            self.reporters[name].shared()

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """What one run does: an error ends this one alone."""
        try:
            yield
        except FruitpipeError as error:
            self.failed[name] = error
            if isinstance(error, Interrupted):
                raise

    @contextmanager
    def told_to_all(self) -> Iterator[None]:
        """What all runs do: an error ends those that have not ended yet."""
        try:
            yield
        except BaseException:
            with ExitStack() as stack:
                for name in self.jobs.keys() - self.done.keys() - self.failed.keys():
                    stack.enter_context(told(self.jobs[name]))
                raise
