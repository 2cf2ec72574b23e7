"""A head becomes a folder that can be given away: one run, or all its splits and seeds, with backbone, graphs and card.

One run's folder is a run itself. That of several holds a run a member, in a folder each: `find_members` reads both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache.backbones.backbone import Backbone
from featcache.backbones.families.descriptor_networks import NO_FILES, NO_WORDS, all_in, parts_of_name
from featcache.backbones.families.extractor import Extractor
from featcache.backbones.networks import WHOLE, build_extractor
from featcache.backbones.of_recipe import backbone_of, backbone_of_views
from featcache.base.errors import CorruptFile, InvalidSettings, Mismatch
from featcache.base.files import make_folder, reading_errors, remove_temporaries, storage_errors, write_durably
from featcache.base.lock import writer_lock
from featcache.base.progress import OnProgress, Progress, silent
from head.evaluation.summary import without_seed
from head.models.kinds import digest_of_others
from head.prediction.members import Member, find_members, left_out
from head.runs.head_file import load_head
from head.runs.run import CARD_NAME, CONFIG_NAME, HEAD_NAME, RATINGS_NAME, Run, check_name, read_run, write_config
from head.share.card import CardFacts, model_card, read_scores
from head.share.import_head import BACKBONE_NAME, backbone_file
from head.share.mean_scores import read_mean_scores
from head.share.onnx import head_graph, model_graph, require_onnx

HEAD_GRAPH, MODEL_GRAPH = "head.onnx", "model.onnx"
_LEFT_ALONE = re.compile(r"lock|\.git.*|\.tmp-.*|scores.*\.json|predictions.*\.csv")
_BATCH_SIZE = 5  # of the backbone that graphs are compared with
_FILES = {  # of an export, in the order in which they are told, and what is in them
    HEAD_NAME: "the head's weights",
    BACKBONE_NAME: "the backbone's weights, up to the layers that are read",
    HEAD_GRAPH: "from features to scores",
    MODEL_GRAPH: "from pixels to scores: backbone, rounding of features, and head",
    CARD_NAME: "this card",
    CONFIG_NAME: "what the head is and reads, and the sha256 of the other files",
}
_FILES_IN_PART = {  # likewise, where a part of the backbone was trained
    HEAD_NAME: "the weights that were trained",
    BACKBONE_NAME: "the backbone's weights as they were before, all that are used",
}
_OF_MEMBER = (HEAD_NAME, CONFIG_NAME)  # of several members each has its own


@dataclass(frozen=True)
class Exported:
    """The runs that an export made, the bytes of each of its files, and how far each graph is from torch.

    unfinished are runs beside those exported that were left out.
    """

    folder: Path
    runs: Sequence[Run]
    files: dict[str, int]
    differences: dict[str, float]
    unfinished: Sequence[Run] = ()

    @property
    def run(self) -> Run:
        """The run that the export is, of several the first."""
        return self.runs[0]

    @property
    def name(self) -> str:
        """The run's name; of several their common one."""
        return self.run.name if len(self.runs) == 1 else without_seed(self.run.name)

    def as_json(self) -> dict[str, Any]:
        """Return what was exported as a JSON object; of several members with theirs instead of a split."""
        members = [{"folder": str(run.folder), "split": run.split, "seed": run.seed} for run in self.runs]
        return {
            "folder": str(self.folder),
            "name": self.name,
            **({"split": self.run.split} if len(members) == 1 else {"members": members}),
            "fingerprint": self.run.config.fingerprint,
            "files": self.files,
            "differences": self.differences,
        }

    def as_text(self) -> str:
        """Return it as a line for each file."""
        several = "" if len(self.runs) == 1 else f", the mean over {len(self.runs)} members"
        lines = [f"{self.folder}: {self.name}{several}, fingerprint {self.run.config.fingerprint[:16]}"]
        width = max(21, *map(len, self.files))
        for name, size in self.files.items():
            difference = self.differences.get(name)
            note = "" if difference is None else f"  differs from torch by {difference:.1e} at most"
            lines.append(f"  {name:<{width}} {size:>13,} bytes{note}")
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """Return which runs are left out, and of graphs that compute in another arithmetic than predict does."""
        if self.run.precision == "fp32" or MODEL_GRAPH not in self.files:
            return left_out(self.unfinished)
        return [
            *left_out(self.unfinished),
            f"warning: this head's features are {self.run.precision}, in which predict computes; {MODEL_GRAPH} "
            "computes in float32, and its scores differ from predict's, in one measurement by up to a tenth of their "
            "deviation. "
            "For graphs that agree to 1e-4, extract with --precision fp32, then train and export.",
        ]


