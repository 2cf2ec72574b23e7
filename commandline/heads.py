"""Commands of heads: train-head, score-cache, predict, import-head, export-head, demo."""

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import click

from commandline import options
from commandline.options import (
    DIRECTORY,
    EXISTING_FILE,
    FILE,
    open_targets,
    progress_bar,
    setting,
    show,
    show_report,
    tell,
)
from featcache.base.commands import pip_install
from head.settings import (
    BATCH_NORMS,
    CALIBRATIONS,
    EVAL_VIEWS,
    HEADS,
    KERNELS,
    ORDERS,
    POOLED,
    PRECISIONS,
    PROTOCOLS,
    RESIDENT,
    SELECTIONS,
    WEIGHTS,
)


@click.command("train-head")
@click.option("--split", required=True, metavar="K,...|all|full",
              help="Splits to train on; full: all images, by what finished runs on the splits chose.")  # fmt: skip
@options.CACHE
@options.TARGET
@setting("recipe", click.Choice(tuple(PROTOCOLS)), "Eq. 3-15 of the paper, or its authors' code; decides defaults.")
@setting(
    "head",
    click.Choice(tuple(HEADS)),
    "The recipe's head, a probe, a trained network, a baseline on pooled features, or several heads together.",
)
@click.option("--member", "members", multiple=True, metavar="NAME",
              help="Repeated: names of heads, with runs on these splits, that stack weighs or mean takes.")  # fmt: skip
@setting("attention", click.BOOL, "With off every position counts the same.", metavar="on|off")
@click.option("--no-attention", is_flag=True, help="The same as --attention off (Eq. 9).")
@setting("pooling", click.Choice(POOLED), "What a baseline reads.")
@setting("kernel", click.Choice(KERNELS), "How svr compares images; product: a kernel for each layer.")
@options.layer_option("Layers to read together, or all.  [default: the cache's last]")
@setting("channels", click.INT, "Project features on so many principal directions of train; 0: on none.")
@setting("steps", click.INT, "Looks at the image, T.")
@setting("hidden_size", click.INT, "Size of the LSTM's state.")
@setting("queries", click.INT, "Queries of ep, each with a map.")
@setting("value_size", click.INT, "Values that each query of ep pools.")
@setting("attention_heads", click.INT, "Heads of attention of probe; they divide its channels.")
@setting("epochs", click.INT, "At most so many.", several=False)
@setting("patience", click.INT, "Epochs without a better rho before stopping.", several=False)
@setting("batch_size", click.INT, "Images a step.")
@setting("lr", click.FLOAT, "Adam's learning rate.")
@setting("weight_decay", click.FLOAT, "L2 of all weights (the paper's SUN: 1e-4).")
@setting("attention_weight", click.FLOAT, "Weight of Eq. 14.")
@setting("order_penalty", click.FLOAT, "Press step scores m_t to rise, below 0 to fall (section 4.4).")
@setting("train", click.STRING, "Weights of tail that are trained.", metavar="all|norms|last-N|lora-R")
@setting("backbone_lr", click.FLOAT, "Adam's rate for weights that the network had before.")
@setting("batch_norm", click.Choice(BATCH_NORMS), "What running statistics of tail and memonet do.")
@setting("crop", click.INT, "Side in pixels of what is cut from each view; 0: all of it.")
@setting("eval_view", click.Choice(EVAL_VIEWS), "Crops of a view that are evaluated.")
@setting("accumulate", click.INT, "Parts of a batch, computed one after another.")
@setting("dropout", click.FLOAT, "Probability that an activation is dropped.")
@setting("precision", click.Choice(PRECISIONS), "Arithmetic of products; auto: bf16 where hardware has it.")
@setting("weight", click.Choice(WEIGHTS), "Count images alike, by their ratings, or by 1 / se^2.")
@setting("order", click.Choice(ORDERS), "Images of an epoch: at random, or a few files after others, for NFS.")
@setting("seed", click.INT, "Decides weights, order, dropout and views.")
@setting("select_on", click.Choice(SELECTIONS), "Part that picks the epoch; test is optimistic.", several=False)
@setting("val_fraction", click.FLOAT, "Share of train held out if there is no val.", several=False)
@setting("calibrate", click.Choice(CALIBRATIONS), "Map scores to ratings on the part that picks the epoch.")
@click.option("--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Home of runs.")
@click.option("--name", help="Name of the run.  [default: its recipe or baseline, and what is not the default]")
@options.WEIGHTS
@click.option("--resume/--no-resume", default=True, help="Go on with an unfinished run, or start over.")
@click.option("--jobs", default=1, show_default=True, metavar="J", help="Runs at once, each in a process of its own.")
@options.CLUSTER
@options.DEVICE
@click.option("--resident", default="auto", show_default=True, type=click.Choice(RESIDENT),
              help="Hold the features that training reads in the device's memory, each read once; auto: if they take "
              "no more than half of what is free.")  # fmt: skip
