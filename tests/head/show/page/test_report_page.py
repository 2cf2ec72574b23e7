"""The report in a real browser: it shows what was scored, obeys keys, and nothing in names or runs becomes markup."""

import base64
import copy
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from featcache.datasets.dataset import open_dataset
from featcache.datasets.reliability import Reliability
from featcache.extraction.extract import extract
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.manifest import read_manifest, write_manifest
from head.calibration.intervals import Coverage
from head.evaluation.evaluate import Evaluation, evaluate
from head.evaluation.people import Ceiling
from head.evaluation.score import Scored
from head.evaluation.summary import summaries_of
from head.runs.head_file import load_head
from head.runs.run import CONFIG_NAME
from head.settings import TrainSettings
from head.show import overlay, style
from head.show.page import report
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.browser import click, needs_chromium, opened_page, running_chromium, wait_until
from tests.helpers.command_line import amnet
from tests.helpers.hostile import MARKUP
from tests.helpers.tiny import QUICK_EXTRACT, TINY_TRAIN


@pytest.fixture(scope="module")
def written(cache: FeatureCache, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of `tiny_runs`, with the maps of its paper head."""
    out = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    amnet("report", "--cache", cache.path, "--runs", runs, "--head", "paper", "--out", out)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Any, written: Path) -> Iterator[Any]:
    with opened_page(browser, written.as_uri()) as opened:
        yield opened


@pytest.fixture(scope="module")
def reordered(browser: Any, written: Path) -> Iterator[Any]:
    """A page in which nothing is changed but the order of its images."""
    with opened_page(browser, written.as_uri()) as opened:
        yield opened


def shown(page: Any) -> list[str]:
    """Return the label of every image in the gallery, in order."""
    return page.locator(".card").evaluate_all("cards => cards.map((card) => card.getAttribute('aria-label'))")


def labels(evaluation: Evaluation, row: str, key: Any) -> list[str]:
    """Return what `shown` must be: a row's images by key(truth, prediction, name), then by name and split."""
    results = next(one for one in evaluation.summaries if one.name == row).scored
    lines = [
        (key(truth, prediction, name), name, result.run.split, truth, prediction)
        for result in results
        for name, truth, prediction in zip(result.names, result.truth, result.prediction, strict=True)
    ]
    return [
        f"{name}, split {split}, rated {truth:.3f}, predicted {prediction:.3f}".replace("-", "\u2212")
        for _, name, split, truth, prediction in sorted(lines, key=lambda line: line[:3])
    ]


@needs_chromium
@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("truth-high", lambda truth, prediction, name: -truth),
        ("truth-low", lambda truth, prediction, name: truth),
        ("prediction-high", lambda truth, prediction, name: -prediction),
        ("prediction-low", lambda truth, prediction, name: prediction),
        ("error", lambda truth, prediction, name: -abs(round(prediction, 6) - round(truth, 6))),
        ("over", lambda truth, prediction, name: truth - prediction),
        ("under", lambda truth, prediction, name: prediction - truth),
        ("match", lambda truth, prediction, name: abs(round(prediction, 6) - round(truth, 6))),
        ("name", lambda truth, prediction, name: name),
    ],
)
def test_images_are_in_the_order_that_is_chosen(reordered: Any, evaluation: Evaluation, order: str, key: Any) -> None:
    reordered.select_option("#order", order)
    assert shown(reordered) == labels(evaluation, "paper", key)


@needs_chromium
def test_images_are_filtered_by_split_head_and_name(page: Any, evaluation: Evaluation) -> None:
    everything = labels(evaluation, "paper", lambda truth, prediction, name: -truth)
    page.select_option("#split", "2")
    assert shown(page) == [label for label in everything if ", split 2," in label]
    page.fill("#search", "JPG 1")
    wanted = [label for label in everything if ", split 2," in label and "1" in label.partition(",")[0]]
    assert 0 < len(wanted) < 11
    assert shown(page) == wanted
    assert page.inner_text(".tally") == f"{len(wanted)} of 22"
    page.fill("#search", "no such name")
    assert shown(page) == []
    assert page.inner_text(".tally") == "No image fits. Try another word or split."
    page.fill("#search", "")
    page.select_option("#split", "")
    page.select_option("#row", label="plain")  # which has no run of split 2
    assert shown(page) == labels(evaluation, "plain", lambda truth, prediction, name: -truth)


