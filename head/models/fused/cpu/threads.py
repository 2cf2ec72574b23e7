"""Compiled loops in as many threads as torch may use, and tensors as the arrays they take."""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_HALVES = (torch.float16, torch.bfloat16)


def array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor on a CPU as an array in C order, of half floats as uint16; in the same memory if it can be."""
    whole = tensor.detach().contiguous()
    return whole.view(torch.int16).numpy().view(np.uint16) if whole.dtype in _HALVES else whole.numpy()


def in_threads(loop: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call a compiled loop, which takes a start and a stop last, on ranges of [0, count), one for each thread."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        loop(*arguments, 0, count)
        return
    edges = [count * n // threads for n in range(threads + 1)]
    pool = _pool(threads, os.getpid())
    for done in [pool.submit(loop, *arguments, a, b) for a, b in itertools.pairwise(edges)]:
        done.result()


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return this process's threads; those of the process that it was forked from did not come with it."""
    return ThreadPoolExecutor(threads, thread_name_prefix="loops")