@click.option("--tensorboard", type=DIRECTORY, metavar="DIR", help="Write each epoch's numbers for TensorBoard there.")
@click.option("--dry-run", is_flag=True, help="Print weights, memory and time of each training, and write nothing.")
@options.JSON
def train_head(
    split: str, cache: Path | None, target: str | None, runs: Path, name: str | None, dry_run: bool, as_json: bool,
    **given: Any,
) -> None:  # fmt: skip
    """Fit heads to splits of a cache; one run a split in RUNS/CACHE/NAME/split-K/.

    full fits the same head once more, to all images, with what its runs on the splits chose, for use on new images;
    nothing is left to score it on, so it says how well those do.

    Of a cache with several ratings each is trained on, or --target alone, in RUNS/CACHE/TARGET/NAME/split-K/.

    Options with ,... take several values, with commas between: every combination is trained, once, under a name
    that says what is not the default. Those of --layer are no alternatives: one head reads them all.

    \b
    Example: amnet train-head --split all --cache cache/lamem
             amnet train-head --split all --cache cache/lamem --attention on,off --steps 2,3,4,5,6
             amnet train-head --split full --cache cache/lamem
    """
    from featcache.base.errors import join_errors
    from featcache.base.jobs import Workers
    from head.grid import given_values, grid
    from head.runs.events import check_tensorboard
    from head.training.jobs import jobs_of, leaks, named_full, train_all

    workers = Workers(given.pop("jobs"), given.pop("cluster"))
    how = {"resume": given.pop("resume"), "device": given.pop("device"), "events": given.pop("tensorboard")}
    how |= {"weights": given.pop("weights"), "resident": given.pop("resident")}
    points = grid(given_values(**given), name=name)
    if how["events"] is not None:
        check_tensorboard()
    targets = open_targets(cache, target)
    tell(*dict.fromkeys(warning for one in targets for warning in leaks(one)))
    planned = [job for one in targets for job in jobs_of(one, points, split, runs=runs, **how)]
    tell(*named_full(planned))
    if dry_run:
        from head.training.forecasts.forecast import forecast

        with progress_bar() as progress:
            found = forecast(planned, workers, on_progress=progress)
        show_report(found, as_json)
        return
    with progress_bar() as progress:
        trained = train_all(planned, workers, on_progress=progress)
    if trained.runs:
        show(trained.as_json() if as_json else trained.as_text())
    if not as_json:
        tell(*trained.warnings())
    if trained.errors:
        title = f"{len(trained.errors)} of {len(planned)} runs were not trained:"
        raise join_errors(trained.errors, title, "Run the same command again for these alone; others are done.")


@click.command("score-cache")
@options.CACHE
@options.TARGET
@options.RUNS
@options.SPLITS
@options.PART
@click.option("--views", default="eval", show_default=True, type=click.Choice(["eval", "all"]),
              help="Evaluation view, or the mean over all views.")  # fmt: skip
