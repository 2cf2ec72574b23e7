"""A trained head, or the mean of its members, as ONNX graphs: from features or from pixels to scores.

It knows nothing of folders. No graph is returned that was not run by onnxruntime and compared with what head and
backbone compute by torch.
"""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from featcache.backbones.backbone import Backbone
from featcache.backbones.families.extractor import Extractor
from featcache.backbones.families.folding import fold_batch_norms
from featcache.base.commands import pip_install
from featcache.base.cores import usable_threads
from featcache.base.errors import InvalidSettings, Mismatch, first_line
from featcache.base.files import canonical_json
from head.calibration.intervals import usual_half_widths
from head.evaluation.summary import without_seed
from head.models.fused.switch import fused_off
from head.models.kinds import has_maps, kind_of
from head.prediction.members import Member
from head.runs.head_file import TrainedHead
from head.runs.run import Run
from head.share.expected import LARGEST_DIFFERENCE, Expected, expected_of
from head.share.graphs import ModelGraph, graph_of

OPSET = 18  # of 2023; what runs a graph reads all that are older than itself
_LARGEST_FILE = (2 << 30) - (1 << 20)  # what protobuf can hold in one message, less what describes the graph
_OF_VIEW = ("center_fraction", "eval_view", "image_size", "interpolation")
_TRACED, _CHECKED = 2, 5  # images: a batch of 1 would be traced as a constant


@dataclass(frozen=True)
class Graph:
    """An ONNX file's bytes, and the largest difference from torch that was found."""

    data: bytes
    difference: float


def require_onnx() -> ModuleType:
    """Return onnxruntime; raise `InvalidSettings` if it, onnx or onnxscript is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"ONNX files need {error.name}, which is not installed: {pip_install('onnx')}") from error
    runtime: ModuleType = onnxruntime
    return runtime


def facts_of(members: Sequence[Member]) -> dict[str, str]:
    """Return what is written into both files as metadata: texts, of what is not one its canonical JSON.

    Of several members name is theirs without the seed; split, head_sha256 and, beside those of one, seed are lists.
    """
    run, head = members[0].run, members[0].head
    recipe, map_shape = run.recipe, run.input.map_shape(run.recipe)
    widths = usual_half_widths([member.head.residuals for member in members])
    facts = {
        "backbone": recipe.backbone,
        "fingerprint": recipe.fingerprint,
        **({"interval_half_width": canonical_json(widths)} if widths else {}),
        "head_sha256": run.result.head_sha256,
        "image_size": str(recipe.image_size),
        "layers": canonical_json(list(run.input.layers)),
        "map_size": canonical_json([map_shape.height, map_shape.width] if has_maps(head.module) else []),
        "name": run.name,
        "pooling": run.input.pooling,
        "split": run.split,
        "steps": str(head.steps),
        **({"tokens": canonical_json(list(run.input.token_layers(recipe)))} if run.input.tokens(recipe) else {}),
        **({"inputs": canonical_json(run.input.as_json()["inputs"])} if run.input.pooling == "several" else {}),
        "view": canonical_json({name: getattr(recipe, name) for name in _OF_VIEW}),
    }
    if len(members) == 1:
        return facts
    runs = [member.run for member in members]
    return facts | {
        "head_sha256": canonical_json([one.result.head_sha256 for one in runs]),
        "name": without_seed(run.name),
        "seed": canonical_json([one.seed for one in runs]),
        "split": canonical_json([one.split for one in runs]),
    }


def output_names(head: TrainedHead, members: int = 1) -> tuple[str, ...]:
    """Return the names of a graph's outputs; baselines have no maps, and one member has no deviation."""
    maps = ["maps"] if has_maps(head.module) else []
    return ("score", "step_scores", *maps, *(["deviation"] if members > 1 else []))


def head_graph(members: Sequence[Member]) -> Graph:
    """Return the graph from features to scores; raise `Mismatch` if it is not what the members compute."""
    features = _drawn_features(members[0].run, members[0].head)
    heads = _heads(members)
    return _graph("head.onnx", graph_of(heads), features, expected_of(heads, features), members)


def model_graph(members: Sequence[Member], extractor: Extractor, backbone: Backbone) -> Graph:
    """Return the graph from pixels to scores; raise `Mismatch` if it is not what backbone and members compute.

    extractor is the same network as backbone, in float32 by PyTorch; its batch norms are folded here.
    """
    run = members[0].run
    pixels = drawn_images(_CHECKED, run.recipe.image_size)
    wanted = expected_of(_heads(members), _read(members, backbone, pixels))
    fold_batch_norms(extractor.module)
    return _graph("model.onnx", ModelGraph(extractor, run, _heads(members)), pixels, wanted, members)


