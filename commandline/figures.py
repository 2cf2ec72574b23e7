"""Commands that draw: figures."""

from pathlib import Path
from typing import Any

import click

from commandline.options import AGAINST, CACHE, DIRECTORY, JSON, PART, ROOT, RUNS, SPLITS, show, tell


@click.command()
@CACHE
@RUNS
@SPLITS
@PART
@AGAINST
@ROOT
@click.option("--out", type=DIRECTORY, default=Path("figures"), show_default=True, help="Folder for NAME.png and .svg.")
@JSON
def figures(cache: Path | None, out: Path, as_json: bool, **options: Any) -> None:
    """Score heads as score-cache does, and draw: heads compared, training curves, predicted against true scores,
    histograms, residuals, step scores, and attention maps over a few images.

    Example: amnet figures --cache cache/lamem --out figures/
    """
    from head.show.style import check_matplotlib

    check_matplotlib()  # before anything is scored
    from featcache.base.errors import join_errors
    from featcache.store.cache import find_cache, open_cache
    from head.evaluation.evaluate import evaluate
    from head.show.figures.examples import draw_examples
    from head.show.figures.figures import draw_all, save

    opened = open_cache(find_cache(cache))
    found = evaluate(opened, options["runs"], splits=options["split"], part=options["part"], against=options["against"])
    parts = [draw_all(opened, found), draw_examples(opened, found, root=options["root"])] if found.scored else []
    drawings = [drawing for part in parts for drawing in part.drawings]
    left_out = [reason for part in parts for reason in part.left_out]
    files = save(drawings, out)
    if as_json:
        show(
            {
                "figures": [
                    {"name": one.name, "title": one.title, "caption": one.caption, "files": [str(png), str(svg)]}
                    for one, png, svg in zip(drawings, files[::2], files[1::2], strict=True)
                ],
                "left_out": left_out,
                "problems": [str(error) for error in found.errors],
            }
        )
    elif drawings:
        show("\n".join(f"{out / one.name}.png, .svg: {one.caption}" for one in drawings))
    tell(*found.warnings(), *(f"left out: {reason}" for reason in left_out if not as_json))
    if found.errors:
        raise join_errors(found.errors, "not all could be scored and compared:", "Others are not affected.")