def export_head(
    folder: Path,
    out: Path,
    *,
    weights: str | None = None,
    whole: bool = True,
    with_backbone: bool = False,
    license_id: str = "unknown",
    on_progress: OnProgress = silent,
) -> Exported:
    """Write the finished run in folder to out; again, the same bytes. What cannot be made leaves out as it was.

    Of a folder that holds several runs of one head, its splits and seeds, each that is finished is a member, and what
    is exported is their mean, as `Predictor.load` gives it. weights overrides where the backbone's weights are looked
    for. whole writes model.onnx beside head.onnx; with_backbone takes weights along that are not from a file too.
    Raises `InvalidSettings` for what cannot be exported, `Mismatch` if out holds something else, weights are not those
    of the features, or a graph is not what torch computes.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_id):
        raise InvalidSettings(f"--license must be a license's name on the Hub, such as cc-by-4.0, found {license_id!r}")
    found = find_members(folder)
    members = [Member(run, load_head(run, weights=weights)) for run in found.runs]
    _check_same_features(folder, members)
    if whole and parts_of_name(found.runs[0].recipe.backbone).described:
        raise InvalidSettings(
            f"{folder}: its cache has hand-made descriptors, of which there is no ONNX graph; export the head "
            "alone, with --no-model"
        )
    homes = _homes(found.runs)
    runs = dict(zip(homes, found.runs, strict=True))
    _check_place(out, folder, runs)
    require_onnx()
    scores = read_scores(found.runs[0]) if len(members) == 1 else read_mean_scores(found.runs)
    carried = _has_weights(members) and (
        with_backbone or any(run.config.weights_source not in NO_FILES for run in found.runs)
    )
    files = {f"{home}{HEAD_NAME}": _head_bytes(run) for home, run in runs.items()}

    def tell(done: int, next_graph: str) -> None:
        on_progress(Progress("export", done, 1 + whole, "graphs", f"making {next_graph}" if next_graph else ""))

    tell(0, HEAD_GRAPH)
    graphs = {HEAD_GRAPH: head_graph(members)}
    tell(1, MODEL_GRAPH if whole else "")
    if carried or whole:
        extractor, backbone = networks_of(members, weights)
        if carried:
            module = _whole(members[0].run, weights).module if _in_part(members) else extractor.module
            files[BACKBONE_NAME] = backbone_file(module, module.state_dict())
        if whole:
            graphs[MODEL_GRAPH] = model_graph(members, extractor, backbone)
            tell(2, "")
    files |= {name: graph.data for name, graph in graphs.items()}
    differences = {name: graph.difference for name, graph in graphs.items()}
    facts = CardFacts(license_id, _told(runs, files, in_part=_in_part(members)), scores, differences)
    files[CARD_NAME] = model_card(members, facts).encode()
    alone = all(member.stands_alone for member in members)
    source = BACKBONE_NAME if carried else NO_WORDS if alone else ""
    exported = _write(out, folder, runs, files, weights=source)
    order = [*(f"{home}{name}" for home in homes for name in _OF_MEMBER), *_FILES] if len(runs) > 1 else list(_FILES)
    sizes = {name: (out / name).stat().st_size for name in order if (out / name).is_file()}
    return Exported(out, exported, sizes, differences, found.unfinished)


def _has_weights(members: Sequence[Member]) -> bool:
    """Whether heads need any numbers beside their own: those on some hand-made descriptors or on pixels may not."""
    run = members[0].run
    if all(member.stands_alone for member in members):
        return False
    return all_in(run.recipe.backbone, run.recipe.of_network.layer_names, BACKBONE_NAME) != NO_WORDS


def _in_part(members: Sequence[Member]) -> bool:
    """Whether heads are networks that were trained in part, so that they need weights behind the layers they read."""
    return any(digest_of_others(member.head.module) for member in members)


def _check_same_features(folder: Path, members: Sequence[Member]) -> None:
    """Raise `InvalidSettings` unless all members read the same, as a graph has one input, and need the same weights."""
    if len({digest_of_others(member.head.module) for member in members}) > 1:
        raise InvalidSettings(
            f"{folder}: its runs went on from different weights of one network, of which an export holds one; export "
            "one of them, or train all with the same --weights"
        )
    if len({member.features for member in members}) > 1:
        raise InvalidSettings(
            f"{folder}: its runs read features of 8 bits that were stored with different constants, so they have no "
            "common input; export one of them, or train all on one cache"
        )


def _homes(runs: Sequence[Run]) -> list[str]:
    """Return the folder in an export, '' or with a slash behind, for each run."""
    if len(runs) == 1:
        return [""]
    seeds = len({run.seed for run in runs}) > 1
    names = [f"split-{run.split}" + (f"-seed-{run.seed}" if seeds else "") for run in runs]
    try:
        for name in names:
            check_name(name)
        plain = len({name.casefold() for name in names}) == len(names) and all(run.split for run in runs)
    except InvalidSettings:
        plain = False
    return [f"{name}/" for name in (names if plain else [f"member-{number}" for number in range(1, len(runs) + 1)])]


def _head_bytes(run: Run) -> bytes:
    with reading_errors(run.folder / HEAD_NAME):
        return (run.folder / HEAD_NAME).read_bytes()


def _told(runs: Mapping[str, Run], files: Mapping[str, bytes], *, in_part: bool) -> dict[str, str]:
    """Return what is in each file of an export, or in each member's folder."""
    told = {**_FILES, **(_FILES_IN_PART if in_part else {})}
    if len(runs) == 1:
        return {name: told[name] for name in (CONFIG_NAME, *files, CARD_NAME)}
    members = {home: f"a member, split {run.split}, seed {run.seed}" for home, run in runs.items()}
    return members | {name: told[name] for name in (*files, CARD_NAME) if name in told}


