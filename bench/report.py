"""How long a report takes to open in Chromium, to sort, and to show one image; and how large it is.

Example: amnet report --cache cache/lamem --out report.html && python -m bench.report report.html
"""

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import click

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_PICTURE = "[...document.querySelectorAll('.card img')].some((image) => image.naturalWidth > 0)"
_MAP = "document.querySelector('#detail canvas.map, #detail .picture') !== null"


def measure(browser: Any, url: str) -> dict[str, float]:
    """Return seconds from asking for a page to its being ready and to its first picture, to sort it, to open an image.

    Ready means that every section is there and obeys. The browser has been started before; its cache is empty.
    """
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector("html[data-ready]", state="attached")
    ready = time.perf_counter() - started
    page.evaluate("document.getElementById('images').scrollIntoView({behavior: 'instant'})")
    _wait_until(page, _PICTURE)
    picture = time.perf_counter() - started
    started = time.perf_counter()
    page.select_option("#order", "error")
    page.evaluate("new Promise(requestAnimationFrame)")
    ordered = time.perf_counter() - started
    started = time.perf_counter()
    page.locator(".card").first.click()
    _wait_until(page, _MAP)
    opened = time.perf_counter() - started
    page.close()
    return {"ready": ready, "first_picture": picture, "sort": ordered, "open_image": opened}


def _wait_until(page: Any, true: str) -> None:
    """Ask until something is true; the page's policy forbids that Playwright asks inside it."""
    while not page.evaluate(true):
        time.sleep(0.002)


@click.command()
@click.argument("page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", default=5, show_default=True, help="Pages opened, one after another.")
def main(page: Path, rounds: int) -> None:
    """Print megabytes, and median and largest seconds over rounds."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if found is None:
        raise click.ClickException(f"none of {', '.join(_CHROMIUM)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        times = [measure(browser, page.resolve().as_uri()) for _ in range(rounds)]
        browser.close()
    seconds = {
        what: {
            "median": round(statistics.median(one[what] for one in times), 3),
            "largest": round(max(one[what] for one in times), 3),
        }
        for what in times[0]
    }
    click.echo(json.dumps({"megabytes": round(page.stat().st_size / 1e6, 2), "rounds": rounds, "seconds": seconds}))


if __name__ == "__main__":
    main()
