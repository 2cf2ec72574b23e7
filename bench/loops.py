"""The attention's loops, by Numba or on a GPU by Triton, against the same formulas by torch.compile and eager PyTorch.

One batch of 256 x 196 x 1024 keys, all threads that torch uses; medians over rounds, in milliseconds, and seconds of
the first call, which compiles.

Example: python -m bench.loops
"""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor

from bench.features import CHANNELS, POSITIONS
from featcache.base.devices import resolve_device
from head.models.fused.attention import (
    energies,
    energies_formula,
    key_gradient_,
    key_gradient_formula,
    state_gradient,
    state_gradient_formula,
)


@click.command()
@click.option("--batch", default=256, show_default=True)
@click.option("--steps", default=3, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--device", "place", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
def main(batch: int, steps: int, rounds: int, place: str) -> None:
    """Print milliseconds of each loop in each form as one JSON line."""
    L, D = POSITIONS, CHANNELS
    device, own_name = resolve_device(place), "numba" if place == "cpu" else "triton"
    keys, states = torch.rand(batch, L, D, device=device) + 0.5, torch.rand(steps, batch, D, device=device) + 0.5
    M, gradients = torch.randn(L, D, device=device), torch.randn(steps, batch, L, device=device)
    copy = keys.clone()
    loops: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]]] = {
        "energies": (energies, energies_formula, (keys, states[0], M)),
        "state_gradient": (state_gradient, state_gradient_formula, (keys, states[0], M, gradients[0])),
        "key_gradient": (key_gradient_, key_gradient_formula, (copy, states, M, gradients)),
    }
    result = {}
    for name, (own, formula, arguments) in loops.items():
        ways = {own_name: own, "torch_compile": torch.compile(formula, dynamic=False), "eager": formula}
        first = {way: _seconds(run, arguments) for way, run in ways.items()}
        times = [{way: _seconds(run, arguments) for way, run in ways.items()} for _ in range(rounds)]
        result[name] = {
            "milliseconds": {way: round(1e3 * median(t[way] for t in times), 1) for way in ways},
            "first_call_seconds": {way: round(seconds, 2) for way, seconds in first.items()},
        }
    click.echo(json.dumps(result))


def _seconds(run: Callable[..., Any], arguments: tuple[Tensor, ...]) -> float:
    started = time.perf_counter()
    run(*arguments)
    if arguments[0].is_cuda:
        torch.cuda.synchronize(arguments[0].device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
