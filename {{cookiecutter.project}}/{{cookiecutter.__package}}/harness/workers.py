"""The processes in which a DataLoader loads batches: their signals, their memory, their open files."""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import get_worker_info


def allow_open_files() -> None:
    """Let this process have as many open files as its user may: each tensor from a worker takes one."""
    with suppress(ImportError, OSError, ValueError):  # of a system that has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collate_and_share(collate_fn: Callable, examples: Any) -> Any:
    """Make a batch; in a worker, put it into shared memory, where the main process reads it.

    PyTorch would do that later, in a thread: if there is too little shared memory, the batch is lost there,
    and the main process waits for it for ever.
    """
    batch = collate_fn(examples)
    if get_worker_info() is not None:
        apply_to_collection(batch, Tensor, share)
    return batch


def share(tensor: Tensor) -> None:
    """Put a tensor into shared memory."""
    if tensor.layout == torch.strided and tensor.device.type == "cpu":
        tensor.share_memory_()


def start_worker(worker_init_fn: Callable | None, number: int) -> None:
    """Leave signals, which may reach the whole process group, to the main process: it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_soon)
    if worker_init_fn is not None:
        worker_init_fn(number)


def end_soon(signum: int, frame: Any) -> None:
    """End this worker in ten seconds, should the main process not do it before."""
    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(10)
