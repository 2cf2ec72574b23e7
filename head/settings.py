"""Every setting of training, what each protocol's values are, and what was chosen where the paper is silent."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcache.base.commands import command
from featcache.base.errors import InvalidSettings, list_problems

POOLED = ("mean", "mean+deviation")
KERNELS = ("rbf", "intersection", "chi2", "linear", "product")
AS_STORED = ("intersection", "chi2", "product")  # of the kernels
SELECTIONS = ("val", "test")
CALIBRATIONS = ("none", "linear", "isotonic")
PRECISIONS = ("auto", "fp32", "bf16")
BATCH_NORMS = ("frozen", "trained")
EVAL_VIEWS = ("center", "tencrop")
WEIGHTS = ("none", "n", "se")
ORDERS = ("random", "shards")
RESIDENT = ("auto", "no", "yes")  # no setting of a head: it changes no weight
_TRAIN = re.compile(r"(all|norms)|(last|lora)-([1-9]\d{0,3})")
_PUBLISHED = {"lr": 1e-4, "attention_weight": 1e-5, "batch_size": 222, "epochs": 54, "patience": 54}
_WHOLE = {
    "steps": (1, 20),
    "hidden_size": (1, 65536),
    "regressor_size": (1, 65536),
    "queries": (1, 64),
    "value_size": (1, 65536),
    "attention_heads": (1, 64),
    "batch_size": (1, 65536),
    "channels": (0, 65536),
    "epochs": (1, 100_000),
    "patience": (1, 100_000),
    "accumulate": (1, 65536),
    "seed": (0, 2**63 - 1),
}
_LARGEST_ORDER = 1e3
_WHOLE_NETWORK = {"batch_size": 32, "epochs": 20, "patience": 5}  # of a network that is trained
_REAL = {"lr": 10.0, "backbone_lr": 10.0, "weight_decay": 10.0, "attention_weight": 1e3}
_EVERY_HEAD = frozenset({"head", "layers", "select_on", "val_fraction", "calibrate", "seed"})
_POOLED = frozenset({"pooling"})
_FEWER = frozenset({"channels"})
_EARLY_STOPPING = frozenset({"epochs", "patience"})
_WEIGHTED = frozenset({"weight"})
_OF_OTHERS = frozenset({"members"})
_BY_GRADIENT = frozenset({"lr", "weight_decay", "batch_size", "precision", "order"}) | _EARLY_STOPPING | _WEIGHTED
_FINE_TUNED = frozenset({"backbone_lr", "accumulate", "crop", "eval_view", "dropout"}) | _BY_GRADIENT
_STEPWISE = frozenset({"steps", "attention", "attention_weight", "order_penalty"})
_RECURRENT = _STEPWISE | {"recipe", "hidden_size", "regressor_size", "dropout"}
HEADS = {  # the fields that each uses; what it is and how it is fitted says `head.models.kinds`
    "amnet": _RECURRENT | _BY_GRADIENT | _FEWER,
    "ep": frozenset({"queries", "value_size", "dropout"}) | _BY_GRADIENT | _FEWER,
    "probe": frozenset({"attention_heads", "dropout"}) | _BY_GRADIENT | _FEWER,
    "tail": _FINE_TUNED | {"train", "batch_norm"},
    "memnet": _FINE_TUNED,
    "memonet": _FINE_TUNED | {"batch_norm"},
    "linear": _POOLED | _WEIGHTED | _FEWER,
    "ridge": _POOLED | _WEIGHTED | _FEWER,
    "banded-ridge": _POOLED | _WEIGHTED,
    "lsvr": _POOLED | _WEIGHTED | _FEWER,
    "svr": _POOLED | _WEIGHTED | _FEWER | {"kernel"},
    "mlp": _POOLED | _EARLY_STOPPING | _FEWER,
    "stack": _OF_OTHERS,
    "mean": _OF_OTHERS,
}
PROTOCOLS: dict[str, dict[str, Any]] = {"paper": {}, "published": _PUBLISHED}  # by recipe, what is not default
OF_HEADS: dict[
    str, dict[str, Any]
] = {  # by head likewise; docs/heads.md, finetuning.md and paper.md say how it was chosen
    "ep": {"lr": 1e-2},
    "tail": {**_WHOLE_NETWORK, "dropout": 0.0},
    "memnet": {**_WHOLE_NETWORK, "crop": 227, "eval_view": "tencrop", "dropout": 0.5, "backbone_lr": 1e-5},
    "memonet": {**_WHOLE_NETWORK, "crop": 224, "dropout": 0.2},
}


@dataclass(frozen=True)
class TrainSettings:
    """Flat and JSON-able. The defaults are the paper's (section 3.4) where it gives them; see `settings_of` for others.

    head is 'amnet' (a recurrent head of the recipe), an attentive probe, a baseline on pooled features, or a 'stack' or
    'mean' of heads that are trained, whose runs' names are members; queries,
    value_size and attention_heads are those of the probes, pooling is what a baseline reads of each layer, kernel how
    'svr' compares images. layers are the cache's layers to read, joined: none for its last, 'all' for all.
    attention_weight is lambda of Eq. 13; order_penalty presses step scores m_t to rise with t where it is above 0,
    to fall where it is below (section 4.4). patience is how many epochs without a better validation rho end the
    training; precision is the arithmetic of matrix products, 'auto' bf16 where the hardware multiplies it. weight says
    how much an image counts in the loss: 'n' by its number of ratings, 'se' by 1 / se^2 of its standard error.
    Of a network that is trained further, train says which of its weights: 'all', 'norms', 'last-N', from the Nth matrix
    or convolution from its end on, or 'lora-R', additions of rank R to its matrices. backbone_lr is their learning
    rate, lr that of weights that are new. batch_norm says what running statistics do, crop is the side in pixels of
    what is cut from views, 0 for all of it, eval_view which crops are evaluated. A batch is computed in as many parts
    as accumulate says, whose gradients are added up.
    order is that of an epoch's images: 'random', or 'shards', a few of the cache's files after the others, at random
    within them, for file systems where it takes long to begin to read a file.
    channels is on how many principal directions of the training part's features these are projected first, 0 for none.
    calibrate is what scores are mapped by, to the ratings of the images that select: 'none', 'linear' or 'isotonic'.
    """

    recipe: str = "paper"
    head: str = "amnet"
    attention: bool = True
    steps: int = 3
    hidden_size: int = 1024
    regressor_size: int = 512
    queries: int = 4
    value_size: int = 32
    attention_heads: int = 8
    dropout: float = 0.5
    lr: float = 1e-3
    weight_decay: float = 1e-6
    attention_weight: float = 1e-4
    order_penalty: float = 0.0
    batch_size: int = 256
    accumulate: int = 1
    train: str = "all"
    backbone_lr: float = 1e-4
    batch_norm: str = "frozen"
    crop: int = 0
    eval_view: str = "center"
    epochs: int = 60
    patience: int = 15
    pooling: str = "mean+deviation"
    kernel: str = "rbf"
    layers: tuple[str, ...] = ()
    channels: int = 0
    members: tuple[str, ...] = ()
    precision: str = "auto"
    weight: str = "none"
    order: str = "random"
    select_on: str = "val"
    val_fraction: float = 0.1
    calibrate: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "members"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list, where it comes from JSON
        problems = problems_of(vars(self))
        if problems:
            title = "settings of training that cannot be:"
            raise InvalidSettings(problems[0] if len(problems) == 1 else list_problems(title, problems, ""))

    def default_name(self) -> str:
        """Return the run's name when none is given: recipe or baseline, and each setting that is not its default.

        Settings of different heads have different names: `paper`, `paper-no-attention,steps=2`, `ridge,pooling=mean`.
        """
        if "recipe" in HEADS[self.head]:
            stem = self.recipe if self.attention else f"{self.recipe}-no-attention"
            usual = vars(settings_of(self.recipe, attention=self.attention))
        else:
            stem, usual = self.head, vars(settings_of(head=self.head))
        return ",".join([stem, *(text_of(name, self) for name in usual if getattr(self, name) != usual[name])])

    def as_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return {**asdict(self), "layers": list(self.layers), "members": list(self.members)}


def settings_of(recipe: str = "paper", **given: Any) -> TrainSettings:
    """Return the settings of a recipe, or of a head, with those changed that are given and not None.

    Raises `InvalidSettings` for any that cannot be.
    """
    if unknown := [name for name in given if name not in TrainSettings.__dataclass_fields__]:
        raise InvalidSettings(f"no such setting: {', '.join(unknown)}; see `head.settings.TrainSettings`")
    changes = {name: value for name, value in given.items() if value is not None}
    usual = {**PROTOCOLS.get(recipe, {}), **OF_HEADS.get(changes.get("head", ""), {})}
    return TrainSettings(**{"recipe": recipe, **usual, **changes})


def problems_of(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with values of some or all fields, a line each."""
    choices = {"recipe": tuple(PROTOCOLS), "head": tuple(HEADS), "pooling": POOLED, "kernel": KERNELS}
    choices |= {"precision": PRECISIONS, "select_on": SELECTIONS, "batch_norm": BATCH_NORMS, "eval_view": EVAL_VIEWS}
    choices |= {"weight": WEIGHTS, "calibrate": CALIBRATIONS, "order": ORDERS}
    problems = [
        f"{option_of(name)} must be {' or '.join(choices[name])}, found {values[name]!r}"
        for name in choices
        if name in values and values[name] not in choices[name]
    ]
    for name, (low, high) in _WHOLE.items():
        if name in values and not (isinstance(values[name], int) and low <= values[name] <= high):
            problems.append(f"{option_of(name)} must be {low} to {high}, found {values[name]!r}")
    for name, upper in _REAL.items():
        if name in values and not (math.isfinite(values[name]) and 0 <= values[name] <= upper):
            problems.append(f"{option_of(name)} must be a number from 0 to {upper}, found {values[name]}")
    if not abs(values.get("order_penalty", 0)) <= _LARGEST_ORDER:
        problems.append(
            f"--order-penalty must be a number from -{_LARGEST_ORDER:g} to {_LARGEST_ORDER:g}, "
            f"found {values['order_penalty']}"
        )
    if not (isinstance(train := values.get("train", "all"), str) and _TRAIN.fullmatch(train)):
        problems.append(f"--train must be all, norms, last-N or lora-RANK, N and RANK from 1 to 9999, found {train!r}")
    if "crop" in values and not (values["crop"] == 0 or 16 <= values["crop"] <= 4096):
        problems.append(f"--crop must be 16 to 4096 pixels, or 0 for none, found {values['crop']}")
    if values.get("accumulate", 1) > values.get("batch_size", math.inf):
        problems.append(
            f"--accumulate {values['accumulate']}: a batch of {values['batch_size']} does not have so many parts"
        )
    if values.get("channels"):
        problems += _unprojected(values)
    if not 0 <= values.get("dropout", 0) < 1:
        problems.append(f"--dropout must be in [0, 1), found {values['dropout']}")
    if not 0 < values.get("val_fraction", 0.5) < 1:
        problems.append(f"--val-fraction must be in (0, 1), found {values['val_fraction']}")
    return problems


