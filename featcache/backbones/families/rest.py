"""The rest of a network: what lies between a layer and the pooled output, cut out as a module that can be trained.

It reads a layer as a cache gives it back. Knows nothing of names of networks, nor where their weights come from.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.backbones.families import weights as weights_module
from featcache.base.errors import InvalidSettings
from featcache.settings import VIEWS_LAYER

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: of torch, or of another library by its name, as timm's RmsNorm."""
    named = "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
    return isinstance(module, _NORMS) or named


@dataclass(frozen=True)
class Uncut:
    """A network from images (B, 3, S, S) to pooled features (B, C), whole.

    pooled is the node that gives them, '' for the network's own output. nodes are the nodes of layers that are not
    called as their module is. state holds its weights, None where they are in the model already. channels_last is
    whether its maps are (B, height, width, D). layers are those worth naming where a cut cannot be made, and leaves
    the modules and functions that are not looked into.
    """

    model: nn.Module
    pooled: str = ""
    nodes: Mapping[str, str] = field(default_factory=dict)
    state: weights_module.State | None = None
    channels_last: bool = False
    layers: Sequence[str] = ()
    leaf_modules: Collection[type[nn.Module]] = ()
    leaf_functions: Collection[Callable[..., Any]] = ()


@dataclass(frozen=True)
class Cut:
    """Where a network is cut: behind a layer of a network of name, that is given images of image_size pixels.

    height and width are those of the layer's map. final_norm is whether the last map is as the network's own last norm
    leaves it. mean and std normalise pixels, which are read where the layer is `views`. outputs are modules whose
    outputs are wanted beside the pooled ones.
    """

    name: str
    layer: str
    height: int
    width: int
    image_size: int
    final_norm: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: tuple[str, ...] = ()


class Rest(nn.Module):
    """The network behind a layer: features (B, n, D) of the layer to its outputs, and last its pooled output (B, C).

    n counts the places of the map in row-major order, and behind them tokens, those that the network has before its
    positions: a class token, registers. Of `views` features are pixels (B, S * S, 3) from 0 to 255. channels is C.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: fx.GraphModule, cut: Cut, channels: int, *, tokens: int, layout: str) -> None:
        super().__init__()
        self.network = network
        self.cut, self.channels, self.tokens, self.layout = cut, channels, tokens, layout
        self.register_buffer("mean", 255 * torch.tensor(cut.mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(cut.std), persistent=False)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map features (B, n, D) float32 to the outputs, in order, and last the pooled output (B, C)."""
        B, _, D = features.shape
        places = self.cut.height * self.cut.width
        if self.cut.layer == VIEWS_LAYER:
            features = (features - self.mean) / self.std
        if self.layout == "tokens":
            x = torch.cat([features[:, places:], features[:, :places]], dim=1) if self.tokens else features
        elif self.layout == "vector":
            x = features[:, 0]
        else:
            x = features.reshape(B, self.cut.height, self.cut.width, D)
            x = x if self.layout == "channels last" else x.permute(0, 3, 1, 2)  # channels last in memory all the same
        found: tuple[Tensor, ...] = self.network(x)
        return found


def rest_of(uncut: Uncut, cut: Cut) -> Rest:
    """Return the rest of a network, its weights those of uncut.

    Raises `InvalidSettings` with the layers that can be if the network cannot be cut there, or nothing would be left to
    train; `Mismatch` if the weights lack any of the rest.
    """
    traced = _Traced(uncut)
    place = traced.place_of(cut)
    if place is None or not traced.is_cut_by(place, cut.outputs):
        raise InvalidSettings(
            f"{cut.name} cannot be cut behind {cut.layer}: "
            + ("it has no module of that name" if place is None else "what lies before it is read again behind it")
            + traced.advice(cut)
        )
    network = traced.behind(place, cut.outputs)
    if not any(True for _ in network.parameters()):
        raise InvalidSettings(
            f"nothing of {cut.name} is left to train behind {cut.layer}; use --head linear, ridge, svr or mlp"
            + traced.advice(cut)
        )
    if uncut.state is not None:
        weights_module.load_into(network, uncut.state, cut.name)
    with torch.no_grad():
        black = torch.zeros(1, 3, cut.image_size, cut.image_size)
        values = black if place is traced.images else traced.before(place)(black)[0]
        channels = int(network.eval()(values)[-1].shape[1])
    return Rest(network, cut, channels, **_layout(traced, values, cut))


