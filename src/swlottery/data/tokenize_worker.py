"""A process that makes shards for another: ``python -m swlottery.data.tokenize_worker FD``.

It receives the encoder and then tasks through the pipe ``FD``, and answers there. When the other process is gone, for
whatever reason, the pipe ends, and this process ends at once.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from swlottery.data.tokenize import make_shard


def main() -> None:
    """Make shard after shard, until the pipe ends."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    received: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, received), daemon=True).start()
    encoder = received.get()
    while True:
        task = received.get()
        answer = None
        try:
            for counted in make_shard(encoder, task):
                pipe.send((task.number, counted))
        except OSError as error:
            answer = error
        except BaseException:
            _give_up()
        pipe.send((task.number, answer))


def _receive(pipe: Connection[Any, Any], received: SimpleQueue[Any]) -> None:
    try:
        while True:
            received.put(pipe.recv())
    except (EOFError, ConnectionError):
        os._exit(0)
    except BaseException:
        _give_up()


def _give_up() -> None:
    traceback.print_exc()
    os._exit(1)  # a normal exit would wait for the thread that receives


if __name__ == "__main__":
    main()
