"""Attention maps of a few images: which, of which head, and photographs that are not there any more."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from featcache.store.cache import FeatureCache, open_cache
from head.evaluation.evaluate import Evaluation, evaluate
from head.show.figures import examples
from head.show.figures.examples import chosen, draw_examples


@pytest.fixture
def cache(tiny_cache: Path) -> FeatureCache:
    return open_cache(tiny_cache)


@pytest.fixture
def evaluation(cache: FeatureCache, tiny_runs: Path, tmp_path: Path) -> Evaluation:
    shutil.copytree(tiny_runs, tmp_path / "runs")
    return evaluate(cache, tmp_path / "runs", splits="1")


def labels(figure: object) -> list[str]:
    return [axes.get_xlabel() for axes in figure.axes[:-1]]  # type: ignore[attr-defined]


def test_the_lowest_the_middle_and_the_highest_are_chosen_each_once() -> None:
    scores = np.random.default_rng(0).permutation(11) / 10
    assert scores[chosen(scores)].tolist() == [0, 0.1, 0.4, 0.5, 0.9, 1.0]
    for few in range(1, 7):
        assert sorted(chosen(scores[:few]).tolist()) == list(range(few))


def test_images_without_a_number_are_not_chosen() -> None:
    assert chosen(np.array([0.5, np.nan, 0.1, -np.inf, np.inf])).tolist() == [2, 0]
    assert chosen(np.array([np.nan])).tolist() == []


def test_maps_that_are_no_numbers_are_left_out_and_named(
    cache: FeatureCache, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "attention_of", lambda *_: iter([np.full((6, 3, 4, 4), np.nan, np.float32)]))
    found = draw_examples(cache, evaluation)
    assert found.drawings == []
    assert found.left_out[0].count("maps that are not finite") == 6


def test_an_example_shows_the_score_the_truth_and_the_step_scores(cache: FeatureCache, evaluation: Evaluation) -> None:
    found = draw_examples(cache, evaluation)
    assert found.left_out == []
    assert [one.name for one in found.drawings] == [f"attention-{k}" for k in range(1, 7)]
    paper = next(one for one in evaluation.scored if one.run.name == "paper")
    for drawing, place in zip(found.drawings, chosen(paper.prediction), strict=True):
        score, truth, steps = paper.prediction[place], paper.truth[place], paper.step_scores[place]
        assert labels(drawing.figure) == [
            f"score {score:.3f}\ntrue {truth:.3f}",
            *(f"m{chr(0x2080 + t)} {step:.3f}" for t, step in enumerate(steps, start=1)),
        ]
        assert paper.names[place] in drawing.caption
        assert "of the test part, of which it saw the middle; the rest is dark" in drawing.caption
        image = next(image for image in cache.images if image.name == paper.names[place])
        assert drawing.figure.axes[0].get_images()[0].get_array().shape == (image.height, image.width, 3)


def test_without_attention_examples_are_of_occlusion(cache: FeatureCache, evaluation: Evaluation) -> None:
    plain = Evaluation([], [], [row for row in evaluation.summaries if row.name == "plain"], [], [])
    found = draw_examples(cache, plain)
    assert found.left_out == []
    assert [one.name for one in found.drawings] == [f"occlusion-{k}" for k in range(1, 7)]
    assert "its features replaced by the mean training feature" in found.drawings[0].caption
    assert labels(found.drawings[0].figure)[1] == "occlusion"


def test_heads_on_vectors_have_no_examples(
    cache: FeatureCache, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "occludes", lambda run: False)
    plain = Evaluation([], [], [row for row in evaluation.summaries if row.name == "plain"], [], [])
    found = draw_examples(cache, plain)
    assert found.drawings == []
    assert found.left_out == ["attention maps: no head here has attention, or features with places"]


def test_photographs_that_are_gone_or_changed_are_named(
    tiny_cache: Path, evaluation: Evaluation, tmp_path: Path
) -> None:
    source = Path(open_cache(tiny_cache).manifest.source["root"])
    shutil.copytree(source, tmp_path / "data")
    cache = open_cache(tiny_cache)
    cache.manifest.source["root"] = str(tmp_path / "data")
    paper = next(one for one in evaluation.scored if one.run.name == "paper")
    gone, changed, *_ = [paper.names[place] for place in chosen(paper.prediction)]
    (tmp_path / "data" / "images" / gone).unlink()
    shutil.copy(source / "images" / gone, tmp_path / "data" / "images" / changed)
    found = draw_examples(cache, evaluation)
    assert len(found.drawings) == 4
    assert found.left_out == [
        f"attention maps: {gone} (unreadable: No such file or directory), {changed} (changed: not the file that was "
        f"extracted); looked for in {tmp_path / 'data' / 'images'}"
    ]