@options.AGAINST
@options.WEIGHTS
@options.DEVICE
@options.JSON
def score_cache(cache: Path | None, target: str | None, runs: Path, as_json: bool, **given: Any) -> None:
    """Score heads on the cache they belong to: rho and MSE of each run, a summary over splits and seeds, and paired
    differences between heads; a table for each of several ratings.

    Example: amnet score-cache --cache cache/lamem
    """
    from featcache.base.errors import collected, join_errors
    from head.evaluation.evaluate import evaluate

    targets = open_targets(cache, target)
    given["splits"] = given.pop("split")
    found, errors = collected(lambda one: (one.target, evaluate(one, runs, **given)), targets)
    scored = {name: one for name, one in found if one.scored}
    if as_json and scored:
        documents = {name: one.as_json() for name, one in scored.items()}
        show(documents[targets[0].target] if len(targets) == 1 else {"targets": documents})
    elif scored:
        show("\n\n".join(f"target {name}\n{one.as_text()}" if name else one.as_text() for name, one in scored.items()))
    tell(*(warning for _, one in found for warning in one.warnings()))
    errors += [error for _, one in found for error in one.errors]
    if errors:
        raise join_errors(errors, "not all could be scored and compared:", "Others are not affected.")


@click.command()
@options.RUN
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.WEIGHTS
@options.DEVICE
@click.option("--csv", "csv_path", type=FILE, help="Write the table there as CSV.")
@click.option("--interval", "level", default=0.9, show_default=True, metavar="LEVEL",
              help="Share of images whose ratings lower to upper are to hold.")  # fmt: skip
@click.option("--maps", "map_folder", type=DIRECTORY,
              help="Write maps there: for each image a .png, and (T, H, W) in a .npy; of attention or, of a head "
              "without, of occlusion, in files so named.")  # fmt: skip
@click.option("--cache", type=DIRECTORY,
              help="Cache that the head was trained on: name the nearest of its training images, in --json, and mark "
              "images that are far from all.")  # fmt: skip
