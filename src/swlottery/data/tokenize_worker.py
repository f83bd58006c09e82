"""A process that makes shards for another: ``python -m swlottery.data.tokenize_worker``, see `swlottery.data.workers`.

It gets the encoder and then its tasks, pickled, through its standard input, and answers with lines of JSON on its
standard output. When the other process is gone, however that came, the input ends, and this one ends at once.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import Any

from swlottery.data.tokenize import make_shard


def _receive(tasks: SimpleQueue[Any]) -> None:
    try:
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(0)
    except BaseException:
        _give_up()


def _give_up() -> None:
    traceback.print_exc()
    os._exit(1)  # at once: the thread that waits for input cannot be ended otherwise


def main() -> None:
    """Make shard after shard, until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    tasks: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(tasks,), daemon=True).start()
    encoder = tasks.get()
    while True:
        number, pieces, path, about = tasks.get()
        try:
            for counted in make_shard(encoder, pieces, path, about):
                answers.write(json.dumps([number, vars(counted)]) + "\n")
            answer: Any = "done"
        except OSError as error:
            answer = [error.errno, error.strerror, str(path)]
        except BaseException:
            _give_up()
        answers.write(json.dumps([number, answer]) + "\n")


if __name__ == "__main__":
    main()
