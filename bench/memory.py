"""Does extract's peak memory grow with the number of images? Drawn images, each size in a process of its own.

Example: python -m bench.memory --backbone efficientnet_lite0 --augs 2
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click


def peak_megabytes(dataset: Path, out: Path, arguments: list[str]) -> float:
    """Return the peak resident memory of one extract in megabytes (10**6 bytes)."""
    code = (
        "import resource, sys, cli\n"
        "cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "extract", "--dataset", str(dataset), "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stderr.rsplit("peak", 1)[1]) * 1024 / 1e6  # Linux counts kibibytes


@click.command()
@click.option("--images", nargs=2, type=int, default=(100, 500), show_default=True)
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--weights", default="imagenet", show_default=True)
@click.option("--augs", default=2, show_default=True)
def main(images: tuple[int, int], backbone: str, weights: str, augs: int) -> None:
    """Print peak megabytes at both numbers of images, and their ratio."""
    from head.demo import make_dataset

    arguments = ["--backbone", backbone, "--weights", weights, "--augs", str(augs)]
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in images:
            dataset = make_dataset(Path(folder, f"images-{count}"), images=count, seed=0)
            peaks[count] = round(peak_megabytes(dataset, Path(folder, f"cache-{count}"), arguments), 1)
    few, many = (peaks[count] for count in images)
    click.echo(json.dumps({"backbone": backbone, "views": augs + 1, "peak_mb": peaks, "ratio": round(many / few, 3)}))


if __name__ == "__main__":
    main()
