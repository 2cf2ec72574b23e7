"""Stage 1 and the feature store: images in, a verified cache of frozen feature maps out. Knows nothing of heads.

The names in `__all__` are the door to it, and docs/api.md describes them; everything else may move.
Each is imported when it is first asked for, so `import featcache` loads neither torch nor NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {  # the module in which each name of the door lives
    "CacheWriter": "featcache.store.writer",
    "ExtractSettings": "featcache.settings",
    "FeatcacheError": "featcache.base.errors",
    "FeatureCache": "featcache.store.cache",
    "FeatureDataset": "featcache.store.torch_dataset",
    "extract": "featcache.extraction.extract",
    "fetch": "featcache.datasets.fetch.fetch",
    "merge_caches": "featcache.maintenance.merge",
    "open_cache": "featcache.store.cache",
    "open_dataset": "featcache.datasets.dataset",
    "project_cache": "featcache.maintenance.project",
    "repair_cache": "featcache.maintenance.repair",
    "verify_cache": "featcache.maintenance.verify",
}
__all__ = list(_HOMES)

if TYPE_CHECKING:  # the same for type checkers, which do not run what is below
    from featcache.base.errors import FeatcacheError as FeatcacheError
    from featcache.datasets.dataset import open_dataset as open_dataset
    from featcache.datasets.fetch.fetch import fetch as fetch
    from featcache.extraction.extract import extract as extract
    from featcache.maintenance.merge import merge_caches as merge_caches
    from featcache.maintenance.project import project_cache as project_cache
    from featcache.maintenance.repair import repair_cache as repair_cache
    from featcache.maintenance.verify import verify_cache as verify_cache
    from featcache.settings import ExtractSettings as ExtractSettings
    from featcache.store.cache import FeatureCache as FeatureCache
    from featcache.store.cache import open_cache as open_cache
    from featcache.store.torch_dataset import FeatureDataset as FeatureDataset
    from featcache.store.writer import CacheWriter as CacheWriter
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import_module("featcache.base.errors").check_platform()
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
