"""The command of the paper: paper-table."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from commandline import options
from commandline.options import DIRECTORY, progress_bar, show, tell
from featcache.settings import EVAL_VIEWS


@click.command("paper-table")
@click.option("--dataset", required=True, metavar="NAME_OR_PATH",
              help="sun, lamem, a folder with images/ and splits/, or FILE.csv, as extract takes them.")  # fmt: skip
@options.of_dataset
@click.option("--root", type=DIRECTORY, help="Where its images are, as extract takes it.")
@click.option("--rows", default="", metavar="ROW,...|all",
              help="Rows to make.  [default: all but memnet-tuned and memonet-tuned]")  # fmt: skip
@click.option("--backbone", default="resnet50", show_default=True, help="AMNet's; the paper's is resnet50.")
@click.option("--weights", multiple=True, metavar="[NETWORK=]SOURCE",
              help="imagenet, a file or random, of alexnet, googlenet or the backbone, or of all; may be repeated.  "
              "[default: imagenet]")  # fmt: skip
@click.option("--augs", default=10, show_default=True, metavar="K", help="Augmented views per image for AMNet.")
@click.option("--eval-view", type=click.Choice(EVAL_VIEWS),
              help="View 0 of every cache.  [default: center]")  # fmt: skip
@click.option("--split", default="all", show_default=True, metavar="K,...|all", help="Splits to train and test on.")
@click.option("--seed", default=0, show_default=True, help="Decides weights, order, dropout and views of heads.")
@click.option("--caches", type=DIRECTORY, default=Path("cache"), show_default=True,
              help="Home of the caches, DATASET-alexnet and so on.")  # fmt: skip
@click.option("--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Home of runs.")
@click.option("--jobs", default=1, show_default=True, metavar="J", help="Processes here.")
@options.CLUSTER
@options.DEVICE
@options.JSON
def paper_table(
    dataset: str, root: Path | None, caches: Path, runs: Path, jobs: int, cluster: str, as_json: bool, **given: Any
) -> None:
    """Make the tables of the paper on a dataset: every system's features extracted, its head trained and scored,
    beside what the paper prints.

    Run again it makes what is missing, and prints the table. What each row is, exact, after its authors or a stand-in,
    stands below the table and in docs/paper.md.

    \b
    Example: amnet paper-table --dataset sun
             amnet paper-table --dataset ratings.csv --rows isola,memonet,amnet
    """
    from featcache.base.errors import join_errors
    from featcache.base.jobs import Workers
    from featcache.datasets.dataset import open_dataset
    from head.paper.making import Making, paper_tables

    rows = tuple(filter(None, (row.strip() for row in given.pop("rows").split(","))))
    columns = {name: given.pop(name) for name in ("path_column", "score_columns", "drop_duplicates")}
    how = Making(rows=rows, weights=_sources(given.pop("weights")), **given)
    found = open_dataset(dataset, root=root, **columns)
    how.systems(found.name)
    options.tell_of_dataset(found)
    with progress_bar() as progress:
        tables, extracted = paper_tables(
            found, how, caches=caches, runs=runs, workers=Workers(jobs, cluster), on_progress=progress
        )
    show([table.as_json() for table in tables] if as_json else "\n\n".join(table.as_text() for table in tables))
    warnings = [*(report.warnings() for report in extracted), *(table.warnings() for table in tables)]
    tell(*dict.fromkeys(itertools.chain.from_iterable(warnings)))
    if errors := [error for table in tables for error in table.errors]:
        title = f"{len(errors)} runs are missing in the table:"
        raise join_errors(errors, title, "Run the same command again for these alone; others are done.")
    if absent := [report.count() for report in extracted if report.absent]:
        tell(absent[0])
        raise SystemExit(3)


def _sources(given: Sequence[str]) -> dict[str, str]:
    """Return where the weights of each network that is named come from, under '' those of all others."""
    found = {}
    for one in given:
        network, named, source = one.partition("=")
        if named and "/" not in network:  # a path may hold a = of its own
            found[network] = source
        else:
            found[""] = one
    return found
