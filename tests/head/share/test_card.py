"""A model card is what the Hub can read, and says what is known of a head: no more, and no less."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from featcache.base.errors import CorruptFile
from featcache.images.loading import load_image
from featcache.store.cache import open_cache
from head.evaluation.people import Ceiling, near_ceiling, of_ceiling
from head.evaluation.score import score_run, write_scores
from head.prediction.members import Member
from head.runs.config import NEAR_CEILING
from head.runs.head_file import load_head
from head.runs.run import Run, read_run
from head.settings import settings_of
from head.share.card import CardFacts, _at_most, model_card, onnx_example, read_scores
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.results import changed

DIFFERENCES = {"head.onnx": 1.25e-7, "model.onnx": 3e-6}
FILES = dict.fromkeys(("config.json", "head.safetensors", "head.onnx", "model.onnx", "README.md"), "what it is")


@pytest.fixture(scope="module")
def scored(tiny_runs: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of a run, with its scores."""
    folder = tmp_path_factory.mktemp("card") / "run"
    shutil.copytree(tiny_runs / "tiny" / "paper" / "split-1", folder)
    run = read_run(folder)
    write_scores(score_run(run, open_cache(tiny_cache)))
    return run


def card_of(run: Run, *, license_id: str = "cc-by-4.0", files: dict[str, str] = FILES, **config: Any) -> str:
    members = [Member(changed(run, **config), load_head(run))]
    return model_card(members, CardFacts(license_id, files, read_scores(run), DIFFERENCES))


def test_the_hub_reads_license_tags_and_test_scores(scored: Run) -> None:
    card = ModelCard(card_of(scored))
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "amnet-featcache")
    assert {"onnx", "image-regression"} <= set(card.data.tags)
    scores = json.loads((scored.folder / "scores.json").read_text())
    rho, mse = card.data.eval_results
    assert (rho.metric_type, rho.metric_value) == ("spearmanr", scores["rho"])
    assert rho.metric_name == f"Spearman rho, 95% interval {scores['rho_low']:.3f} to {scores['rho_high']:.3f}"
    assert (mse.metric_type, mse.metric_value) == ("mse", scores["mse"])
    assert (rho.dataset_name, rho.dataset_split, card.data.model_name) == ("tiny, split 1", "test", "paper")


def test_it_says_what_the_head_was_trained_and_selected_on_and_what_it_reads(scored: Run) -> None:
    text = card_of(scored)
    for part in (
        "| trained on | 23 images of tiny, split 1 |",
        "| selected on | the val part |",
        f"| fingerprint of its features | {scored.recipe.fingerprint} |",
        "4 x 4 positions of 256 channels",
        "resnet18, frozen; layer layer3",
        "On the test part of split 1, 11 images",
        "the central square of 0.875 of the shorter side, resized to 64 x 64 pixels",
        "features (B, 16, 256) float32",
        "pixels (B, 64, 64, 3) uint8",
        "maps (B, 3, 16)",
        "sha256 of every training image",
    ):
        assert part in text, part


def test_without_scores_it_says_so(tiny_runs: Path) -> None:
    card = ModelCard(card_of(read_run(tiny_runs / "tiny" / "plain" / "split-1"), license_id="unknown"))
    assert card.data.eval_results is None
    assert "There are no test scores with this run." in card.text
    assert "Nobody has said under which license" in card.text
    assert "without attention" in card.text


def test_of_a_head_on_all_images_without_an_estimate_it_says_why(scored: Run) -> None:
    result = {**scored.config.document["result"], "estimate": {"problem": "not scored: no test part"}}
    text = card_of(scored, choice={"epochs": 3}, result=result)
    assert (
        "so it has no test score of its own. There is no cross-validated estimate either: not scored: no test part."
        in text
    )
    assert "model-index" not in text


def test_a_head_selected_on_the_test_part_is_called_optimistic(scored: Run) -> None:
    assert "optimistic" not in card_of(scored)
    text = card_of(scored, selected_on="the test part itself (optimistic)")
    assert "its test scores are optimistic" in text
    assert "so both numbers flatter" in text


def test_of_an_imported_head_the_training_images_are_unknown(scored: Run) -> None:
    text = card_of(scored, imported={"file": "split1.pkl"}, cache="", split="", selected_on="unknown (imported)")
    assert "| trained on | unknown |" in text
    assert "imported (split1.pkl)" in text
    assert "sha256 of every training image" not in text


def test_other_arithmetic_than_float32_is_said(scored: Run) -> None:
    recipe = {**scored.config.recipe, "precision": "bf16-openvino"}
    assert "features computed in bf16" in card_of(scored, recipe=recipe)


def test_without_model_onnx_there_is_no_example_with_it(scored: Run) -> None:
    text = card_of(scored, files={name: what for name, what in FILES.items() if name != "model.onnx"})
    assert "onnxruntime.InferenceSession" not in text
    assert "| `model.onnx`" not in text