@options.JSON
def predict(
    run: str,
    images: tuple[Path, ...],
    csv_path: Path | None,
    map_folder: Path | None,
    cache: Path | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Score image files and folders with a trained head.

    Of a folder that holds several runs of it, its splits and seeds, scores and maps are means over these members, and
    deviation is that of their scores. Ratings are between lower and upper for 90% of images, or for LEVEL, where images
    are like those of the training. A run on all images is none of these; name its own folder, split-full.

    \b
    Example: amnet predict --run runs/lamem/paper photos/ --csv scores.csv
             amnet predict --run runs/lamem/paper/split-1 photos/
    """
    from featcache.base.files import check_output, make_folder
    from head.prediction.folders import find_images
    from head.prediction.map_files import map_files

    to_score = find_images(images)
    paths = to_score.paths
    files = map_files(map_folder, paths, images) if map_folder else []  # what they would replace is told at once
    with contextlib.ExitStack() as stack:
        draw = None
        if files and importlib.util.find_spec("matplotlib"):
            from head.show.plates import drawing

            draw = stack.enter_context(drawing(len(files)))  # its processes start while the heads are loaded
        from featcache.store.cache import open_cache
        from head.prediction.predictor import Predictor
        from head.prediction.text import Predictions

        predictor = Predictor.load(run, **how, cache=open_cache(cache) if cache else None)
        tell(*predictor.warnings())
        if map_folder and predictor.occludes:
            files = map_files(map_folder, paths, images, occlusion=True)
        if predictor.run.imported:
            tell("warning: which images an imported head was trained on is unknown; its scores of those say nothing")
        if csv_path is not None:
            make_folder(check_output(csv_path).parent)  # known to take a file before anything is scored
        if files and draw is None:
            tell(f"maps are written as .npy alone; drawing them needs: {pip_install('figures')}")
        progress = stack.enter_context(progress_bar())
        predicted = predictor.predict(paths, map_files=files, draw=draw, on_progress=progress)
    about = (len(predictor.members), predictor.score_range, predictor.run.tokens)
    found = Predictions(predicted, to_score.folders, *about)
    if csv_path is not None:
        found.write_csv(csv_path)
    if as_json or csv_path is None:
        show(found.as_json() if as_json else found.as_text())
    tell(*found.warnings(every=as_json), *found.written(table=csv_path, maps=map_folder))
    if found.unread:
        raise SystemExit(3)


@click.command("import-head")
@click.argument("file", type=EXISTING_FILE)
@click.option("--out", required=True, type=DIRECTORY, metavar="RUN", help="Folder of the new run.")
@click.option("--name", default="imported", show_default=True, help="Name of the run.")
@click.option("--split", default="", metavar="K", help="Split whose train part it was trained on, for score-cache.")
@click.option("--steps", default=3, show_default=True, metavar="T", help="Looks at the image; the file does not tell.")
@click.option("--no-attention", is_flag=True, help="It was trained without attention; the file does not tell.")
@options.JSON
def import_head(file: Path, out: Path, name: str, split: str, steps: int, no_attention: bool, as_json: bool) -> None:
    """Make a run of a checkpoint of the authors' published models, its own backbone included.

    Nothing in the file is executed. To score it on a cache, extract one with --weights FILE --recipe published
    --precision fp32.

    Example: amnet import-head split1.pkl --out runs/published/split-1 --split 1
    """
    from head.share.import_head import import_head as run_import

    show_report(run_import(file, out, name=name, split=split, steps=steps, attention=not no_attention), as_json)


@click.command("export-head")
@options.RUN
@click.option("--out", required=True, type=DIRECTORY, metavar="DIR", help="Folder of the export.")
@options.WEIGHTS
@click.option("--with-backbone", is_flag=True,
              help="Take ImageNet weights along as well; those of a file always are.")  # fmt: skip
@click.option("--no-model", is_flag=True, help="Leave model.onnx out, and export the head alone.")
@click.option("--license", "license_id", default="unknown", show_default=True, metavar="ID",
              help="License of the head, by its name on the Hub, such as cc-by-4.0.")  # fmt: skip
@options.JSON
def export_head(run: str, out: Path, no_model: bool, as_json: bool, **given: Any) -> None:
    """Write a trained head to a folder that can be given away: a run for predict, ONNX graphs and a model card.

    Of a folder that holds several runs of it, its splits and seeds, each is a member, and the graphs give their mean
    and the deviation of their scores, as predict does. head.onnx maps features to scores, model.onnx pixels to scores.
    Both are compared with PyTorch before anything is written. The same export gives the same bytes.

    \b
    Example: amnet export-head --run runs/lamem/paper --out lamem-head --license cc-by-4.0
             amnet export-head --run runs/lamem/paper/split-1 --out lamem-head-1
    """
    from head.runs.hub import run_folder
    from head.share.export import export_head as run_export

    with progress_bar() as progress:
        exported = run_export(run_folder(run), out, whole=not no_model, on_progress=progress, **given)
    show_report(exported, as_json)


@click.command()
@click.option("--out", type=DIRECTORY, default=Path("demo"), show_default=True, help="Folder for everything it makes.")
@click.option("--images", default=360, show_default=True, help="Images to draw.")
@click.option("--augs", default=4, show_default=True, metavar="K", help="Augmented views per image.")
@click.option("--seed", default=0, show_default=True)
@options.JSON
def demo(out: Path, images: int, augs: int, seed: int, as_json: bool) -> None:
    """Draw images with a score to learn, then extract, train and score, as one would with real ones.

    Example: amnet demo
    """
    from head.demo import run_demo

    with progress_bar() as progress:
        report = run_demo(out, images=images, augs=augs, seed=seed, on_progress=progress)
    show(report.as_json() if as_json else report.as_text())
