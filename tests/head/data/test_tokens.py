"""Vectors as tokens: positions without a place behind those of a map, for heads that attend once, and what is shown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from featcache.base.errors import InvalidSettings, Mismatch
from featcache.recipe import Recipe
from featcache.store.cache import FeatureCache, open_cache
from featcache.store.shards.encoding import decode
from head.data.batches import feature_scale
from head.data.inputs import HeadInput, on_tokens
from head.evaluation.evaluate import evaluate
from head.evaluation.score import attention_of, score_run
from head.models.kinds import KINDS, input_of, shape_of
from head.models.probes import AttentiveProbe, AttentiveShape, EfficientProbe, EfficientShape
from head.prediction.members import Member
from head.prediction.predictor import Predictor
from head.runs.head_file import load_head
from head.runs.run import Run, read_run
from head.settings import TrainSettings, settings_of
from head.share.export import networks_of
from head.share.graphs import Reading
from head.share.onnx import drawn_images, load_graph, torch_outputs
from head.show.figures.examples import draw_examples
from head.show.page.facts import run_facts
from head.show.page.report import ReportSettings, build_report, write_raw_maps
from head.training.job import TrainingJob
from head.training.train import train
from tests.helpers.command_line import amnet
from tests.helpers.results import RESULT, run_of
from tests.helpers.synthetic import RECIPE

EXTRACT = (
    "--backbone", "timm:test_vit", "--weights", "random", "--image-size", "64", "--layer", "cls,blocks.5,blocks.3",
    "--augs", "1",
)  # fmt: skip
SMALL = (("cls", 1, 1, 5), ("fine", 6, 4, 2), ("map", 3, 2, 5), ("registers", 4, 1, 5), ("wide", 1, 1, 7))
TOKENS = HeadInput(("cls", "map", "registers"), "tokens")
ROWS = np.array([3, 0, 11])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    """A cache of a class token and two maps, in both encodings, and a run of ep that reads the token with a map."""
    home = tmp_path_factory.mktemp("tokens")
    for name in ("float16", "uint8"):
        amnet("extract", "--dataset", tiny_dataset, "--out", home / "cache" / name, *EXTRACT, "--encoding", name)
        trained(open_cache(home / "cache" / name), home / "runs" / name / "ep,layer=cls+blocks.5")
    return home


def trained(cache: FeatureCache, home: Path, **changes: Any) -> Run:
    settings = settings_of(**{"head": "ep", "layers": ("cls", "blocks.5"), "epochs": 6, "precision": "fp32", **changes})
    return train(TrainingJob(cache, "1", settings, home / "split-1", home.name))


@pytest.fixture
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureCache:
    monkeypatch.chdir(folder)
    return open_cache("cache/float16")


@pytest.fixture
def run(folder: Path) -> Run:
    return read_run(folder / "runs/float16/ep,layer=cls+blocks.5/split-1")


@pytest.fixture
def small() -> Recipe:
    return replace(RECIPE, layers=SMALL)


def drawn_maps(recipe: Recipe) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    shapes = {name: recipe.layer_shape(name) for name in recipe.layer_names}
    return {name: torch.randn(2, one.positions, one.channels, generator=generator) for name, one in shapes.items()}


def rounded(values: Tensor) -> Tensor:
    return values.half().float()


# what is read


def test_tokens_stand_behind_the_places_in_the_order_of_their_layers(small: Recipe) -> None:
    maps = drawn_maps(small)
    found = TOKENS.of_maps(maps, {}, small)
    assert torch.equal(found, torch.cat([rounded(maps[name]) for name in ("map", "cls", "registers")], dim=1))
    shape = TOKENS.map_shape(small)
    assert (shape.height, shape.width, shape.channels) == (3, 2, 5)
    assert (TOKENS.tokens(small), TOKENS.positions(small)) == (5, 11)
    assert TOKENS.tokens_in_words(small) == "the class token and 4 registers"


def test_maps_are_joined_in_channels_and_tokens_are_as_wide_as_that(small: Recipe) -> None:
    maps, source = drawn_maps(small), HeadInput(("fine", "wide", "map"), "tokens")
    found = source.of_maps(maps, {}, small)
    averaged = rounded(maps["fine"]).reshape(2, 3, 2, 2, 2, 2).mean(dim=(2, 4)).reshape(2, 6, 2)
    wanted = torch.cat([torch.cat([averaged, rounded(maps["map"])], dim=2), rounded(maps["wide"])], dim=1)
    torch.testing.assert_close(found, wanted)
    assert source.tokens_in_words(small) == "wide"


@pytest.mark.parametrize("reads", [TOKENS, HeadInput(("fine", "wide", "map"), "tokens")])
@pytest.mark.parametrize("encoded", [False, True])
def test_an_exported_graph_reads_the_same(small: Recipe, reads: HeadInput, encoded: bool) -> None:
    flat, rng = drawn_maps(small), np.random.default_rng(1)
    constants = {
        name: np.stack([rng.uniform(0.01, 0.1, depth), rng.integers(100, 150, depth)]).astype("<f4")
        for name, _, _, depth in SMALL if encoded
    }  # fmt: skip
    images = {name: flat[name].transpose(1, 2).reshape(2, depth, height, width) for name, height, width, depth in SMALL}
    run = run_of(Path("run"), input=reads.as_json(), recipe=small.as_json(), result=RESULT)
    wanted = reads.of_maps(flat, constants, small)
    torch.testing.assert_close(Reading(run, constants)(images), wanted, atol=2e-6, rtol=1e-6)


def test_attention_is_cut_into_places_and_what_is_on_tokens(small: Recipe) -> None:
    attention = np.random.default_rng(0).dirichlet(np.ones(11), (7, 3)).astype(np.float32)  # (B, T, L + n)
    places = TOKENS.places(attention, small)
    assert places.shape == (7, 3, 3, 2)
    for b in range(7):
        np.testing.assert_array_equal(places[b].reshape(3, 6), attention[b, :, :6])
        np.testing.assert_allclose(on_tokens(places[b]), attention[b, :, 6:].sum(axis=1), atol=1e-6)
    with_maps = HeadInput(("map",), "maps")
    np.testing.assert_array_equal(with_maps.places(attention[..., :6], small), places)
    assert (with_maps.tokens_in_words(small), with_maps.tokens(small)) == ("", 0)


@pytest.mark.parametrize("name", ["float16", "uint8"])
def test_a_cache_gives_them_as_they_are_stored(folder: Path, name: str) -> None:
    cache = open_cache(folder / "cache" / name)
    source = HeadInput(("cls", "blocks.5"), "tokens")
    stored = {layer: decode(cache.read(ROWS, 0, layer), cache.constants(layer)) for layer in source.layers}
    found = source.read(cache, ROWS, 0)
    assert torch.equal(found, torch.cat([stored["blocks.5"], stored["cls"]], dim=1))
    assert found.shape == (3, 17, 64)
    pairs = [(ROWS, np.zeros(3, np.int64)), (ROWS[:1], np.ones(1, np.int64))]
    for (rows, views), batch in zip(pairs, source.batches(cache, pairs), strict=True):
        assert torch.equal(batch, source.read(cache, rows, views))


def test_a_token_counts_as_one_position_in_the_scale_of_channels(cache: FeatureCache) -> None:
    part, source = cache.splits["1"]["train"], HeadInput(("cls", "blocks.5"), "tokens")
    features = source.read(cache, part.rows, 1).double()  # the one augmented view, which training sees
    mean, deviation = feature_scale(cache, part, source=source, seed=0)
    torch.testing.assert_close(mean.double(), features.mean(dim=(0, 1)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(deviation.double(), features.std(dim=(0, 1), correction=0), rtol=1e-4, atol=1e-5)


# who reads it


@pytest.mark.parametrize(
    ("head", "layers", "pooling", "channels"),
    [
        ("ep", ("cls", "blocks.5"), "tokens", 64),
        ("probe", ("blocks.5", "cls"), "tokens", 64),
        ("ep", ("blocks.5", "blocks.3"), "maps", 128),
        ("probe", ("blocks.5",), "maps", 64),
        ("amnet", ("cls", "blocks.5"), "maps", 128),  # at every position
    ],
)
def test_probes_read_tokens_and_amnet_repeats_them(
    cache: FeatureCache, head: str, layers: tuple[str, ...], pooling: str, channels: int
) -> None:
    settings = TrainSettings(head=head, layers=layers)
    assert input_of(cache, settings) == HeadInput(layers, pooling)
    assert shape_of(cache, settings).channels == channels


def test_efficient_probing_attends_to_the_token_as_to_a_place() -> None:
    M, V, D, L = 3, 5, 7, 11
    torch.manual_seed(0)
    head = EfficientProbe(EfficientShape(D, M, V)).eval().requires_grad_(False)
    head.queries.normal_()
    places, token = torch.randn(L, D), torch.randn(D)
    output = head(torch.cat([places, token[None]])[None])
    parts, shares = [], []
    for j in range(M):
        energies = torch.stack([head.queries[j] @ x / D**0.5 for x in (*places, token)])
        a = energies.exp() / energies.exp().sum()
        pooled = sum(a[k] * places[k] for k in range(L)) + a[L] * token
        y = head.values.weight[j * V : (j + 1) * V] @ pooled / (1 + 1e-6) ** 0.5  # running mean 0, variance 1
        parts.append(head.output.weight[0, j * V : (j + 1) * V] @ y + head.output.bias[0] / M)
        shares.append(a[L])
    torch.testing.assert_close(output.score[0], sum(parts), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.maps[0, :, L].sort()[0], torch.stack(shares).sort()[0], rtol=1e-5, atol=1e-6)
    assert output.maps.shape == (1, M, L + 1)


def test_a_block_of_cross_attention_does_so_too() -> None:
    head = AttentiveProbe(AttentiveShape(8, 2)).eval().requires_grad_(False)
    torch.manual_seed(0)
    features = torch.randn(2, 6, 8)
    moved = features.roll(1, dims=1)
    assert torch.allclose(head(features).score, head(moved).score, atol=1e-6)
    assert torch.allclose(head(features).maps.roll(1, dims=2), head(moved).maps, atol=1e-6)


@pytest.mark.parametrize("name", ["float16", "uint8"])
def test_a_run_is_trained_scored_and_predicts_from_files_what_the_cache_gives(
    folder: Path, tiny_dataset: Path, name: str
) -> None:
    cache, run = open_cache(folder / "cache" / name), read_run(next((folder / "runs" / name).glob("*/split-1")))
    assert (run.input.pooling, run.tokens) == ("tokens", "the class token")
    scored = score_run(run, cache)
    assert scored.prediction.std() > 1e-3
    found = Predictor.load(run.folder).predict([tiny_dataset / "images" / one for one in scored.names])
    np.testing.assert_allclose([one.score for one in found], scored.prediction, atol=2e-2 if name == "uint8" else 2e-3)


def test_a_run_of_before_keeps_its_repeated_vectors(
    folder: Path, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setitem(
            KINDS, "ep", replace(KINDS["ep"], reads=lambda cache, settings, layers: HeadInput(layers, "maps"))
        )
        old = trained(cache, tmp_path / "old")
    stored = read_run(old.folder)
    assert (stored.input, stored.tokens) == (HeadInput(("cls", "blocks.5"), "maps"), "")
    assert load_head(stored).module.shape.channels == 128
    assert score_run(stored, cache).prediction.std() > 1e-3
    (maps,) = attention_of(cache, stored, ROWS) or ()
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, rtol=1e-5)
    with pytest.raises(Mismatch, match="pooling: 'maps' there, 'tokens' asked for"):
        trained(cache, tmp_path / "old")
    shutil.copytree(folder / "runs/float16/ep,layer=cls+blocks.5/split-1", tmp_path / "old" / "split-2")
    with pytest.raises(InvalidSettings, match="its 2 finished runs are not of one head"):
        Predictor.load(tmp_path / "old")


# what is shown


def test_predict_writes_places_as_maps_and_says_what_is_on_the_token(
    run: Run, cache: FeatureCache, tiny_dataset: Path, tmp_path: Path
) -> None:
    image = tiny_dataset / "images" / "00.jpg"
    done = amnet("predict", "--run", run.folder, image, "--maps", tmp_path / "maps", "--json")
    (found,) = json.loads(done.stdout)
    maps = np.load(found["maps"])
    assert maps.shape == (4, 4, 4)
    features = run.input.read(cache, np.array([[one.name for one in cache.images].index("00.jpg")]).ravel(), 0)
    attention = load_head(run).predict(features)[2].numpy()[0]  # (T, L + n)
    np.testing.assert_allclose(maps.reshape(4, 16), attention[:, :16], atol=2e-3)
    np.testing.assert_allclose(found["on_tokens"], attention[:, 16], atol=2e-3)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1 - np.array(found["on_tokens"]), atol=1e-6)
    share = np.mean(found["on_tokens"])
    assert f"maps of 1 images; {share:.0%} of attention, which they lack, is on the class token" in done.stderr
    assert (tmp_path / "maps" / "00.jpg.png").is_file()


def test_pages_and_figures_say_it_and_draw_places_alone(
    run: Run, cache: FeatureCache, tiny_dataset: Path, tmp_path: Path
) -> None:
    facts = run_facts(run)
    assert (facts["look"], facts["tokens"]) == ("query", "the class token")
    found = evaluate(cache, run.folder.parents[2])
    settings = ReportSettings(root=tiny_dataset, maps=tmp_path)
    (path,) = write_raw_maps(cache, found, settings)
    maps = np.load(path)
    entries = build_report(cache, found, settings).data["gallery"]["entries"]
    assert maps.shape == (len(entries), 4, 4, 4)
    for one, entry in zip(maps, entries, strict=True):
        assert entry["maps"]["shape"] == [4, 4, 4]
        np.testing.assert_allclose(entry["maps"]["on_tokens"], 1 - one.sum(axis=(1, 2)), atol=6e-5)
        assert 0.01 < entry["maps"]["on_tokens"][0] < 0.99
    drawing = draw_examples(cache, found, root=tiny_dataset).drawings[0]
    assert drawing.caption.endswith("What is on the class token, which has no place, is told in percent.")
    told = [axes.get_xlabel() for axes in drawing.figure.axes[1:5]]
    assert all("% on\nthe class token" in one for one in told)


def test_heads_without_tokens_say_nothing_of_them(cache: FeatureCache, tmp_path: Path, tiny_dataset: Path) -> None:
    plain = trained(cache, tmp_path / "plain", layers=("blocks.5",), epochs=1)
    (found,) = Predictor.load(plain.folder)([tiny_dataset / "images" / "00.jpg"])
    assert (found.on_tokens, found.as_json()["on_tokens"], plain.tokens) == ((), [], "")


class Network(NamedTuple):
    """A network whose last map has side x side places, and as a token one vector of as many channels."""

    name: str
    map_layer: str
    token: str
    in_words: str
    side: int


@pytest.fixture(
    scope="module",
    params=[
        Network("timm:test_resnet", "layer4", "pooled", "pooled", 2),
        Network("timm:test_vit", "blocks.5", "cls", "the class token", 4),
    ],
    ids=lambda network: network.name,
)
def network(request: pytest.FixtureRequest) -> Network:
    found: Network = request.param
    return found


@pytest.fixture(scope="module")
def exported(folder: Path, tiny_dataset: Path, network: Network) -> Path:
    """The export of a run that reads the last map of a network, and a token."""
    home = folder / network.token
    layers = ("--backbone", network.name, "--layer", f"{network.map_layer},{network.token}")
    amnet("extract", "--dataset", tiny_dataset, "--out", home / "cache/c", *EXTRACT[2:6], *layers)
    run = trained(open_cache(home / "cache/c"), home / "runs/c/ep", layers=(network.token, network.map_layer))
    amnet("export-head", "--run", run.folder, "--out", home / "export")
    return home / "export"


def test_an_export_gives_attention_on_tokens_behind_that_on_places(exported: Path, network: Network) -> None:
    run, pixels, places = read_run(exported), drawn_images(3, 64), network.side**2
    members = [Member(run, load_head(run))]
    wanted = torch_outputs(members, networks_of(members)[1], pixels)
    data = (exported / "model.onnx").read_bytes()
    found = load_graph(data)(pixels)
    assert found[2].shape == (3, 4, places + 1)
    for values, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(values, other, atol=1e-4)
    facts = {one.key: one.value for one in onnx.load_from_string(data).metadata_props}
    side = network.side
    assert (facts["pooling"], facts["map_size"]) == ("tokens", f"[{side},{side}]")
    assert facts["tokens"] == f'["{network.token}"]'
    card = (exported / "README.md").read_text()
    channels = run.input.map_shape(run.recipe).channels
    assert f"features (B, {places + 1}, {channels}) float32" in card
    assert f"maps (B, 4, {places + 1}): {side} x {side} places row by row, then {network.in_words}" in card
    said = f"feature maps, {side} x {side} positions of {channels} channels, and {network.in_words}, as wide"
    assert f"{said}, without a place" in card


# what is refused


def refused(cache: FeatureCache, head: str, *layers: str) -> str:
    with pytest.raises(InvalidSettings) as raised:
        input_of(cache, TrainSettings(head=head, layers=layers))
    return str(raised.value)


def of_layers(*layers: tuple[str, int, int, int]) -> FeatureCache:
    class Layered:
        path, recipe = Path("cache/made"), replace(RECIPE, layers=layers)

        def layer(self, name: str | None = None) -> str:
            return name or self.recipe.layer_names[-1]

    return Layered()  # type: ignore[return-value]


def test_layers_without_a_map_are_refused_with_one_that_fits() -> None:
    cache = of_layers(*SMALL)
    told = refused(cache, "ep", "cls", "registers")
    assert told == (
        "a head of the kind ep looks at places, and cls, registers of cache/made has none, as vectors of an image: "
        "name a map as well, --layer cls,registers,map, or use --head ridge, svr or mlp"
    )
    assert refused(cache, "amnet", "cls").endswith("use --head ridge, svr or mlp, or --no-attention")
    alone = of_layers(SMALL[0])
    assert "extract a map as well, or use" in refused(alone, "probe")


def test_tokens_of_another_width_are_refused_with_what_fits() -> None:
    cache = of_layers(*SMALL)
    assert refused(cache, "probe", "fine", "map", "cls", "registers") == (
        "cache/made: probe reads vectors as tokens beside a map, of as many channels as that, 7 (fine 2 + map 5):\n"
        "  cls has 5; fits one of these maps alone: map\n"
        "  registers has 5; fits one of these maps alone: map\n"
        "Name layers that fit. Heads amnet, ridge, svr and mlp join vectors of any width."
    )
    assert "  wide has 7; no map of this cache has as many\n" in refused(cache, "ep", "map", "wide", "cls")
    assert input_of(cache, TrainSettings(head="ep", layers=("fine", "map", "wide"))).pooling == "tokens"
    assert input_of(cache, TrainSettings(head="amnet", layers=("map", "wide"))).pooling == "maps"


def test_amnet_refuses_several_vectors_of_a_layer() -> None:
    told = refused(of_layers(*SMALL), "amnet", "map", "registers", "cls")
    assert "  registers: 4 vectors\n" in told
    assert "use --head ep or probe, which read each vector as a token" in told