def torch_outputs(members: Sequence[Member], backbone: Backbone, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
    """Return scores (B), step scores (B, T) and maps (B, T, L) that torch computes of pixels (B, S, S, 3) uint8.

    Of several members the means over them, and the deviation (B) of their scores.
    """
    return [one.values for one in expected_of(_heads(members), _read(members, backbone, pixels))]


def _read(members: Sequence[Member], backbone: Backbone, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what heads read of pixels, (B, L, D)."""
    features, run = backbone(torch.from_numpy(pixels)), members[0].run
    read = run.input.of_maps(features, members[0].head.constants, run.recipe)
    found: NDArray[np.float32] = (features[run.input.layers[0]] if run.imported else read).numpy()
    return found


def _heads(members: Sequence[Member]) -> list[TrainedHead]:
    return [member.head for member in members]


def _graph(
    name: str, module: nn.Module, example: NDArray[Any], wanted: Sequence[Expected], members: Sequence[Member]
) -> Graph:
    """Return the graph of a module whose outputs for example, its only input, are those wanted; else `Mismatch`."""
    outputs = output_names(members[0].head, len(members))
    taken = "features" if name == "head.onnx" else "pixels"
    data = export(module, taken, example, outputs=outputs, facts=facts_of(members))
    return Graph(data, check(name, data, example, wanted))


def export(
    module: nn.Module, name: str, example: NDArray[Any], *, outputs: Sequence[str], facts: Mapping[str, str]
) -> bytes:
    """Return a module of one input and several outputs as an ONNX file, its batch of any size; equal bytes for equals.

    Raises `InvalidSettings` for a network that cannot be written as ONNX, or not into one file.
    """
    require_onnx()
    try:
        with _quiet(), torch.no_grad(), fused_off():
            program = torch.onnx.export(
                module.eval().requires_grad_(False),
                (torch.from_numpy(example[:_TRACED]),),
                input_names=[name],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            model = program.model_proto  # type: ignore[union-attr]
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError, LookupError) as error:
        raise InvalidSettings(
            f"this network cannot be written as ONNX ({first_line(error)[:200]}); "
            "--no-model writes the head's graph alone"
        ) from error
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise InvalidSettings(
            "this network can be written as ONNX for a fixed number of images alone; --no-model writes the head's "
            "graph alone"
        )
    if model.ByteSize() > _LARGEST_FILE:
        raise InvalidSettings(
            f"the graph takes {model.ByteSize():,} bytes, an ONNX file holds 2 GiB; --no-model writes the head's alone"
        )
    _anonymise(model, facts)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _anonymise(model: Any, facts: Mapping[str, str]) -> None:
    """Replace what the exporter tells of this machine, its paths and stack traces, by facts."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values, *model.functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.name = "amnet"
    for key, value in sorted(facts.items()):
        model.metadata_props.add(key=key, value=value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings, log and prints from the user, whom they tell nothing to act upon."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        nowhere = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def load_graph(data: bytes) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    """Return an ONNX file's function from its one input to its outputs, by onnxruntime on the CPU."""
    runtime = require_onnx()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = usable_threads(None)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})


def check(name: str, data: bytes, values: NDArray[Any], wanted: Sequence[Expected]) -> float:
    """Return the largest difference between outputs of a graph and those wanted, in one batch and one by one.

    It is one before calibration, of scores on a scale beyond 1 in units of that; raises `Mismatch` if it is above 1e-4.
    """
    graph = load_graph(data)
    alone = [graph(values[k : k + 1]) for k in range(len(values))]
    parts = [np.concatenate(column) for column in zip(*alone, strict=True)]
    pairs = [pair for outputs in (graph(values), parts) for pair in zip(outputs, wanted, strict=True)]
    difference = max(one.difference(found) for found, one in pairs)
    if not difference <= LARGEST_DIFFERENCE:
        raise Mismatch(
            f"{name}: differs from torch by {difference:.2g} on drawn input, at most {LARGEST_DIFFERENCE:g} may be; "
            "nothing was written. Try other versions of torch, onnx and onnxruntime."
        )
    return difference


def largest_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the largest absolute difference of two arrays of one shape, infinite if either has NaN or infinity."""
    found = np.abs(a.astype(np.float64) - b).max(initial=0)
    return float(found) if np.isfinite(found) else math.inf


def drawn_images(count: int, size: int) -> NDArray[np.uint8]:
    """Return images (count, size, size, 3) uint8 with structure at every scale, always the same ones."""
    rng = np.random.default_rng(20180618)
    images = []
    for k in range(count):
        side = 3 + 4 * k
        rough = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        smooth = np.asarray(rough.resize((size, size), Image.Resampling.BICUBIC))
        images.append(np.clip(smooth + rng.normal(0, 5 * k, (size, size, 3)), 0, 255).astype(np.uint8))
    return np.stack(images)


def _drawn_features(run: Run, head: TrainedHead) -> NDArray[np.float32]:
    """Return features (B, L, D) as far apart as those the head was trained on, where it tells; pixels of `views`."""
    if run.reads_pixels and not run.input.pooled:
        return drawn_images(_CHECKED, run.recipe.image_size).reshape(_CHECKED, -1, 3).astype(np.float32)
    rng = np.random.default_rng(20180618)
    drawn = rng.normal(size=(_CHECKED, run.input.positions(run.recipe), run.input.map_shape(run.recipe).channels))
    if scale := kind_of(head.module).scale(head.module):
        drawn = scale[0].numpy() + scale[1].numpy() * drawn
    return drawn.astype(np.float32)
