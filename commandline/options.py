"""What commands share: types and options, how they print, and how they tell progress."""

import contextlib
import itertools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from head.settings import OF_HEADS, PROTOCOLS, option_of, settings_of

if TYPE_CHECKING:
    from featcache.datasets.dataset import Dataset
    from featcache.store.cache import FeatureCache

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
_OF_DATASET = (
    click.option(
        "--path-column", default="", metavar="NAME", help="Column of a table's paths, if not found by its name."
    ),
    click.option(
        "--score-column",
        "score_columns",
        multiple=True,
        metavar="NAME",
        help="Column of a table's scores, likewise; repeated: several ratings, each a target.",
    ),
    click.option(
        "--drop-duplicates",
        is_flag=True,
        help="Take images out of train and val where a later part has their file, or a look-alike.",
    ),
)
CLUSTER = click.option(
    "--cluster", default="", metavar="ADDRESS", help="Dask scheduler, tcp://HOST:8786, whose workers do it."
)

CACHE = click.option("--cache", type=DIRECTORY, help="Cache to read.  [default: the only one in cache/]")
TARGET = click.option("--target", metavar="NAME", help="What was rated, where the cache has several ratings.")
RUNS = click.option(
    "--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Runs, or a folder of some."
)
SPLITS = click.option("--split", default="all", show_default=True, metavar="K,...|all", help="Splits to score.")
PART = click.option("--part", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
AGAINST = click.option(
    "--against",
    metavar="NAME",
    help="Row that others are compared with.  [default: of those with most splits the one of best validation rho]",
)
ROOT = click.option(
    "--root",
    type=DIRECTORY,
    metavar="DIR",
    help="The dataset's folder, or that of a CSV's paths.  [default: where extract found it]",
)
WEIGHTS = click.option(
    "--weights",
    type=FILE,
    callback=lambda context, option, path: path and str(path),
    help="Weights file of the backbone, if it is not where extract found it.",
)
RUN = click.option(
    "--run", "--head", "run", required=True, metavar="RUN",
    help="Folder of one run, RUNS/.../split-K, or of one head's splits and seeds, RUNS/.../NAME, whose mean is given; "
    "or hf://OWNER/NAME.",
)  # fmt: skip


def open_rated(folder: Path | None, target: str | None) -> "FeatureCache":
    """Return the cache in folder, or the only one, with the splits of a target; the only one if there is but one."""
    from featcache.store.cache import find_cache, open_cache

    return open_cache(find_cache(folder)).of_target(target)


def open_targets(folder: Path | None, target: str | None) -> "list[FeatureCache]":
    """Return the same cache for the target named, or for each of its targets; as it is where it has none."""
    from featcache.store.cache import find_cache, open_cache

    cache = open_cache(find_cache(folder))
    return [cache.of_target(one) for one in ([target] if target else cache.targets or [None])]


def show(result: Any) -> None:
    """Print text as it is, anything else as JSON."""
    click.echo(result if isinstance(result, str) else json.dumps(result, indent=1, allow_nan=False))


def show_report(result: Any, as_json: bool) -> None:
    """Print a result, and on stderr what to know of it."""
    show(result.as_json() if as_json else result.as_text())
    tell(*result.warnings())


def tell(*messages: str) -> None:
    """Print what is no result, on stderr."""
    for message in messages:
        click.echo(message, err=True)


def progress_bar() -> AbstractContextManager[Any]:
    """Return what tells progress on the terminal until its block ends."""
    from featcache.base.progress import TerminalProgress

    return contextlib.closing(TerminalProgress())


class Several(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Values with commas between, each of one type: a tuple."""

    name = "list"

    def __init__(self, one: "click.ParamType[Any]", metavar: str) -> None:
        self._one, self._metavar = one, metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        metavar = self._metavar or self._one.get_metavar(param, ctx) or self._one.name.upper()
        return f"{metavar},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        parts = [part.strip() for part in value.split(",")]
        if parts == [""]:
            self.fail("nothing is named", param, ctx)
        if not all(parts):
            self.fail(f"{value!r} has a comma with nothing before or after it", param, ctx)
        return tuple(self._one.convert(part, param, ctx) for part in parts)


class NumberOrAuto(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A whole number, or auto, which is None."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "auto":
            return None
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither auto nor a whole number", param, ctx)


def of_dataset(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of how `open_dataset` reads: columns of a table's paths and scores, and --drop-duplicates."""
    for option in reversed(_OF_DATASET):
        command = option(command)
    return command


def tell_of_dataset(dataset: "Dataset") -> None:
    """Print what to know of a dataset that was read, and what of it was not."""
    tell(*dataset.notes)
    if dataset.ignored:
        tell(f"{'columns' if dataset.root is None else 'not split files'}, ignored: {', '.join(dataset.ignored)}")


def layer_option(text: str = "") -> Decorator:
    """Return the option `--layer` as the argument layers: names with commas between, repeated, or both."""
    return click.option(
        "--layer",
        "layers",
        multiple=True,
        type=Several(click.STRING, "NAME"),
        callback=lambda context, option, given: tuple(itertools.chain.from_iterable(given)),
        help=text,
    )


def setting(
    field: str, kind: "click.ParamType[Any]", text: str, *, metavar: str = "", several: bool = True
) -> Decorator:
    """Return the option of a training setting, whose help ends with the default: the paper's, and those that differ."""
    paper = getattr(settings_of(), field)
    named = [(name, getattr(settings_of(name), field)) for name in PROTOCOLS]
    named += [(name, getattr(settings_of(head=name), field)) for name in OF_HEADS]
    different = [f"; {name}: {value}" for name, value in named if value not in (paper, name)]
    usual = "on" if paper is True else paper
    help_text = f"{text}  [default: {usual}{''.join(different)}]"
    return click.option(option_of(field), field, type=Several(kind, metavar) if several else kind, help=help_text)
