"""The dictionary of visual words that a cache's descriptors count: learnt once, on images that splits train on."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
import xxhash
from numpy.typing import NDArray

from featcache.backbones.backbone import build_backbone
from featcache.backbones.families.descriptor_networks import (
    NO_FILES,
    SCHEME,
    Parts,
    described_layers,
    descriptors,
    joined_weights,
    parts_of_name,
    parts_of_weights,
    with_words,
    words_name,
)
from featcache.backbones.networks import Asked, settled
from featcache.backbones.of_recipe import recipe_of
from featcache.base.commands import command
from featcache.base.cores import usable_threads
from featcache.base.errors import BadInput, CorruptFile, FeatcacheError, InvalidSettings
from featcache.base.files import make_folder, write_durably
from featcache.base.lock import writer_lock
from featcache.base.progress import OnProgress, Progress, silent
from featcache.datasets.dataset import Dataset
from featcache.images.loading import LoadedImage, load_ahead
from featcache.settings import ExtractSettings
from featcache.store.folder import DICTIONARY_DIGEST, dictionary_path, shard_paths
from featcache.store.manifest import read_manifest

MOST_IMAGES = 223  # Isola et al. took every tenth of their 2,222 images,
SAMPLES = 4460  # and 20 descriptors of each
_EVALUATION = (0, 1)  # the view
Words = NDArray[np.float32]


def settle_dictionary(
    settings: ExtractSettings, dataset: Dataset, out: Path, on_progress: OnProgress = silent, *, learn: bool = True
) -> ExtractSettings:
    """Return settings whose weights name the dictionary that their descriptors need: that of the cache in out.

    It is learnt now, and written there, unless shards there count its words already: what an extraction left that was
    killed before its first shard may be of other settings. Without learn it is then 'random'. Settings that name one,
    or need none, stay. Raises `Locked` if another process is writing there, `BadInput` if images give too few
    descriptors, `CorruptFile` if the dictionary of a finished cache is lost and cannot be learnt again.
    """
    asked = Asked(settings.device, settings.precision, settings.runtime)
    settled(settings.backbone, settings.layers, asked)  # what cannot be is told before any work
    parts = parts_of_weights(settings.backbone, settings.weights)
    counting = with_words(described_layers(settings.backbone, settings.layers))
    if not parts_of_name(settings.backbone).described or parts.described:
        return settings
    if parts.network not in NO_FILES and not Path(parts.network).is_file():
        raise BadInput(
            f"{parts.network}: no such weights file; of a network and a dictionary they are given as "
            f"{command('--weights', joined_weights(Parts('imagenet', 'FILE')))}"
        )
    source = str(dictionary_path(out)) if counting else ""
    if counting and not _is_counted(out):
        source = source if learn else "random"
        if learn:
            make_folder(out)
            with writer_lock(out):
                if not _is_counted(out):  # by a process that has written there meanwhile
                    learnt = safetensors.numpy.save(_learnt(counting, settings, dataset, on_progress))
                    _refuse_other_words(out, learnt)
                    write_durably(dictionary_path(out), learnt)
    return replace(settings, weights=joined_weights(Parts(parts.network, source)))


def _refuse_other_words(out: Path, learnt: bytes) -> None:
    """Raise `CorruptFile` if the cache in out lost its dictionary, and these are not the words that were in it."""
    digest = None
    with contextlib.suppress(FeatcacheError):  # where no manifest can be read, the recipe of shards decides later
        digest = read_manifest(out).source.get(DICTIONARY_DIGEST)
    if digest not in (None, hashlib.sha256(learnt).hexdigest()):
        raise CorruptFile(
            f"{dictionary_path(out)}: missing, and the images that there are now give other words; copy it back from a "
            f"cache of the same recipe (its sha256 is {digest}), or give another folder with --out"
        )


def _is_counted(out: Path) -> bool:
    """Whether out has a dictionary, and features that count its words."""
    return dictionary_path(out).is_file() and bool(shard_paths(out))


def images_to_learn_on(dataset: Dataset) -> list[str]:
    """Return images of train parts, in order: those that the fewest splits test on first, drawn by name among equals.

    No score is looked at. Random splits test on most images once: where there are many, some of these are in the
    test part of a split, never in that of all.
    """
    trained: set[int] = set()
    tests: Counter[int] = Counter()
    for splits in dataset.ratings.values():
        for parts in splits.values():
            trained |= set(parts["train"].rows.tolist() if "train" in parts else ())
            tests.update(parts["test"].rows.tolist() if "test" in parts else ())
    rows = sorted(trained or range(len(dataset.names)), key=lambda row: (tests[row], _draw(dataset.names[row])))
    return [dataset.names[row] for row in rows]


def _draw(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


def _learnt(
    counting: Sequence[str], settings: ExtractSettings, dataset: Dataset, on_progress: OnProgress
) -> dict[str, Words]:
    """Return the words of descriptors, by their names in a dictionary's file."""
    from featcache.backbones.descriptors.words import learn_words

    words = {}
    for layer, samples in _samples(counting, settings, dataset, on_progress).items():
        gathered = np.concatenate(samples) if samples else np.empty((0, 1), np.float32)
        try:
            learnt = learn_words(gathered, seed=settings.views.seed % 2**32)
        except InvalidSettings as error:
            raise BadInput(
                f"{dataset.images}: {len(samples):,} images give no dictionary for {layer}: {error}; or pass that of "
                "another cache as --weights FILE"
            ) from error
        words[words_name(layer)] = learnt
    return words


def _samples(
    counting: Sequence[str], settings: ExtractSettings, dataset: Dataset, on_progress: OnProgress
) -> dict[str, list[Words]]:
    """Return descriptors (n, d) of each image that is learnt on."""
    from featcache.backbones.descriptors.words import sample_of

    names = images_to_learn_on(dataset)[:MOST_IMAGES]
    alone = build_backbone(SCHEME + ",".join(counting), weights="random", image_size=settings.views.image_size)
    loaded = load_ahead(dataset.images, [(name, _EVALUATION) for name in names], recipe_of(alone, settings.views))
    each = -(-SAMPLES // len(names))

    def samples_of(image: LoadedImage) -> list[Words]:
        seed = _draw(image.row.name) ^ settings.views.seed
        return [sample_of(descriptors()[layer].describe(image.pixels[0]), each, seed) for layer in counting]

    found: dict[str, list[Words]] = {layer: [] for layer in counting}
    with ThreadPoolExecutor(usable_threads(None), thread_name_prefix="describe") as pool:
        of_images = pool.map(samples_of, (image for image in loaded if not image.row.absent))
        for done, of_image in enumerate(of_images, start=1):
            for layer, samples in zip(counting, of_image, strict=True):
                found[layer].append(samples)
            on_progress(Progress("learn visual words", done, len(names), "images"))
    return found