@needs_chromium
def test_every_picture_is_shown_once_it_is_near(page: Any) -> None:
    count = page.locator(".card img").count()
    for k in range(count):
        page.locator(".card").nth(k).scroll_into_view_if_needed()
    wait_until(page, "[...document.querySelectorAll('.card img')].every((image) => image.naturalWidth > 0)")
    assert count == 22


@pytest.fixture(scope="module")
def maps_script(browser: Any) -> Iterator[Any]:
    """Evaluate an expression beside the page's script of maps, which else keeps its names to itself."""
    scripts = "\n".join(
        (resources.files("head.show.page") / "assets" / name).read_text() for name in ("parts.js", "maps.js")
    )
    page = browser.new_page()
    page.set_content('<script id="data" type="application/json">{}</script>')
    yield lambda expression, given=None: page.evaluate(f"(given) => {{ {scripts}\n return {expression}; }}", given)
    page.close()


@needs_chromium
def test_maps_are_drawn_as_figures_draw_them(maps_script: Any) -> None:
    viridis = matplotlib.colormaps[overlay.COLOURS](np.arange(256))[:, :3] * 255
    np.testing.assert_allclose(maps_script("PALETTE"), viridis, atol=3)
    assert maps_script("[OPACITY, LEAST_TOP]") == [overlay.OPACITY, style.LEAST_SCALE]
    for H, W, height, width in ((5, 7, 33, 40), (1, 2, 9, 3), (14, 14, 256, 171)):
        cells = np.random.default_rng(0).random((H, W))
        drawn = maps_script("[...upsampled(...given)]", [cells.ravel().tolist(), H, W, height, width])
        np.testing.assert_allclose(
            np.reshape(drawn, (height, width)), overlay.upsampled(cells, height, width), atol=1e-5
        )


@needs_chromium
def test_occlusion_is_drawn_around_no_change(maps_script: Any) -> None:
    signed = matplotlib.colormaps[overlay.SIGNED](np.arange(256))[:, :3] * 255
    np.testing.assert_allclose(maps_script("SIGNED"), signed, atol=3)
    levels = base64.b64encode(np.array([0, 127, 127, 254], np.uint8).tobytes()).decode()
    maps = {"kind": "occlusion", "shape": [1, 2, 2], "levels": levels, "high": 0.5, "on_tokens": [0]}
    found = maps_script("""(() => {
      const surfaces = surfacesOf({box: [0, 0, 8, 8], size: [8, 8]}, given);
      const [look] = surfaces.looks, sum = look.reduce((one, other) => one + other);
      return {ends: [look[0], look.at(-1)], sum, top: surfaces.top, text: legend(surfaces, "ridge").textContent};
    })()""", maps)  # fmt: skip
    assert found["ends"] == pytest.approx([-found["top"], found["top"]], rel=1e-4)
    assert found["sum"] == pytest.approx(0, abs=1e-2)
    assert "Occlusion of ridge" in found["text"]


@needs_chromium
def test_noise_around_an_even_share_has_one_colour(maps_script: Any) -> None:
    even = 128 + np.arange(16) % 2
    levels = base64.b64encode(even.astype(np.uint8).tobytes()).decode()
    maps = {"shape": [1, 4, 4], "levels": levels, "high": 2, "on_tokens": [0]}
    drawn = maps_script("""(() => {
      const image = {box: [0, 0, 8, 4], size: [8, 4], picture: "", problem: ""}, surfaces = surfacesOf(image, given);
      const canvas = picture(image, surfaces, 0, "").querySelector("canvas");
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return {size: [canvas.width, canvas.height], top: surfaces.top, colours: [...data].filter((_, k) => k % 4 === 0)};
    })()""", maps)  # fmt: skip
    assert (drawn["size"], drawn["top"]) == ([256, 128], 2)
    assert np.ptp(drawn["colours"]) <= 2