class _Traced:
    """The graph of a network, and by which module each of its nodes was made."""

    def __init__(self, uncut: Uncut) -> None:
        from torchvision.models.feature_extraction import NodePathTracer

        class Tracer(NodePathTracer):  # type: ignore[misc]
            """Looks into no module that holds no others, nor into norms, which train in another way than they run."""

            def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
                whole = is_norm(m) or not any(True for _ in m.children())
                return whole or bool(super().is_leaf_module(m, module_qualname))

        self.uncut = uncut
        tracer = Tracer(autowrap_functions=tuple(uncut.leaf_functions), leaf_modules=list(uncut.leaf_modules))
        self.graph = tracer.trace(uncut.model.eval())
        self.paths: dict[fx.Node, str] = {
            node: path for node, path in tracer.node_to_qualname.items() if node.op != "output"
        }
        self.images: fx.Node = next(node for node in self.graph.nodes if node.op == "placeholder")
        output = next(node for node in self.graph.nodes if node.op == "output")
        self.pooled: fx.Node = self.node(uncut.pooled) if uncut.pooled else output.args[0]  # type: ignore[assignment]

    def node(self, layer: str) -> fx.Node | None:
        """Return the node that gives a layer, the last that its module made; None if there is none."""
        path = self.uncut.nodes.get(layer, layer)
        made = [node for node, one in self.paths.items() if f"{one}.".startswith(f"{path}.")]
        return made[-1] if made else None

    def place_of(self, cut: Cut) -> fx.Node | None:
        """Return the node behind which a cut is made."""
        if cut.layer == VIEWS_LAYER:
            return self.images
        normed = cut.final_norm and cut.layer in self.uncut.layers[-1:]
        return self.node("norm" if normed else cut.layer)

    def is_cut_by(self, place: fx.Node, outputs: Sequence[str]) -> bool:
        """Return whether nothing that comes before a node is needed behind it."""
        needed = _needed(place, self._ends(outputs))
        return place is self.images or (self.images not in needed and place in needed)

    def advice(self, cut: Cut) -> str:
        """Return the layers that can be cut behind, with something left to train."""
        pairs = [(name, self.node(name)) for name in (*self.uncut.layers, *self.uncut.nodes)]
        fit = [name for name, node in pairs if node and self.is_cut_by(node, cut.outputs) and self._trains(node, cut)]
        return "; layers that it can be cut behind: " + ", ".join([*fit, VIEWS_LAYER])

    def _trains(self, place: fx.Node, cut: Cut) -> bool:
        return any(True for _ in self.behind(place, cut.outputs).parameters())

    def before(self, place: fx.Node) -> fx.GraphModule:
        """Return the network down to a node."""
        return self._module(self.images, [place])

    def behind(self, place: fx.Node, outputs: Sequence[str]) -> fx.GraphModule:
        """Return the network behind a node, to outputs and pooled output; modules are shared with the whole."""
        return self._module(place, self._ends(outputs))

    def _ends(self, outputs: Sequence[str]) -> list[fx.Node]:
        return [*(node for name in outputs if (node := self.node(name))), self.pooled]

    def _module(self, start: fx.Node, ends: Sequence[fx.Node]) -> fx.GraphModule:
        graph = fx.Graph()
        needed, copies = _needed(start, ends), {start: graph.placeholder("x")}
        for node in self.graph.nodes:
            if node in needed and node is not start:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in ends))
        module = fx.GraphModule(self.uncut.model, graph)
        self._forget_constants(module)
        _keep_input(module)
        return module

    def _forget_constants(self, module: fx.GraphModule) -> None:
        """Keep what is no weight of the whole network, such as tables of positions, out of the state of a part."""
        stored = self.uncut.model.state_dict()
        for name, _ in module.named_buffers():
            owner, _, own = name.rpartition(".")
            if name not in stored:
                module.get_submodule(owner)._non_persistent_buffers_set.add(own)  # torch offers no other way


def _needed(start: fx.Node, ends: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the nodes that ends are computed of, themselves included, no further back than start."""
    found, waiting = set[fx.Node](), list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [] if node is start else node.all_input_nodes
    return found


def _keep_input(module: fx.GraphModule) -> None:
    """Let what reads the input first not write into it: it is the caller's."""
    start = next(iter(module.graph.nodes))
    for node in start.users:
        if node.op == "call_module" and hasattr(module.get_submodule(str(node.target)), "inplace"):
            module.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
        elif "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    module.recompile()


def _layout(traced: _Traced, values: Tensor, cut: Cut) -> dict[str, Any]:
    """Return in which order a network has the values of a layer, and how many tokens before its positions."""
    places, shape = cut.height * cut.width, values.shape
    if values.ndim == 4:
        last = traced.uncut.channels_last and cut.layer != VIEWS_LAYER and shape[1:3] == (cut.height, cut.width)
        return {"layout": "channels last" if last else "channels first", "tokens": 0}
    if values.ndim == 3 and shape[1] >= places:
        return {"layout": "tokens", "tokens": shape[1] - places}
    if values.ndim == 2:
        return {"layout": "vector", "tokens": 0}
    raise InvalidSettings(
        f"{cut.name} cannot be cut behind {cut.layer}, which gives {tuple(shape)}{traced.advice(cut)}"
    )
