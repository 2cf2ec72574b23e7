"""Whose ratings a run was made of: the one rule by which it belongs to a cache or is of other data.

It belongs where the parts that it was trained and selected on hold the same images with the same scores, in whatever
order, and where no image of its split's other parts has been given another score since. Images may come into those
other parts, be mended there, or leave them. A run on all images belongs where each of its images is still there with
the same score, the mean of those that it has; images that came since are none of its own. What images are weighted by
counts as a part of their scores; of a head that is made of others, what its members' images were.
"""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from featcache.base.errors import CorruptFile, FeatcacheError, counted
from featcache.base.files import write_durably
from featcache.datasets.splits import Part
from featcache.store.cache import FeatureCache
from head.data.batches import parts_of, present_part, split_data
from head.data.weights import raw_weights
from head.runs.run import RATINGS_NAME, Run
from head.settings import TrainSettings

Digests = Callable[[str, str, tuple[str, ...]], dict[str, str]]

_EVERY_IMAGE = "every image"  # beside the parts, in a run's file
_DIGEST = 32  # bytes of an image's sha256; its score follows as float64


def weights_of(run: Run) -> tuple[str, ...]:
    """Return by what a run's training images were weighted, in order: its own `--weight` and its members'."""
    return weights_together(str(run.settings["weight"]), run.config.member_weights)


def weights_together(own: str, of_members: Iterable[str]) -> tuple[str, ...]:
    """Return a head's own weight and those of its members, each once and in order, without 'none'."""
    return tuple(sorted({own, *of_members} - {"none"}))


