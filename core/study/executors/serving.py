"""The program of a worker process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING

from tokensieve.core.lazy import torch
from tokensieve.core.study.work.worker import Worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def serve(connection: Connection, device: str | None, threads: int) -> None:
    """Cells in, results out, until the main process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(min(threads, torch.get_num_threads()))  # OMP_NUM_THREADS may say fewer
    worker = Worker(device)
    try:
        connection.send(("ready", None))
        while True:
            cell = connection.recv()
            result = worker.run(cell, lambda samples: connection.send(("tick", samples)))
            connection.send(("done", result))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    """End with the main process: a killed study leaves no process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