def networks_of(members: Sequence[Member], weights: str | None = None) -> tuple[Extractor, Backbone]:
    """Return a head's network twice: with the weights as they are in a file, and ready to run, in float32 by PyTorch.

    Raises `Mismatch` if the weights are not those that the head's features were made with.
    """
    run = members[0].run
    recipe, source = run.recipe.of_network, weights or run.weights_source
    if weights is None and all(member.stands_alone for member in members):
        backbone = backbone_of_views(recipe, batch_size=_BATCH_SIZE, device="cpu")
        return build_extractor(
            backbone.name, backbone.layers, "random", seed=recipe.seed, image_size=recipe.image_size
        ), backbone
    backbone = backbone_of(
        replace(recipe, precision="fp32"),
        weights=source,
        batch_size=_BATCH_SIZE,
        device="cpu",
        runtime="torch",
        where=str(run.folder),
        way_out="Pass the weights that the cache was extracted with as --weights FILE.",
    )
    return build_extractor(
        recipe.backbone,
        recipe.layer_names,
        source,
        seed=recipe.seed,
        image_size=recipe.image_size,
        final_norm=recipe.final_norm,
    ), backbone


def _whole(run: Run, weights: str | None = None) -> Extractor:
    """Return a run's network down to its pooled output, with the weights as they are in a file."""
    recipe = run.recipe.of_network
    layers = tuple(dict.fromkeys([*recipe.layer_names, WHOLE]))
    source = weights or run.weights_source
    return build_extractor(
        recipe.backbone, layers, source, seed=recipe.seed, image_size=recipe.image_size, final_norm=recipe.final_norm
    )


