"""A run's folder: config.json, head.safetensors, history.csv, checkpoint. Nothing in it is pickled.

The head's file also holds the sha256 of every image it was trained on, so the guard against scoring a head on
its training images goes where the head goes.
"""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.backbones.execution import split_arithmetic
from featcache.backbones.families.descriptor_networks import located_weights
from featcache.base.commands import amnet
from featcache.base.errors import CacheIncomplete, CorruptFile, InvalidSettings, Mismatch
from featcache.base.files import read_json, write_durably
from featcache.recipe import Recipe, recipe_from_json
from head.data.several import AnyInput, SeveralInputs, read_input
from head.runs.config import Document, Result, RunConfig, Source, config_from_json
from head.runs.history import HISTORY_NAME
from head.settings import TrainSettings, attends, used_fields

CONFIG_NAME = "config.json"
HEAD_NAME = "head.safetensors"
CARD_NAME = "README.md"
CHECKPOINT_NAME = "checkpoint"
RATINGS_NAME = "other_ratings.safetensors"
RUN_FORMAT_VERSION = 1
_LARGEST_CONFIG = 16 << 20
_LONGEST_NAME = 255  # bytes, of a folder on most file systems


@dataclass(frozen=True)
class Run:
    """One finished or unfinished run. config is config.json; `finished` says whether a head is there.

    weights is where its backbone's weights are, if not where config says.
    """

    folder: Path
    config: RunConfig
    weights: str | None = None

    @property
    def finished(self) -> bool:
        """Whether training has ended and the head is there."""
        return self.config.result is not None

    @property
    def result(self) -> Result:
        """What training came to; raise `CacheIncomplete` if it has not ended."""
        if self.config.result is None:
            raise CacheIncomplete(f"{self.folder}: training has not finished; run the same train-head command again")
        return self.config.result

    @property
    def name(self) -> str:
        """The run's name, shared by its splits."""
        return self.config.name

    @property
    def split(self) -> str:
        """The split it was trained on."""
        return self.config.split

    @property
    def on_all_images(self) -> bool:
        """Whether it was trained on all images, so that none is left to score it on."""
        return self.config.choice is not None

    @property
    def trained_on(self) -> str:
        """What of the data it was trained on: 'split 3', 'all images', '' where that is unknown."""
        return "all images" if self.on_all_images else f"split {self.split}" if self.split else ""

    @property
    def estimate(self) -> str:
        """How well the runs on the splits did, for a run on all images, which cannot be scored itself; '' of others."""
        found = self.result.estimate
        return f"trained on all images, so it has no test score of its own; {found.as_text()}" if found else ""

    @property
    def data_name(self) -> str:
        """The cache that it was trained on, and which of several ratings: `faces, beauty`; '' of an imported one."""
        return f"{self.config.cache}, {self.config.target}" if self.config.target else self.config.cache

    @functools.cached_property
    def settings(self) -> Document:
        """The settings it was trained with; those that an older run does not have are the defaults."""
        return {**TrainSettings().as_json(), **self.config.settings}

    @property
    def train_settings(self) -> TrainSettings:
        """The same, as they are given to train another; raise `InvalidSettings` if they cannot be."""
        return TrainSettings(**{name: self.settings[name] for name in TrainSettings.__dataclass_fields__})

    @property
    def seed(self) -> int:
        """The seed it was trained with."""
        return int(self.settings["seed"])

    @property
    def input(self) -> AnyInput:
        """What it reads of an image; raise `CorruptFile` if the configuration does not say."""
        try:
            return read_input(self.config.input)
        except (TypeError, ValueError) as error:
            raise CorruptFile(f"{self.folder / CONFIG_NAME}: {error}") from error

    @property
    def imported(self) -> Source | None:
        """The other program's checkpoint that it is, if it is one; on which images that was trained is not known."""
        return self.config.imported

    @property
    def attends(self) -> bool:
        """Whether its head could say where it looks; without attention all places are alike."""
        if isinstance(self.input, SeveralInputs):
            return self.input.attends
        return attends(str(self.settings["head"]), attention=bool(self.settings["attention"]))

    @property
    def tokens(self) -> str:
        """What its attention can go to that has no place, in words, such as 'the class token'; '' for nothing."""
        return self.input.tokens_in_words(self.recipe) if self.attends else ""

    @property
    def chosen(self) -> str:
        """What selection chose: 'epoch 12', of a baseline its own hyperparameters, such as 'C=1, gamma=0.01'.

        Of a head that is made of others it is the weight of each, by what tells their names apart.
        """
        hyperparameters = self.result.hyperparameters
        if hyperparameters and self.settings["members"]:
            names = told_apart(list(hyperparameters))
            return "; ".join(
                f"{name}: {value:.3g}" for name, value in zip(names, hyperparameters.values(), strict=True)
            )
        if hyperparameters is not None:
            return ", ".join(f"{name}={value:.4g}" for name, value in hyperparameters.items()) or "nothing to choose"
        return "unknown" if self.result.best_epoch is None else f"epoch {self.result.best_epoch}"

    @property
    def used_settings(self) -> Document:
        """Those of its settings that its head uses: no network's, such as its learning rate, of a baseline."""
        used = used_fields(str(self.settings["head"]), attention=bool(self.settings["attention"]))
        known = TrainSettings.__dataclass_fields__
        return {name: value for name, value in self.config.settings.items() if name in used or name not in known}

    @property
    def weights_source(self) -> str:
        """Where its backbone's weights are: 'imagenet', 'random' or a file, which may be in the run's folder."""
        if self.weights:
            return self.weights
        backbone = str(self.config.recipe["backbone"])
        return located_weights(backbone, self.config.weights_source, lambda file: self.folder / file)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the features it was trained on."""
        return recipe_from_json(self.config.recipe, str(self.folder / CONFIG_NAME))

    @property
    def reads_pixels(self) -> bool:
        """Whether it reads pixels of views alone, which no network computes."""
        return self.input.reads_pixels

    @property
    def precision(self) -> str:
        """In which precision what it reads was computed; of pixels 'fp32', as they are exact in it."""
        return "fp32" if self.reads_pixels else split_arithmetic(self.recipe.precision)[0]


def told_apart(names: Sequence[str]) -> list[str]:
    """Return runs' names without the settings that all of them have in common, the whole name where nothing is left.

    Of 'svr,layer=a' and 'svr,layer=b,kernel=rbf' these are 'layer=a' and 'layer=b,kernel=rbf'.
    """
    words = [name.split(",") for name in names]
    common = set[str].intersection(*map(set, words)) if len(names) > 1 else set()
    return [",".join(word for word in one if word not in common) or ",".join(one) for one in words]


def check_name(name: str) -> None:
    """Raise `InvalidSettings` unless name can be one folder's name."""
    if not re.fullmatch(r"\w[\w.,+=-]*", name):
        raise InvalidSettings(f"--name must be letters, digits and . , + = - _ only, found {name!r}")
    if len(name.encode()) > _LONGEST_NAME:
        raise InvalidSettings(f"a run's name has at most {_LONGEST_NAME} bytes, give a shorter --name than {name!r}")


