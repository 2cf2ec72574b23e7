"""How far the exported graphs are from torch on real images, and how fast they are: one JSON line.

Both graphs are made as export-head makes them, and run by onnxruntime; the reference is head and backbone by PyTorch in
float32 on a CPU, features rounded as a cache stores them. head.onnx is given the features that PyTorch computed.

Example: python -m bench.export --head runs/complexity/paper/split-1 --images data/complexity/images
"""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

_BATCH = 10


def compared(graph: Any, values: Any, wanted: list[Any]) -> dict[str, Any]:
    """Return the largest difference of each output over all images, in batches and one by one, and ms an image."""
    from head.share.onnx import largest_difference, load_graph

    run = load_graph(graph.data)
    result: dict[str, Any] = {"bytes": len(graph.data)}
    for batch in (_BATCH, 1):
        started = time.perf_counter()
        parts = [run(values[start : start + batch]) for start in range(0, len(values), batch)]
        result[f"ms_an_image_batch_{batch}"] = round(1000 * (time.perf_counter() - started) / len(values), 2)
        found = [np.concatenate(column) for column in zip(*parts, strict=True)]
        for name, a, b in zip(("score", "step_scores", "maps"), found, wanted, strict=False):
            result[f"{name}_batch_{batch}"] = float(f"{largest_difference(a, b):.3g}")
    return result


@click.command()
@click.option("--head", "folder", required=True, type=click.Path(path_type=Path), help="Folder of one run.")
@click.option("--images", required=True, type=click.Path(path_type=Path), help="Folder of images.")
@click.option("--weights", help="Weights file of the backbone, if it is not where extract found it.")
@click.option("--limit", default=100, show_default=True, help="Images, in order of name.")
def main(folder: Path, images: Path, weights: str | None, limit: int) -> None:
    """Print one JSON line: of each graph and output the largest absolute difference, on the scale of the data."""
    import torch

    from featcache.images.loading import load_image
    from head.prediction.folders import find_images
    from head.prediction.members import Member
    from head.runs.head_file import load_head
    from head.runs.run import read_run
    from head.share.export import networks_of
    from head.share.onnx import head_graph, model_graph, torch_outputs

    run = read_run(folder)
    head = load_head(run)
    members = [Member(run, head)]
    paths = find_images([images]).paths[:limit]
    pixels = np.concatenate([load_image(path, path.name, (0, 1), run.recipe).pixels for path in paths])
    extractor, backbone = networks_of(members, weights)
    maps = backbone(torch.from_numpy(pixels))
    features = maps[run.input.layers[0]] if run.imported else run.input.of_maps(maps, head.constants, run.recipe)
    wanted = torch_outputs(members, backbone, pixels)
    result = {
        "head": run.name,
        "backbone": run.recipe.backbone,
        "images": len(paths),
        "score_deviation": round(float(wanted[0].std()), 4),
        "head.onnx": compared(head_graph(members), features.numpy(), wanted),
        "model.onnx": compared(model_graph(members, extractor, backbone), pixels, wanted),
    }
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
