"""Commands of pictures and pages: figures, report, explore."""

import contextlib
from pathlib import Path
from typing import Any

import click

from commandline import options
from commandline.options import DIRECTORY, FILE, open_rated, progress_bar, show, tell


@click.command()
@options.CACHE
@options.TARGET
@options.RUNS
@options.SPLITS
@options.PART
@options.AGAINST
@options.ROOT
@options.WEIGHTS
@click.option("--out", type=DIRECTORY, default=Path("figures"), show_default=True, help="Folder for NAME.png and .svg.")
@options.JSON
def figures(cache: Path | None, target: str | None, out: Path, as_json: bool, **given: Any) -> None:
    """Score heads as score-cache does, and draw: heads compared, training curves, predicted against true scores,
    histograms, residuals, step scores, whether attention maps tell what scores hang on, and maps over a few images.

    Example: amnet figures --cache cache/lamem --out figures/
    """
    from head.show.style import check_matplotlib

    check_matplotlib()  # before anything is scored
    from featcache.base.errors import join_errors
    from head.evaluation.evaluate import evaluate
    from head.show.figures.examples import draw_examples
    from head.show.figures.faithfulness import draw_faithfulness, faithful_heads
    from head.show.figures.figures import SavedDrawings, draw_all, save

    opened = open_rated(cache, target)
    found = evaluate(
        opened,
        given["runs"],
        splits=given["split"],
        part=given["part"],
        against=given["against"],
        weights=given["weights"],
    )
    parts = []
    if found.scored:
        told = draw_faithfulness(faithful_heads(opened, found), found)
        parts = [draw_all(opened, found), told, draw_examples(opened, found, root=given["root"])]
    drawings = [drawing for part in parts for drawing in part.drawings]
    left_out = [reason for part in parts for reason in part.left_out]
    saved = SavedDrawings(drawings, save(drawings, out), left_out, found)
    if as_json or drawings:
        show(saved.as_json() if as_json else saved.as_text())
    tell(*saved.warnings(), *(f"left out: {reason}" for reason in left_out if not as_json))
    if found.errors:
        raise join_errors(found.errors, "not all could be scored and compared:", "Others are not affected.")


@click.command()
@options.CACHE
@options.TARGET
@options.RUNS
@options.ROOT
@options.SPLITS
@options.PART
@click.option("--head", metavar="NAME",
              help="Row whose attention maps are shown.  [default: that of --against, or the best one with "
              "attention]")  # fmt: skip
@options.AGAINST
@options.WEIGHTS
@click.option("--images", "most", default=2000, show_default=True, metavar="N", help="Most images that are shown.")
@click.option("--out", type=FILE, default=Path("report.html"), show_default=True, help="The page.")
@click.option("--maps", type=DIRECTORY,
              help="Write its maps there: (n, T, H, W) in split-K.npy, its images in split-K.csv.")  # fmt: skip
@options.JSON
def report(
    cache: Path | None,
    target: str | None,
    runs: Path,
    split: str,
    part: str,
    against: str | None,
    weights: str | None,
    out: Path,
    as_json: bool,
    **shown: Any,
) -> None:
    """Write one HTML page about a cache and its runs: scores, figures, and every image with its attention maps.

    The page is a single file and loads nothing from anywhere. Runs are scored first, as by score-cache.

    Example: amnet report --cache cache/lamem --out lamem.html
    """
    from featcache.base.errors import join_errors
    from featcache.base.files import check_output
    from head.show.page.report import ReportSettings, build_report, evaluate_for, write_raw_maps, write_report

    check_output(out)  # before anything is scored
    settings = ReportSettings(**shown)
    opened = open_rated(cache, target)
    found = evaluate_for(opened, runs, settings, splits=split, part=part, against=against, weights=weights)
    maps = write_raw_maps(opened, found, settings)
    with progress_bar() as progress:
        made = build_report(opened, found, settings, on_progress=progress)
    written = write_report(out, made, maps=maps)
    show(written.as_json() if as_json else written.as_text())
    tell(*found.warnings(), *made.warnings(), *written.warnings())
    if found.errors:
        raise join_errors(found.errors, "not all could be scored and compared:", "The page has the others.")


@click.command()
@options.RUN
@click.option("--cache", type=DIRECTORY, help="Show the report of this cache, too.")
@click.option("--runs", type=DIRECTORY, default=Path("runs"), show_default=True, help="Runs of the report.")
@click.option("--root", type=DIRECTORY, metavar="DIR", help="The dataset's folder, if it has moved.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="Port to listen on; 0 takes any that is free.")
@click.option("--allow-host", "allowed", multiple=True, metavar="NAME",
              help="Answer under this name, too: that of a proxy such as a JupyterHub's. Repeatable.")  # fmt: skip
@options.WEIGHTS
@options.DEVICE
@options.JSON
def explore(
    run: str,
    cache: Path | None,
    runs: Path,
    root: Path | None,
    host: str,
    port: int,
    allowed: tuple[str, ...],
    as_json: bool,
    **network: Any,
) -> None:
    """Serve a page on this machine that scores images dropped on it and shows where a head looks.

    Prints the page's address once it listens; Ctrl-C ends it. Images are not kept. With --cache the page is that of
    report, too.

    Example: amnet explore --run runs/lamem/paper/split-1 --cache cache/lamem
    """
    from head.show.page.live.server import bound_socket, check_web, host_names, is_loopback, serve, url_of

    check_web()
    names = host_names(allowed)
    with bound_socket(host, port) as listening:
        from featcache.store.cache import open_cache
        from head.prediction.predictor import Predictor
        from head.show.page.live.explore import exploration

        predictor = Predictor.load(run, **network)
        tell(*predictor.warnings())
        opened = open_cache(cache).of_target(predictor.run.config.target) if cache else None
        with progress_bar() as progress:
            shown = {"cache": opened, "runs": runs, "root": root, "weights": network["weights"]}
            app, warnings = exploration(predictor, host=host, allowed=names, on_progress=progress, **shown)
        tell(*warnings)
        if not is_loopback(host):
            tell(f"warning: other machines can reach {host}, and whoever does can use this page")
        with contextlib.suppress(KeyboardInterrupt):  # from the moment that the address can be read
            show({"url": url_of(listening)} if as_json else url_of(listening))
            serve(app, listening)