def write_config(folder: Path, config: Document) -> Run:
    """Write config.json at once, durably; return its run."""
    write_durably(folder / CONFIG_NAME, (json.dumps(config, indent=1, sort_keys=True) + "\n").encode())
    return Run(folder, config_from_json(config))


def read_run(folder: str | Path) -> Run:
    """Return the run in folder; raise `InvalidSettings` if there is none, `Mismatch` if it is of a newer version."""
    folder = Path(folder)
    path = folder / CONFIG_NAME
    if (folder / HEAD_NAME).is_file() and not path.is_file():
        raise CorruptFile(f"{folder}: holds a head, but lacks {CONFIG_NAME}; train or import it again there")
    if not path.is_file():
        inside = [str(read_run(found).folder) for found in run_folders(folder)] if folder.is_dir() else []
        hint = f"name one of {', '.join(inside[:8])}" if inside else f"make one with: {amnet('train-head')}"
        raise InvalidSettings(f"{folder}: no run there; {hint}")
    try:
        config = read_json(path, largest=_LARGEST_CONFIG)
    except CorruptFile as error:
        raise CorruptFile(f"{error}; train the run again with --no-resume, or import it again") from error
    if not isinstance(config.get("run_format_version"), int):
        raise CorruptFile(f"{path}: not the configuration of a run; train it again with --no-resume, or import it")
    if config["run_format_version"] > RUN_FORMAT_VERSION:
        raise Mismatch(f"{path}: run format {config['run_format_version']}, this program reads {RUN_FORMAT_VERSION}")
    again = "import it again" if "imported" in config else "train the run again with --no-resume"
    try:
        return Run(folder, config_from_json(config))
    except ValueError as error:
        raise CorruptFile(f"{path}: {error}; {again}") from error


def run_folders(folder: Path) -> list[Path]:
    """Return folder and those below it that hold a run, or what is left of one, in order."""
    return sorted({path.parent for name in (CONFIG_NAME, HEAD_NAME) for path in folder.rglob(name)})


def remove_results(folder: Path) -> None:
    """Remove an earlier head of this folder and what was made with it: a new head must not stand beside old scores."""
    for pattern in (HEAD_NAME, HISTORY_NAME, RATINGS_NAME, "scores*.json", "predictions*.csv"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