def test_names_that_would_be_markup_are_shown_as_they_are(scored: Run) -> None:
    name = 'x": |<b>\x1b[2J\n---\n[a](http://b) `c`'
    text = card_of(scored, name=name, cache=name)
    card = ModelCard(text)
    assert card.data.model_name == 'x": |<b>\\x1b[2J\\n---\\n[a](http://b) `c`'
    front = text.split("---\n")[1]
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    assert "\x1b" not in text
    assert "<b>" not in card.text
    assert "[a](" not in card.text


@pytest.mark.parametrize("view", ["center", "squash"])
def test_the_example_makes_the_pixels_that_predict_makes(
    scored: Run, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    shutil.copy(tiny_dataset / "images" / "00.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    recipe = replace(scored.recipe, eval_view=view)
    *lines, last = onnx_example(recipe).splitlines()
    found: dict[str, Any] = {}
    exec("\n".join(lines), found)
    assert last.startswith("print(")
    np.testing.assert_array_equal(found["pixels"], load_image(Path("photo.jpg"), "photo.jpg", (0, 1), recipe).pixels)


@pytest.mark.parametrize(
    ("field", "value"), [("fingerprint", "0" * 64), ("split", "2"), ("best_epoch", -1), ("rho", "high"), ("mse", True)]
)
def test_scores_of_another_head_or_of_none_are_refused(scored: Run, tmp_path: Path, field: str, value: Any) -> None:
    scores = json.loads((scored.folder / "scores.json").read_text())
    (tmp_path / "scores.json").write_text(json.dumps({**scores, field: value}))
    with pytest.raises(CorruptFile, match=r"scores\.json: not the scores of this head; run score-cache again"):
        read_scores(Run(tmp_path, scored.config))


def test_a_rho_that_is_no_number_is_left_out(scored: Run, tmp_path: Path) -> None:
    scores = {**json.loads((scored.folder / "scores.json").read_text()), "rho": None, "rho_low": None, "rho_high": None}
    text = model_card([Member(scored, load_head(scored))], CardFacts("mit", FILES, scores, DIFFERENCES))
    assert "There are no test scores" in text
    assert "model-index" not in text


def test_the_differences_that_were_measured_are_said(scored: Run) -> None:
    text = model_card([Member(scored, load_head(scored))], CardFacts("mit", FILES, None, DIFFERENCES))
    assert "differed from PyTorch's by 2e-07 at most (head.onnx) and 3e-06 at most (model.onnx)" in text


@pytest.mark.parametrize(
    ("settings", "head"),
    [
        ({"head": "ridge"}, "linear regression on pooled features"),
        ({"head": "banded-ridge"}, "ridge regression on pooled features, a penalty a layer"),
        (
            {"head": "lsvr"},
            "linear support vector regression on pooled features, in the fixed setting of Khosla et al. (2012)",
        ),
        ({"head": "svr"}, "support vector regression on pooled features, kernel rbf"),
        ({"head": "svr", "kernel": "chi2"}, "support vector regression on pooled features, kernel chi2"),
    ],
)
def test_it_says_which_baseline_a_head_is(
    tiny_cache: Path, tmp_path: Path, settings: dict[str, str], head: str
) -> None:
    run = train(TrainingJob(open_cache(tiny_cache), "1", settings_of(**settings), tmp_path, "x"))
    assert f"| head | {head} |" in card_of(run)


@pytest.mark.parametrize(
    ("value", "told"), [(1.5e-8, "2e-08"), (6.4e-7, "7e-07"), (0.0, "0"), (1e-6, "1e-06"), (9.5e-3, "0.01")]
)
def test_differences_are_told_by_a_number_that_is_not_below(value: float, told: str) -> None:
    assert _at_most(value) == told


def test_how_near_the_ceiling_its_rho_is_is_said_of_a_run_and_of_one_on_all_images(scored: Run, tmp_path: Path) -> None:
    assert "ceiling" not in card_of(scored)
    scores = json.loads((scored.folder / "scores.json").read_text())
    near = of_ceiling(0.6, 0.5, 0.7, Ceiling(0.8, 0.75, 0.85, "it"))
    facts = CardFacts("mit", FILES, {**scores, **near}, DIFFERENCES)
    sentence = f" That rho is {near_ceiling(near)}."
    assert sentence in model_card([Member(scored, load_head(scored))], facts)
    estimate = {"rho": 0.6, "low": 0.5, "high": 0.7, "mse": 0.01, "splits": 2, "seeds": 1, "images": 22}
    estimate |= {key: near[key] for key in NEAR_CEILING}
    whole = changed(scored, choice={"epochs": 3}, result={**scored.result.document, "estimate": estimate})
    assert whole.estimate.endswith("of 2 splits, 0.75 of the ceiling 0.800")
    assert sentence in model_card([Member(whole, load_head(scored))], facts)
    (tmp_path / "scores.json").write_text(json.dumps({**scores, **near, "of_ceiling": "most"}))
    with pytest.raises(CorruptFile, match="not the scores of this head"):
        read_scores(replace(scored, folder=tmp_path))
