"""The command line: parse, call one library function, print. Nothing heavy is imported before a command runs."""

import contextlib
import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from featcache import choices
from featcache.errors import FeatcacheError, InvalidSettings, ResourceError, StorageError
from head.settings import HEADS, POOLED, PRECISIONS, RECIPES, SELECTIONS, option_of, settings_of

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
_CLUSTER = click.option(
    "--cluster", default="", metavar="ADDRESS", help="Dask scheduler, tcp://HOST:8786, whose workers do it."
)


class _Commands(click.Group):
    """Turns this project's errors into one message and the exit status of their class."""

    def invoke(self, ctx: click.Context) -> Any:
        # Threads that spin while they wait stop a busy machine: with one of two cores taken, an epoch took 5.2 s
        # instead of 0.88 s. Read by OpenMP when torch is imported, so it is set before.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with _reported_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _reported_errors() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", 130)
    except FeatcacheError as error:
        _fail(f"error: {error}", error.exit_code)
    except MemoryError:
        _fail("error: out of memory; use a smaller --batch-size", ResourceError.exit_code)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output has gone; click ends quietly
            raise
        _fail(f"error: {error}", StorageError.exit_code)
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, exit_code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # the exit status is said even where the message cannot be
        _tell(message)
    raise SystemExit(exit_code)


def _raise_terminated(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    _fail("terminated; run the same command again to go on", 128 + number)


def _print(result: Any) -> None:
    """Print text as it is, anything else as JSON."""
    click.echo(result if isinstance(result, str) else json.dumps(result, indent=1, allow_nan=False))


def _tell(*messages: str) -> None:
    """Print what is no result, on stderr."""
    for message in messages:
        click.echo(message, err=True)


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    from featcache.progress import TerminalProgress

    progress = TerminalProgress()
    try:
        yield progress
    finally:
        progress.close()


class _Several(click.ParamType):
    """Values with commas between, each of one type: a tuple."""

    name = "list"

    def __init__(self, one: click.ParamType, metavar: str) -> None:
        self._one, self._metavar = one, metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        metavar = self._metavar or self._one.get_metavar(param, ctx) or self._one.name.upper()
        return f"{metavar},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            self.fail(f"{value!r} has a comma with nothing before or after it", param, ctx)
        return tuple(self._one.convert(part, param, ctx) for part in parts)


def _setting(field: str, kind: click.ParamType, text: str, *, metavar: str = "", several: bool = True) -> Any:
    """Return the option of a training setting, whose help ends with the default: the paper's, and those that differ."""
    paper, *others = (getattr(settings_of(recipe), field) for recipe in RECIPES)
    named = zip(list(RECIPES)[1:], others, strict=True)
    different = [f"; {name}: {value}" for name, value in named if value not in (paper, name)]
    usual = "on" if paper is True else paper
    help_text = f"{text}  [default: {usual}{''.join(different)}]"
    return click.option(option_of(field), field, type=_Several(kind, metavar) if several else kind, help=help_text)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="amnet-featcache", prog_name="amnet")
def main() -> None:
    """Predict human judgements of images, such as memorability, from frozen features.

    Extract features once (extract), fit attention heads to them in minutes (train-head), evaluate them in
    batch (score-cache), and use them on new images (predict). Exit status: 0 done, 1 a bug, 2 usage,
    3 bad input data, 4 cache incomplete, 5 corrupt file, 6 fingerprint or version mismatch, 7 locked,
    8 storage, 9 memory or device, 10 hostile file refused, 130 or 143 interrupted.
    """


@main.command()
@click.option("--dataset", required=True, metavar="NAME_OR_DIR",
              help="lamem, sun, or a folder with images/ and splits/.")  # fmt: skip
@click.option("--root", type=DIRECTORY, help="Folder with images/ and splits/ of lamem or sun.  [default: data/NAME]")
@click.option("--augs", default=0, show_default=True, metavar="K", help="Augmented views per image.")
@click.option("--backbone", default="resnet50", show_default=True, help="resnet50, efficientnet_lite0, timm:NAME, ...")
@click.option("--layer", "layers", multiple=True, help="Map to keep; may be repeated.  [default: last of stride 16]")
@click.option("--image-size", default=224, show_default=True, help="Side of a view in pixels.")
@click.option("--weights", default="imagenet", show_default=True, help="imagenet, a weights file, or random.")
@click.option("--recipe", default="paper", show_default=True, type=click.Choice(choices.RECIPES),
              help="Views as in the paper, or as in its authors' code, which squashes images first.")  # fmt: skip
