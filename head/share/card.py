"""The model card of an exported head: README.md with the Hub's front matter. Says what is known, and what is not."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from string import Template
from typing import Any

from featcache.base.errors import CorruptFile, counted, printable
from featcache.base.files import read_json
from featcache.recipe import Recipe
from head.calibration.intervals import usual_half_widths
from head.data.inputs import HeadInput
from head.data.several import inputs_of
from head.evaluation.people import near_ceiling
from head.evaluation.statistics import OF_MEAN_RHO
from head.evaluation.summary import without_seed
from head.models.kinds import KINDS, has_maps, kind_of
from head.prediction.members import Member
from head.runs.head_file import TrainedHead
from head.runs.run import Run

_OF_FEATURES = "from features of a frozen network"
_LARGEST_SCORES = 1 << 20


@dataclass(frozen=True)
class CardFacts:
    """What a card says that is not in the run: its license, and of each file beside it what is in it.

    scores is scores.json, of several members what `read_mean_scores` makes of theirs; differences are those of each
    graph's outputs from PyTorch's, on the scale of the data.
    """

    license: str
    files: Mapping[str, str]
    scores: Mapping[str, Any] | None
    differences: Mapping[str, float]


def read_scores(run: Run) -> dict[str, Any] | None:
    """Return what score-cache found on the test part, None if it has not been run.

    Raises `CorruptFile` for anything else in its file, such as scores of another head.
    """
    path = run.folder / "scores.json"
    if not path.is_file():
        return None
    scores = read_json(path, largest=_LARGEST_SCORES)
    own = {"fingerprint": run.config.fingerprint, "split": run.split, "best_epoch": run.result.best_epoch}
    of_ceiling = ("of_ceiling", "of_ceiling_low", "of_ceiling_high", "ceiling", "ceiling_low", "ceiling_high")
    numbers = [scores.get(key) for key in ("rho", "rho_low", "rho_high", "mse", "n", "ceiling_images", *of_ceiling)]
    if any(scores.get(key) != value for key, value in own.items()) or not all(map(_is_number, numbers)):
        raise CorruptFile(f"{path}: not the scores of this head; run score-cache again, or delete the file")
    return scores


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def model_card(members: Sequence[Member], facts: CardFacts) -> str:
    """Return README.md: front matter as the Hub reads it, then what the head is, how it is used, and its limits."""
    run, head = members[0].run, members[0].head
    recipe, reached = run.recipe, _reached(members, facts.scores)
    example = f"\nWithout it, from a file to a score by ONNX:\n\n```python\n{onnx_example(recipe)}```\n"
    return _filled(
        "card.txt",
        license=_yaml(facts.license),
        metrics=_metrics(members, reached) if reached else "",
        title=_plain(_title(members)),
        means="by a network of which a part was trained for it" if kind_of(head.module).is_network else _OF_FEATURES,
        head=_rows({key: _plain(value) for key, value in _head_facts(members).items()}),
        results=_results(members, reached),
        example=example if "model.onnx" in facts.files else "",
        graphs=_rows(_inputs(run, facts)),
        steps=head.steps,
        maps=_maps(run, head) + _deviation(members),
        differences=" and ".join(f"{_at_most(value)} at most ({name})" for name, value in facts.differences.items()),
        view=_view(recipe),
        mean=", ".join(f"{value:g}" for value in recipe.mean),
        std=", ".join(f"{value:g}" for value in recipe.std),
        interval=_interval(members),
        limits="".join(f"- {limit}\n" for limit in _limits(members, facts)),
        files=_rows({f"`{name}`": what for name, what in facts.files.items()}),
    )


def onnx_example(recipe: Recipe) -> str:
    """Return a program that prints the score of photo.jpg, with Pillow and onnxruntime alone."""
    sides = "image.size" if recipe.eval_view == "squash-center" else "[min(image.size)] * 2"
    crop = (
        f"w, h = (max(1, round({recipe.center_fraction!r} * side)) for side in {sides})\n"
        "left, top = (image.width - w) // 2, (image.height - h) // 2\n"
        "image = image.crop((left, top, left + w, top + h))\n"
    )
    return _filled(
        "onnx_example.txt",
        size=recipe.image_size,
        resampling=recipe.interpolation.partition("-")[0].upper(),
        crop="" if recipe.eval_view == "squash" else crop,
    )


def _filled(name: str, /, **values: object) -> str:
    """Return a text of the folder assets with values in its places."""
    text = resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _rows(cells: Mapping[str, str]) -> str:
    return "".join(f"| {name} | {value} |\n" for name, value in cells.items())


def _yaml(text: Any) -> str:
    """Return text quoted as JSON, which is YAML as well; not as a word, which YAML might take for a number."""
    return json.dumps(printable(str(text)))


def _plain(text: Any) -> str:
    """Return text from a file so that Markdown shows it as it is: nothing in it becomes a table, link or tag."""
    return "".join(f"&#{ord(char)};" if char in "\\`*[]<>|&" else char for char in printable(str(text)))


def _name(members: Sequence[Member]) -> str:
    return members[0].run.name if len(members) == 1 else without_seed(members[0].run.name)


def _of_splits(members: Sequence[Member]) -> str:
    """Return what members were trained on, a comma before: ', split 3', ', all images'; '' where it is not known."""
    if len(members) == 1:
        return f", {members[0].run.trained_on}" if members[0].run.trained_on else ""
    splits = list(dict.fromkeys(member.run.split for member in members if member.run.split))
    return f", split{'s' * (len(splits) > 1)} {', '.join(splits)}" if splits else ""


def _title(members: Sequence[Member]) -> str:
    data = members[0].run.data_name or "images of an imported checkpoint"
    return f"{_name(members)}, trained on {data}{_of_splits(members)}"


@dataclass(frozen=True)
class _Reached:
    """What is known of a head's test scores. interval has a comma before; rho_name and of say what rho it is, of what.

    images is how many it was tested on, over all splits; near_ceiling is a sentence, or empty.
    """

    rho: float
    interval: str
    mse: float
    images: int
    rho_name: str
    of: str
    near_ceiling: str = ""


def _reached(members: Sequence[Member], scores: Mapping[str, Any] | None) -> _Reached | None:
    """Return what scores say of a run or of several; of one on all images what its estimate says; None for nothing."""
    run, found = members[0].run, members[0].run.result.estimate
    if len(members) == 1 and run.on_all_images:
        if found is None or found.rho is None or found.mse is None:
            return None
        of = f", cross-validated over {counted(found.splits, 'split')}"
        interval = "" if found.low is None else f", {found.interval}"
        near = _sentence(near_ceiling(asdict(found)))
        return _Reached(found.rho, interval, found.mse, found.images, "Mean Spearman rho", of, near)
    if scores is None or scores.get("rho") is None:
        return None
    name = "Spearman rho" if len(members) == 1 else "Spearman rho of a member, mean over splits"
    near = _sentence(near_ceiling(scores))
    return _Reached(scores["rho"], _rho_interval(scores), scores["mse"], scores["n"], name, _of_splits(members), near)


def _sentence(near: str) -> str:
    return f" That rho is {near}." if near else ""


def _metrics(members: Sequence[Member], reached: _Reached) -> str:
    """Return the scores as the Hub reads them in the front matter."""
    dataset = members[0].run.data_name or "unknown"
    return _filled(
        "card_metrics.txt",
        name=_yaml(_name(members)),
        dataset=_yaml(dataset),
        dataset_and_split=_yaml(f"{dataset}{reached.of}"),
        rho=repr(float(reached.rho)),
        rho_name=_yaml(f"{reached.rho_name}{reached.interval}"),
        mse=repr(float(reached.mse)),
    )


def _at_most(value: float) -> str:
    """Return a number of one digit that is not below value."""
    step = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return f"{math.ceil(round(value / step, 9)) * step:.1g}"


def _rho_interval(scores: Mapping[str, Any]) -> str:
    if scores["rho_low"] is None or scores["rho_high"] is None:
        return ""
    return f", 95% interval {scores['rho_low']:.3f} to {scores['rho_high']:.3f}"


def _head_facts(members: Sequence[Member]) -> dict[str, str]:
    """Return what the head is, what it reads, and what it was trained on."""
    run, head = members[0].run, members[0].head
    recipe = run.recipe
    kind = kind_of(head.module)
    title = KINDS.get(str(run.settings["head"]), kind).title  # heads fitted in other ways are stored as one kind
    kernel = f"kernel {run.settings['kernel']}" if "kernel" in run.used_settings else ""
    looks = kind.looks(head.module.shape)
    attention = "" if getattr(head.module.shape, "attention", True) else "without attention"
    images, heads = _span([len(one.head.train_images) for one in members], ","), [one.head for one in members]
    trained = "unknown" if run.imported else f"{images} images of {run.data_name}"
    several = {"members": _members(members)} if len(members) > 1 else {}
    of_others = ", ".join(run.train_settings.members)
    title += f": {of_others}" if of_others else ""
    return several | {
        "head": ", ".join(part for part in (title, kernel, attention, looks) if part),
        "backbone": _backbone(run, trained=kind.is_network),
        "reads": "; ".join(_read_in_words(one, recipe) for one in inputs_of(run.input)),
        "trained on": trained + (" each" if several else "") + _of_splits(members),
        "selected on": run.config.selected_on,
        "scores": f"mean of the training scores {_span([one.target_mean for one in heads], '.4g')}, "
        f"scale {_span([one.target_scale for one in heads], '.4g')}{_calibration(members)}",
        "fingerprint of its features": recipe.fingerprint,
    }


def _backbone(run: Run, *, trained: bool) -> str:
    """Return what the backbone is, and whether all of it is as it was."""
    name = run.recipe.backbone
    if not trained:
        return f"{name}, frozen; layer {', '.join(run.input.layers)}"
    return f"{name}, " + ("from pixels on" if run.reads_pixels else f"frozen down to its layer {run.input.layers[0]}")


def _read_in_words(one: HeadInput, recipe: Recipe) -> str:
    """Return what a head reads of the layers that it is on."""
    shape, tokens = one.map_shape(recipe), one.tokens_in_words(recipe)
    if one.pooled:
        return f"{one.pooling.replace('+', ' and ')} over the positions of each feature map, {shape.channels} numbers"
    if one.reads_pixels:
        return f"pixels of views, {shape.height} x {shape.width}"
    maps = f"feature maps, {shape.height} x {shape.width} positions of {shape.channels} channels"
    return f"{maps}{f', and {tokens}, as wide, without a place' if tokens else ''}"


def _members(members: Sequence[Member]) -> str:
    seeds = sorted({member.run.seed for member in members})
    which = f"{_of_splits(members)}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"{len(members)}, whose mean is given{which}"


def _span(values: Sequence[float], digits: str) -> str:
    """Return the lowest and the highest of values, or the one that all are."""
    shown = [format(value, digits) for value in (min(values), max(values))]
    return shown[0] if shown[0] == shown[1] else " to ".join(shown)


def _results(members: Sequence[Member], reached: _Reached | None) -> str:
    run = members[0].run
    warning = "" if _is_honest(run) else " The epoch was selected on these very images, so both numbers flatter."
    if len(members) == 1 and run.on_all_images:
        return f"{_estimated(run, reached)}{warning if reached else ''}"
    if reached is None:
        return f"There are no test scores with {'this run' if len(members) == 1 else 'all of these runs'}."
    if len(members) > 1:
        return f"{_mean_results(members, reached)}{warning}"
    return (
        f"On the test part of split {_plain(run.split)}, {reached.images:,} images, one view each: Spearman's rho "
        f"{reached.rho:.3f}{reached.interval} (bootstrap over images); mean squared error "
        f"{reached.mse:.5f}.{reached.near_ceiling}{warning}"
    )


def _estimated(run: Run, reached: _Reached | None) -> str:
    """Return what is known of a head on all images, which cannot be tested itself."""
    own = "This head was trained on all images, so it has no test score of its own."
    problem = run.result.estimate.problem if run.result.estimate else ""
    if reached is None:
        why = f": {_plain(problem)}" if problem else ""
        return f"{own} There is no cross-validated estimate either{why}."
    return (
        f"{own} Heads of the same settings, each trained on one split and scored on that split's test part"
        f"{reached.of}, {reached.images:,} images in all, one view each, reached a mean Spearman's rho of "
        f"{reached.rho:.3f}{reached.interval or ', without an interval'}; mean squared error {reached.mse:.5f}."
        f"{reached.near_ceiling}{f' {_plain(problem)}.' if problem else ''}"
    )


def _mean_results(members: Sequence[Member], reached: _Reached) -> str:
    splits = len({member.run.split for member in members})
    return (
        f"Of a single member, on the test part of its own split, mean over {splits} split{'s' * (splits > 1)}, "
        f"{reached.images:,} images, one view each: Spearman's rho {reached.rho:.3f}{reached.interval}"
        f"{f' ({OF_MEAN_RHO})' if reached.interval else ''}; mean squared error {reached.mse:.5f}."
        f"{reached.near_ceiling} These are not of "
        "the mean over members, which is exported"
        f"{': a test image of one split is mostly a training image of others' if splits > 1 else ''}."
    )


def _is_honest(run: Run) -> bool:
    return "test" not in str(run.config.selected_on)


def _inputs(run: Run, facts: CardFacts) -> dict[str, str]:
    """Return what each graph takes."""
    size, channels = run.recipe.image_size, run.input.map_shape(run.recipe).channels
    inputs = {"`head.onnx`": f"features (B, {run.input.positions(run.recipe)}, {channels}) float32"}
    if "model.onnx" in facts.files:
        inputs["`model.onnx`"] = f"pixels (B, {size}, {size}, 3) uint8, red, green, blue"
    return inputs


def _maps(run: Run, head: TrainedHead) -> str:
    """Return what graphs give besides scores, where the head has it."""
    even = "" if run.attends else ", 1/L throughout as this head has no attention"
    if not has_maps(head.module):
        return ""
    shape = run.input.map_shape(run.recipe)
    sizes = f"(B, {head.steps}, {shape.positions + run.input.tokens(run.recipe)})"
    if run.tokens:
        return f", maps {sizes}: {shape.height} x {shape.width} places row by row, then {run.tokens}"
    return f", maps {sizes}, row by row{even}"


def _deviation(members: Sequence[Member]) -> str:
    """Return what graphs of several members give besides, and that all else are means."""
    return "" if len(members) == 1 else "; these are means over the members, and deviation (B) is that of their scores"


def _interval(members: Sequence[Member]) -> str:
    """Return by how much ratings may be off a score, or that this is not known."""
    residuals = [member.head.residuals for member in members]
    widths = usual_half_widths(residuals)
    if not widths:
        return "A score is an estimate without an interval of its own; the error above is that over many images."
    bounds = ", ".join(f"+-{width:.4g} for {float(level):.0%}" for level, width in widths.items())
    images = _span([len(one) for one in residuals], ",")
    several = "; means over the members" if len(members) > 1 else ""
    return (
        f"How far ratings are from a score: within {bounds} of images, if they are like those of the training. These "
        f"are by its errors on {images} images that it was not fitted to{several}."
    )


def _calibration(members: Sequence[Member]) -> str:
    """Return how scores were calibrated, a comma before; '' if they were not."""
    kinds = dict.fromkeys(member.head.calibration.kind for member in members if member.head.calibration)
    return f", then {' or '.join(kinds)} calibration" if kinds else ""


def _view(recipe: Recipe) -> str:
    size = f"{recipe.image_size} x {recipe.image_size} pixels"
    how = recipe.interpolation.replace("-antialias", ", antialiased")
    if recipe.eval_view == "squash":
        return f"the whole image, squashed to {size} ({how})"
    if recipe.eval_view == "squash-center":
        return f"the central {recipe.center_fraction:g} of both sides, squashed to {size} ({how})"
    return f"the central square of {recipe.center_fraction:g} of the shorter side, resized to {size} ({how})"


def _limits(members: Sequence[Member], facts: CardFacts) -> list[str]:
    """Return what limits this head, besides what limits every one."""
    run, limits = members[0].run, []
    if len(members) > 1:
        limits.append("The deviation is how far members disagree, which is not how far their mean is from raters.")
    if run.imported:
        limits.append(
            f"It was imported ({_plain(run.imported.file)}): on which images it was trained, and "
            "how it was selected, is not known here."
        )
    else:
        limits.append(
            "`head.safetensors` holds the sha256 of every training image, so that scores of those are flagged. Who has "
            "an image can thereby tell whether it was among them."
        )
    if not _is_honest(run):
        limits.append("It was selected on the test part, so its test scores are optimistic.")
    if facts.license == "unknown":
        limits.append("Nobody has said under which license the head may be used; ask whom you have it from.")
    if run.precision != "fp32":
        limits.append(
            f"It was trained on features computed in {run.precision}, in which `amnet predict` computes. ONNX computes "
            "in float32; in one measurement (bf16, 100 photographs) its scores differed from those by up to a tenth of "
            "their deviation, and ranked images all but alike."
        )
    if run.recipe.calibrated_layers and not run.imported:
        limits.append("It was trained on features of 8 bits; the same rounding is part of `model.onnx`.")
    if run.recipe.projection:
        limits.append(
            "It was trained on features projected on fewer channels, and `head.onnx` takes those; the same projection "
            "is part of `model.onnx` and of the head's file."
        )
    return limits