@needs_chromium
@pytest.mark.parametrize(("look", "tokens", "wanted"), [
    ("look", "", "Look 1m\u2081 0.500"),
    ("query", "the class token", "Query 112% on the class tokenm\u2081 0.500"),
])  # fmt: skip
def test_a_map_is_called_what_its_head_calls_it_and_says_what_is_on_tokens(
    maps_script: Any, look: str, tokens: str, wanted: str
) -> None:
    levels = base64.b64encode(bytes(16)).decode()
    found = maps_script("""(() => {
      const image = {name: "a.jpg", box: [0, 0, 8, 4], size: [8, 4], picture: "", problem: "gone"};
      const looks = looksOf(image, surfacesOf(image, given.maps), [0.5], given.run);
      return [looks.querySelectorAll("figcaption")[1].textContent, looks.querySelector("canvas").ariaLabel];
    })()""", {
        "maps": {"shape": [1, 4, 4], "levels": levels, "high": 2, "on_tokens": [0.1234]},
        "run": {"look": look, "tokens": tokens},
    })  # fmt: skip
    assert found[0] == wanted
    assert found[1].startswith(f"Where {look} 1 goes; m1 is 0.500")
    assert ("12% on the class token" in found[1]) == bool(tokens)


BRIGHTEST = """canvas => {
  const {width, height} = canvas, pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  let best = -1, place = 0, least = 1e9;
  for (let k = 0; k < width * height; k++) {
    const [red, green, blue, alpha] = pixels.slice(4 * k, 4 * k + 4);
    const light = (0.2126 * red + 0.7152 * green + 0.0722 * blue) * alpha;
    if (light > best) [best, place] = [light, k];
    least = Math.min(least, light);
  }
  return {x: (place % width + 0.5) / width, y: (Math.floor(place / width) + 0.5) / height, best, least};
}"""
WHERE = """canvas => {
  const inner = canvas.getBoundingClientRect();
  const outer = canvas.parentElement.querySelector("img").getBoundingClientRect();
  return [(inner.left - outer.left) / outer.width, (inner.top - outer.top) / outer.height,
          (inner.right - outer.left) / outer.width, (inner.bottom - outer.top) / outer.height];
}"""


@needs_chromium
def test_maps_lie_where_the_head_saw_and_are_brightest_where_it_looks(
    page: Any, cache: FeatureCache, evaluation: Evaluation
) -> None:
    rows = {image.name: row for row, image in enumerate(cache.images)}
    results = {one.run.split: one for one in evaluation.scored if one.run.name == "paper"}
    for k in (0, 5, 13):
        name, split = re.match("(.*), split (.),", shown(page)[k]).groups()  # type: ignore[union-attr]
        click(page.locator(".card").nth(k))
        result, row = results[split], rows[name]
        maps = load_head(result.run).predict(result.run.input.read(cache, np.array([row]), 0))[2].numpy()[0]
        steps = result.step_scores[result.names.index(name)]
        image = cache.images[row]
        for t in range(3):
            canvas = page.locator("#detail .map").nth(t)
            found = canvas.evaluate(BRIGHTEST)
            if maps[t].max() == maps.max():
                y, x = divmod(int(maps[t].argmax()), 4)
                assert found["best"] > found["least"]
                assert abs(found["x"] * 4 - x - 0.5) < 0.8
                assert abs(found["y"] * 4 - y - 0.5) < 0.8
            sides = canvas.evaluate("canvas => [canvas.parentElement.offsetWidth, canvas.parentElement.offsetHeight]")
            assert sides[0] / sides[1] == pytest.approx(image.width / image.height, rel=0.03)
            box = cache.box[row, 0] / np.array([image.width, image.height] * 2)
            np.testing.assert_allclose(canvas.evaluate(WHERE), box, atol=0.02)
            caption = page.locator("#detail figcaption").nth(t + 1).inner_text()
            assert caption.endswith(f"{steps[t]:.3f}".replace("-", "\u2212"))
        assert page.inner_text("#predicted") == f"{steps.sum():.3f}"
        assert page.locator("#detail span.seen").count() == 1  # the tiny cache has central crops
        page.keyboard.press("Escape")


