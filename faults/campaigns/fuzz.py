"""Manifests, recipes, split files and configurations of runs with seeded mutations: nothing but this project's errors.

Each case takes less than a second. Where a mutated manifest opens all the same (its digest made anew), features
are exact or refused.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.harness import children, mutate, stub
from faults.harness.trial import Campaign, Stopwatch, Verdict
from featcache.base.errors import BadInput, CorruptFile, FeatcacheError, HostileFile, InvalidSettings, Mismatch
from featcache.base.files import canonical_json
from featcache.datasets.dataset import open_dataset
from featcache.recipe import recipe_from_json
from featcache.store.cache import open_cache
from featcache.store.folder import MANIFEST_NAME, shards_folder
from featcache.store.shards.format import array_specs

IMAGES = 8
SLOWEST = 1.0  # seconds
MEMORY = 1 << 30  # bytes more than the process has already
FUZZED = ("manifest", "signed manifest", "shard elsewhere", "recipe", "split file", "run configuration")
RUN = {"run_format_version": 1, "name": "paper", "cache": "drawn", "split": "1", "settings": {},
       "selected_on": "the val part", "weights_source": "random", "batch_size": 16, "fingerprint": "0" * 64,
       "input": {"layers": ["blocks.5"], "pooling": "maps"},
       "result": {"head_sha256": "0" * 64, "best_epoch": 1, "lowest_mse_epoch": 1}}  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """Real inputs to start from, and what reading the cache gives."""

    cache: Path
    contents: stub.Contents
    manifest: bytes
    dataset: Path
    split: bytes


@dataclass(frozen=True)
class Case:
    """The number-th mutation of one kind of input."""

    kind: str
    number: int


def run(campaign: Campaign) -> None:
    """Try the same number of cases of each kind, or as many as the time allows."""
    dataset = stub.make_dataset(campaign.folder("data") / "drawn", images=IMAGES)
    folder = campaign.scratch / "cache"
    made = children.in_child(lambda: stub.run(dataset, folder) and stub.checked_contents(folder))
    if isinstance(made, children.Died):
        raise RuntimeError(f"making the cache: {made}")
    split = (dataset / "splits" / "train_1.txt").read_bytes()
    corpus = Corpus(folder, made, (folder / MANIFEST_NAME).read_bytes(), dataset, split)
    for kind in FUZZED:
        cases = [Case(kind, number) for number in range(campaign.size.fuzz_cases)]
        watch = Stopwatch()

        def check(case: Case) -> tuple[Verdict, bytes]:
            children.limit_memory(MEMORY)
            return _try(corpus, case, campaign.random(case.kind, case.number))

        for case, result in children.map_in_children(check, cases, 20 * SLOWEST):
            verdict, data = result if isinstance(result, tuple) else (result, b"")
            campaign.judge(str(case), verdict, keep={"input": data})
            if watch() > campaign.size.fuzz_seconds:
                campaign.tally.skipped[kind] = f"stopped after {case.number + 1:,} cases, {watch():.0f} s"
                break


def _try(corpus: Corpus, case: Case, rng: random.Random) -> tuple[Verdict, bytes]:
    """Make one mutation and read it; return the verdict and the mutated input."""
    data, read, right = KINDS[case.kind](corpus, rng)
    started = time.perf_counter()
    try:
        problem = read()
        outcome = "accepted"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the result
        problem = "" if type(error) in right else f"{error!r:.300}, not one of this project's errors for this"
        outcome = type(error).__name__
    seconds = time.perf_counter() - started
    if not problem and seconds > SLOWEST:
        problem = f"took {seconds:.1f} s"
    return Verdict((f"{case.kind}: {outcome}",), problem, silent=problem.startswith("wrong")), data


Reading = tuple[bytes, Callable[[], str], tuple[type[FeatcacheError], ...]]
OF_A_CACHE = (CorruptFile, Mismatch, HostileFile)


def _manifest(corpus: Corpus, rng: random.Random) -> Reading:
    value = mutate.of_json(json.loads(corpus.manifest), rng) if rng.random() < 0.3 else None
    data = mutate.of_bytes(corpus.manifest, rng) if value is None else mutate.as_bytes(value)
    return data, lambda: _open(corpus, data), OF_A_CACHE


def _signed_manifest(corpus: Corpus, rng: random.Random) -> Reading:
    body = json.loads(corpus.manifest)
    del body["digest"]
    data = mutate.as_bytes(_signed(mutate.of_json(body, rng)))
    return data, lambda: _open(corpus, data), OF_A_CACHE


def _shard_elsewhere(corpus: Corpus, rng: random.Random) -> Reading:
    """Name a shard by a path: it leads to the very file, but a manifest never names one so."""
    body = json.loads(corpus.manifest)
    del body["digest"]
    entry = rng.choice(body["shards"])
    folder = shards_folder(corpus.cache)
    entry["file"] = rng.choice(("./", "../shards/", f"{folder}/", "../../cache/shards/", "//", " ")) + entry["file"]
    data = mutate.as_bytes(_signed(body))
    return data, lambda: _open(corpus, data) or "a path was followed", (HostileFile,)


def _signed(body: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**body, "digest": hashlib.sha256(canonical_json(body).encode()).hexdigest()}
    except ValueError:  # a lone surrogate has no UTF-8, so this project never signs it
        return {**body, "digest": "0" * 64}


def _open(corpus: Corpus, manifest: bytes) -> str:
    """Read a cache with this manifest; return what is wrong with what came out."""
    (corpus.cache / MANIFEST_NAME).write_bytes(manifest)
    open_cache(corpus.cache)
    found = stub.contents(corpus.cache)
    arrays = {name: array for name, array in corpus.contents.items() if name.startswith(("features/", "pooled/"))}
    return "" if stub.same({name: found[name] for name in arrays}, arrays) else "wrong features without an error"


def _recipe(corpus: Corpus, rng: random.Random) -> Reading:
    value = mutate.of_json(json.loads(corpus.manifest)["recipe"], rng)

    def read() -> str:
        recipe = recipe_from_json(value, "somewhere")
        for layer in recipe.layer_names:
            recipe.layer_shape(layer)
        array_specs(recipe)
        return "" if recipe.fingerprint and recipe.view_settings and recipe.bytes_per_view() else "no fingerprint"

    return mutate.as_bytes(value), read, (*OF_A_CACHE, InvalidSettings)


def _split_file(corpus: Corpus, rng: random.Random) -> Reading:
    data = mutate.of_bytes(corpus.split, rng)

    def read() -> str:
        (corpus.dataset / "splits" / "train_1.txt").write_bytes(data)
        open_dataset(str(corpus.dataset))
        return ""

    return data, read, (BadInput,)


def _run_configuration(corpus: Corpus, rng: random.Random) -> Reading:
    from head.runs.run import read_run

    value = {**RUN, "recipe": json.loads(corpus.manifest)["recipe"]}
    data = mutate.as_bytes(mutate.of_json(value, rng))
    data = data if rng.random() < 0.7 else mutate.of_bytes(data, rng)

    def read() -> str:
        (corpus.dataset / "config.json").write_bytes(data)
        found = read_run(corpus.dataset)
        return "" if found.recipe and found.name is not None and found.finished in (True, False) else "no recipe"

    return data, read, OF_A_CACHE


KINDS: dict[str, Callable[[Corpus, random.Random], Reading]] = {
    "manifest": _manifest,
    "signed manifest": _signed_manifest,
    "shard elsewhere": _shard_elsewhere,
    "recipe": _recipe,
    "split file": _split_file,
    "run configuration": _run_configuration,
}
