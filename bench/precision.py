"""What a faster precision or runtime costs: feature error against float32 by PyTorch, and test rho of heads, paired.

Each mode extracts the evaluation view of every image. A head of one seed is trained on the features of a mode and on
those of float32 by PyTorch, for every split; intervals are Student's t over seeds. A CPU without bfloat16 units
computes bf16 all the same, slowly: the error is then that of the arithmetic, the time says nothing.

Example: python -m bench.precision --dataset data/complexity --backbone efficientnet_lite0 --seeds 3
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from bench.encodings import error_of, mean_rho, paired

REFERENCE = ("fp32", "torch")
MODES = {
    "fp32-openvino": ("fp32", "openvino"),
    "fp32-compile": ("fp32", "compile"),
    "bf16-torch": ("bf16", "torch"),
    "bf16-openvino": ("bf16", "openvino"),
    "fp16-cuda": ("fp16", "torch"),
}


def extracted(dataset: Any, backbone: str, weights: str, mode: tuple[str, str], home: Path) -> Any:
    """Return the cache of the evaluation views that a mode gives."""
    from featcache.extraction.extract import extract
    from featcache.settings import ExtractSettings, ViewSettings
    from featcache.store.cache import open_cache

    precision, runtime = mode
    settings = ExtractSettings(
        backbone=backbone,
        weights=weights,
        views=ViewSettings(eval_view="squash"),
        precision=precision,
        runtime=runtime,
        device="cuda" if precision == "fp16" else "cpu",
    )
    folder = home / f"{precision}-{runtime}"
    extract(dataset, settings, folder)
    return open_cache(folder)


@click.command()
@click.option("--dataset", required=True, help="Folder in the LaMem layout.")
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--weights", default="imagenet", show_default=True)
@click.option("--mode", "modes", multiple=True, type=click.Choice(list(MODES)), help="[default: all but fp16-cuda]")
@click.option("--seeds", default=3, show_default=True, help="Heads of each kind and split; 0 measures errors alone.")
@click.option("--no-attention", is_flag=True, help="Train heads without attention, which takes a tenth of the time.")
def main(dataset: str, backbone: str, weights: str, modes: tuple[str, ...], seeds: int, no_attention: bool) -> None:
    """Print one JSON line: of each mode, feature error and the paired difference (mode - float32) of test rho."""
    from featcache.datasets.dataset import open_dataset

    chosen = modes or [name for name in MODES if name != "fp16-cuda"]
    found = open_dataset(dataset)
    result: dict[str, Any] = {"backbone": backbone, "weights": weights, "images": len(found.names), "modes": {}}
    with TemporaryDirectory() as folder:
        home = Path(folder)
        exact = extracted(found, backbone, weights, REFERENCE, home)
        attention = not no_attention
        reference = [
            mean_rho(exact, home / "runs" / "reference", seed=seed, attention=attention) for seed in range(seeds)
        ]
        for name in chosen:
            cache = extracted(found, backbone, weights, MODES[name], home)
            result["modes"][name] = error_of(exact, cache)
            if seeds:
                rho = [mean_rho(cache, home / "runs" / name, seed=seed, attention=attention) for seed in range(seeds)]
                differences = [b - a for a, b in zip(reference, rho, strict=True)]
                result["modes"][name] |= {"test_rho": round(float(np.mean(rho)), 4), **paired(differences)}
        if seeds:
            result |= {"attention": attention, "test_rho_fp32_torch": round(float(np.mean(reference)), 4)}
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
