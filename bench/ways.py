"""The ways of training that `bench.train` compares, each in a process of its own, where nobody's threads disturb it.

A process makes its way ready, which compiles what there is to compile, says so in a line, and then measures once for
each line it is sent, while the others sleep. What it says of a round is a JSON object of figures, with at least
'train', in images per second.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.read import H5pyViews
from featcache.store.cache import open_cache
from featcache.store.folder import INDEX_NAME
from head.models.amnet import AMNetHead, HeadOutput, HeadShape, loss
from head.models.fused.switch import fused_off
from head.models.published import PublishedHead, PublishedShape

_READY = 3  # batches: one that a DataLoader's workers may have read long before, and one for each of two workers
_OWN_TRAINING = """
import json, sys
from pathlib import Path
import numpy as np
import bench.features, bench.train
asked = json.loads(sys.argv[1])
for module in (bench.features, bench.train):
    module.POSITIONS, module.CHANNELS = asked["positions"], asked["channels"]
folder = Path(asked["folder"])
folder.mkdir()
cache = asked["cache"] and bench.train.open_cache(asked["cache"])
cache = cache or bench.train.draw_cache(folder / "drawn", asked["images"], asked["batch"])
if asked["in_memory"]:
    kept = cache.read(np.arange(asked["batch"]), 0)
    type(cache).batches = lambda cache, pairs, *_, **__: (kept[: len(rows)] for rows, _ in pairs)
there = {} if asked["device"] == "cpu" else {"device": asked["device"]}  # as earlier commits know of none
epochs = bench.train.Epochs(cache, folder, batch_size=asked["batch"], **there, **asked["changes"])
print(json.dumps({"products": epochs.products}), flush=True)
for _ in sys.stdin:
    print(json.dumps(epochs.next()), flush=True)
"""
_OTHER = "import sys; from bench.ways import answer; answer(sys.argv[1], sys.argv[2])"


@dataclass(frozen=True)
class Sizes:
    """What is trained on, and where: images of positions x channels, in batches, which the folder cache holds."""

    images: int
    batch: int
    positions: int
    channels: int
    cache: str
    device: str = "cpu"


class Way:
    """A way in its process; `ready` is what it said when it could start."""

    def __init__(self, program: str, *arguments: str, checkout: Path | None = None) -> None:
        place = {} if checkout is None else {"cwd": checkout, "env": os.environ | {"PYTHONPATH": str(checkout)}}
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **place,
        )  # type: ignore[call-overload]
        self.ready = self._line()

    def measure(self) -> dict[str, float]:
        """Return the figures of one round."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._line()

    def end(self) -> None:
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a way of training ended with exit status {self._process.wait()}; its error is above")
        found: dict[str, Any] = json.loads(line)
        return found


def own_training(
    sizes: Sizes, folder: Path, *, in_memory: bool = False, checkout: Path | None = None, **changes: Any
) -> Way:
    """Return this program's training, or that of another checkout of it; changes are settings of training.

    Another checkout draws a cache for itself, in folder, as its format may be another.
    """
    asked = asdict(sizes) | {"folder": str(folder.absolute()), "in_memory": in_memory, "changes": changes}
    if checkout is not None:
        asked["cache"] = ""
    return Way(_OWN_TRAINING, json.dumps(asked), checkout=checkout)


def other_way(name: str, sizes: Sizes) -> Way:
    """Return a way of `OTHERS`."""
    return Way(_OTHER, name, json.dumps(asdict(sizes)))


def answer(name: str, sizes: str) -> None:
    """Be the process of a way: say when it is ready, then measure for each line that comes."""
    measure = OTHERS[name](Sizes(**json.loads(sizes)))
    print("{}", flush=True)
    for _ in sys.stdin:
        print(json.dumps({"train": measure()}), flush=True)


