"""The systems of the paper's tables as heads on cached features: which features and head, and how faithful that is."""

from dataclasses import dataclass, field, replace

from featcache.backbones.families.descriptor_networks import VIEWS
from featcache.settings import VIEWS_LAYER, ExtractSettings, ViewSettings
from head.settings import TrainSettings, settings_of

EXACT, AFTER, STAND_IN = "exact", "after", "stand-in"
REFERENCE = "amnet"  # the row that others are compared with
OF_PAPER = "resnet50"
GLOBAL = ("pixels", "gist", "sift", "hog2x2", "ssim")  # of Isola et al. (CVPR 2011)
_NETWORK = "alexnet"
_DESCRIBED = (*GLOBAL, "saliency")
_WEIGHT_DECAY = {"sun": 1e-4}  # section 4.3
_WHOLE = ViewSettings(image_size=256, eval_view="squash")
_GRID = "C and epsilon from this program's grid, as theirs is not published"


@dataclass(frozen=True)
class Features:
    """What a cache holds: backbone and layers, the views that are cut, and whether augmented ones are made as well."""

    backbone: str
    layers: tuple[str, ...] = ()
    views: ViewSettings = field(default_factory=ViewSettings)
    augmented: bool = False

    def settings(self, *, weights: str, eval_view: str | None, augs: int, device: str) -> ExtractSettings:
        """Return the extraction of these features; an eval_view wins over that of the views."""
        return ExtractSettings(
            backbone=self.backbone,
            layers=self.layers,
            weights=weights,
            augs=augs if self.augmented else 0,
            device=device,
            views=replace(self.views, eval_view=eval_view) if eval_view else self.views,
        )


@dataclass(frozen=True)
class System:
    """A row: the system, the method that the paper's tables call so ('' for none), its features and its head.

    faith is 'exact' where features and head are those of its authors, 'after' where parts are known and others chosen
    here, 'stand-in' where it is another system of the same family; note says what differs. slow is whether it is made
    only where it is asked for, since a network is trained.
    """

    title: str
    method: str
    features: str
    settings: TrainSettings
    faith: str
    note: str
    slow: bool = False

    @property
    def reads_network(self) -> bool:
        """Whether any of its features are a network's."""
        return not self.settings.layers or not set(self.settings.layers) <= set(_DESCRIBED)


def features_of(backbone: str) -> dict[str, Features]:
    """Return the caches that the rows read, by name; backbone is AMNet's."""
    described = f"{_NETWORK}+descriptors:{','.join(_DESCRIBED)}"
    return {
        _NETWORK: Features(described, (*_DESCRIBED, "fc6", "fc7"), VIEWS),
        "googlenet": Features("googlenet", ("pooled",)),
        **{f"{name}-views": Features(name, (VIEWS_LAYER,), _WHOLE) for name in (_NETWORK, "googlenet")},
        "amnet": Features(backbone, augmented=True),
    }


def systems_of(dataset: str, backbone: str, *, seed: int) -> dict[str, System]:
    """Return the rows by name, in the order of the table; dataset decides what the paper chose for it.

    backbone is AMNet's; with another than the paper's ResNet50 its rows are not exact.
    """
    networks = {**_of_networks(seed), **_of_trained_networks(seed)}
    return {**_of_global_features(seed), **networks, **_of_the_paper(dataset, backbone, seed)}


