"""Stage 1: fill a cache folder with the features of a dataset, shard by shard, and seal it.

A kill at any instant loses at most the shard in flight; the same call again goes on behind the shards that
are there.
"""

import hashlib
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from .assemble import build_shard
from .backbones import Backbone, build_backbone
from .calibration import SAMPLE_IMAGES, settle_target
from .dataset import Dataset, Part
from .errors import BadInput, CacheIncomplete, CorruptFile, InvalidSettings, Mismatch, StorageError, list_problems
from .files import digest_of_file, make_folder, refuse_full_disk, remove_temporaries, write_durably
from .layout import shard_name
from .lock import writer_lock
from .manifest import LARGEST_BATCH, Manifest, Splits, read_manifest
from .pipeline import LoadedImage, load_ahead
from .plan import Plan, existing_shards, make_plan, refuse_foreign_folder, refuse_other_recipes
from .progress import OnProgress, Progress, silent
from .reading import usable_threads
from .recipe import FEATURE_DTYPES, Recipe, Target, recipe_of
from .seal import seal
from .shard import WAY_OUT, Shard, open_shard
from .views import ViewRecipe

BAD_IMAGE_POLICIES = ("skip", "stop")


@dataclass(frozen=True)
class ExtractSettings:
    """What to extract: augs is K, the number of augmented views beside the evaluation view.

    weights is 'imagenet', a file, or 'random'; layers may be empty for the backbone's default. calibrate_like is
    a cache whose uint8 constants are taken, so that the two can be merged; '' calibrates on the dataset. force
    starts although the disk seems too small.
    """

    augs: int = 0
    backbone: str = "resnet50"
    layers: tuple[str, ...] = ()
    weights: str = "imagenet"
    views: ViewRecipe = field(default_factory=ViewRecipe)
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 16
    on_bad_image: str = "skip"
    encoding: str = "float16"
    calibrate_like: str = ""
    force: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.augs <= 1000:
            raise InvalidSettings(f"--augs must be 0 to 1000, found {self.augs}")
        if not 1 <= self.batch_size <= LARGEST_BATCH:
            raise InvalidSettings(f"--batch-size must be 1 to {LARGEST_BATCH}, found {self.batch_size}")
        if self.on_bad_image not in BAD_IMAGE_POLICIES:
            raise InvalidSettings(f"--on-bad-image must be skip or stop, found {self.on_bad_image!r}")
        if self.encoding not in FEATURE_DTYPES:
            raise InvalidSettings(f"--encoding must be {' or '.join(FEATURE_DTYPES)}, found {self.encoding!r}")
        if self.calibrate_like and self.encoding != "uint8":
            raise InvalidSettings("--calibrate-like goes with --encoding uint8: float16 has no constants")


@dataclass(frozen=True)
class ExtractReport:
    """What a cache holds after extraction, and the images it had to leave out, as (name, reason)."""

    folder: Path
    fingerprint: str
    images: int
    views: int
    views_computed: int
    bytes: int
    absent: list[tuple[str, str]]
    stale_temporaries: int

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        absent = [{"name": name, "reason": reason} for name, reason in self.absent]
        return {**asdict(self), "folder": str(self.folder), "absent": absent}


def load_backbone(settings: ExtractSettings) -> Backbone:
    """Return the backbone that settings ask for."""
    return build_backbone(
        settings.backbone,
        layers=settings.layers,
        weights=settings.weights,
        image_size=settings.views.image_size,
        seed=settings.views.seed,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
    )


