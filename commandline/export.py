"""Command that gives heads away: export-head."""

from pathlib import Path

import click

from commandline.options import DIRECTORY, FILE, HEAD, JSON, show_report


@click.command("export-head")
@HEAD
@click.option("--out", required=True, type=DIRECTORY, metavar="DIR", help="Folder of the export.")
@click.option("--weights", type=FILE, help="Weights file of the backbone, if it is not where extract found it.")
@click.option("--with-backbone", is_flag=True,
              help="Take ImageNet weights along as well; those of a file always are.")  # fmt: skip
@click.option("--no-model", is_flag=True, help="Leave model.onnx out, and export the head alone.")
@click.option("--license", "license_id", default="unknown", show_default=True, metavar="ID",
              help="License of the head, by its name on the Hub, such as cc-by-4.0.")  # fmt: skip
@JSON
def export_head(
    run: str, out: Path, weights: Path | None, with_backbone: bool, no_model: bool, license_id: str, as_json: bool
) -> None:
    """Write a trained head to a folder that can be given away: a run for predict, ONNX graphs and a model card.

    head.onnx maps features to scores, model.onnx pixels to scores. Both are compared with PyTorch before anything is
    written. The same export gives the same bytes.

    Example: amnet export-head --head runs/lamem/paper/split-1 --out lamem-head --license cc-by-4.0
    """
    from head.share.export import export_head as run_export
    from head.share.hub import run_folder

    exported = run_export(
        run_folder(run),
        out,
        weights=str(weights) if weights else None,
        whole=not no_model,
        with_backbone=with_backbone,
        license_id=license_id,
    )
    show_report(exported, as_json)