@click.option("--eval-view", type=click.Choice(choices.EVAL_VIEWS),
              help="View 0: central square, or the whole image squashed; wins over --recipe.  "
              "[default: center; squash if published]")  # fmt: skip
@click.option("--crop-scale", nargs=2, type=float, default=(0.08, 1.0), show_default=True,
              help="Range of area of an augmented crop, as fractions.")  # fmt: skip
@click.option("--precision", default="auto", show_default=True, type=click.Choice(choices.PRECISIONS),
              help="Arithmetic of the backbone; auto is bf16 or fp16 where the hardware has it.")  # fmt: skip
@click.option("--runtime", default="auto", show_default=True, type=click.Choice(choices.RUNTIMES),
              help="What runs the backbone; auto is the fastest there is for so many views.")  # fmt: skip
@click.option("--encoding", default="float16", show_default=True, type=click.Choice(choices.ENCODINGS),
              help="How features are stored; uint8 is half the size and not exact.")  # fmt: skip
@click.option("--calibrate-like", default="", metavar="DIR",
              help="Take uint8's constants from that cache, to merge later.")  # fmt: skip
@_DEVICE
@click.option("--batch-size", default=16, show_default=True, help="Views per call of the network.")
@click.option("--seed", default=0, show_default=True, help="Decides the augmented views, and random weights.")
@click.option("--out", type=DIRECTORY, help="Folder of the cache.  [default: cache/NAME]")
@click.option("--on-bad-image", default="skip", show_default=True, type=click.Choice(choices.BAD_IMAGE_POLICIES),
              help="Leave a bad image out and go on, or stop at the first.")  # fmt: skip
@click.option("--jobs", default=1, show_default=True, metavar="J",
              help="Processes here, one a GPU if there are several.")  # fmt: skip
@_CLUSTER
@click.option("--force", is_flag=True,
              help="Start although the disk seems too small; it may stop half-way, with nothing lost.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print images, views, bytes and time, and write nothing.")