def _unprojected(values: Mapping[str, Any]) -> list[str]:
    """Return why a head that values ask for reads features as they are, whose channels cannot be fewer, if it does."""
    head, recipe, kernel = (values.get(name) for name in ("head", "recipe", "kernel"))
    if head in HEADS and "channels" not in HEADS[head]:
        named = command("--head", head)
        return [f"--channels: of no effect on {named}, which reads features as they are; leave it out"]
    if head == "amnet" and recipe == "published":
        return ["--channels: the published recipe reads features as its authors' code does; leave it out"]
    if head == "svr" and kernel in AS_STORED:
        return [
            f"--channels: --kernel {kernel} reads features as they are stored, layer by layer; leave it out, or take "
            "--kernel rbf or linear"
        ]
    return []


def used_fields(head: str, *, attention: bool = True, steps: int = TrainSettings.steps) -> frozenset[str]:
    """Return the fields that change anything about a head.

    Lambda weighs what without attention is constant, a single step is in no order, and heads of others read what these
    do.
    """
    of_others = "members" in HEADS.get(head, _POOLED)
    idle = {"attention_weight": not attention, "order_penalty": steps == 1, "layers": of_others}
    return (_EVERY_HEAD | HEADS.get(head, _POOLED)) - {name for name, is_idle in idle.items() if is_idle}


