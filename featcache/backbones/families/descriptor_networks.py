"""Hand-made descriptors as a family of backbones: each is a layer of one vector an image, beside a network's layers.

`descriptors:gist,sift` is such a backbone, `resnet50+descriptors:gist,sift` a network with descriptors of the same
views beside it. A descriptor that counts visual words takes them from a dictionary: a file of weights like any other.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.backbones.descriptors.pixels import SMALLEST_SIDE
from featcache.backbones.families import weights as weights_module
from featcache.backbones.families.extractor import Extractor
from featcache.base.commands import command
from featcache.base.errors import BadInput, InvalidSettings
from featcache.settings import PLUS, ViewSettings

if TYPE_CHECKING:
    from featcache.backbones.descriptors.descriptors import Descriptor

SCHEME = "descriptors:"
LEARNT = "imagenet"  # the default of --weights: of descriptors, a dictionary that is learnt on the dataset
NO_WORDS = "none"  # the weights of descriptors that count no words
NO_FILES = ("", "imagenet", "random", NO_WORDS)  # what weights are called that lie in no file
VIEWS = ViewSettings(image_size=256, center_fraction=1.0)  # as Isola et al. (CVPR 2011) had them


def descriptors() -> dict[str, "Descriptor"]:
    """Return every descriptor by name; they are loaded when a backbone has any, which takes a moment."""
    from featcache.backbones.descriptors.descriptors import DESCRIPTORS

    return DESCRIPTORS


class Parts(NamedTuple):
    """What a backbone's name, or where its weights come from, says of its network and of its descriptors.

    network is '' where there is none.
    """

    network: str
    described: str


def parts_of_name(name: str) -> Parts:
    """Return the name of the network and the names of descriptors, with commas between."""
    if name.startswith(SCHEME):
        return Parts("", name.removeprefix(SCHEME))
    network, _, described = name.partition(f"+{SCHEME}")
    return Parts(network, described)


def parts_of_weights(name: str, weights: str) -> Parts:
    """Return where the weights of a backbone's network come from, and where its dictionary; '' for one not given.

    They are given as `NETWORK + DICTIONARY`; without descriptors all of it is the network's, without a network the
    dictionary's. Of several pluses, as in names of folders, that counts which stands between two that are there.
    """
    network, described = parts_of_name(name)
    if not described:
        return Parts(weights, "")
    if not network:
        return Parts("", "" if weights == LEARNT else weights)
    pieces = weights.split(PLUS)
    found = [Parts(PLUS.join(pieces[:k]), PLUS.join(pieces[k:])) for k in range(1, len(pieces))]
    there = [parts for parts in found if all(one in NO_FILES or Path(one).is_file() for one in parts)]
    return next(iter([*there, *found]), Parts(weights, ""))


def joined_weights(parts: Parts) -> str:
    """Return the text of which `parts_of_weights` makes parts."""
    return PLUS.join(filter(None, parts)) or NO_WORDS


def located_weights(name: str, weights: str, locate: Callable[[str], Path]) -> str:
    """Return where weights come from with each file where locate says it is."""
    found = parts_of_weights(name, weights)
    return joined_weights(Parts(*(one if one in NO_FILES else str(locate(one)) for one in found)))


def all_in(name: str, layers: Sequence[str], file: str) -> str:
    """Return the weights of a backbone, and of its layers, of which one file holds all, its dictionary too."""
    counting = with_words(described_layers(name, layers))
    return joined_weights(Parts(file if parts_of_name(name).network else "", file if counting else ""))


def described_layers(name: str, layers: Sequence[str]) -> tuple[str, ...]:
    """Return the descriptors among layers, or all that a backbone's name has, where there are no layers.

    Raises `InvalidSettings` for a name that is no descriptor's.
    """
    network, described = parts_of_name(name)
    if network == name:
        return ()
    names = described.split(",")
    unknown = [one for one in names if one not in descriptors()]
    if unknown:
        shown = ", ".join(map(repr, unknown))
        raise InvalidSettings(f"--backbone {name}: no descriptor called {shown}; there are {', '.join(descriptors())}")
    if len(set(names)) < len(names):
        raise InvalidSettings(f"--backbone {name}: names a descriptor twice")
    return tuple(one for one in layers or names if one in names)


def check_size(image_size: int) -> None:
    """Raise `InvalidSettings` for views that are too small to be described."""
    if image_size < SMALLEST_SIDE:
        smallest = command("--image-size", str(SMALLEST_SIDE))
        raise InvalidSettings(f"descriptors need {smallest} or more, found {image_size} pixels")


def with_words(layers: Sequence[str]) -> list[str]:
    """Return those of some descriptors that count words."""
    return [layer for layer in layers if descriptors()[layer].word_channels]


def build_descriptors(
    layers: tuple[str, ...], weights: str, *, mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1)
) -> Extractor:
    """Return an extractor of descriptors; weights is a dictionary's file, 'random', or '' where all do without.

    It takes pixels that were normalised with mean and std. A feature does not depend on the views beside it.
    """
    module = _Described(layers)
    counting = ", ".join(with_words(layers))
    if counting and not weights:
        raise BadInput(f"{counting} count visual words: {_way_to_give_it()}")
    if not counting and weights not in ("", NO_WORDS, "random"):
        raise InvalidSettings(
            f"{command('--weights', weights)}: {', '.join(layers)} count no words, so nothing is to be loaded"
        )
    if counting and weights != "random" and not Path(weights).is_file():
        raise BadInput(f"{weights}: no such dictionary; {_way_to_give_it()}")
    if counting and weights != "random":
        state = weights_module.read_weights_file(Path(weights))
        weights_module.load_into(module, {**state, "version": module.version}, weights)
    shift, scale = np.array(mean), np.array(std)

    def maps(x: Tensor) -> list[Tensor]:
        pixels = x.permute(0, 2, 3, 1).cpu().double().numpy() * scale + shift
        found = module.describe(np.rint(255 * pixels).clip(0, 255).astype(np.uint8))
        return [torch.from_numpy(found[layer])[:, :, None, None].to(x.device) for layer in layers]

    return Extractor(module, maps, layers, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _way_to_give_it() -> str:
    alone, beside_network = command("--weights", "FILE"), command("--weights", f"imagenet{PLUS}FILE")
    return f"pass the dictionary of a cache as {alone}, beside a network as {beside_network}"


class _Described(nn.Module):
    """Holds what descriptors depend on beside pixels: the words of each that counts them, and the code's version."""

    version: Tensor

    def __init__(self, layers: Sequence[str]) -> None:
        from featcache.backbones.descriptors.descriptors import VERSION
        from featcache.backbones.descriptors.words import WORDS

        super().__init__()
        self.layers = tuple(layers)
        self.register_buffer("version", torch.tensor(VERSION))
        for layer in with_words(layers):
            self.register_buffer(words_name(layer), torch.rand(WORDS, descriptors()[layer].word_channels or 0))

    def describe(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return for each layer the vectors (B, D) of views (B, S, S, 3); equal views are described once."""
        numbers = [view.tobytes() for view in pixels]
        distinct = dict(zip(numbers, pixels, strict=True))
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, thread_name_prefix="describe") as pool:
            each = pool.map if threads > 1 else map
            found: dict[bytes, Any] = dict(zip(distinct, each(self._describe_view, distinct.values()), strict=True))
        return {layer: np.stack([found[number][k] for number in numbers]) for k, layer in enumerate(self.layers)}

    def _describe_view(self, view: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [self._vector(layer, view) for layer in self.layers]

    def _vector(self, layer: str, view: NDArray[np.uint8]) -> NDArray[np.float32]:
        from featcache.backbones.descriptors.words import bag_of_words

        found = descriptors()[layer].describe(view)
        if not descriptors()[layer].word_channels:
            return found
        return bag_of_words(found, self.get_buffer(words_name(layer)).cpu().numpy())


def words_name(layer: str) -> str:
    """Return the name of a descriptor's words (`WORDS`, d) in a dictionary's file."""
    return f"{layer}_words"


class _Beside(nn.Module):
    """A network and descriptors, whose weights are told apart by their names."""

    def __init__(self, network: nn.Module, described: nn.Module) -> None:
        super().__init__()
        self.network, self.described = network, described


def beside(network: Extractor, described: Extractor, layers: Sequence[str]) -> Extractor:
    """Return the extractor of both, in the order of layers; described must take the network's normalised pixels."""

    def maps(x: Tensor) -> list[Tensor]:
        found = dict(zip(network.layers, network.maps(x), strict=True))
        found |= zip(described.layers, described.maps(x), strict=True)
        return [found[layer] for layer in layers]

    module = _Beside(network.module, described.module)
    return Extractor(module, maps, tuple(layers), network.mean, network.std, network.final_norm)
