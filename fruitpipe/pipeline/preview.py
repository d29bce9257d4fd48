"""What a run would do, without doing any of it."""

from __future__ import annotations

from contextlib import closing

from fruitpipe.backbones import resolve
from fruitpipe.backbones.resolved import ResolvedBackbone
from fruitpipe.config import Config, Environment
from fruitpipe.errors import NotLearnt, NoWeights, UserError
from fruitpipe.model.model import Model
from fruitpipe.pipeline.learning import RunImages
from fruitpipe.pipeline.limits import require_few_labels, require_memory
from fruitpipe.pipeline.plan import Plan, open_plan
from fruitpipe.pipeline.precedent import precedents, same_as
from fruitpipe.pipeline.reuse import model_to_reuse, require_match
from fruitpipe.pipeline.run import open_places
from fruitpipe.pipeline.several import parts_of
from fruitpipe.result.manifest import Summary
from fruitpipe.result.runs import check_place, latest_run
from fruitpipe.storage.store import Store


class Planned(Summary):
    """Figures of a plan, and what becomes of them where a published run is of the same images and config."""

    precedent: str | None = None
    """that run, whose result a run would only give again"""
    is_latest: bool = False
    """whether that is the latest, so that there is nothing to do at all"""


def plan(config: Config) -> Planned:
    """What a run would do, without doing any of it. Raises UserError as `run` does."""
    if config.backbones:
        raise UserError("this config has several backbones: fruitpipe.pipeline.preview.plan_several plans them.")
    store = open_places(config)
    with open_plan(config) as the_plan:
        the_plan.list_images(config)
        return planned(config, store, the_plan)


def plan_several(config: Config) -> dict[str, Planned]:
    """What a run would do for each backbone, without doing any of it. Raises UserError as `run_several` does."""
    parts = parts_of(config)
    stores = {name: open_places(part) for name, part in parts.items()}
    found = {}
    with open_plan(config) as whole:
        whole.list_images(config)
        for name, part in parts.items():
            with closing(whole.beside()) as the_plan:
                found[name] = planned(part, stores[name], the_plan)
    return found


def planned(config: Config, store: Store, the_plan: Plan) -> Planned:
    """The plan of images that are listed."""
    check_place(store)
    reused = model_to_reuse(config, store)
    backbone = known_backbone(config, store, the_plan, reused)
    if backbone:
        the_plan.add_features(store, backbone.features, backbone.twin)
    else:
        the_plan.add_features(store, "unknown")
    summary, same = the_plan.summary(), None
    if backbone and not summary.todo and (earlier := precedents(store, config)):
        digest = the_plan.digest()
        same = same_as(store, backbone, reused, (each for each in earlier if each.images_digest == digest))
    if same is None:
        require_few_labels(summary)
        if backbone:
            require_memory(config, backbone, reused)
    return Planned(
        **summary.model_dump(),
        precedent=same and same.run,
        is_latest=same is not None and same.run == latest_run(store),
    )


def known_backbone(config: Config, store: Store, the_plan: Plan, reused: Model | None) -> ResolvedBackbone | None:
    """The backbone whose features a run would take; None where there can be none yet."""
    try:
        images = RunImages(store, the_plan, config.image, reused.engine if reused else None, reader=None)
        resolved = resolve(config, Environment.read(), images)
    except (NoWeights, NotLearnt):  # `run` will say so, or learn
        return None
    require_match(config, reused, resolved)
    return resolved
