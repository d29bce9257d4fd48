"""Convert a Keras backbone to a LiteRT flatbuffer, once for each machine and set of weights.

TensorFlow runs in a process of its own: it costs seconds and half a gigabyte, which neither the driver nor the
Python workers should carry.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, cast, runtime_checkable

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.family import family_of
from fruitpipe.backbones.network_choice import NetworkChoice
from fruitpipe.backbones.own_process import run_module
from fruitpipe.backbones.weights import content_digest, file_digest
from fruitpipe.config import Config, Environment
from fruitpipe.config.weights import is_saved_model
from fruitpipe.errors import FruitpipeError, UserError, told_by
from fruitpipe.scratch import private_folder

FLATBUFFER, FACTS, DIGEST = "backbone.tflite", "backbone.json", "sha256"
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}
"""Variables of a process that imports TensorFlow."""


class Unwritable(UserError):
    """The cache takes no more folders, or cannot be read."""


class Buildable(Protocol):
    """The part of a family that a conversion needs."""

    def build(self, choice: NetworkChoice) -> tuple[Any, Backbone]:
        """The Keras model from RGB values of 0 to 255, shape (1, side, side, 3), to features, shape (1, d); its facts.

        Raises UserError where something is missing or does not fit.
        """


@runtime_checkable
class Converting(Protocol):
    """A family of networks that are converted."""

    def chosen(self, config: Config) -> NetworkChoice:
        """The network of a config."""


def converted(choice: NetworkChoice, environment: Environment) -> tuple[Backbone, Path] | None:
    """A backbone and its flatbuffer, if this machine has converted it before.

    Raises UserError where `weights` names a file that cannot be read.
    """
    return stored(cache_folder(choice, environment))


def stored(folder: Path, artefact: str = FLATBUFFER) -> tuple[Backbone, Path] | None:
    """The backbone and artefact that was kept in a folder; None where there is none."""
    try:
        return Backbone.model_validate_json((folder / FACTS).read_text()), folder / artefact
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise damaged(folder) from error
    except OSError as error:
        raise Unwritable(
            f"cannot read the cache {folder.parent} ({error.strerror}): give rights on it, or set FRUITPIPE_CACHE."
        ) from error


def damaged(folder: Path) -> UserError:
    return UserError(f"{folder} in the cache is damaged: delete that folder, and it is made again.")


def require_whole(folder: Path, artefact: str) -> None:
    """Raise UserError where an artefact is not as it was made: it would give other features under the same digest.

    Earlier versions have kept no digest.
    """
    if not (folder / DIGEST).exists():
        return
    try:
        is_whole = file_digest(folder / artefact) == (folder / DIGEST).read_text()
    except FileNotFoundError:
        is_whole = False
    if not is_whole:
        raise damaged(folder)


def flatbuffer(choice: NetworkChoice, environment: Environment) -> tuple[Backbone, Path]:
    """The backbone and its flatbuffer, converted now if this machine has not done so before.

    Raises UserError where its weights are not to be had, or something in the choice does not fit.
    """
    target = cache_folder(choice, environment)
    return kept(target, choice.name, FLATBUFFER, lambda made: run_conversion(choice, made, environment))


def kept(target: Path, name: str, artefact: str, make: Callable[[Path], None]) -> tuple[Backbone, Path]:
    """The backbone and artefact of a folder of the cache, made now if this machine has not done so before.

    make: writes artefact and facts to a folder, which appears when it is whole.

    Raises Unwritable where the cache cannot be read or written, UserError where that folder is damaged, and what `make`
    raises.
    """
    if found := stored(target, artefact):
        require_whole(target, artefact)
        return found
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(private_folder(target.parent))
        except OSError as error:
            raise Unwritable(
                f"{name} is not in the cache {target.parent}, which cannot be written ({error.strerror}): set "
                "FRUITPIPE_CACHE, or run `fruitpipe convert` where it can be, as in a Dockerfile."
            ) from error
        made = scratch / "made"  # with the rights of any folder, as the temporary one is its owner's alone
        made.mkdir()
        make(made)
        (made / DIGEST).write_text(file_digest(made / artefact))
        try:
            made.rename(target)
        except OSError:
            if not (target / FACTS).exists():  # else another process was faster
                raise
    return Backbone.model_validate_json((target / FACTS).read_text()), target / artefact


def cache_folder(choice: NetworkChoice, environment: Environment) -> Path:
    """Where the conversion of a choice is kept; weights of the user's own count by their bytes."""
    weights = choice.weights
    if is_saved_model(weights) or Path(weights).suffix:
        try:
            weights = content_digest(weights)
        except OSError as error:
            raise UserError(
                f"weights: cannot read {error.filename} ({error.strerror}): give a file or SavedModel that is there."
            ) from error
    return kept_in(environment, choice.name, json.dumps(choice._replace(weights=weights)))


def kept_in(environment: Environment, name: str, identity: str) -> Path:
    """The folder of the cache for what has an identity, under the last part of its name."""
    stem = re.sub(r"[^\w.-]", "_", PurePosixPath(name).name)[:64]
    return environment.cache / "backbones" / f"{stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def run_conversion(choice: NetworkChoice, folder: Path, environment: Environment) -> None:
    places = {"KERAS_HOME": str(keras_home(environment, folder.parent)), "TMPDIR": str(folder.parent)}
    if reason := run_module(__name__, json.dumps(choice), folder, variables=QUIET | places):
        raise told_by(reason) or FruitpipeError(f"converting {choice.name} failed: {reason}")


def keras_home(environment: Environment, scratch: Path) -> Path:
    """The folder that Keras finds weights in: it looks at none that it cannot write to, but at one that leads there."""
    home = environment.keras_home
    if not (home / "models").is_dir() or os.access(home, os.W_OK):
        return home
    other = scratch / "keras"
    other.mkdir()
    (other / "models").symlink_to((home / "models").absolute())
    return other


def convert(choice: NetworkChoice, folder: Path) -> None:
    """Build a backbone in Keras and write it as a flatbuffer, float32, batch size 1, and its facts.

    It goes through a SavedModel: to freeze the weights into the graph takes three times the time and memory, which for
    the 0.8 GB of convnext_large was 17.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=folder) as saved:
        facts = save(choice, saved)  # and no more of the network, which would be in memory beside its copies
        (folder / FLATBUFFER).write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved).convert())
    (folder / FACTS).write_text(facts.model_dump_json(indent=2))


def save(choice: NetworkChoice, folder: str) -> Backbone:
    """Write a backbone as a SavedModel."""
    import tensorflow as tf

    model, facts = cast(Buildable, family_of(choice.name)).build(choice)
    image = tf.TensorSpec((1, facts.input_size, facts.input_size, 3), tf.float32, name="image")
    served = tf.Module()
    # TensorFlow 2.21 does not see the variables in Keras 3's own, and would leave the weights out.
    served.weights = [variable.value for variable in model.weights]
    served.feature = tf.function(lambda image: model(image, training=False), input_signature=[image])
    tf.saved_model.save(served, folder, signatures=served.feature.get_concrete_function())
    return facts


def main() -> None:
    choice, folder = sys.argv[1:]
    try:
        convert(NetworkChoice(*json.loads(choice)), Path(folder))
    except FruitpipeError as error:
        print(f"{type(error).__module__}.{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