def _steps(
    run: Callable[[Tensor], Any], head: torch.nn.Module, batches: Iterator[Tensor], **constants: float
) -> Callable[[], float]:
    """Return a function that trains a head on the next batch and returns images per second; one step is taken."""
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3, weight_decay=1e-6)
    device = next(head.parameters()).device

    def step() -> float:
        started = time.perf_counter()
        features = next(batches).to(device)
        value = loss(run(features), features.new_zeros(len(features)).float(), **constants)  # type: ignore[arg-type]
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        value.item()
        return len(features) / (time.perf_counter() - started)

    step()
    return step


def _in_memory(sizes: Sizes) -> Iterator[Tensor]:
    return repeat(torch.from_numpy(open_cache(sizes.cache).read(np.arange(sizes.batch), 0)).to(sizes.device))


def _head(sizes: Sizes) -> AMNetHead:
    return AMNetHead(HeadShape(positions=sizes.positions, channels=sizes.channels)).to(sizes.device)


def _eager(head: AMNetHead) -> Callable[[Tensor], Any]:
    def run(features: Tensor) -> Any:
        with fused_off():
            return head(features.float())

    return run


def plain(sizes: Sizes) -> Callable[[], float]:
    """The paper's equations in eager float32, with the keys computed once."""
    head = _head(sizes)
    return _steps(_eager(head), head, _in_memory(sizes), attention_weight=1e-4)


def plain_dataloader(sizes: Sizes) -> Callable[[], float]:
    """The same from a DataLoader with two workers over h5py, once none is read beforehand."""
    rows = np.tile(np.arange(sizes.batch), 10**4)
    stored = H5pyViews(Path(sizes.cache) / INDEX_NAME, (rows, np.zeros_like(rows)))
    loader = iter(torch.utils.data.DataLoader(stored, sizes.batch, num_workers=2, prefetch_factor=1))
    head = _head(sizes)
    step = _steps(_eager(head), head, loader, attention_weight=1e-4)

    def measure() -> float:
        for _ in range(_READY):
            step()
        return step()

    return measure


def compiled(sizes: Sizes) -> Callable[[], float]:
    """The paper's equations by torch.compile, under autocast to bfloat16: what takes a line each."""
    head = _head(sizes)

    def plainly(features: Tensor) -> tuple[Tensor, ...]:
        states, maps = head.steps(features)
        m = head.regressor(head.dropout(states)).squeeze(2).t()
        return m.sum(dim=1), m, maps.transpose(0, 1)

    fast = torch.compile(plainly, dynamic=False)

    def run(features: Tensor) -> HeadOutput:
        with torch.autocast(features.device.type, dtype=torch.bfloat16):
            return HeadOutput(*(value.float() for value in fast(features.float())))

    return _steps(run, head, _in_memory(sizes), attention_weight=1e-4)


def published(sizes: Sizes) -> Callable[[], float]:
    """The published architecture in eager float32."""
    head = PublishedHead(PublishedShape(positions=sizes.positions, channels=sizes.channels)).to(sizes.device)
    return _steps(lambda features: head(features.float()), head, _in_memory(sizes), attention_weight=1e-5, coverage=0.6)


def _limit(sizes: Sizes, dtype: torch.dtype) -> Callable[[], float]:
    """K x and its weight's gradient alone."""
    rows, channels = sizes.batch * sizes.positions, sizes.channels
    x, keys, out = (torch.rand(rows, channels).to(sizes.device, dtype) for _ in range(3))
    weight = torch.rand(channels, channels).to(sizes.device, dtype)

    def measure() -> float:
        started = time.perf_counter()
        torch.mm(x, weight.t(), out=out)
        torch.mm(keys.t(), x, out=weight)
        weight[0, 0].item()  # waits for a GPU
        return sizes.batch / (time.perf_counter() - started)

    measure()
    return measure


OTHERS: dict[str, Callable[[Sizes], Callable[[], float]]] = {
    "plain": plain,
    "plain_dataloader": plain_dataloader,
    "compiled_bf16": compiled,
    "published": published,
    "limit_fp32": lambda sizes: _limit(sizes, torch.float32),
    "limit_bf16": lambda sizes: _limit(sizes, torch.bfloat16),
}
