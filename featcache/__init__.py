"""Stage 1 and the feature store: images in, a verified cache of frozen feature maps out. Knows nothing of heads.

The names in `__all__` are the door to it, and docs/api.md describes them; everything else may move.
Each is imported when it is first asked for, so `import featcache` loads neither torch nor NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "CacheWriter",
    "ExtractSettings",
    "FeatcacheError",
    "FeatureCache",
    "FeatureDataset",
    "extract",
    "fetch",
    "merge_caches",
    "open_cache",
    "open_dataset",
    "repair_cache",
    "verify_cache",
]
_HOMES = {  # where each name of the door lives: module, and the name there
    "CacheWriter": ("featcache.store.writer", "CacheWriter"),
    "ExtractSettings": ("featcache.settings", "ExtractSettings"),
    "FeatcacheError": ("featcache.base.errors", "FeatcacheError"),
    "FeatureCache": ("featcache.store.cache", "FeatureCache"),
    "FeatureDataset": ("featcache.store.torch_dataset", "FeatureDataset"),
    "extract": ("featcache.extraction.extract", "extract"),
    "fetch": ("featcache.datasets.fetch.fetch", "fetch"),
    "merge_caches": ("featcache.maintenance.merge", "merge_caches"),
    "open_cache": ("featcache.store.cache", "open_cache"),
    "open_dataset": ("featcache.datasets.dataset", "open_dataset"),
    "repair_cache": ("featcache.maintenance.repair", "repair_cache"),
    "verify_cache": ("featcache.maintenance.verify", "verify_cache"),
}

if TYPE_CHECKING:  # the same for type checkers, which do not run what is below
    from featcache.base.errors import FeatcacheError
    from featcache.datasets.dataset import open_dataset
    from featcache.datasets.fetch.fetch import fetch
    from featcache.extraction.extract import extract
    from featcache.maintenance.merge import merge_caches
    from featcache.maintenance.repair import repair_cache
    from featcache.maintenance.verify import verify_cache
    from featcache.settings import ExtractSettings
    from featcache.store.cache import FeatureCache, open_cache
    from featcache.store.torch_dataset import FeatureDataset
    from featcache.store.writer import CacheWriter
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, attribute = _HOMES[name]
        return getattr(import_module(module), attribute)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
