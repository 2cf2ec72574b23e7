"""Where public datasets come from, and how their archives become images/ and splits/. Knows nothing of downloads."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .archives import unpack
from .errors import BadInput
from .files import storage_errors
from .isola import isola_members, make_isola_dataset
from .members import FILE, Limits, Member
from .progress import OnProgress

FOLDERS = ("images", "splits")
_SPLIT = re.compile(r"(?:(.*)/)?splits/(?:train|val|test)_\w+\.txt")


@dataclass(frozen=True)
class Source:
    """Where a dataset is published, and how many images and splits it has."""

    url: str
    images: int
    splits: int


SOURCES = {
    "lamem": Source("http://memorability.csail.mit.edu/lamem.tar.gz", 58_741, 5),
    "sun": Source("http://web.mit.edu/phillipi/Public/WhatMakesAnImageMemorable/cvpr_memorability_data.zip", 2_222, 25),
}


def unpack_dataset(
    name: str,
    archive: Path,
    members: Sequence[Member],
    work: Path,
    limits: Limits | None,
    on_progress: OnProgress,
) -> None:
    """Make work/unpacked/{images,splits} of an archive in the LaMem layout or, for SUN, of its authors' own."""
    isola = isola_members(members) if name == "sun" else {}
    if isola:
        unpack(archive, isola, work / "raw", limits=limits, on_progress=on_progress)
        make_isola_dataset(work / "raw", work / "unpacked", on_progress=on_progress)
        with storage_errors(work / "raw"):
            shutil.rmtree(work / "raw")
        return
    wanted = dataset_members(members)
    if not wanted:
        also = " or the .mat files of Isola et al. (CVPR 2011)," if name == "sun" else ""
        shown = ", ".join(sorted({member.name.split("/")[0] for member in members})[:10])
        raise BadInput(
            f"{archive}: expected,{also} in one folder or at the top, images/ and splits/{{train,val,test}}_K.txt with "
            f"lines `NAME SCORE`, once; found {len(members):,} members under {shown or 'no name'}. "
            "Nothing was put in place."
        )
    unpack(archive, wanted, work / "unpacked", limits=limits, on_progress=on_progress)


def dataset_members(members: Sequence[Member]) -> dict[Member, str]:
    """Return the files of images/ and splits/, under these names; empty unless exactly one folder holds both."""
    files = [member for member in members if member.kind == FILE and not _is_litter(member.name)]
    homes = {match[1] or "" for member in files if (match := _SPLIT.fullmatch(member.name))}
    homes = {home for home in homes if any(member.name.startswith(_under(home, "images/")) for member in files)}
    if len(homes) != 1:
        return {}
    (home,) = homes
    starts = tuple(_under(home, f"{part}/") for part in FOLDERS)
    return {member: member.name[len(_under(home, "")) :] for member in files if member.name.startswith(starts)}


def _under(home: str, name: str) -> str:
    return f"{home}/{name}" if home else name


def _is_litter(name: str) -> bool:
    """Return whether a file is what macOS leaves in archives."""
    steps = name.split("/")
    return "__MACOSX" in steps or steps[-1] == ".DS_Store" or steps[-1].startswith("._")
