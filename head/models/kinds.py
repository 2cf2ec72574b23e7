"""Every kind of head: what it is made of and reads, how it is fitted, and the name under which a run stores it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.datasets.splits import Part
from featcache.recipe import Recipe
from featcache.settings import PREFIX
from featcache.store.cache import FeatureCache
from featcache.store.projection import Projection, kept_in_words
from head.data.batches import feature_scale
from head.data.channels import ProjectedInput, check_channels
from head.data.inputs import HeadInput
from head.models import amnet, banded, baselines, kernels, probes, published, reading, stack, svr
from head.models.tails import cuts, memnet, memonet, tail
from head.settings import HEADS, TrainSettings

_Scale = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class TargetScale:
    """Targets are (score - mean) / scale."""

    mean: float
    scale: float


@runtime_checkable
class _StoresPart(Protocol):
    """A head of whose tensors a run stores a part, and frozen_sha256 of the others; all where it stands alone."""

    @property
    def stands_alone(self) -> bool: ...

    def stored(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Beginning:
    """What a head may be told before it is trained: part of a cache, as source reads it, and where weights are."""

    cache: FeatureCache
    part: Part
    source: HeadInput | ProjectedInput
    seed: int
    weights: str


def _standardise(head: Any, beginning: Beginning) -> None:
    """Tell a head mean and deviation of its channels over the training part."""
    of = beginning
    head.set_feature_scale(*feature_scale(of.cache, of.part, source=of.source, seed=of.seed))


def _take_weights(head: Any, beginning: Beginning) -> None:
    """Give a head the weights of the cache's network."""
    head.begin(beginning.cache.recipe, beginning.weights)


def _begin_memnet(head: Any, beginning: Beginning) -> None:
    """Give a head the weights of the cache's network, and the mean of the training views."""
    of = beginning
    _take_weights(head, of)
    assert isinstance(of.source, HeadInput)  # a network goes on from all channels
    head.set_mean_image(memnet.mean_view(of.cache, of.part, source=of.source, seed=of.seed))


def _sizes_of_features(recipe: Recipe, source: HeadInput) -> dict[str, Any]:
    shape = source.map_shape(recipe)
    return {"positions": shape.positions, "channels": shape.channels}