def extract(
    dataset: Dataset, settings: ExtractSettings, out: Path, *, on_progress: OnProgress = silent
) -> ExtractReport:
    """Bring the cache in out up to date with dataset and settings; what is there already is not computed again.

    Raises `Mismatch` if out holds features of another recipe, `Locked` if another process is writing there,
    `BadInput` for a feature that cannot be stored or, under on_bad_image='stop', for the first bad image.
    """
    if settings.calibrate_like:
        read_manifest(Path(settings.calibrate_like))  # a wrong folder is said before any work
    backbone = load_backbone(settings)
    refuse_foreign_folder(out)
    make_folder(out)
    with writer_lock(out):
        make_folder(out / "shards")
        stale = remove_temporaries(out / "shards") + remove_temporaries(out)
        before = _present_manifest(out)
        listed = {entry.file for entry in before.shards} if before else None
        shards = existing_shards(out, listed)
        images = dataset.root / "images"
        target = target_of(backbone, settings, shards, dataset)
        refuse_other_recipes(shards, target.recipe, out)
        plan = make_plan(
            shards, dataset.names, images, views=1 + settings.augs, recipe=target.recipe, listed=listed or ()
        )
        _refuse_changed_images(plan, dataset, out, on_progress)
        digests = _run(plan, dataset, backbone, target, settings, out, on_progress)
        return _seal(plan, dataset, target.recipe, settings, out, before, digests, stale)


def target_of(
    backbone: Backbone,
    settings: ExtractSettings,
    shards: Sequence[Shard],
    dataset: Dataset,
    *,
    sample: int | None = None,
) -> Target:
    """Return what settings ask to be made, by the backbone, beside the shards that are there."""
    return settle_target(
        backbone,
        recipe_of(backbone, settings.views, settings.encoding),
        shards,
        dataset.names,
        dataset.root / "images",
        like=Path(settings.calibrate_like) if settings.calibrate_like else None,
        sample=sample or SAMPLE_IMAGES,
    )


def _run(
    plan: Plan,
    dataset: Dataset,
    backbone: Backbone,
    target: Target,
    settings: ExtractSettings,
    out: Path,
    on_progress: OnProgress,
) -> dict[Path, str]:
    """Compute and commit every block of the plan; return path and sha256 of each new shard."""
    total = len(plan.names) * plan.views
    done = skipped = total - plan.views_to_do
    bad = 0

    def check(image: LoadedImage) -> None:
        nonlocal done, bad
        row = image.row
        if row.absent and settings.on_bad_image == "stop":
            raise BadInput(f"{dataset.root / 'images' / row.name}: {row.absent}; mend it, or use --on-bad-image skip")
        bad += bool(row.absent)
        done += block.shape[1]
        note = f"{bad} bad images" if bad else ""
        on_progress(Progress("extract", done, total, "views", note, skipped))

    digests: dict[Path, str] = {}
    images = _load_plan(plan, dataset, target.recipe)
    for block in plan.todo:
        data = build_shard(images, block, backbone, target, on_image=check)
        if not digests and not settings.force:
            needed = len(data) * plan.views_to_do // (block.shape[0] * block.shape[1])
            refuse_full_disk(out, needed, way_out=", or start nevertheless with --force")
        path = out / "shards" / shard_name(block, data)
        digests[path] = write_durably(path, data)
    return digests


def _refuse_changed_images(plan: Plan, dataset: Dataset, out: Path, on_progress: OnProgress) -> None:
    """Raise `Mismatch` that lists every image that is not the file whose features the cache holds already."""
    named = set(dataset.names)
    shards = [*plan.kept, *plan.superseded]
    held = {image.name: image.sha256 for shard in shards for image in shard.images if not image.absent}
    images = dataset.root / "images"
    work = [(name, sha256) for name, sha256 in held.items() if name in named]
    changed = []
    with ThreadPoolExecutor(usable_threads(None), thread_name_prefix="hash") as pool:
        digests = pool.map(_digest_or_reason, [images / name for name, _ in work])
        for done, ((name, sha256), found) in enumerate(zip(work, digests, strict=True), start=1):
            if found != sha256:
                changed.append(name if len(found) == len(sha256) else f"{name}: {found}")
            on_progress(Progress("check images", done, len(work), "images"))
    if changed:
        raise Mismatch(
            list_problems(
                f"{out}: holds features of other images than those now in {images}:",
                changed,
                "Restore these images, or give another folder with --out.",
            )
        )