@_JSON
def extract(dataset: str, root: Path | None, out: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Fill a cache with the features of a dataset; run it again to resume, or to add views and images.

    Example: amnet extract --dataset lamem --root data/lamem --augs 10
    """
    from featcache.dataset import open_dataset
    from featcache.jobs import Workers
    from featcache.settings import ExtractSettings
    from featcache.views import view_recipe_of

    workers = Workers(options.pop("jobs"), options.pop("cluster"))
    views = view_recipe_of(
        options.pop("recipe"),
        image_size=options.pop("image_size"),
        eval_view=options.pop("eval_view"),
        crop_scale=options.pop("crop_scale"),
        seed=options.pop("seed"),
    )
    settings = ExtractSettings(views=views, **options)
    found = open_dataset(dataset, root=root)
    if found.ignored:
        _tell(f"not split files, ignored: {', '.join(found.ignored)}")
    folder = out or Path("cache") / found.name
    if dry_run:
        _dry_run(found, settings, folder, as_json)
        if workers != Workers():
            _tell("the time is that of this process alone; --jobs and --cluster share it out")
    else:
        _extract(found, settings, folder, workers, as_json)


def _dry_run(dataset: Any, settings: Any, folder: Path, as_json: bool) -> None:
    from featcache.forecast import describe_forecast, forecast

    result = forecast(dataset, settings, folder)
    _print(result.as_json() if as_json else describe_forecast(result))
    if result.missing_weights:
        _tell(f"warning: extract itself would stop: {result.missing_weights}")


def _extract(dataset: Any, settings: Any, folder: Path, workers: Any, as_json: bool) -> None:
    from featcache.extract import extract as run_extract
    from featcache.report import describe_absent, describe_report

    with _progress() as progress:
        report = run_extract(dataset, settings, folder, workers=workers, on_progress=progress)
    if report.stale_temporaries:
        _tell(f"removed {report.stale_temporaries} temporary files of a run that was killed")
    _print(report.as_json() if as_json else describe_report(report))
    if report.absent:
        _tell(describe_absent(report))
        raise SystemExit(3)


@main.command("train-head")
@click.option("--split", required=True, metavar="K,...|all", help="Splits to train on.")
@click.option("--cache", type=DIRECTORY, help="Cache to read.  [default: the only one in cache/]")
@_setting("recipe", click.Choice(tuple(RECIPES)), "Eq. 3-15 of the paper, or its authors' code; decides defaults.")
@_setting("head", click.Choice(HEADS), "The recipe's head, or a baseline on pooled features.")
@_setting("attention", click.BOOL, "With off every position counts the same.", metavar="on|off")
@click.option("--no-attention", is_flag=True, help="The same as --attention off (Eq. 9).")
@_setting("pooling", click.Choice(POOLED), "What a baseline reads.")
@click.option("--layer", "layers", multiple=True,
              help="Layer to read, or all; several are joined.  [default: the cache's last]")  # fmt: skip
@_setting("steps", click.INT, "Looks at the image, T.")
@_setting("hidden_size", click.INT, "Size of the LSTM's state.")
@_setting("epochs", click.INT, "At most so many.", several=False)
@_setting("patience", click.INT, "Epochs without a better rho before stopping.", several=False)
@_setting("batch_size", click.INT, "Images a step.")
@_setting("lr", click.FLOAT, "Adam's learning rate.")
@_setting("weight_decay", click.FLOAT, "L2 of all weights (the paper's SUN: 1e-4).")
@_setting("attention_weight", click.FLOAT, "Weight of Eq. 14.")
@_setting("dropout", click.FLOAT, "Probability that an activation is dropped.")
@_setting("precision", click.Choice(PRECISIONS), "Arithmetic of products; auto: bf16 where hardware has it.")
@_setting("seed", click.INT, "Decides weights, order, dropout and views.")
@_setting("select_on", click.Choice(SELECTIONS), "Part that picks the epoch; test is optimistic.", several=False)
@_setting("val_fraction", click.FLOAT, "Share of train held out if there is no val.", several=False)
@click.option("--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Home of runs.")
@click.option("--name", help="Name of the run.  [default: its recipe or baseline, and what is not the default]")
@click.option("--resume/--no-resume", default=True, help="Go on with an unfinished run, or start over.")
@click.option("--jobs", default=1, show_default=True, metavar="J", help="Runs at once, each in a process of its own.")
@_CLUSTER
@_DEVICE
@click.option("--tensorboard", type=DIRECTORY, metavar="DIR", help="Write each epoch's numbers for TensorBoard there.")
@_JSON
def train_head(split: str, cache: Path | None, runs: Path, name: str | None, as_json: bool, **options: Any) -> None:
    """Fit heads to splits of a cache; one run a split in RUNS/CACHE/NAME/split-K/.

    Options with ,... take several values, with commas between: every combination is trained, once, under a name
    that says what is not the default.

    \b
    Example: amnet train-head --split all --cache cache/lamem
             amnet train-head --split all --cache cache/lamem --attention on,off --steps 2,3,4,5,6
    """
    from featcache.cache import find_cache, open_cache
    from featcache.errors import join_errors
    from featcache.jobs import Workers
    from head.grid import given_values, grid
    from head.history import check_tensorboard
    from head.runs import Run
    from head.table import describe_runs, runs_as_json
    from head.training_jobs import jobs_of, train_all

    workers = Workers(options.pop("jobs"), options.pop("cluster"))
    how = {"resume": options.pop("resume"), "device": options.pop("device"), "events": options.pop("tensorboard")}
    points = grid(given_values(**options), name=name)
    if how["events"] is not None:
        check_tensorboard()
    planned = jobs_of(open_cache(find_cache(cache)), points, split, runs=runs, **how)
    with _progress() as progress:
        outcomes = train_all(planned, workers, on_progress=progress)
    done = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, FeatcacheError)]
    if done:
        _print(runs_as_json(done) if as_json else describe_runs(done))
    if not as_json and (absent := max((run.config["absent_images"] for run in done), default=0)):
        _tell(f"{absent} images without features were left out")
    if errors:
        title = f"{len(errors)} of {len(outcomes)} runs were not trained:"
        raise join_errors(errors, title, "Run the same command again for these alone; others are done.")


@main.command("score-cache")
@click.option("--cache", type=DIRECTORY, help="Cache to read.  [default: the only one in cache/]")
@click.option("--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Runs, or a folder of some.")
@click.option("--split", default="all", show_default=True, metavar="K,...|all", help="Splits to score.")
@click.option("--part", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--views", default="eval", show_default=True, type=click.Choice(["eval", "all"]),
              help="Evaluation view, or the mean over all views.")  # fmt: skip
@click.option("--against", metavar="NAME",
              help="Row that others are compared with.  [default: of those with most splits the one of best "
              "validation rho]")  # fmt: skip
@_JSON
def score_cache(
    cache: Path | None, runs: Path, split: str, part: str, views: str, against: str | None, as_json: bool
) -> None:
    """Score heads on the cache they belong to: rho and MSE of each run, a summary over splits and seeds, and paired
    differences between heads.

    Example: amnet score-cache --cache cache/lamem
    """
    from featcache.cache import find_cache, open_cache
    from featcache.errors import join_errors
    from head.evaluation import evaluate
    from head.table import format_evaluation

    opened = open_cache(find_cache(cache))
    found = evaluate(opened, runs, splits=split, part=part, views=views, against=against)
    if found.scored:
        _print(found.as_json() if as_json else format_evaluation(found))
    _tell(*found.warnings())
    if found.errors:
        raise join_errors(found.errors, "not all could be scored and compared:", "Others are not affected.")


@main.command()
@click.option("--head", "run", required=True, type=DIRECTORY, metavar="RUN",
              help="Folder of one run, RUNS/.../split-K.")  # fmt: skip
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", type=FILE, help="Weights file of the backbone, if it is not where extract found it.")
@_DEVICE
@click.option("--csv", "csv_path", type=FILE, help="Write the table there as CSV.")
@click.option("--maps", "map_folder", type=DIRECTORY,
              help="Write attention maps there, (T, H, W) in a .npy an image; uniform without attention.")  # fmt: skip
@_JSON
def predict(
    run: Path,
    images: tuple[Path, ...],
    weights: Path | None,
    device: str,
    csv_path: Path | None,
    map_folder: Path | None,
    as_json: bool,
) -> None:
    """Score image files and folders with a trained head.

    Example: amnet predict --head runs/lamem/paper/split-1 photos/ --csv scores.csv
    """
    from featcache.files import make_folder
    from head.maps import map_files
    from head.predict import list_images, load_predictor
    from head.table import format_predictions, prediction_warnings, write_predictions

    paths = list_images(images)
    predictor = load_predictor(run, weights=str(weights) if weights else None, device=device)
    if predictor.run.imported:
        _tell("warning: which images an imported head was trained on is unknown; its scores of those say nothing")
    files = map_files(map_folder, paths, images) if map_folder else []
    if csv_path is not None:
        make_folder(csv_path.parent)  # so that a place that takes no file is known before anything is scored
    with _progress() as progress:
        results = predictor.predict(paths, map_files=files, on_progress=progress)
    if csv_path is not None:
        write_predictions(csv_path, results)
    if as_json or csv_path is None:
        _print([result.as_json() for result in results] if as_json else format_predictions(results))
    _tell(*prediction_warnings(results))
    if any(result.problem for result in results):
        raise SystemExit(3)


@main.command("import-head")
@click.argument("file", type=EXISTING_FILE)
@click.option("--out", required=True, type=DIRECTORY, metavar="RUN", help="Folder of the new run.")
@click.option("--name", default="imported", show_default=True, help="Name of the run.")
@click.option("--split", default="", metavar="K", help="Split whose train part it was trained on, for score-cache.")
@click.option("--steps", default=3, show_default=True, metavar="T", help="Looks at the image; the file does not tell.")
@_JSON
def import_head(file: Path, out: Path, name: str, split: str, steps: int, as_json: bool) -> None:
    """Make a run of a checkpoint of the authors' published models, its own backbone included.

    Nothing in the file is executed. To score it on a cache, extract one with --weights FILE --recipe published
    --precision fp32.

    Example: amnet import-head split1.pkl --out runs/published/split-1 --split 1
    """
    from head.import_head import import_head as run_import
    from head.table import describe_import, format_names

    imported = run_import(file, out, name=name, split=split, steps=steps)
    if imported.unknown_keys:
        keys = format_names(imported.unknown_keys)
        _tell(f"warning: {file} holds keys that are not of such a model, ignored: {keys}")
    _print(imported.as_json() if as_json else describe_import(imported))


@main.command("cache-info")
@click.option("--cache", type=DIRECTORY, help="Cache to describe.  [default: the only one in cache/]")
@_JSON
def cache_info(cache: Path | None, as_json: bool) -> None:
    """Say what a cache holds: images, views, layers, splits, recipe, and what is missing.

    Example: amnet cache-info --cache cache/lamem
    """
    from featcache.cache import find_cache
    from featcache.info import describe_cache, format_info

    info = describe_cache(find_cache(cache))
    _print(info if as_json else format_info(info))


@main.command("merge-caches")
@click.argument("out", type=DIRECTORY)
@click.argument("inputs", nargs=-1, required=True, type=EXISTING_DIRECTORY)
@_JSON
def merge_caches(out: Path, inputs: tuple[Path, ...], as_json: bool) -> None:
    """Join caches of one recipe, extracted on different machines, into the new cache OUT.

    Parts of one extraction keep their rows; other images follow one another. Splits are joined by name.

    Example: amnet merge-caches cache/all cache/machine-1 cache/machine-2
    """
    from featcache.merge import merge_caches as run_merge

    with _progress() as progress:
        report = run_merge(out, inputs, on_progress=progress)
    text = f"{out}: {report.images:,} images x {report.views} views in {report.shards} shards"
    _print(report.as_json() if as_json else text)
    if not report.complete:
        _tell(f"inputs were not complete; run extract with --out {out} to go on")
        raise SystemExit(4)


@main.command("verify-cache")
@click.option("--cache", type=DIRECTORY, help="Cache to check.  [default: the only one in cache/]")
@click.option("--repair", is_flag=True, help="Extract damaged and missing rows again; sound shards stay as they are.")
@click.option("--root", type=EXISTING_DIRECTORY, help="Folder with images/, if it is not where extract found it.")
@click.option("--weights", type=EXISTING_FILE, help="Weights file of the backbone, if not where extract found it.")
@_DEVICE
@_JSON
def verify_cache(
    cache: Path | None, repair: bool, root: Path | None, weights: Path | None, device: str, as_json: bool
) -> None:
    """Check every file of a cache against the manifest and every stored chunk against its digest.

    Exit status 5 says that damage was found and not repaired, 4 that the cache is sound but not complete.

    Example: amnet verify-cache --cache cache/lamem --repair
    """
    from featcache import verify
    from featcache.cache import find_cache

    if not repair and (root or weights or device != "auto"):
        raise InvalidSettings("--root, --weights and --device go with --repair")
    folder = find_cache(cache)
    with _progress() as progress:
        if repair:
            from featcache.repair import format_repair, repair_cache

            mended = repair_cache(
                folder, root=root, weights=str(weights) if weights else None, device=device, on_progress=progress
            )
            report, text, document = mended.found, format_repair(mended), mended.as_json()
            damaged = bool(mended.unrepaired)
        else:
            report = verify.verify_cache(folder, on_progress=progress)
            text, document, damaged = verify.format_report(report), report.as_json(), not report.ok
    _print(document if as_json else text)
    _tell(*(f"warning: {warning}" for warning in report.warnings))
    if damaged:
        raise SystemExit(5)
    if not report.complete:
        _tell("the cache is not complete; run the same extract or merge-caches command again")
        raise SystemExit(4)


@main.command()
@click.option("--out", type=DIRECTORY, default=Path("demo"), show_default=True, help="Folder for everything it makes.")
@click.option("--images", default=360, show_default=True, help="Images to draw.")
@click.option("--augs", default=4, show_default=True, metavar="K", help="Augmented views per image.")
@click.option("--seed", default=0, show_default=True)
@_JSON
def demo(out: Path, images: int, augs: int, seed: int, as_json: bool) -> None:
    """Draw images with a score to learn, then extract, train and score, as one would with real ones.

    Example: amnet demo
    """
    from head.demo import next_steps, run_demo
    from head.rows import rows_of
    from head.table import format_table

    with _progress() as progress:
        scored = run_demo(out, images=images, augs=augs, seed=seed, on_progress=progress)
    if as_json:
        rows = [row.as_json() for row in rows_of(scored)]
        _print({"runs": [result.as_json() for result in scored], "summary": rows})
    else:
        _print(f"{format_table(scored)}\n\n{next_steps(out, scored[0].run.folder)}")


if __name__ == "__main__":
    main()