def _check_place(out: Path, source: Path, runs: Mapping[str, Run]) -> None:
    """Raise `InvalidSettings` or `Mismatch` unless out is new, empty, or an export of these very runs, and apart.

    runs are by their folder in the export; source is the folder that they are exported from.
    """
    if out.exists() and not out.is_dir():
        raise InvalidSettings(f"{out}: is a file; give --out a folder")
    place, sources = out.resolve(), {source.resolve(), *(run.folder.resolve() for run in runs.values())}
    if place in sources:
        raise InvalidSettings(f"{out}: is the run itself; give its export another --out")
    for one in sorted(sources):
        if one in place.parents or place in one.parents:
            where = "inside" if one in place.parents else "around"
            raise InvalidSettings(
                f"{out}: is {where} the folder that is exported, {source}, and would be taken for a part of it; give "
                "the export an --out beside it"
            )
    if not out.exists():
        return
    folders = [home.rstrip("/") for home in runs if home]
    shared = set(_FILES) - (set(_OF_MEMBER) if folders else set())
    there = _names_in(out)
    other = [name for name in there if name not in (*shared, *folders, *(() if folders else (RATINGS_NAME,)))]
    if there and not set(there) & {*folders, *(() if folders else (HEAD_NAME,))}:
        other = there  # whoever wrote such a README.md, it was not an export
    for name in folders:
        inside = _names_in(out / name) if (out / name).is_dir() else []
        other += [f"{name}/{one}" for one in inside if one not in (*_OF_MEMBER, RATINGS_NAME)]
    if other:
        raise Mismatch(f"{out}: holds {', '.join(other[:8])}, so no place for an export; give it a new --out")
    for home, run in runs.items():
        if (out / home / CONFIG_NAME).is_file():
            _check_earlier(out, read_run(out / home), run)


def _names_in(folder: Path) -> list[str]:
    with reading_errors(folder):
        return sorted(path.name for path in folder.iterdir() if not _LEFT_ALONE.fullmatch(path.name))


def _check_earlier(out: Path, found: Run, run: Run) -> None:
    """Raise `Mismatch` unless the run found in out is an export of the very run that is to be exported there."""
    if found.config.exported is None:
        raise Mismatch(f"{out}: holds a run, {found.name}, which is no export; give this one a new --out")
    if not found.finished or found.result.head_sha256 != run.result.head_sha256:
        raise Mismatch(f"{out}: holds the export of another head, {found.name}; give this one a new --out")


def _write(out: Path, source: Path, runs: Mapping[str, Run], files: Mapping[str, bytes], *, weights: str) -> list[Run]:
    """Write files, and last each config.json: until all are there, one head is without, and out cannot be read.

    weights is where those of the backbone are now, '' for where they were.
    """
    make_folder(out)
    with writer_lock(out):
        try:
            _clear(out, source, runs, files)
            written = {}
            for name, data in files.items():
                make_folder((out / name).parent)
                written[name] = write_durably(out / name, data)
            for home, run in runs.items():
                if written[f"{home}{HEAD_NAME}"] != run.result.head_sha256:
                    raise CorruptFile(
                        f"{run.folder / HEAD_NAME}: changed while it was exported; run the same command again"
                    )
            return [_write_config(out, home, run, written, weights=weights) for home, run in runs.items()]
        finally:
            (out / "lock").unlink(missing_ok=True)  # it names this machine, and the folder is to be given away


def _clear(out: Path, source: Path, runs: Mapping[str, Run], files: Mapping[str, bytes]) -> None:
    """Remove from out what a killed export left, what makes the old files runs, and old files that none replaces."""
    for home in runs:
        if (out / home).is_dir():
            remove_temporaries(out / home)
    remove_temporaries(out)
    _check_place(out, source, runs)
    with storage_errors(out):
        for name in (*(f"{home}{CONFIG_NAME}" for home in runs), *_FILES):
            if name not in files:
                (out / name).unlink(missing_ok=True)


def _write_config(out: Path, home: str, run: Run, written: Mapping[str, str], *, weights: str) -> Run:
    """Write a run's config.json, which names the files of its folder, and those that it shares, from there."""
    up = "../" if home else ""
    own = {name.removeprefix(home): digest for name, digest in written.items() if name.startswith(home) and home}
    shared = {f"{up}{name}": digest for name, digest in written.items() if "/" not in name}
    file = f"{up}{weights}" if weights == BACKBONE_NAME else weights
    source = {"weights_source": all_in(run.recipe.backbone, run.recipe.of_network.layer_names, file)} if weights else {}
    return write_config(out / home, {**run.config.document, **source, "exported": {"sha256": own | shared}})