def _digest_or_reason(path: Path) -> str:
    """Return the sha256 of an image file, or why it cannot be read."""
    try:
        return digest_of_file(path) if path.is_file() else "not there, or not a file"
    except StorageError as error:
        return str(error).removeprefix(f"{path}: ")


def _load_plan(plan: Plan, dataset: Dataset, recipe: Recipe) -> Iterator[LoadedImage]:
    work = [(plan.names[row], block.views) for block in plan.todo for row in range(*block.rows)]
    return load_ahead(dataset.root / "images", work, recipe)


def _seal(
    plan: Plan,
    dataset: Dataset,
    recipe: Recipe,
    settings: ExtractSettings,
    out: Path,
    before: Manifest | None,
    digests: dict[Path, str],
    stale: int,
) -> ExtractReport:
    """Write cache.h5 and the manifest over all shards, then remove the shards that newer ones replace."""
    shards = [*plan.kept, *(open_shard(path, recipe) for path in digests)]
    known = {entry.file: entry.sha256 for entry in before.shards} if before else {}
    known |= {path.name: digest for path, digest in digests.items()}
    sha256 = {shard.path.name: known.get(shard.path.name) or _digest_of_unlisted(shard.path) for shard in shards}
    source = {"dataset": dataset.name, "root": str(dataset.root.resolve())}
    made_with = {"weights": _weights_source(settings), "batch_size": str(settings.batch_size)}
    made_by = versions()
    if before and not digests:  # then nothing was computed with these settings
        made_with, made_by = before.source, before.versions
    manifest, tables = seal(
        out,
        recipe,
        shards,
        rows=len(plan.names),
        views=plan.views,
        sha256=sha256,
        splits=_splits_by_row(dataset, plan.names),
        source=made_with | source,
        versions=made_by,
    )
    for path in {shard.path for shard in plan.superseded} - {shard.path for shard in shards}:
        path.unlink(missing_ok=True)
    absent = [(image.name, image.absent) for image in tables.images if image.absent]
    return ExtractReport(
        folder=out,
        fingerprint=recipe.fingerprint,
        images=len(plan.names),
        views=plan.views,
        views_computed=plan.views_to_do,
        bytes=sum(entry.bytes for entry in manifest.shards),
        absent=absent,
        stale_temporaries=stale,
    )


def _weights_source(settings: ExtractSettings) -> str:
    known = settings.weights in ("imagenet", "random")
    return settings.weights if known else str(Path(settings.weights).resolve())


def _present_manifest(out: Path) -> Manifest | None:
    """Return the manifest that is there, if it can be read."""
    try:
        return read_manifest(out)
    except (CacheIncomplete, CorruptFile):
        return None


def _digest_of_unlisted(path: Path) -> str:
    """Return the sha256 of a shard that no manifest lists; raise `CorruptFile` if its name is not its content's."""
    data = path.read_bytes()
    if xxhash.xxh3_64_hexdigest(data) != path.stem.partition("-")[2]:
        raise CorruptFile(f"{path}: the file is damaged. {WAY_OUT}")
    return hashlib.sha256(data).hexdigest()


def _splits_by_row(dataset: Dataset, names: list[str]) -> Splits:
    """Return the dataset's splits with its rows turned into the cache's."""
    row_of = {name: row for row, name in enumerate(names)}
    new_row = np.array([row_of[name] for name in dataset.names], np.int64)
    return {
        split: {part: Part(new_row[values.rows], values.scores) for part, values in parts.items()}
        for split, parts in dataset.splits.items()
    }


def versions() -> dict[str, str]:
    """Return the versions of what a feature may depend on, to be stored beside it."""
    packages = ("torch", "torchvision", "timm", "pillow", "h5py", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