def data_digests(cache: FeatureCache, split: str, select_on: str, weights: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the sha256 of the images, and of the images with their scores, that a head learns from.

    Those are train and the part that selects: 'test' or, where the split has one, 'val'. Their order does not matter.
    What weights, as `weights_of` gives them, are made of counts as a part of the scores of train.
    """
    digests = {"images_sha256": hashlib.sha256(), "ratings_sha256": hashlib.sha256()}
    for name, part in _learnt(cache, split, select_on).items():
        rated = _rated(cache, part, weights if name == "train" else ())
        for digest, columns in zip(digests.values(), (rated[:, :_DIGEST], rated), strict=True):
            lines = np.ascontiguousarray(columns).view(f"S{columns.shape[1]}").reshape(-1)
            digest.update(f"{name} {len(lines)}\n".encode() + np.sort(lines).tobytes())
    return {key: digest.hexdigest() for key, digest in digests.items()}


def write_other_ratings(
    folder: Path, cache: FeatureCache, split: str, select_on: str, weights: tuple[str, ...]
) -> None:
    """Write into a run's folder what the split's other parts hold: each image's sha256 and score.

    Of a run on all images, which has no others, what it was trained on, and what its weights are made of. Besides, in
    16 bytes each, the scores of every image of the cache: by them runs on several splits tell whether they are of the
    same scores, though no cache is at hand.
    """
    learnt = _learnt(cache, split, select_on) if split in cache.splits else {}
    others = {
        name: _rated(cache, part, weights if name == "train" else ())
        for name, part in _parts(cache, split).items()
        if name not in learnt
    }
    write_durably(folder / RATINGS_NAME, safetensors.numpy.save({**others, _EVERY_IMAGE: _scores_of_all(cache)}))


def rescored_since(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are of other scores than the first is; those that do not say it are taken to agree."""
    known = [(run, found) for run in runs if (found := _scores_then(run)) is not None]
    return [run for run, found in known[1:] if _differ(known[0][1], found)]


def _scores_then(run: Run) -> NDArray[np.uint8] | None:
    path = run.folder / RATINGS_NAME
    return _read(path).get(_EVERY_IMAGE) if path.is_file() else None


def _differ(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    """Return how many images of both have no score in common."""
    one, other = _by_image(first), _by_image(second)
    return sum(image in other and scores.isdisjoint(other[image]) for image, scores in one.items())


def _by_image(lines: NDArray[np.uint8]) -> dict[bytes, set[bytes]]:
    scores = defaultdict[bytes, set[bytes]](set)
    for line in map(bytes, lines):
        scores[line[:8]].add(line[8:])
    return scores


def _scores_of_all(cache: FeatureCache) -> NDArray[np.uint8]:
    """Return (n, 16): the start of a present image's sha256 and a score of it as float64, a line for each such pair."""
    parts = [_rated(cache, part) for split in cache.splits for part in _parts(cache, split).values()]
    every = np.concatenate([np.zeros((0, _DIGEST + 8), np.uint8), *parts])
    return np.unique(every[:, [*range(8), *range(_DIGEST, _DIGEST + 8)]], axis=0)


def digests_once(cache: FeatureCache) -> Digests:
    """Return what gives `data_digests` of the cache for (split, select_on, weights), each computed once."""
    return functools.cache(functools.partial(data_digests, cache))


def difference(run: Run, cache: FeatureCache, digests: Digests | None = None) -> str:
    """Return in words how a run's data differ from those of a cache of the same features, '' where it belongs to it.

    What an imported head was trained on is not known, so it belongs. digests is what `digests_once` returns, where many
    runs are asked about. Raises `CorruptFile` for damage.
    """
    if run.imported or not parts_of(cache, run.split):
        return ""
    if run.config.ratings_sha256 is None:  # as runs were before: rows count, so images that came between are a change
        return "" if _same_rows(run, cache) else "it was trained on other images or scores than are there now"
    weights = weights_of(run)
    now = (digests or digests_once(cache))(run.split, str(run.settings["select_on"]), weights)
    if run.on_all_images and (run.folder / RATINGS_NAME).is_file():
        return _of_other_images(run, cache)
    if now["images_sha256"] != run.config.images_sha256:
        then = _scores_then(run)
        if then is not None and (
            changed := _differ(then, _scores_of_all(cache))
        ):  # other splits are drawn from other scores
            return f"it was trained when {changed:,} images of the cache had other scores"
        return "it was trained or selected on other images than its parts hold now"
    if now["ratings_sha256"] != run.config.ratings_sha256:
        weighted = f", or with other weights ({', '.join(weights)})" if weights else ""
        return f"it was trained or selected on other scores of these images{weighted}"
    return _rescored(run, cache)


def _same_rows(run: Run, cache: FeatureCache) -> bool:
    found = run.config.document.get("data_sha256")
    settings = TrainSettings(**{name: run.settings[name] for name in ("select_on", "val_fraction", "seed")})
    try:
        return found is None or split_data(cache, run.split, settings).digest(cache) == found
    except FeatcacheError:  # there is nothing left to train on
        return False


def _of_other_images(run: Run, cache: FeatureCache) -> str:
    """Return how many images of a run on all of them are not there now, or have other scores, '' for none."""
    weights = weights_of(run)
    now = {bytes(line) for part in _parts(cache, run.split).values() for line in _rated(cache, part, weights)}
    missed = {bytes(line) for lines in _ratings_then(run).values() for line in lines} - now
    there = {line[:_DIGEST] for line in now}
    gone = sum(line[:_DIGEST] not in there for line in missed)
    if gone:
        return f"{counted(gone, 'image')} that it was trained on {'is' if gone == 1 else 'are'} not there now"
    what = "scores or weights" if weights else "scores"
    return f"{counted(len(missed), 'image')} that it was trained on had other {what} then" if missed else ""


def _ratings_then(run: Run) -> dict[str, NDArray[np.uint8]]:
    return {part: lines for part, lines in _read(run.folder / RATINGS_NAME).items() if part != _EVERY_IMAGE}


def _read(path: Path) -> dict[str, NDArray[np.uint8]]:
    try:
        found: dict[str, NDArray[np.uint8]] = safetensors.numpy.load(path.read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CorruptFile(f"{path}: damaged: {error}; run train-head again with --no-resume") from error
    return found


def _rescored(run: Run, cache: FeatureCache) -> str:
    """Return which of the parts that it wrote down have images with other scores than then, '' for none."""
    if not (run.folder / RATINGS_NAME).is_file():
        return ""
    parts_then = _ratings_then(run)
    for name, part in _parts(cache, run.split).items():
        then = {bytes(line) for line in parts_then.get(name, ())}
        known = {line[:_DIGEST] for line in then}
        changed = [line for line in map(bytes, _rated(cache, part)) if line[:_DIGEST] in known and line not in then]
        if changed:
            return f"{counted(len(changed), 'image')} of the {name} part had other scores when it was trained"
    return ""


def _parts(cache: FeatureCache, split: str) -> dict[str, Part]:
    return {name: present_part(cache, part) for name, part in parts_of(cache, split).items()}


def _learnt(cache: FeatureCache, split: str, select_on: str) -> dict[str, Part]:
    parts = _parts(cache, split)
    return {name: part for name, part in parts.items() if name in ("train", select_on)}


def _rated(cache: FeatureCache, part: Part, weights: tuple[str, ...] = ()) -> NDArray[np.uint8]:
    """Return (n, 40): for each image of a part its sha256, and its score as float64.

    With weights it is (n, 48) or wider: what each is made of comes behind, as float64.
    """
    digests = bytes.fromhex("".join(cache.images[row].sha256 for row in part.rows))
    numbers = [part.scores, *(raw_weights(cache, part, weight) for weight in weights)]
    columns = [one.astype("<f8").view(np.uint8).reshape(-1, 8) for one in numbers]
    return np.concatenate([np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST), *columns], axis=1)
