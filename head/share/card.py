"""The model card of an exported head: README.md with the Hub's front matter. Says what is known, and what is not."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.backbones.execution import split_arithmetic
from featcache.base.errors import CorruptFile, printable
from featcache.base.files import read_json
from featcache.recipe import Recipe
from head.models.kinds import kind_of
from head.runs.head_file import TrainedHead
from head.runs.run import Run

CARD_NAME = "README.md"
SCORES_NAME = "scores.json"
_LARGEST_SCORES = 1 << 20


@dataclass(frozen=True)
class CardFacts:
    """What a card says that is not in the run: its license, and of each file beside it what is in it.

    scores is scores.json; differences are those of each graph's outputs from PyTorch's, on the scale of the data.
    """

    license: str
    files: Mapping[str, str]
    scores: Mapping[str, Any] | None
    differences: Mapping[str, float]


def read_scores(run: Run) -> dict[str, Any] | None:
    """Return what score-cache found on the test part, None if it has not been run.

    Raises `CorruptFile` for anything else in its file, such as scores of another head.
    """
    path = run.folder / SCORES_NAME
    if not path.is_file():
        return None
    scores = read_json(path, largest=_LARGEST_SCORES)
    own = {"fingerprint": run.config.fingerprint, "split": run.split, "best_epoch": run.result.best_epoch}
    numbers = [scores.get(key) for key in ("rho", "rho_low", "rho_high", "mse", "n")]
    if any(scores.get(key) != value for key, value in own.items()) or not all(map(_is_number, numbers)):
        raise CorruptFile(f"{path}: not the scores of this head; run score-cache again, or delete the file")
    return scores


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def model_card(run: Run, head: TrainedHead, facts: CardFacts) -> str:
    """Return README.md: front matter as the Hub reads it, then what the head is, how it is used, and its limits."""
    parts = [
        _front_matter(run, facts),
        f"# {_plain(_title(run))}\n",
        _what_it_is(run, head),
        _results(run, facts),
        _use(run, head, facts),
        _pixels(run.recipe),
        _limits(run, head, facts),
        _files(facts),
    ]
    return "\n".join(parts)


def _title(run: Run) -> str:
    data = run.config.cache or "images of an imported checkpoint"
    return f"{run.name}, trained on {data}" + (f", split {run.split}" if run.split else "")


def _front_matter(run: Run, facts: CardFacts) -> str:
    lines = [
        "---",
        f"license: {_yaml(facts.license)}",
        "library_name: amnet-featcache",
        "tags:",
        *(f"- {tag}" for tag in ("amnet-featcache", "image-regression", "image-assessment", "safetensors")),
        "- onnx",
    ]
    scores = facts.scores or {}
    if scores.get("rho") is not None:
        lines += [
            "metrics:",
            "- spearmanr",
            "- mse",
            "model-index:",
            f"- name: {_yaml(run.name)}",
            "  results:",
            "  - task:",
            "      type: image-regression",
            "      name: Scoring images",
            "    dataset:",
            f"      type: {_yaml(run.config.cache or 'unknown')}",
            f"      name: {_yaml((run.config.cache or 'unknown') + ', split ' + run.split)}",
            "      split: test",
            "    metrics:",
            "    - type: spearmanr",
            f"      value: {float(scores['rho'])!r}",
            f"      name: {_yaml('Spearman rho' + _interval(scores))}",
            "    - type: mse",
            f"      value: {float(scores['mse'])!r}",
            "      name: Mean squared error",
        ]
    return "\n".join([*lines, "---", ""])


def _interval(scores: Mapping[str, Any]) -> str:
    if scores["rho_low"] is None or scores["rho_high"] is None:
        return ""
    return f", 95% interval {scores['rho_low']:.3f} to {scores['rho_high']:.3f}"


def _yaml(text: Any) -> str:
    """Return text quoted as JSON, which is YAML as well; not as a word, which YAML might take for a number."""
    return json.dumps(printable(str(text)))


def _plain(text: Any) -> str:
    """Return text from a file so that Markdown shows it as it is: nothing in it becomes a table, link or tag."""
    return "".join(f"&#{ord(char)};" if char in "\\`*[]<>|&" else char for char in printable(str(text)))


def _what_it_is(run: Run, head: TrainedHead) -> str:
    recipe, layers = run.recipe, ", ".join(run.input.layers)
    kind, seen = kind_of(head.module), run.input.pooling
    looks = f"{head.steps} looks, state of {head.module.shape.hidden_size}" if kind.attends else ""  # type: ignore[union-attr]
    attention = "" if getattr(head.module.shape, "attention", True) else "without attention"
    trained = "unknown" if run.imported else f"{len(head.train_images):,} images of {run.config.cache}"
    map_shape = run.input.map_shape(recipe)
    rows = {
        "head": ", ".join(part for part in (kind.title, attention, looks) if part),
        "backbone": f"{recipe.backbone}, frozen; layer {layers}",
        "reads": f"feature maps, {map_shape.height} x {map_shape.width} positions of {map_shape.channels} channels"
        if seen == "maps"
        else f"{seen.replace('+', ' and ')} over the positions of each feature map, {map_shape.channels} numbers",
        "trained on": trained + (f", split {run.split}" if run.split else ""),
        "selected on": run.config.selected_on,
        "scores": f"mean of the training scores {head.target_mean:.4g}, scale {head.target_scale:.4g}",
        "fingerprint of its features": recipe.fingerprint,
    }
    table = "".join(f"| {key} | {_plain(value)} |\n" for key, value in rows.items())
    return (
        "Predicts one number for an image, a human judgement of the kind it was trained on, from features of a frozen "
        f"network.\n\n| | |\n|---|---|\n{table}"
    )


def _results(run: Run, facts: CardFacts) -> str:
    scores = facts.scores or {}
    if scores.get("rho") is None:
        return "## Results\n\nThere are no test scores with this run.\n"
    warning = "" if _is_honest(run) else " The epoch was selected on these very images, so both numbers flatter."
    return (
        f"## Results\n\nOn the test part of split {_plain(run.split)}, {scores['n']:,} images, one view each: "
        f"Spearman's rho {scores['rho']:.3f}{_interval(scores)} (bootstrap over images); mean squared error "
        f"{scores['mse']:.5f}.{warning}\n"
    )


def _is_honest(run: Run) -> bool:
    return "test" not in str(run.config.selected_on)


def _use(run: Run, head: TrainedHead, facts: CardFacts) -> str:
    text = (
        "## Use\n\nWith amnet-featcache, in the folder of this file (or `--head hf://OWNER/NAME`, from the Hub):\n\n"
        "```sh\namnet predict --head . photo.jpg\n```\n\n"
        "```python\n"
        "from head.prediction.predictor import Predictor\n"
        'print(Predictor.load(".")("photo.jpg").score)\n'
        "```\n"
    )
    if "model.onnx" in facts.files:
        text += f"\nWithout it, from a file to a score by ONNX:\n\n```python\n{onnx_example(run.recipe)}```\n"
    return f"{text}\n{_graphs(run, head, facts)}"


def onnx_example(recipe: Recipe) -> str:
    """Return a program that prints the score of photo.jpg, with Pillow and onnxruntime alone."""
    size = recipe.image_size
    crop = (
        f"side = max(1, round({recipe.center_fraction!r} * min(image.size)))\n"
        "left, top = (image.width - side) // 2, (image.height - side) // 2\n"
        "image = image.crop((left, top, left + side, top + side))\n"
    )
    return (
        "import numpy as np\n"
        "import onnxruntime\n"
        "from PIL import Image, ImageOps\n"
        'image = ImageOps.exif_transpose(Image.open("photo.jpg"))\n'
        'assert not image.mode.startswith("I"), "16 bits a channel: divide by 257 first"\n'
        'if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):\n'
        '    image = image.convert("RGBA")\n'
        '    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)\n'
        'image = image.convert("RGB")\n'
        f"{'' if recipe.eval_view == 'squash' else crop}"
        f"pixels = np.asarray(image.resize(({size}, {size}), Image.Resampling.BILINEAR))[None]\n"
        'print(onnxruntime.InferenceSession("model.onnx").run(["score"], {"pixels": pixels})[0])\n'
    )


def _graphs(run: Run, head: TrainedHead, facts: CardFacts) -> str:
    map_shape, size, T = run.input.map_shape(run.recipe), run.recipe.image_size, head.steps
    positions = map_shape.positions if run.input.pooling == "maps" else 1
    rows = f"| `head.onnx` | features (B, {positions}, {map_shape.channels}) float32 |\n"
    if "model.onnx" in facts.files:
        rows += f"| `model.onnx` | pixels (B, {size}, {size}, 3) uint8, red, green, blue |\n"
    even = "" if run.attends else ", 1/L throughout as this head has no attention"
    maps = f", maps (B, {T}, {map_shape.positions}), row by row{even}" if kind_of(head.module).attends else ""
    differences = " and ".join(f"{value:.1g} at most ({name})" for name, value in facts.differences.items())
    return (
        f"| graph | input |\n|---|---|\n{rows}\n"
        f"Outputs are float32, on the scale of the data: score (B), step_scores (B, {T}) that add up to it{maps}. "
        f"B is any number. Run by onnxruntime on drawn input, they differed from PyTorch's by {differences}.\n"
    )


def _pixels(recipe: Recipe) -> str:
    size = recipe.image_size
    view = (
        f"the whole image, squashed to {size} x {size} pixels"
        if recipe.eval_view == "squash"
        else f"the central square of {recipe.center_fraction:g} of the shorter side, resized to {size} x {size} pixels"
    )
    return (
        f"## Pixels\n\nUpright by EXIF orientation, RGB, colour profiles ignored, transparency laid over white; then "
        f"{view}, bilinear with antialiasing as Pillow does it, 8 bits a channel. Normalisation by mean "
        f"{', '.join(f'{value:g}' for value in recipe.mean)} and deviation "
        f"{', '.join(f'{value:g}' for value in recipe.std)} of pixels in [0, 1] is part of `model.onnx`.\n"
    )


def _limits(run: Run, head: TrainedHead, facts: CardFacts) -> str:
    points = [
        "It predicts what raters of its training images would say, on average. Images of another kind, and raters of "
        "another place or time, it has not seen; nothing here says how well it does there.",
        "A score is an estimate without an interval of its own; the error above is that over many images.",
    ]
    if run.imported:
        points.append(
            f"It was imported ({_plain(run.imported.file)}): on which images it was trained, and "
            "how it was selected, is not known here."
        )
    else:
        points.append(
            "`head.safetensors` holds the sha256 of every training image, so that scores of those are flagged. Who has "
            "an image can thereby tell whether it was among them."
        )
    if not _is_honest(run):
        points.append("It was selected on the test part, so its test scores are optimistic.")
    if facts.license == "unknown":
        points.append("Nobody has said under which license the head may be used; ask whom you have it from.")
    precision = split_arithmetic(run.recipe.precision)[0]
    if precision != "fp32":
        points.append(
            f"It was trained on features computed in {precision}, in which `amnet predict` computes. ONNX computes in "
            "float32; in one measurement (bf16, 100 photographs) its scores differed from those by up to a tenth of "
            "their deviation, and ranked images all but alike."
        )
    if run.recipe.encoding == "uint8" and not run.imported:
        points.append("It was trained on features of 8 bits; the same rounding is part of `model.onnx`.")
    return "## Limits\n\n" + "".join(f"- {point}\n" for point in points)


def _files(facts: CardFacts) -> str:
    rows = "".join(f"| `{name}` | {what} |\n" for name, what in facts.files.items())
    return f"## Files\n\n| | |\n|---|---|\n{rows}\nNone of them is pickled, and loading them executes nothing.\n"