def _all_at_one_rate(head: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    return [{"params": list(head.parameters()), "lr": settings.lr}]


def _to_deviation(scores: NDArray[np.float64]) -> TargetScale:
    """Return the scale to mean 0 and deviation 1."""
    return TargetScale(float(np.mean(scores)), float(np.std(scores)) or 1.0)


def weighted_scale(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> TargetScale:
    """Return the scale to mean 0 and deviation 1 of weighted scores."""
    mean = float(np.average(scores, weights=weights))
    return TargetScale(mean, float(np.sqrt(np.average((scores - mean) ** 2, weights=weights))) or 1.0)


def _to_one(scores: NDArray[np.float64]) -> TargetScale:
    """Return the scale to [-1, 1] around the mean (section 3.5)."""
    mean = float(np.mean(scores))
    return TargetScale(mean, float(np.max(np.abs(scores - mean))) or 1.0)


def _scale_of_members(head: stack.StackHead) -> _Scale:
    """Return mean and deviation of all that a stack reads, 0 and 1 where no member standardises it."""
    width = max(start + positions * channels for start, positions, channels in head.shape.sizes)
    mean, deviation = torch.zeros(width), torch.ones(width)
    for member, (start, positions, channels) in zip(head.members, head.shape.sizes, strict=True):
        if found := kind_of(member).scale(member):
            place = slice(start, start + positions * channels)
            mean[place], deviation[place] = (one.float().repeat(positions) for one in found)
    return mean, deviation


def _recurrent_looks(shape: Any) -> str:
    return f"{shape.steps} looks, state of {shape.hidden_size}"


@dataclass(frozen=True)
class Kind:
    """One kind of head, and all that other files need to know of it.

    title is what a model card calls it. module is built of shape, whose fields are fields of settings and what sizes
    gives for a recipe and an input. reads gives its `HeadInput` of some layers of a cache. scale gives for a module the
    mean and deviation by which it standardises its channels, None where it does not. mean_feature gives for a module
    the mean training feature (D) as it reads them, which stands for a place of which nothing is known; it is None where
    none is held. attends is whether it has maps of
    where it looks, which baselines have not; without attention they are uniform, 1/L. looks says of a shape in words
    how it looks, and look is what one of its T steps is called. target gives the scale of training scores. coverage
    gives for T the constant of Eq. 15: how much attention a position should get in all T steps together.

    baseline is how scikit-learn fits it. A head without one, unless it is of others, is trained by gradients: begin
    tells it what it has to know before, groups gives its weights with their learning rates. Where a run stores a part
    of its tensors, as its method `stored` says, complete takes the others from the weights of a recipe's network, its
    last argument. built_whole is whether it comes with numbers that are no weights, so that it cannot be built empty.
    started gives for a shape, a recipe and weights the sha256 of the network as it begins, and raises what `begin`
    would. at_once is how many images it takes where nothing is trained.
    """

    title: str
    shape: type[Any]
    module: type[nn.Module]
    reads: Callable[[FeatureCache, TrainSettings, tuple[str, ...]], HeadInput] = reading.read_pooled
    scale: Callable[[Any], _Scale] = lambda head: (head.standardise.mean, head.standardise.deviation)
    mean_feature: Callable[[Any], Tensor] | None = lambda head: head.standardise.mean
    attends: bool = False
    looks: Callable[[Any], str] = lambda shape: ""
    look: str = "look"
    target: Callable[[NDArray[np.float64]], TargetScale] = _to_deviation
    coverage: Callable[[int], float] = lambda steps: 1.0
    baseline: baselines.Baseline | None = None
    sizes: Callable[[Recipe, HeadInput], Mapping[str, Any]] = _sizes_of_features
    begin: Callable[[Any, Beginning], None] = lambda head, beginning: None
    groups: Callable[[Any, TrainSettings], list[dict[str, Any]]] = _all_at_one_rate
    complete: Callable[[Any, Recipe, str], None] | None = None
    started: Callable[[Any, Recipe, str], str] | None = None
    built_whole: bool = False
    at_once: int = 256

    @property
    def of_others(self) -> bool:
        """Whether it is made of heads that are trained, and so reads what those read."""
        return self.module is stack.StackHead

    @property
    def is_network(self) -> bool:
        """Whether it is a part of the backbone that is trained further, and so needs what a backbone needs."""
        return self.complete is not None


_TAIL = Kind(
    "the rest of the network behind a layer, trained further",
    tail.TailShape,
    tail.TailHead,
    reads=cuts.read_cut,
    scale=lambda head: None,
    mean_feature=None,
    sizes=lambda recipe, source: tail.sizes_of(recipe, source.layers),
    begin=_take_weights,
    groups=lambda head, settings: head.groups(settings),
    complete=lambda head, recipe, weights: head.complete(recipe, weights),
    looks=tail.in_words,
    started=tail.started,
    built_whole=True,
    at_once=tail.EVAL_BATCH,
)
_LINEAR = Kind(
    "linear regression on pooled features", baselines.LinearShape, baselines.LinearHead, baseline=baselines.LINEAR
)
_STACK = Kind(
    "several heads by non-negative weights",
    stack.StackShape,
    stack.StackHead,
    scale=_scale_of_members,
)
KINDS = {  # a run stores the first name of its kind
    "paper": Kind(
        "AMNet's head, Eq. 3-15 of the paper",
        amnet.HeadShape,
        amnet.AMNetHead,
        reads=reading.read_steps,
        scale=lambda head: (head.feature_mean, head.feature_std),
        mean_feature=lambda head: head.feature_mean,
        attends=True,
        looks=_recurrent_looks,
        target=_to_one,
        begin=_standardise,
    ),
    "published": Kind(
        "AMNet's head as its authors' code has it",
        published.PublishedShape,
        published.PublishedHead,
        reads=reading.read_maps,
        scale=lambda head: None,  # batch norm instead
        mean_feature=lambda head: head.mean_feature(),
        attends=True,
        looks=_recurrent_looks,
        target=lambda scores: TargetScale(published.TARGET_MEAN, published.TARGET_SCALE),
        coverage=lambda steps: published.COVERAGE_PER_STEP * steps,
    ),
    "ep": Kind(
        "efficient probing (Psomas et al., 2026)",
        probes.EfficientShape,
        probes.EfficientProbe,
        reads=reading.read_tokens,
        attends=True,
        looks=lambda shape: (
            f"{shape.queries} {'query' if shape.queries == 1 else 'queries'} of {shape.value_size} values"
        ),
        look="query",
        begin=_standardise,
    ),
    "probe": Kind(
        "attentive probing by a block of cross-attention, as of V-JEPA (Bardes et al., 2024)",
        probes.AttentiveShape,
        probes.AttentiveProbe,
        reads=reading.read_tokens,
        attends=True,
        looks=lambda shape: f"1 query, {shape.attention_heads} heads of attention",
        begin=_standardise,
    ),
    "tail": _TAIL,
    "memnet": replace(
        _TAIL,
        title="AlexNet from pixels on, trained further after MemNet (Khosla et al., 2015)",
        module=memnet.MemNetHead,
        reads=partial(cuts.read_views, networks=memnet.NETWORKS),
        begin=_begin_memnet,
    ),
    "memonet": replace(
        _TAIL,
        title="GoogLeNet from pixels on, trained further after MemoNet (Baveye et al., 2016)",
        module=memonet.MemoNetHead,
        reads=partial(cuts.read_views, networks=memonet.NETWORKS, outputs=memonet.OUTPUTS),
        started=memonet.started,
    ),
    "linear": _LINEAR,
    "ridge": replace(_LINEAR, baseline=baselines.RIDGE),
    "banded-ridge": replace(
        _LINEAR, title="ridge regression on pooled features, a penalty a layer", baseline=banded.BANDED_RIDGE
    ),
    "lsvr": Kind(
        "linear support vector regression on pooled features, in the fixed setting of Khosla et al. (2012)",
        baselines.LinearShape,
        baselines.AffineHead,
        baseline=baselines.LINEAR_SVR,
    ),
    "svr": Kind(
        "support vector regression on pooled features",
        kernels.KernelShape,
        kernels.KernelHead,
        baseline=svr.KERNEL,
    ),
    "kernels": Kind(  # of the head "svr" as well, with other kernels than the Gaussian
        "support vector regression on pooled features",
        kernels.KernelProductShape,
        kernels.KernelProductHead,
        mean_feature=lambda head: head.mean_feature(),
    ),
    "mlp": Kind(
        "a perceptron with one hidden layer on pooled features",
        baselines.PerceptronShape,
        baselines.PerceptronHead,
        baseline=baselines.PERCEPTRON,
    ),
    "stack": _STACK,
    "mean": replace(_STACK, title="the plain mean of several heads"),
    "projected": Kind("a head on principal directions of features", stack.ProjectedShape, stack.ProjectedHead),
}


def kind_name(module: nn.Module) -> str:
    """Return the name under which a run stores a head's kind."""
    return next(name for name, kind in KINDS.items() if type(module) is kind.module)


def kind_of(module: nn.Module) -> Kind:
    """Return a head's kind; of one behind a projection that of the head there, as one that reads all channels."""
    if not isinstance(module, stack.ProjectedHead):
        return KINDS[kind_name(module)]
    of = kind_of(module.head)
    shape: Any = module.head.shape
    return replace(
        of,
        scale=lambda head: module.unprojected(of.scale(module.head) or _as_they_are(module.shape.kept)),
        mean_feature=lambda head: head.feature_mean(),
        looks=lambda _: ", ".join(filter(None, [of.looks(shape), _kept_in_words(module)])),
    )


def _as_they_are(channels: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(channels), torch.ones(channels)


def _kept_in_words(head: stack.ProjectedHead) -> str:
    return f"on {kept_in_words(head.shape.channels, head.shape.kept, float(head.variance))}"


def kind_for(settings: TrainSettings) -> Kind:
    """Return the kind that settings ask for: that of their head, or of its recipe where it has one."""
    return KINDS[settings.recipe if "recipe" in HEADS[settings.head] else settings.head]


def head_from_json(kind: str, shape: dict[str, Any]) -> nn.Module:
    """Return an untrained head; raise `KeyError` for an unknown kind, `TypeError` for another kind's shape."""
    if kind == "stack":
        return _stack_from_json(shape)
    if kind == "projected":
        of = stack.ProjectedShape(**shape)
        return stack.ProjectedHead(of, head_from_json(of.head["kind"], of.head["shape"]))
    module = KINDS[kind].module(KINDS[kind].shape(**shape))
    if kind_name(module) != kind:
        raise KeyError(kind)
    return module


def _stack_from_json(shape: dict[str, Any]) -> stack.StackHead:
    """Return an untrained stack; raise what `head_from_json` raises of one of its members."""
    of = stack.StackShape(**{**shape, "sizes": tuple(map(tuple, shape["sizes"])), "members": tuple(shape["members"])})
    return stack.StackHead(of, [head_from_json(one["kind"], one["shape"]) for one in of.members])


def has_maps(module: nn.Module) -> bool:
    """Return whether a head gives maps of where it looks, uniform ones without attention; a stack where all do."""
    return module.shape.attends if isinstance(module, stack.StackHead) else kind_of(module).attends


def filled_head(kind: str, shape: dict[str, Any], stored: Mapping[str, Tensor]) -> nn.Module:
    """Return the head that a run stores; raise what `head_from_json` raises, `RuntimeError` for others' tensors."""
    if KINDS[kind].built_whole:
        module = head_from_json(kind, shape)
    else:
        with torch.device("meta"):  # without drawing weights that are replaced, which takes longer than reading them
            module = head_from_json(kind, shape)
        _materialise(module)
    fill(module, stored)
    return module


def _materialise(module: nn.Module) -> None:
    """Give a module on the meta device memory for its tensors, whatever is in it.

    As `nn.Module.to_empty`, which imports SymPy to find their strides, in 0.4 s.
    """
    module._apply(  # type: ignore[no-untyped-call]
        lambda one: torch.empty_strided(one.size(), one.stride(), dtype=one.dtype, device="cpu")
    )


def stored_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a run stores of a head: all, unless it says itself which."""
    return module.stored() if isinstance(module, _StoresPart) else dict(module.state_dict())


def digest_of_others(module: nn.Module) -> str:
    """Return the sha256 of the weights that a head has and no run stores, '' where it stores all."""
    partly = isinstance(module, _StoresPart) and not module.stands_alone
    return bytes(module.get_buffer("frozen_sha256").tolist()).hex() if partly else ""


def fill(module: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Give a head the tensors that `stored_of` gave of one; raise `RuntimeError` that names those that do not fit."""
    if other := set(stored) ^ set(stored_of(module)):
        raise RuntimeError(f"its tensors are others than those of such a head: {', '.join(sorted(other)[:8])}")
    module.load_state_dict(stored, strict=False)


def behind(projection: Projection | None, module: nn.Module) -> nn.Module:
    """Return a head that reads all channels, of one that was trained on projected ones; of others the head itself."""
    return module if projection is None else stack.projected_head(projection, module, head_as_json(module))


def head_as_json(module: nn.Module) -> dict[str, Any]:
    """Return kind and shape, from which `head_from_json` builds a head for the same weights."""
    return {"kind": kind_name(module), "shape": asdict(module.shape)}  # type: ignore[call-overload]


def input_of(cache: FeatureCache, settings: TrainSettings) -> HeadInput:
    """Return what the head that settings ask for reads; raise `InvalidSettings` for layers that it cannot read."""
    known = cache.recipe.layer_names
    usual = [name for name in known if not name.endswith(PREFIX)][-1:]  # tokens before positions are no head's alone
    layers = tuple(cache.layer(name) for name in (known if settings.layers == ("all",) else settings.layers or usual))
    layers = layers or (cache.layer(),)
    source = kind_for(settings).reads(cache, settings, layers)
    check_channels(cache, source, settings.channels)
    return source


def shape_of(cache: FeatureCache, settings: TrainSettings) -> Any:
    """Return the shape of the head that settings ask for; raise `InvalidSettings` if what it reads cannot have it."""
    kind = kind_for(settings)
    sizes = {**vars(settings), **kind.sizes(cache.recipe, input_of(cache, settings))}
    sizes |= {"channels": settings.channels} if settings.channels else {}
    return kind.shape(**{field.name: sizes[field.name] for field in fields(kind.shape) if field.name in sizes})


def untrained_head(cache: FeatureCache, settings: TrainSettings) -> nn.Module:
    """Return the head that settings ask for, with weights drawn from torch's generator."""
    return kind_for(settings).module(shape_of(cache, settings))
