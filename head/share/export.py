"""A run becomes a folder that can be given away: a run itself, with its backbone, ONNX graphs and a model card."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache.backbones.backbone import Backbone
from featcache.backbones.execution import split_arithmetic
from featcache.backbones.networks import Extractor, build_extractor
from featcache.backbones.of_recipe import backbone_of
from featcache.base.errors import CorruptFile, InvalidSettings, Mismatch
from featcache.base.files import make_folder, reading_errors, remove_temporaries, storage_errors, write_durably
from featcache.base.lock import writer_lock
from head.runs.head_file import load_head
from head.runs.run import CONFIG_NAME, HEAD_NAME, RATINGS_NAME, Run, read_run, write_config
from head.share.card import CARD_NAME, CardFacts, model_card, read_scores
from head.share.import_head import BACKBONE_NAME, backbone_file
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


@dataclass(frozen=True)
class Exported:
    """The run that an export made, the bytes of each of its files, and how far each graph is from torch."""

    run: Run
    files: dict[str, int]
    differences: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return what was exported as a JSON object."""
        return {
            "folder": str(self.run.folder),
            "name": self.run.name,
            "split": self.run.split,
            "fingerprint": self.run.config.fingerprint,
            "files": self.files,
            "differences": self.differences,
        }

    def as_text(self) -> str:
        """Return it as a line for each file."""
        lines = [f"{self.run.folder}: {self.run.name}, fingerprint {self.run.config.fingerprint[:16]}"]
        for name, size in self.files.items():
            difference = self.differences.get(name)
            note = "" if difference is None else f"  differs from torch by {difference:.1e} at most"
            lines.append(f"  {name:<21} {size:>13,} bytes{note}")
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """Return what to know of graphs that compute in another arithmetic than predict does."""
        precision = split_arithmetic(self.run.recipe.precision)[0]
        if precision == "fp32" or MODEL_GRAPH not in self.files:
            return []
        return [
            f"warning: this head's features are {precision}, in which predict computes; {MODEL_GRAPH} computes in "
            "float32, and its scores differ from predict's, in one measurement by up to a tenth of their deviation. "
            "For graphs that agree to 1e-4, extract with --precision fp32, then train and export."
        ]


def export_head(
    folder: Path,
    out: Path,
    *,
    weights: str | None = None,
    whole: bool = True,
    with_backbone: bool = False,
    license_id: str = "unknown",
) -> Exported:
    """Write the finished run in folder to out; again, the same bytes. What cannot be made leaves out as it was.

    weights overrides where the backbone's weights are looked for. whole writes model.onnx beside head.onnx;
    with_backbone takes weights along that are not from a file too. Raises `InvalidSettings` for what cannot be
    exported, `Mismatch` if out holds something else, weights are not those of the features, or a graph is not what
    torch computes.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_id):
        raise InvalidSettings(f"--license must be a license's name on the Hub, such as cc-by-4.0, found {license_id!r}")
    run = read_run(folder)
    head = load_head(run)
    _check_place(out, run)
    require_onnx()
    scores = read_scores(run)
    carried = with_backbone or run.config.weights_source not in ("imagenet", "random")
    with reading_errors(run.folder / HEAD_NAME):
        files = {HEAD_NAME: (run.folder / HEAD_NAME).read_bytes()}
    graphs = {HEAD_GRAPH: head_graph(run, head)}
    if carried or whole:
        extractor, backbone = networks_of(run, weights)
        if carried:
            files[BACKBONE_NAME] = backbone_file(extractor.module, extractor.module.state_dict())
        if whole:
            graphs[MODEL_GRAPH] = model_graph(run, head, extractor, backbone)
    files |= {name: graph.data for name, graph in graphs.items()}
    what = {name: _FILES[name] for name in (CONFIG_NAME, *files, CARD_NAME)}
    differences = {name: graph.difference for name, graph in graphs.items()}
    files[CARD_NAME] = model_card(run, head, CardFacts(license_id, what, scores, differences)).encode()
    config = dict(run.config.document) | ({"weights_source": BACKBONE_NAME} if carried else {})
    exported = _write(out, run, files, config)
    sizes = {name: (out / name).stat().st_size for name in _FILES if (out / name).is_file()}
    return Exported(exported, sizes, differences)


def networks_of(run: Run, weights: str | None = None) -> tuple[Extractor, Backbone]:
    """Return a run's network twice: with the weights as they are in a file, and ready to run, in float32 by PyTorch.

    Raises `Mismatch` if the weights are not those that the head's features were made with.
    """
    recipe, source = run.recipe, weights or run.weights_source
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
        recipe.backbone, recipe.layer_names, source, seed=recipe.seed, image_size=recipe.image_size
    ), backbone


def _check_place(out: Path, run: Run) -> None:
    """Raise `InvalidSettings` or `Mismatch` unless out is new, empty, or an export of this very head."""
    if out.exists() and not out.is_dir():
        raise InvalidSettings(f"{out}: is a file; give --out a folder")
    if not out.exists():
        return
    if out.resolve() == run.folder.resolve():
        raise InvalidSettings(f"{out}: is the run itself; give its export another --out")
    with reading_errors(out):
        there = sorted(path.name for path in out.iterdir() if not _LEFT_ALONE.fullmatch(path.name))
    other = [name for name in there if name not in (*_FILES, RATINGS_NAME)]
    if there and HEAD_NAME not in there:  # whoever wrote such a README.md, it was not an export
        other = there
    if other:
        raise Mismatch(f"{out}: holds {', '.join(other[:8])}, so no place for an export; give it a new --out")
    if CONFIG_NAME in there:
        found = read_run(out)
        if found.config.exported is None:
            raise Mismatch(f"{out}: holds a run, {found.name}, which is no export; give this one a new --out")
        if not found.finished or found.result.head_sha256 != run.result.head_sha256:
            raise Mismatch(f"{out}: holds the export of another head, {found.name}; give this one a new --out")


def _write(out: Path, run: Run, files: dict[str, bytes], config: dict[str, Any]) -> Run:
    """Write files, and last config.json, without which out is no run."""
    make_folder(out)
    with writer_lock(out):
        try:
            remove_temporaries(out)
            _check_place(out, run)
            with storage_errors(out):
                for name in (CONFIG_NAME, *_FILES):  # first what makes the old files a run
                    if name not in files:
                        (out / name).unlink(missing_ok=True)
            written = {name: write_durably(out / name, data) for name, data in files.items()}
            if written[HEAD_NAME] != run.result.head_sha256:
                raise CorruptFile(
                    f"{run.folder / HEAD_NAME}: changed while it was exported; run the same command again"
                )
            return write_config(out, {**config, "exported": {"sha256": written}})
        finally:
            (out / "lock").unlink(missing_ok=True)  # it names this machine, and the folder is to be given away
