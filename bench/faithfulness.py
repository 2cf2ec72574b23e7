"""Whether maps find what was planted: features in which one place, another in every image, holds the score.

Each image has 7 x 7 places of 8 channels of noise (normal, deviation 0.3). At one of them, drawn by lot, a marker of 3
is added to channel 0 and three times the score, drawn from 0 to 1, to channel 1. A head that attends must find it; a
ridge on mean and deviation over places learns it as well, and its occlusion maps must lead there.

Example: python -m bench.faithfulness --figures figures/planted
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from featcache.datasets.splits import Part
from featcache.images.identity import ImageRow
from featcache.images.views import Box, View
from featcache.recipe import Recipe
from featcache.settings import ViewSettings
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.shards.format import Block, Target, codecs_of_version_1
from featcache.store.shards.writer import ShardWriter
from featcache.store.writer import CacheWriter

SIDE, CHANNELS = 7, 8
NOISE, MARKER, SIGNAL = 0.3, 3.0, 3.0
LAYER = "planted"


def planted_cache(folder: Path, *, images: int, splits: int = 1, seed: int = 0) -> tuple[FeatureCache, Any]:
    """Return a cache of planted features, half of them to train on, a quarter each to select and to test, in folder.

    Beside it the place (images) at which each score is.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(0, NOISE, (images, SIDE**2, CHANNELS))
    place, score = rng.integers(0, SIDE**2, images), rng.uniform(0, 1, images)
    features[np.arange(images), place, :2] += np.stack([np.full(images, MARKER), SIGNAL * score], axis=1)
    recipe = _recipe()
    codecs = codecs_of_version_1(recipe)
    with CacheWriter(folder) as writer:
        block = Block((0, images), (0, 1))
        shard = ShardWriter(Target(recipe, codecs), block)
        for row, stored in enumerate(features.astype(np.float16)):
            shard.set_image(row, ImageRow(f"{row:05d}", f"{row:064x}", 32, 32), [View(Box(0, 0, 32, 32), False)])
            pooled = np.stack([stored.mean(axis=0, dtype=np.float32), stored.std(axis=0, dtype=np.float32)])
            for array, values in ((f"features/{LAYER}", stored), (f"pooled/{LAYER}", pooled)):
                shard.set_stored(array, row, 0, shard.encode(array, values))
        writer.commit(block, shard.finish())
        parts = {str(split): _parts(rng.permutation(images), score) for split in range(1, splits + 1)}
        source = {"dataset": "planted", "root": "nowhere", "weights": "random", "batch_size": "16"}
        writer.seal(
            recipe, rows=images, views=1, ratings={"": parts}, source=source, versions={"numpy": np.__version__}
        )
    return open_cache(folder), place


def found_by_occlusion(cache: FeatureCache, run: Any, place: Any) -> float:
    """Return in what share of test images the place whose emptying changes the score most is the planted one."""
    from head.explain.occlusion import occlusion_of

    rows = cache.splits[run.split]["test"].rows
    maps = np.concatenate(list(occlusion_of(cache, run, rows)))
    return float(np.mean(np.abs(maps).reshape(len(rows), -1).argmax(axis=1) == place[rows]))


@click.command()
@click.option("--images", default=800, show_default=True)
@click.option("--splits", default=3, show_default=True)
@click.option("--epochs", default=40, show_default=True, help="At most so many.")
@click.option("--seed", default=0, show_default=True, help="Of features, of splits and of training.")
@click.option("--figures", "out", type=click.Path(path_type=Path), help="Draw the curves there.")
def main(images: int, splits: int, epochs: int, seed: int, out: Path | None) -> None:
    """Print one JSON line: test rho of both heads, what the attention's maps tell, and what occlusion finds."""
    from head.evaluation.evaluate import evaluate
    from head.show.figures.faithfulness import draw_faithfulness, faithful_heads
    from head.show.figures.figures import save

    with TemporaryDirectory() as home:
        cache, place = planted_cache(Path(home, "cache"), images=images, splits=splits, seed=seed)
        runs = Path(home, "runs")
        ridge = trained(cache, runs, "ridge", seed=seed, head="ridge")
        trained(cache, runs, "attention", seed=seed, epochs=epochs, hidden_size=64, regressor_size=32, batch_size=32)
        evaluation = evaluate(cache, runs)
        told = faithful_heads(cache, evaluation)
        result = {
            "images": images,
            "splits": splits,
            "seed": seed,
            "test_rho": {one.name: round(float(one.rho().mean()), 4) for one in evaluation.summaries},
            "attention": told[0].as_json(),
            "found_by_occlusion_of_ridge": round(
                float(np.mean([found_by_occlusion(cache, run, place) for run in ridge])), 4
            ),
            "found_by_chance": round(1 / SIDE**2, 4),
        }
        if out is not None:
            save(draw_faithfulness(told, evaluation).drawings, out)
    click.echo(json.dumps(result))


def trained(cache: FeatureCache, runs: Path, name: str, **settings: Any) -> list[Any]:
    """Return a run of each split, of a head with such settings, under a name."""
    from head.settings import TrainSettings
    from head.training.job import TrainingJob
    from head.training.train import train

    wanted = TrainSettings(**settings)
    home = runs / cache.name / name
    return [train(TrainingJob(cache, split, wanted, home / f"split-{split}", name)) for split in cache.splits]


def _recipe() -> Recipe:
    views = ViewSettings()
    return Recipe(
        backbone="planted",
        weights="0" * 64,
        layers=((LAYER, SIDE, SIDE, CHANNELS),),
        precision="fp32",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        image_size=32,
        eval_view=views.eval_view,
        crop_scale=views.crop_scale,
        crop_ratio=views.crop_ratio,
        seed=0,
    )


def _parts(order: Any, score: Any) -> dict[str, Part]:
    """Return half of the images as train, a quarter as val and a quarter as test, by an order of them."""
    quarter = len(order) // 4
    cuts = {"train": order[: 2 * quarter], "val": order[2 * quarter : 3 * quarter], "test": order[3 * quarter :]}
    return {name: Part(np.sort(rows), score[np.sort(rows)]) for name, rows in cuts.items()}


if __name__ == "__main__":
    main()
