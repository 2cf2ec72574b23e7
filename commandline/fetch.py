"""Command of public datasets: fetch."""

from pathlib import Path

import click

from commandline.options import DIRECTORY, FILE, JSON, progress_bar, show_report, tell


@click.command()
@click.option("--dataset", "name", required=True, type=click.Choice(["lamem", "sun"]), help="Which one.")
@click.option("--root", type=DIRECTORY, help="Folder that gets images/ and splits/.  [default: data/NAME]")
@click.option("--url", default="", help="Mirror to download from.  [default: where its authors publish it]")
@click.option("--file", type=FILE, metavar="ARCHIVE", help="Unpack this tar, tar.gz or zip; download nothing.")
@click.option("--sha256", default="", metavar="DIGEST", help="Refuse an archive with another digest.")
@click.option("--keep", is_flag=True, help="Keep the downloaded archive in ROOT.")
@JSON
def fetch(name: str, root: Path | None, url: str, file: Path | None, sha256: str, keep: bool, as_json: bool) -> None:
    """Download and unpack a public dataset, as extract wants it.

    A cut connection is taken up where it ended; a killed command goes on when it is run again. A hostile archive is
    refused before anything is unpacked. Read docs/fetch.md for what comes from where.

    Example: amnet fetch --dataset lamem
    """
    from featcache.datasets.fetch.fetch import fetch as run_fetch

    with progress_bar() as progress:
        done = run_fetch(name, root, url=url, file=file, sha256=sha256, keep=keep, on_progress=progress)
    show_report(done, as_json)
    if done.sha256 and not sha256 and not as_json:
        tell("no digest was given to check against; note the one above and pass it as --sha256 next time")
