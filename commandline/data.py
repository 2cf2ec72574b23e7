"""The command of what people answered: ratings."""

from pathlib import Path
from typing import Any

import click

from commandline import options
from commandline.options import EXISTING_FILE, FILE, show_report
from featcache.ratings.settings import SCORES, WHAT, WITH_WORDS, RatingSettings

_COLUMNS = {
    "image": "the image's path or name",
    "worker": "who answered",
    "rating": "the rating (mean, zmean)",
    "condition": "target, filler or vigilance",
    "showing": "first showing or repeat",
    "response": "whether it was seen before: yes, no",
    "trial": "the trial's number, of which lags are differences",
    "first-trial": "the number of the first showing's trial, where a line is of a repeat",
    "lag": "the lag in trials",
}


def _column_and_word_options(command: Any) -> Any:
    for what in reversed(WITH_WORDS):
        text = f"What a word of the column of the {what} means; may be repeated."
        command = click.option(f"--{what}-word", multiple=True, metavar="WORD=MEANING", help=text)(command)
    for what in reversed(WHAT):
        text = f"Column of {_COLUMNS[what]}."
        command = click.option(f"--{what}-column", default="", metavar="NAME", help=text)(command)
    return command


@click.command()
@click.argument("responses", type=EXISTING_FILE)
@click.option("--score", required=True, type=click.Choice(SCORES),
              help="hits, hr-fa, dprime, lag: of a game's log; mean, zmean: of image, worker, rating.")  # fmt: skip
@click.option("--out", type=FILE, default=Path("ratings.csv"), show_default=True,
              help="Table of scores; beside it a .json of what it rests on.")  # fmt: skip
@_column_and_word_options
@click.option("--reference-lag", default=75.0, show_default=True, metavar="T",
              help="Lag in trials that hits are corrected to (lag).")  # fmt: skip
@click.option("--least-vigilance-hits", default=0.5, show_default=True, metavar="SHARE",
              help="Leave out workers who recognised fewer vigilance repeats; 0: none.")  # fmt: skip
@click.option("--most-false-alarms", default=0.5, show_default=True, metavar="SHARE",
              help="Leave out workers who took more first showings for repeats; 1: none.")  # fmt: skip
@click.option("--fewest-responses", default=1, show_default=True, metavar="N",
              help="Leave out workers with fewer ratings, or responses to repeats of targets.")  # fmt: skip
@click.option("--halvings", default=50, show_default=True, help="Random halvings of the workers.")
@click.option("--seed", default=0, show_default=True, help="Decides the halves.")
@options.JSON
def ratings(responses: Path, score: str, out: Path, as_json: bool, **given: Any) -> None:
    """Make scores of images from what people answered, and say how far the people agree.

    RESPONSES is a table with a header: lines of image, worker, rating, or the log of a memory game, a line a trial.
    Columns and words that are not named are guessed, and told. docs/ratings.md has formulas, rules and sources.

    \b
    Example: amnet ratings answers.csv --score mean --out ratings.csv
             amnet ratings log.csv --score lag --response-word j=yes --response-word f=no --out ratings.csv
    """
    from featcache.ratings.rate import rate
    from featcache.ratings.words import parse_words

    columns = {what: name for what in WHAT if (name := given.pop(f"{what.replace('-', '_')}_column"))}
    words = {what: parse_words(what, some) for what in WITH_WORDS if (some := given.pop(f"{what}_word"))}
    show_report(rate(responses, RatingSettings(score, columns, words, **given), out), as_json)
