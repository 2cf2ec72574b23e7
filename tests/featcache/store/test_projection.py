"""Principal directions are those of NumPy's eigenvectors of the covariance, whatever the batches; files are checked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.base.errors import CorruptFile, InvalidSettings
from featcache.store.projection import (
    Moments,
    as_stored,
    decoded,
    digest_of_projections,
    projections_of,
    read_projections,
    tensors_of,
    write_projections,
)


def vectors(n: int = 1009, channels: int = 13) -> np.ndarray:
    """Return vectors far from 0, along directions of very different variance."""
    rng = np.random.default_rng(5)
    return 100 + rng.normal(size=(n, channels)) @ (rng.normal(size=(channels, channels)) * 2.0 ** -np.arange(channels))


def moments_of(x: np.ndarray, batch: int) -> Moments:
    found = Moments(x.shape[1])
    for start in range(0, len(x), batch):
        found.add(torch.from_numpy(x[start : start + batch]))
    return found


@pytest.mark.parametrize("batch", [1, 7, 1009])
def test_directions_are_the_eigenvectors_of_the_covariance(batch: int) -> None:
    x = vectors()
    values, expected = np.linalg.eigh(np.cov(x.T, bias=True))
    found = moments_of(x, batch).projection(3)
    assert found.channels == (13, 3)
    assert found.vectors == 1009
    assert found.variance == pytest.approx(values[:-4:-1].sum() / values.sum(), rel=1e-9)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.directions.T @ expected[:, :-4:-1]), np.eye(3), atol=1e-6)
    assert (found.directions[np.abs(found.directions).argmax(axis=0), range(3)] > 0).all()


def test_features_are_projected_alike_whatever_they_are_beside() -> None:
    x = vectors(5 * 7).reshape(5, 7, 13)
    projection = moments_of(x.reshape(-1, 13), 7).projection(4)
    features = torch.from_numpy(x).float()
    found = projection.of(features)
    expected = (features.double().numpy() - projection.mean) @ projection.directions.astype(np.float64)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)
    assert torch.equal(found[2:3], projection.of(features[2:3]))
    np.testing.assert_allclose(projection.of_vectors(x[0]), (x[0] - projection.mean) @ projection.directions, atol=1e-4)


def test_more_directions_than_vectors_vary_along_are_refused() -> None:
    x = vectors()
    x[:, 4:] = x[:, :1]
    with pytest.raises(InvalidSettings, match="these 1,009 training vectors of 13 channels vary along 4 "):
        moments_of(x, 100).projection(5)
    assert moments_of(x, 100).projection(4).variance == pytest.approx(1)


def test_maps_are_stored_projected_and_rounded_as_float16_before_and_after() -> None:
    x = vectors(2 * 7).reshape(2, 7, 13)
    projection = moments_of(x.reshape(-1, 13), 7).projection(4)
    maps = torch.from_numpy(x).float()
    stored = as_stored(maps, projection)
    expected = projection.of(maps.half().float()).half()
    np.testing.assert_array_equal(stored.features, expected.numpy())
    np.testing.assert_allclose(stored.pooled[:, 0], expected.float().mean(dim=1).numpy(), rtol=1e-5, atol=1e-5)
    assert torch.equal(decoded(stored, projection), expected.float())


def test_a_file_of_projections_comes_back_and_damage_is_found(tmp_path: Path) -> None:
    found = {"a.b": moments_of(vectors(), 100).projection(4), "c": moments_of(vectors(), 100).projection(2)}
    digest = digest_of_projections(found)
    write_projections(tmp_path, found, {"channels": 4})
    back, facts = read_projections(tmp_path, digest)
    assert facts == {"channels": 4}
    for layer, one in found.items():
        np.testing.assert_array_equal(back[layer].directions, one.directions)
        assert (back[layer].variance, back[layer].vectors) == (one.variance, one.vectors)
    with pytest.raises(CorruptFile, match="not the projection that this cache's features went through"):
        read_projections(tmp_path, "0" * 64)
    path = tmp_path / "projection.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptFile, match="damaged"):
        read_projections(tmp_path)
    path.unlink()
    with pytest.raises(CorruptFile, match="missing, so features cannot be made"):
        read_projections(tmp_path)


def test_tensors_of_no_projection_are_refused() -> None:
    tensors = tensors_of({"a": moments_of(vectors(), 100).projection(4)})
    with pytest.raises(ValueError, match="impossible sizes"):
        projections_of({**tensors, "a.mean": torch.zeros(3)})
    with pytest.raises(ValueError, match="of no projection"):
        projections_of({**tensors, "a.other": torch.zeros(3)})
