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

from featcache.errors import FeatcacheError, InvalidSettings, ResourceError, StorageError
from head.settings import HEADS, POOLED, PRECISIONS, RECIPES, settings_of

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


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
        click.echo(message, err=True)
    raise SystemExit(exit_code)


def _raise_terminated(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    _fail("terminated; run the same command again to go on", 128 + number)


def _print(result: Any) -> None:
    """Print text as it is, anything else as JSON."""
    click.echo(result if isinstance(result, str) else json.dumps(result, indent=1, allow_nan=False))


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
        return tuple(self._one.convert(part.strip(), param, ctx) for part in value.split(","))


def _several(one: click.ParamType, metavar: str = "") -> _Several:
    return _Several(one, metavar)


def _usual(field: str) -> str:
    """Return the default of a training setting as help says it: the paper's, and those of recipes that differ."""
    paper, *others = (getattr(settings_of(recipe), field) for recipe in RECIPES)
    different = [f"; {name}: {value}" for name, value in zip(list(RECIPES)[1:], others, strict=True) if value != paper]
    return f"[default: {paper}{''.join(different)}]"


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
@click.option(
    "--dataset", required=True, metavar="NAME_OR_DIR", help="lamem, sun, or a folder with images/ and splits/."
)
@click.option("--root", type=DIRECTORY, help="Folder with images/ and splits/ of lamem or sun.  [default: data/NAME]")
@click.option("--augs", default=0, show_default=True, metavar="K", help="Augmented views per image.")
@click.option("--backbone", default="resnet50", show_default=True, help="resnet50, efficientnet_lite0, timm:NAME, ...")
@click.option("--layer", "layers", multiple=True, help="Map to keep; may be repeated.  [default: last of stride 16]")
@click.option("--image-size", default=224, show_default=True, help="Side of a view in pixels.")
@click.option("--weights", default="imagenet", show_default=True, help="imagenet, a weights file, or random.")
@click.option("--recipe", default="paper", show_default=True, type=click.Choice(["paper", "published"]),
              help="Views as in the paper, or as in its authors' code, which squashes images first.")  # fmt: skip
@click.option("--eval-view", type=click.Choice(["center", "squash"]),
              help="View 0: central square, or the whole image squashed; wins over --recipe.  "
              "[default: center; squash if published]")  # fmt: skip
@click.option("--crop-scale", nargs=2, type=float, default=(0.08, 1.0), show_default=True,
              help="Range of area of an augmented crop, as fractions.")  # fmt: skip
@click.option("--precision", default="auto", show_default=True, type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
              help="Arithmetic of the backbone; auto is bf16 or fp16 where the hardware has it.")  # fmt: skip
@click.option("--runtime", default="auto", show_default=True,
              type=click.Choice(["auto", "torch", "compile", "openvino"]),
              help="What runs the backbone; auto is the fastest there is for so many views.")  # fmt: skip
@click.option("--encoding", default="float16", show_default=True, type=click.Choice(["float16", "uint8"]),
              help="How features are stored; uint8 is half the size and not exact.")  # fmt: skip
@click.option(
    "--calibrate-like", default="", metavar="DIR", help="Take uint8's constants from that cache, to merge later."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--batch-size", default=16, show_default=True, help="Views per call of the network.")
@click.option("--seed", default=0, show_default=True, help="Decides the augmented views, and random weights.")
@click.option("--out", type=DIRECTORY, help="Folder of the cache.  [default: cache/NAME]")
@click.option("--on-bad-image", default="skip", show_default=True, type=click.Choice(["skip", "stop"]),
              help="Leave a bad image out and go on, or stop at the first.")  # fmt: skip
@click.option(
    "--jobs", default=1, show_default=True, metavar="J", help="Processes here, one a GPU if there are several."
)
@click.option("--cluster", default="", metavar="ADDRESS", help="Dask scheduler, tcp://HOST:8786, whose workers do it.")
@click.option(
    "--force", is_flag=True, help="Start although the disk seems too small; it may stop half-way, with nothing lost."
)
@click.option("--dry-run", is_flag=True, help="Print images, views, bytes and time, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
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
        click.echo(f"not split files, ignored: {', '.join(found.ignored)}", err=True)
    folder = out or Path("cache") / found.name
    if dry_run:
        _dry_run(found, settings, folder, as_json)
        if workers != Workers():
            click.echo("the time is that of this process alone; --jobs and --cluster share it out", err=True)
    else:
        _extract(found, settings, folder, workers, as_json)


def _dry_run(dataset: Any, settings: Any, folder: Path, as_json: bool) -> None:
    from featcache.forecast import describe_forecast, forecast

    result = forecast(dataset, settings, folder)
    if as_json:
        _print(result.as_json())
    else:
        click.echo(describe_forecast(result))
    if result.missing_weights:
        click.echo(f"warning: extract itself would stop: {result.missing_weights}", err=True)


def _extract(dataset: Any, settings: Any, folder: Path, workers: Any, as_json: bool) -> None:
    from featcache.errors import list_problems
    from featcache.extract import extract as run_extract
    from featcache.stages import describe_shares

    with _progress() as progress:
        report = run_extract(dataset, settings, folder, workers=workers, on_progress=progress)
    if report.stale_temporaries:
        click.echo(f"removed {report.stale_temporaries} temporary files of a run that was killed", err=True)
    if as_json:
        _print(report.as_json())
    else:
        click.echo(
            f"{report.folder}: {report.images:,} images x {report.views} views, {report.bytes / 1e9:,.2f} GB, "
            f"{report.views_computed:,} views computed now; fingerprint {report.fingerprint[:16]}"
        )
        if report.views_computed:
            shares = describe_shares(report.stages)
            click.echo(f"{report.precision} by {report.runtime}; busy time: {shares}; bottleneck: {report.bottleneck}")
    if report.absent:
        way_out = f"They are listed in {report.folder / 'failures.csv'}; mend them and run the same command again."
        problems = [f"{name}: {reason}" for name, reason in report.absent]
        click.echo(list_problems(f"{len(problems)} images were left out:", problems, way_out), err=True)
        raise SystemExit(3)


@main.command("train-head")
@click.option("--split", required=True, metavar="K,...|all", help="Splits to train on.")
@click.option("--cache", type=DIRECTORY, help="Cache to read.  [default: the only one in cache/]")
@click.option("--recipe", type=_several(click.Choice(tuple(RECIPES))),
              help="Eq. 3-15 of the paper, or its authors' code; decides defaults.  [default: paper]")  # fmt: skip
@click.option("--head", type=_several(click.Choice(HEADS)),
              help="The recipe's head, or a baseline on pooled features.  [default: amnet]")  # fmt: skip
@click.option(
    "--attention", type=_several(click.BOOL, "on|off"), help="With off every position counts the same.  [default: on]"
)
@click.option("--no-attention", is_flag=True, help="The same as --attention off (Eq. 9).")
@click.option("--pooling", type=_several(click.Choice(POOLED)), help=f"What a baseline reads.  {_usual('pooling')}")
@click.option("--layer", "layers", multiple=True,
              help="Layer to read, or all; several are joined.  [default: the cache's last]")  # fmt: skip
@click.option("--steps", type=_several(click.INT), help=f"Looks at the image, T.  {_usual('steps')}")
@click.option("--hidden-size", type=_several(click.INT), help=f"Size of the LSTM's state.  {_usual('hidden_size')}")
@click.option("--epochs", type=click.INT, help=f"At most so many.  {_usual('epochs')}")
@click.option("--patience", type=click.INT,
              help=f"Epochs without a better rho before stopping.  {_usual('patience')}")  # fmt: skip
@click.option("--batch-size", type=_several(click.INT), help=f"Images a step.  {_usual('batch_size')}")
@click.option("--lr", type=_several(click.FLOAT), help=f"Adam's learning rate.  {_usual('lr')}")
@click.option("--weight-decay", type=_several(click.FLOAT),
              help=f"L2 of all weights (the paper's SUN: 1e-4).  {_usual('weight_decay')}")  # fmt: skip
@click.option("--lambda", "attention_weight", type=_several(click.FLOAT),
              help=f"Weight of Eq. 14.  {_usual('attention_weight')}")  # fmt: skip
@click.option("--dropout", type=_several(click.FLOAT), help=_usual("dropout"))
@click.option("--precision", type=_several(click.Choice(PRECISIONS)),
              help=f"Arithmetic of products; auto: bf16 where hardware has it.  {_usual('precision')}")  # fmt: skip
@click.option("--seed", type=_several(click.INT), help=f"Decides weights, order, dropout and views.  {_usual('seed')}")
@click.option("--select-on", type=click.Choice(["val", "test"]),
              help=f"Part that picks the epoch; test is optimistic.  {_usual('select_on')}")  # fmt: skip
@click.option("--val-fraction", type=click.FLOAT,
              help=f"Share of train held out if there is no val.  {_usual('val_fraction')}")  # fmt: skip
@click.option("--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Home of runs.")
@click.option("--name", help="Name of the run.  [default: its recipe or baseline, and what is not the default]")
@click.option("--resume/--no-resume", default=True, help="Go on with an unfinished run, or start over.")
@click.option("--jobs", default=1, show_default=True, metavar="J", help="Runs at once, each in a process of its own.")
@click.option("--cluster", default="", metavar="ADDRESS", help="Dask scheduler, tcp://HOST:8786, whose workers do it.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--tensorboard", type=DIRECTORY, metavar="DIR", help="Write each epoch's numbers for TensorBoard there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def train_head(
    split: str,
    cache: Path | None,
    runs: Path,
    name: str | None,
    resume: bool,
    jobs: int,
    cluster: str,
    device: str,
    tensorboard: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
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
    from head.grid import grid
    from head.history import check_tensorboard
    from head.runs import Run
    from head.table import describe_run
    from head.training_jobs import jobs_of, train_all

    workers = Workers(jobs, cluster)
    points = grid(_values_given(**options), name=name)
    if tensorboard is not None:
        check_tensorboard()
    opened = open_cache(find_cache(cache))
    planned = jobs_of(opened, points, split, runs=runs, resume=resume, events=tensorboard, device=device)
    with _progress() as progress:
        outcomes = train_all(planned, workers, on_progress=progress)
    done = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, FeatcacheError)]
    if as_json and done:
        results = [{"run": str(run.folder), "name": run.name, "split": run.split} for run in done]
        _print([{**result, **run.config["result"]} for result, run in zip(results, done, strict=True)])
    elif not as_json:
        for run in done:
            click.echo(describe_run(run))
    if not as_json and (absent := max((run.config["absent_images"] for run in done), default=0)):
        click.echo(f"{absent} images without features were left out", err=True)
    if errors:
        title = f"{len(errors)} of {len(outcomes)} runs were not trained:"
        raise join_errors(errors, title, "Run the same command again for these alone; others are done.")


def _values_given(*, no_attention: bool, layers: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Return the values of every field of the settings that was given on the command line."""
    if no_attention and options["attention"]:
        raise InvalidSettings("--no-attention is --attention off; leave one out")
    given = {name: values if isinstance(values, tuple) else (values,) for name, values in options.items()}
    given |= {"attention": (False,)} if no_attention else {}
    given |= {"layers": (layers,)} if layers else {}
    return {name: values for name, values in given.items() if values != (None,)}


@main.command("score-cache")
@click.option("--cache", type=DIRECTORY, help="Cache to read.  [default: the only one in cache/]")
@click.option("--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Runs, or a folder of some.")
@click.option("--split", default="all", show_default=True, metavar="K,...|all", help="Splits to score.")
@click.option("--part", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--views", default="eval", show_default=True, type=click.Choice(["eval", "all"]),
              help="Evaluation view, or the mean over all views.")  # fmt: skip
@click.option("--against", metavar="NAME", help="Row that others are compared with.  [default: best validation rho]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
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
    for warning in found.warnings():
        click.echo(warning, err=True)
    if found.errors:
        raise join_errors(found.errors, "not all could be scored and compared:", "Others are not affected.")


@main.command()
@click.option(
    "--head", "run", required=True, type=DIRECTORY, metavar="RUN", help="Folder of one run, RUNS/.../split-K."
)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", type=FILE, help="Weights file of the backbone, if it is not where extract found it.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--csv", "csv_path", type=FILE, help="Write the table there as CSV.")
@click.option("--maps", "map_folder", type=DIRECTORY, help="Write attention maps there, (T, H, W) in a .npy an image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
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
    from head.maps import map_files
    from head.predict import list_images, load_predictor
    from head.table import format_predictions, write_predictions

    paths = list_images(images)
    predictor = load_predictor(run, weights=str(weights) if weights else None, device=device)
    if predictor.run.imported:
        click.echo("warning: which images an imported head was trained on is unknown; its scores of them say nothing",
                   err=True)  # fmt: skip
    files = map_files(map_folder, paths, images) if map_folder else []
    with _progress() as progress:
        results = predictor.predict(paths, map_files=files, on_progress=progress)
    if csv_path is not None:
        write_predictions(csv_path, results)
    if as_json:
        _print([result.as_json() for result in results])
    elif csv_path is None:
        click.echo(format_predictions(results))
    seen = sum(bool(result.in_training) for result in results)
    bad = sum(bool(result.problem) for result in results)
    if seen:
        click.echo(f"warning: the head was trained on {seen} of these images; its scores of them say nothing", err=True)
    if bad:
        click.echo(f"{bad} of {len(results)} images could not be read", err=True)
        raise SystemExit(3)


@main.command("import-head")
@click.argument("file", type=EXISTING_FILE)
@click.option("--out", required=True, type=DIRECTORY, metavar="RUN", help="Folder of the new run.")
@click.option("--name", default="imported", show_default=True, help="Name of the run.")
@click.option("--split", default="", metavar="K", help="Split whose train part it was trained on, for score-cache.")
@click.option("--steps", default=3, show_default=True, metavar="T", help="Looks at the image; the file does not tell.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def import_head(file: Path, out: Path, name: str, split: str, steps: int, as_json: bool) -> None:
    """Make a run of a checkpoint of the authors' published models, its own backbone included.

    Nothing in the file is executed. To score it on a cache, extract one with --weights FILE --recipe published
    --precision fp32.

    Example: amnet import-head split1.pkl --out runs/published/split-1 --split 1
    """
    from head.import_head import import_head as run_import
    from head.table import format_names

    imported = run_import(file, out, name=name, split=split, steps=steps)
    if imported.unknown_keys:
        keys = format_names(imported.unknown_keys)
        click.echo(f"warning: {file} holds keys that are not of such a model, ignored: {keys}", err=True)
    if as_json:
        _print(imported.as_json())
    else:
        shape = imported.shape
        click.echo(
            f"{out}: head of {shape.steps} steps, {shape.positions} positions, state {shape.hidden_size}, with its "
            f"backbone; fingerprint {imported.run.config['fingerprint'][:16]}"
        )


@main.command("cache-info")
@click.option("--cache", type=DIRECTORY, help="Cache to describe.  [default: the only one in cache/]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def cache_info(cache: Path | None, as_json: bool) -> None:
    """Say what a cache holds: images, views, layers, splits, recipe, and what is missing.

    Example: amnet cache-info --cache cache/lamem
    """
    from featcache.cache import find_cache
    from featcache.info import describe_cache, format_info

    info = describe_cache(find_cache(cache))
    if as_json:
        _print(info)
    else:
        click.echo(format_info(info))


@main.command("merge-caches")
@click.argument("out", type=DIRECTORY)
@click.argument("inputs", nargs=-1, required=True, type=EXISTING_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def merge_caches(out: Path, inputs: tuple[Path, ...], as_json: bool) -> None:
    """Join caches of one recipe, extracted on different machines, into the new cache OUT.

    Parts of one extraction keep their rows; other images follow one another. Splits are joined by name.

    Example: amnet merge-caches cache/all cache/machine-1 cache/machine-2
    """
    from featcache.merge import merge_caches as run_merge

    with _progress() as progress:
        report = run_merge(out, inputs, on_progress=progress)
    if as_json:
        _print(report.as_json())
    else:
        click.echo(f"{out}: {report.images:,} images x {report.views} views in {report.shards} shards")
    if not report.complete:
        click.echo(f"inputs were not complete; run extract with --out {out} to go on", err=True)
        raise SystemExit(4)


@main.command("verify-cache")
@click.option("--cache", type=DIRECTORY, help="Cache to check.  [default: the only one in cache/]")
@click.option("--repair", is_flag=True, help="Extract damaged and missing rows again; sound shards stay as they are.")
@click.option("--root", type=EXISTING_DIRECTORY, help="Folder with images/, if it is not where extract found it.")
@click.option("--weights", type=EXISTING_FILE, help="Weights file of the backbone, if not where extract found it.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
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
    if as_json:
        _print(document)
    else:
        click.echo(text)
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    if damaged:
        raise SystemExit(5)
    if not report.complete:
        click.echo("the cache is not complete; run the same extract or merge-caches command again", err=True)
        raise SystemExit(4)


@main.command()
@click.option("--out", type=DIRECTORY, default=Path("demo"), show_default=True, help="Folder for everything it makes.")
@click.option("--images", default=360, show_default=True, help="Images to draw.")
@click.option("--augs", default=4, show_default=True, metavar="K", help="Augmented views per image.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def demo(out: Path, images: int, augs: int, seed: int, as_json: bool) -> None:
    """Draw images with a score to learn, then extract, train and score, as one would with real ones.

    Example: amnet demo
    """
    from head.demo import run_demo
    from head.rows import rows_of
    from head.table import format_table

    with _progress() as progress:
        scored = run_demo(out, images=images, augs=augs, seed=seed, on_progress=progress)
    if as_json:
        _print({"runs": [result.as_json() for result in scored], "summary": [row.as_json() for row in rows_of(scored)]})
        return
    run = scored[0].run.folder
    click.echo(format_table(scored))
    click.echo(f"\nNext: amnet predict --head {run} YOUR_IMAGES/")
    click.echo(f"      amnet train-head --cache {out}/cache/demo --runs {out}/runs --split all --no-attention")
    click.echo(f"      amnet cache-info --cache {out}/cache/demo")


if __name__ == "__main__":
    main()