@needs_chromium
def test_keys_move_open_leaf_and_close(page: Any) -> None:
    page.locator(".card").first.focus()
    tops = page.locator(".grid li").evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
    columns = tops.count(tops[0])
    assert columns > 2
    place = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    for key, wanted in (
        ("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns), ("ArrowUp", 0), ("ArrowUp", 0),
        ("End", 21), ("Home", 0), ("ArrowRight", 1),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert page.evaluate(place) == wanted, key
    width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert width == "3px"
    page.keyboard.press("Enter")
    names = [label.partition(",")[0] for label in shown(page)]
    assert page.inner_text("#detail-name") == names[1]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#detail-name") == names[2]
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('detail').open")
    wait_until(page, f"{place} === 2")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "search"  # the gallery is one stop


@needs_chromium
def test_scores_are_those_of_score_cache_and_splits_open(page: Any, evaluation: Evaluation) -> None:
    for k, row in enumerate(evaluation.summaries):
        facts, body = row.as_json(), page.locator(".scores > tbody").nth(k)
        line = body.locator("> tr").first.inner_text().split("\t")
        assert line[0] == row.name
        spread = "" if facts["rho_sd"] is None else f" \u00b1 {facts['rho_sd']:.3f}"
        assert line[1].replace("-", "\u2212") == f"{facts['rho_mean']:.3f}{spread}".replace("-", "\u2212")
        splits = body.locator(".splits")
        assert not splits.is_visible()
        body.locator("button").press("Enter")
        found = [line.split("\t")[:2] for line in splits.locator("tbody").inner_text().splitlines()]
        assert found == [[one.run.split, f"{one.metrics.rho:.3f}".replace("-", "\u2212")] for one in row.scored]
        assert body.locator("button").get_attribute("aria-expanded") == "true"
    click(page.locator("#runs summary").first)
    assert evaluation.summaries[0].scored[0].run.config.fingerprint in page.inner_text("#runs")


@needs_chromium
def test_where_the_ceiling_is_known_a_column_says_how_near_it_heads_come(
    browser: Any, page: Any, cache: FeatureCache, runs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(cache.path, tmp_path / cache.name))
    known = {"": Reliability(0.8, "it", 0.75, 0.85, full=0.64)}
    write_manifest(folder, replace(read_manifest(folder), reliability=known))
    amnet("report", "--cache", folder, "--runs", runs, "--out", tmp_path / "report.html")
    row = evaluate(open_cache(folder), runs).summaries[0].as_json()
    with opened_page(browser, (tmp_path / "report.html").as_uri()) as opened:
        assert "of ceiling" in opened.locator(".scores thead").first.inner_text().lower()
        cell = opened.locator(".scores > tbody > tr").first.inner_text().split("\t")[3]
        wanted = [f"{row[key]:.2f}" for key in ("of_ceiling", "of_ceiling_low", "of_ceiling_high")]
        assert cell.replace("\u2212", "-") == f"{wanted[0]} {wanted[1]} to {wanted[2]}"
        assert "Ceiling 0.800 (95% 0.750 to 0.850): root of 0.640" in opened.inner_text("#scores")
    assert "of ceiling" not in page.locator(".scores thead").first.inner_text().lower()


@needs_chromium
def test_ceilings_that_differ_are_each_named_with_their_heads(
    browser: Any, cache: FeatureCache, evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_figures", lambda cache, evaluation, told: {"drawings": [], "left_out": []})
    first = evaluation.summaries[0].name
    of_first = {one.run.folder for one in evaluation.summaries[0].scored}
    low, high = Ceiling(0.7, None, None, "it"), Ceiling(0.9, None, None, "it")

    def ceiling(one: Scored) -> Ceiling:
        return low if one.run.folder in of_first and one.run.split == "1" else high

    scored = [replace(one, ceiling=ceiling(one)) for one in evaluation.scored]
    known = replace(evaluation, scored=scored, summaries=summaries_of(scored))
    report.write_report(tmp_path / "page.html", report.build_report(cache, known, report.ReportSettings()))
    others = ", ".join(one.name for one in known.summaries[1:])
    with opened_page(browser, (tmp_path / "page.html").as_uri()) as page:
        note = page.inner_text("#scores")
    assert re.search(
        rf"Ceiling 0\.800 \(.*\): mean over 2 splits, 0\.700 to 0\.900, of the it \({re.escape(first)}\)\.", note
    )
    assert f"Ceiling 0.900 (no interval known): it ({others})." in note


@needs_chromium
def test_what_intervals_hold_is_told_by_thirds_or_why_not(
    browser: Any, cache: FeatureCache, evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_figures", lambda cache, evaluation, told: {"drawings": [], "left_out": []})
    made = report.build_report(cache, evaluation, report.ReportSettings())
    many, few = (Coverage(0.9, 0.25, np.arange(float(n)), np.arange(n) >= 6, np.arange(n)) for n in (60, 12))
    for row, found in zip(made.data["scores"]["rows"], (many, few), strict=True):
        row["interval"] = found.as_json()
    report.write_report(tmp_path / "page.html", made)
    with opened_page(browser, (tmp_path / "page.html").as_uri()) as page:
        notes = page.locator(".splits .note").all_text_contents()
    thirds = "by thirds of the rating: low 70% of 20, middle 100% of 20, high 100% of 20"
    assert f"90% prediction intervals, \u00b1 0.250, hold 90% of 60 ratings ({thirds})." in notes[0]
    assert f"hold 50% of 12 ratings ({few.why_no_thirds})." in notes[1]


@needs_chromium
def test_figures_are_drawn_in_the_ink_of_the_page(browser: Any, written: Path) -> None:
    ink = {}
    with opened_page(browser, written.as_uri()) as page:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.locator("#figures svg").count() >= 4
            ink[scheme] = page.locator("#figures svg text").first.evaluate("text => getComputedStyle(text).fill")
    assert ink["light"] != ink["dark"]


CONTRASTS = """() => {
  const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [red, green, blue] = colour.match(/[\\d.]+/g).map(Number).map(channel);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
  };
  const found = [];
  for (const node of document.querySelectorAll("body *:not(script):not(option)")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    if (!node.getClientRects().length || node.closest("svg")) continue;
    const [one, other] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
    found.push([(one + 0.05) / (other + 0.05), node.textContent.slice(0, 40)]);
  }
  return found;
}"""


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_in_light_and_dark(browser: Any, written: Path, scheme: str) -> None:
    with opened_page(browser, written.as_uri(), scheme=scheme) as page:
        click(page.locator(".scores button").first)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        found = page.evaluate(CONTRASTS)
        click(page.locator(".card").first)
        found += page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert [text for ratio, text in found if ratio < 4.5] == []
    assert (int(re.findall(r"\d+", ground)[0]) > 127) == (scheme == "light")


@needs_chromium
@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_wider_than_a_narrow_screen(browser: Any, written: Path, width: int) -> None:
    with opened_page(browser, written.as_uri(), width=width, height=740) as page:
        for summary in page.locator("summary").all():
            click(summary)
        click(page.locator(".scores button").first)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        click(page.locator(".card").first)
        assert page.evaluate("document.getElementById('detail').scrollWidth") <= width


@needs_chromium
def test_without_scripts_the_page_says_why_it_is_empty(browser: Any, written: Path) -> None:
    with opened_page(browser, written.as_uri(), script=False) as page:
        assert "needs JavaScript" in page.inner_text("main")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on images and a run whose names are markup; one of the images is gone, and one was changed."""
    folder = tmp_path_factory.mktemp("hostile")
    data, rng = folder / "data", np.random.default_rng(5)
    names = [f"{k}{MARKUP[k % 2]}.png" for k in range(10)]
    for name in names:
        path = data / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (50, 61, 3), np.uint8)).save(path)
    (data / "splits").mkdir()
    for part, chosen in (("train", names[:4]), ("val", names[4:6]), ("test", names[6:])):
        lines = [f"{name} {k / 10}\n" for k, name in enumerate(chosen)]
        (data / "splits" / f"{part}_1.txt").write_text("".join(lines))
    cache = folder / "cache"
    extract(open_dataset(str(data)), QUICK_EXTRACT, cache)
    run = folder / "runs" / "run"
    settings = TrainSettings(**{**TINY_TRAIN.as_json(), "epochs": 1})
    train(TrainingJob(open_cache(cache), "1", settings, run, "paper"))
    config = json.loads((run / CONFIG_NAME).read_text())
    config["name"] = "".join(MARKUP)
    config["settings"][MARKUP[0]] = MARKUP[2]
    (run / CONFIG_NAME).write_text(json.dumps(config))
    (data / "images" / names[6]).unlink()
    Image.new("RGB", (61, 50)).save(data / "images" / names[7])
    out = folder / "report.html"
    done = amnet("report", "--cache", cache, "--runs", folder / "runs", "--out", out)
    assert "warning: 2 of 4 images have no picture:" in done.stderr
    assert "unreadable: No such file or directory" in done.stderr
    assert "changed: not the file that was extracted" in done.stderr
    assert "Pass the dataset's folder as --root DIR if it has moved." in done.stderr
    return out


@needs_chromium
def test_names_are_text_and_never_markup(browser: Any, hostile: Path) -> None:
    with opened_page(browser, hostile.as_uri()) as page:
        for summary in page.locator("summary").all():
            click(summary)
        assert page.locator(".card").count() == 4
        for label in (f"6{MARKUP[0]}.png", f"7{MARKUP[1]}.png"):
            click(page.locator(f".card[title={json.dumps(label)}]"))
            assert page.inner_text("#detail-name") == label
            page.keyboard.press("Escape")
        assert page.locator("script").count() == 2
        assert page.locator("img[src=x]").count() == 0
        assert page.evaluate("window.hit") is None
        heads = page.locator(".scores button").evaluate_all("all => all.map((one) => one.textContent)")
        assert heads == ["".join(MARKUP)]
        assert sorted(page.locator(".card .gone").all_inner_texts()) == [
            "changed: not the file that was extracted",
            "unreadable: No such file or directory",
        ]
        assert page.locator(".card img").count() == 2


@needs_chromium
def test_more_images_than_are_made_at_once_are_made_when_they_come_near(
    browser: Any, written: Path, evaluation: Evaluation, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    page_of_few = written.read_text().replace("const AT_ONCE = 240;", "const AT_ONCE = 4;").replace("1500px", "0px")
    policy = '<meta http-equiv="Content-Security-Policy"'
    path.write_text(page_of_few.replace(policy, "<meta name=none"))  # its digest of the script is another
    with opened_page(browser, path.as_uri(), still=True) as page:
        assert page.locator(".card").count() < 22
        page.locator(".card").first.focus()
        page.keyboard.press("End")
        wanted = labels(evaluation, "paper", lambda truth, prediction, name: -truth)
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == wanted[-1]
        page.select_option("#order", "truth-low")
        assert page.locator(".card").count() < 22
        to_the_end = "document.querySelector('.grid').nextElementSibling.scrollIntoView({block: 'center'})"
        wait_until(page, f"({to_the_end}, document.querySelectorAll('.card').length === 22)")
        assert shown(page) == labels(evaluation, "paper", lambda truth, prediction, name: truth)


@needs_chromium
def test_the_headline_says_what_holds(
    browser: Any, cache: FeatureCache, evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_figures", lambda cache, evaluation, told: {"drawings": [], "left_out": []})
    built = report.build_report(cache, evaluation, report.ReportSettings())

    def headline(**changes: Any) -> str:
        made = copy.deepcopy(built)
        row = made.data["scores"]["rows"][0]
        row.update({key: value for key, value in changes.items() if key in row})
        for run in row["runs"]:
            run["imported"] = changes.get("imported", False)
        report.write_report(tmp_path / "page.html", made)
        with opened_page(browser, (tmp_path / "page.html").as_uri()) as page:
            return " ".join(page.locator(".headline, .lead").all_inner_texts())

    name = evaluation.summaries[0].name
    numbers = {"rho_mean": 0.5, "rho_low": 0.4, "rho_high": 0.6}
    usual = headline(**numbers)
    assert usual.startswith(
        f"On images it has not seen, {name} ranks with a correlation of 0.500 (95% 0.400 to 0.600). "
    )
    assert "It is the best on validation." in usual
    assert headline(**numbers, imported=True).startswith(f"{name} ranks with a correlation of 0.500")
    assert "best on validation" not in headline(**numbers, optimistic=True)
    assert "0.600), which may be none. " in headline(**{**numbers, "rho_low": -0.1})
    assert headline(rho_mean=None).startswith(f"The correlation of {name} with people is undefined")
