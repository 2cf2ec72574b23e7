"""The attention's loops, by Numba or on a GPU by Triton, against the same formulas by torch.compile and eager PyTorch.

One batch of 256 x 196 x 1024 keys in the type that products have, all threads that torch uses; medians over rounds, in
milliseconds, what a loop reads and writes of arrays of the keys' size, in MB, and seconds of the first call, which
compiles.

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
from head.models.fused import attention as formulas
from head.models.fused.loops import loops_for


@click.command()
@click.option("--batch", default=256, show_default=True)
@click.option("--steps", default=3, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--device", "place", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
def main(batch: int, steps: int, rounds: int, precision: str, place: str) -> None:
    """Print milliseconds of each loop in each form as one JSON line."""
    L, D, kind = POSITIONS, CHANNELS, {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    device = resolve_device(place)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, device=device)

    features, mean, scale = drawn(batch, L, D).half(), drawn(D), drawn(D) + 0.5
    x, keys, states = drawn(batch, L, D).to(kind), drawn(batch, L, D).to(kind), drawn(steps, batch, D)
    M, of_energies, of_z = drawn(L, D) - 0.5, drawn(steps, batch, L) - 0.5, drawn(batch, D) - 0.5
    own, some = loops_for(device, M.dtype), (keys, states[0], M)
    loops: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...], list[Tensor]]] = {
        "standardise": (
            lambda *of: own.standardise(*of, x), formulas.standardise, (features, mean, scale), [features, x]
        ),
        "attend": (own.attend, formulas.attend, (keys, x, states[0], M), [keys, x]),
        "energy_gradient": (
            own.energy_gradient, formulas.energy_gradient, (x, of_energies[0].softmax(1), of_energies[0], of_z), [x]
        ),
        "state_gradient": (own.state_gradient, formulas.state_gradient, (*some, of_energies[0]), [keys]),
        "key_gradient": (own.key_gradient_, formulas.key_gradient, (keys, states, M, of_energies), [keys, keys]),
    }  # fmt: skip
    result = {}
    for name, (compiled, formula, arguments, passed) in loops.items():
        ways = {
            "numba" if device.type == "cpu" else "triton": compiled,
            "torch_compile": torch.compile(formula, dynamic=False),
            "eager": formula,
        }
        first = {way: _seconds(run, arguments) for way, run in ways.items()}
        times = [{way: _seconds(run, arguments) for way, run in ways.items()} for _ in range(rounds)]
        result[name] = {
            "milliseconds": {way: round(1e3 * median(t[way] for t in times), 1) for way in ways},
            "first_call_seconds": {way: round(seconds, 2) for way, seconds in first.items()},
            "megabytes": round(sum(tensor.nbytes for tensor in passed) / 1e6, 1),
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