def attends(head: str, *, attention: bool = True) -> bool:
    """Return whether a head could say where it looks: it reads maps, and its attention, where it can be off, is on."""
    used = used_fields(head)
    looks = bool(used & {"steps", "queries", "attention_heads"})
    return looks and (attention or "attention" not in used)


def trained_part(train: str) -> tuple[str, int]:
    """Return which weights are trained, 'all', 'norms', 'last' or 'lora', and N or R, 0 where there is none."""
    found = _TRAIN.fullmatch(train)
    if not found:
        raise InvalidSettings(problems_of({"train": train})[0])
    return (found[1], 0) if found[1] else (found[2], int(found[3]))


def text_of(name: str, settings: TrainSettings) -> str:
    """Return a setting as names of runs have it: `steps=2`, `lambda=0`, `attention=off`."""
    value = getattr(settings, name)
    if isinstance(value, bool):
        shown = "on" if value else "off"
    elif isinstance(value, float):
        shown = repr(value + 0.0).removesuffix(".0")  # -0.0 is 0
    else:
        shown = "+".join(value) if isinstance(value, tuple) else str(value)
    return f"{option_of(name).removeprefix('--')}={shown}"


def options_of(settings: TrainSettings) -> list[str]:
    """Return the words of train-head's command line that ask for settings, without those that are its defaults."""
    used = used_fields(settings.head, attention=settings.attention, steps=settings.steps)
    recipe = settings.recipe if "recipe" in used else "paper"
    usual = {**vars(settings_of(recipe, head=settings.head)), "recipe": "paper", "head": TrainSettings.head}
    words = []
    for name, value in vars(settings).items():
        if name in used and value != usual[name]:
            values = value if isinstance(value, tuple) else [text_of(name, settings).partition("=")[2]]
            words += [word for one in values for word in (option_of(name), one)]
    return words


def option_of(name: str) -> str:
    """Return the command-line option that sets a field."""
    return {"attention_weight": "--lambda", "layers": "--layer", "members": "--member"}.get(
        name, f"--{name.replace('_', '-')}"
    )