def _of_global_features(seed: int) -> dict[str, System]:
    words, gaussian = "words learnt on training images alone; ", "a Gaussian kernel of the features' median distance; "
    singles = {"pixels": "", "gist": gaussian, "sift": words, "hog2x2": words, "ssim": words}

    def system(title: str, layers: tuple[str, ...], faith: str, note: str, method: str = "") -> System:
        settings = settings_of(head="svr", kernel="product", pooling="mean", layers=layers, seed=seed)
        return System(title, method, _NETWORK, settings, faith, note)

    rows = {
        f"isola-{name}": system(f"Isola et al. 2011, {name}", (name,), AFTER, note + _GRID)
        for name, note in singles.items()
    }
    product = f"the product of their kernels; {_GRID}"
    rows["isola"] = system("Isola et al. 2011, all five", GLOBAL, AFTER, product, "Isola")
    rows["mancas"] = system(
        "after Mancas & Le Meur 2013",
        ("saliency", "gist", "hog2x2"),
        AFTER,
        "numbers of a spectral residual map with GIST and HOG2x2; their list and the map of RARE2012 are not free",
        "Mancas & Le Meur",
    )
    return rows


def _of_networks(seed: int) -> dict[str, System]:
    frozen = "frozen; Hybrid-CNN's weights are not to be had"
    return {
        **{
            f"hybrid-{layer}": System(
                f"Hybrid-CNN + SVR 2017, AlexNet's {layer}",
                "Hybrid-CNN+SVR",
                _NETWORK,
                settings_of(head="svr", pooling="mean", layers=(layer,), seed=seed),
                STAND_IN,
                f"{frozen}; layer, kernel and C are not known",
            )
            for layer in ("fc6", "fc7")
        },
        "lsvr": System(
            "Khosla et al. 2012, their linear SVR on fc7",
            "",
            _NETWORK,
            settings_of(head="lsvr", pooling="mean", layers=("fc7",), seed=seed),
            STAND_IN,
            "their liblinear setting on features of today; their model of regions is not known",
        ),
        "memnet": System(
            "MemNet 2015, frozen",
            "MemNet",
            _NETWORK,
            settings_of(head="ridge", pooling="mean", layers=("fc7",), seed=seed),
            STAND_IN,
            f"linear on fc7, {frozen}; MemNet is fine-tuned",
        ),
        "memonet": System(
            "MemoNet 2016, frozen",
            "MemoNet 30k",
            "googlenet",
            settings_of(head="ridge", pooling="mean", layers=("pooled",), seed=seed),
            STAND_IN,
            "linear on GoogLeNet's pooled features, frozen; MemoNet is fine-tuned",
        ),
        "mtles": System(
            "CNN-MTLES 2017, many views",
            "CNN-MTLES (50/50 split)",
            _NETWORK,
            settings_of(head="banded-ridge", pooling="mean", layers=(*_DESCRIBED, "fc6", "fc7"), seed=seed),
            STAND_IN,
            "ridge with a penalty a view; only the abstract is known, and its transfer from other sources is not done",
        ),
    }


def _of_trained_networks(seed: int) -> dict[str, System]:
    return {
        "memnet-tuned": System(
            "MemNet 2015, fine-tuned",
            "MemNet",
            f"{_NETWORK}-views",
            settings_of(head="memnet", seed=seed),
            STAND_IN,
            "torchvision's AlexNet instead of CaffeNet, as Hybrid-CNN's weights are not to be had; solver, rates and "
            "batch are ours",
            slow=True,
        ),
        "memonet-tuned": System(
            "MemoNet 2016, fine-tuned",
            "MemoNet 30k",
            "googlenet-views",
            settings_of(head="memonet", seed=seed),
            AFTER,
            "GoogLeNet with batch norms; solver, rates, batch, crops and weight of the auxiliary errors are ours",
            slow=True,
        ),
    }


def _of_the_paper(dataset: str, backbone: str, seed: int) -> dict[str, System]:
    faith, features = (EXACT, "frozen features") if backbone == OF_PAPER else (AFTER, f"frozen features of {backbone}")

    def system(title: str, *, attention: bool) -> System:
        settings = settings_of(attention=attention, weight_decay=_WEIGHT_DECAY.get(dataset), seed=seed)
        return System(title, title, "amnet", settings, faith, f"Eq. 3-15 on {features}")

    return {
        "no-attention": system("AMNet (no attention)", attention=False),
        REFERENCE: system("AMNet", attention=True),
    }
