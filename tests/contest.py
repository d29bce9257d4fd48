"""Writers that want the same object at one moment."""

from __future__ import annotations

import threading

from fruitpipe.storage.store import Store


def winners(store: Store, name: str, expected: bytes | None, data: list[bytes]) -> list[bytes]:
    """What was put by the threads, one for each piece of data, that all swap at once and are told that they did."""
    if expected is not None:
        store.put(name, expected)
    barrier, won = threading.Barrier(len(data)), []

    def contend(mine: bytes) -> None:
        barrier.wait()
        if store.swap(name, expected, mine):
            won.append(mine)

    threads = [threading.Thread(target=contend, args=(each,)) for each in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won
