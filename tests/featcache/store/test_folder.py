"""Names in the folder of a cache: which files are shards, and that no other file spells a name again."""

import re
from pathlib import Path

from featcache.store.folder import shard_path, shard_paths, shard_place, shards_folder
from tests.helpers.tiny import ROOT

SPELT = re.compile(
    r"""/ "shards"|"shards" /|["']shards/|/ "lock"|"(manifest\.json|cache\.h5|failures\.csv|timings\.csv)\""""
)


def test_only_files_called_as_shards_are_shards_and_a_row_picks_those_that_begin_there(tmp_path: Path) -> None:
    shards_folder(tmp_path).mkdir()
    names = ["00000-0123456789abcdef.h5", "00064-0123456789abcdef.h5", "100000-0123456789abcdef.h5"]
    others = [".tmp-00000-0123456789abcdef.h5-host-1", "00000-0123456789abcdef.h5.damaged", "00000-x.h5", "x.h5"]
    for name in (*names, *others):
        shard_path(tmp_path, name).touch()
    assert [path.name for path in shard_paths(tmp_path)] == sorted(names)
    assert shard_paths(tmp_path, 64) == [shard_path(tmp_path, names[1])]
    assert shard_paths(tmp_path, 100_000) == [tmp_path / shard_place(names[2])]
    assert shard_paths(tmp_path / "gone") == []


def test_no_other_file_spells_what_lies_in_a_cache() -> None:
    files = [path for folder in ("featcache", "faults", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.name != "folder.py"}
    assert [f"{path}: {found[0]}" for path, text in texts.items() for found in SPELT.finditer(text)] == []
