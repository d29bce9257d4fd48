"""The command `fruitpipe`. For a run, a process of its own loads the code of workers meanwhile."""

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main() -> NoReturn:
    # Imports make objects and no garbage: looking for it would take a tenth of their time. Later, too, there is little.
    gc.set_threshold(100_000)
    try:
        if is_by_processes(sys.argv[1:]):
            from fruitpipe.streams import fill
            from fruitpipe.workers.nursery import Nursery

            fill()
            Nursery.start_ahead("fruitpipe.tasks.warm_up")
        from fruitpipe.cli.app import main as command

        command()
    except KeyboardInterrupt:  # amid the imports
        sys.stderr.write("error: stopped.\n")
        sys.exit(130)
    finally:
        gc.freeze()  # or Python looks through all objects once more at its end, for a tenth of a second


def is_by_processes(words: Sequence[str]) -> bool:
    """Whether a command's words look as if workers were wanted; a config may know better.

    `config.Environment`, which says whether there is a Spark already, takes as long to import as all of this is for.
    """
    others = any(word == "--help" or word.startswith("spark.master=") for word in words)
    return words[:1] == ["run"] and not others and "PYSPARK_GATEWAY_PORT" not in os.environ


if __name__ == "__main__":
    main()
