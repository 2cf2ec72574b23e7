"""Stored numbers stand for features to within half a step, 0 exactly, and what cannot be stored is told."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.store.shards.encoding import LEVELS, calibrate, decode, digest_of_constants, encode, quantize

B, L, D = 3, 7, 11


def features_of(seed: int, *, shape: tuple[int, ...] = (B, L, D), spread: float = 3.0) -> torch.Tensor:
    """Return features whose channels have ranges of quite different sizes and places, some behind a ReLU."""
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal(0, spread, shape[-1]), rng.lognormal(0, spread, shape[-1]), shape)
    values[..., ::3] = np.maximum(values[..., ::3], 0)
    return torch.from_numpy(values.astype("<f4"))


def rounding(features: torch.Tensor) -> NDArray[np.float64]:
    """Return what float32 arithmetic may add to an error, (D)."""
    return np.asarray(features.abs().amax(dim=(0, 1)).double().numpy() * 2.0**-21)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), spread=st.floats(0, 5))
def test_features_of_the_sample_come_back_to_within_half_a_step(seed: int, spread: float) -> None:
    features = features_of(seed, spread=spread)
    constants = calibrate([features])
    stored = quantize(features, constants)
    assert stored.dtype == torch.uint8
    error = np.abs(decode(stored, constants).double().numpy() - features.double().numpy())
    assert (error <= constants[0].astype(float) / 2 + rounding(features)).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), spread=st.floats(0, 5))
def test_steps_are_not_larger_than_they_have_to_be(seed: int, spread: float) -> None:
    features = features_of(seed, spread=spread)
    scale, zero = calibrate([features]).astype(np.float64)
    low = features.amin(dim=(0, 1)).clamp(max=0).double().numpy()
    high = features.amax(dim=(0, 1)).clamp(min=0).double().numpy()
    assert (scale >= (high - low) / LEVELS * (1 - 1e-6)).all()
    assert ((scale <= (high - low) / LEVELS * (1 + 2.0**-6)) | (high == low)).all()  # of a channel that is always 0
    assert ((zero == np.round(zero)) & (zero >= 0) & (zero <= LEVELS)).all()
    assert (-zero * scale <= low + scale / 2 * (1 + 1e-6)).all()
    assert ((LEVELS - zero) * scale >= high - scale / 2 * (1 + 1e-6)).all()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_zero_is_exact(seed: int) -> None:
    constants = calibrate([features_of(seed)])
    zeros = torch.zeros(1, 2, D)
    assert (decode(quantize(zeros, constants), constants) == 0).all()
    assert (quantize(zeros, constants).numpy() == constants[1]).all()


def test_zero_is_exact_in_channels_that_are_never_zero() -> None:
    features = torch.stack([torch.linspace(5, 6, L), torch.linspace(-6, -5, L)], dim=1)[None]
    constants = calibrate([features])
    assert constants[1].tolist() == [0, 255]
    assert not decode(quantize(torch.zeros(1, 1, 2), constants), constants).any()


def test_what_lies_outside_is_the_nearest_end() -> None:
    constants = np.array([[0.5, 0.25, 1], [0, 100, 255]], "<f4")
    low, high = torch.full((1, 1, 3), -1e6), torch.full((1, 1, 3), 1e30)
    assert decode(quantize(low, constants), constants).tolist() == [[[0, -25, -255]]]
    assert decode(quantize(high, constants), constants).tolist() == [[[127.5, 38.75, 0]]]


def test_quantisation_is_the_closed_form() -> None:
    constants = np.array([[0.5, 0.25], [3, 200]], "<f4")
    features = torch.tensor([[[0.0, 0.0], [0.5, -0.25], [0.74, 0.37], [-1.5, -50.0], [-1.76, 13.75]]])
    assert quantize(features, constants).tolist() == [[[3, 200], [4, 199], [4, 201], [0, 0], [0, 255]]]


def test_quantising_and_decoding_leave_what_they_are_given() -> None:
    features = features_of(3)
    before, constants = features.clone(), calibrate([features])
    known = constants.copy()
    stored = quantize(features, constants)
    codes = stored.clone()
    decode(stored, constants)
    encode(features, constants)
    assert torch.equal(features, before)
    assert torch.equal(stored, codes)
    np.testing.assert_array_equal(constants, known)


def test_a_channel_that_is_always_zero_is_stored() -> None:
    features = features_of(5)
    features[..., 4] = 0
    constants = calibrate([features])
    assert constants[:, 4].tolist() == [1, 0]
    found = encode(features, constants)
    assert found.storable.all()
    assert not decode(torch.from_numpy(found.features), constants)[..., 4].any()
    assert not found.pooled[..., 4].any()


@pytest.mark.parametrize("value", [1e-30, 3.0, -7.5, 60000.0])
def test_a_channel_that_is_always_the_same_value_is_stored(value: float) -> None:
    features = torch.full((B, L, 1), value)
    constants = calibrate([features])
    decoded = decode(quantize(features, constants), constants)
    np.testing.assert_allclose(decoded, features, rtol=1 / 255)


def test_constants_are_those_of_all_batches_together_in_any_order() -> None:
    features = features_of(7, shape=(9, L, D))
    whole = calibrate([features])
    assert (whole.shape, whole.dtype) == ((2, D), np.dtype("<f4"))
    for batches in ([features[:4], features[4:]], [features[5:], features[:5]], [features.flip(0)], features.split(1)):
        np.testing.assert_array_equal(calibrate(batches), whole)


def test_last_bits_of_features_do_not_show_in_the_constants() -> None:
    rng = np.random.default_rng(11)
    features = features_of(13, shape=(B, L, 2003))
    constants = calibrate([features])
    for _ in range(5):
        noise = torch.from_numpy(rng.choice([-1e-7, 0, 1e-7], tuple(features.shape)))
        shaken = calibrate([(features.double() * (1 + noise)).float()])
        changed = (shaken != constants).any(axis=0)
        assert changed.mean() < 0.002


def test_the_digest_of_constants_is_pinned_by_names_and_values() -> None:
    a, b = calibrate([features_of(1)]), calibrate([features_of(2)])
    assert digest_of_constants({}) == ""
    assert digest_of_constants({"x": a, "y": b}) == digest_of_constants({"y": b, "x": a})
    others = [{"x": b, "y": a}, {"x": a}, {"x": a, "z": b}, {"x": a, "y": np.nextafter(b, 9, dtype="<f4")}]
    assert len({digest_of_constants(other) for other in [{"x": a, "y": b}, *others]}) == 5
    text = b"x\0(2, 11)\0" + a.tobytes()
    assert digest_of_constants({"x": a}) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("encoding", ["float16", "uint8"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), positions=st.integers(1, 13))
def test_pooled_is_mean_and_deviation_of_what_is_stored(encoding: str, seed: int, positions: int) -> None:
    features = features_of(seed, shape=(B, positions, D), spread=1)
    constants = calibrate([features]) if encoding == "uint8" else None
    found = encode(features, constants)
    decoded = decode(torch.from_numpy(found.features), constants).double().numpy()
    assert (found.features.dtype, found.pooled.dtype) == (np.dtype(encoding), np.dtype("<f4"))
    assert found.pooled.shape == (B, 2, D)
    limit = np.abs(decoded).max() * 1e-6
    np.testing.assert_allclose(found.pooled[:, 0], decoded.mean(axis=1), rtol=1e-5, atol=limit)
    np.testing.assert_allclose(found.pooled[:, 1], decoded.std(axis=1), rtol=1e-5, atol=limit)


def test_float16_is_rounded_to_the_nearest() -> None:
    features = features_of(17)
    found = encode(features, None)
    np.testing.assert_array_equal(found.features, features.numpy().astype("<f2"))
    assert decode(torch.from_numpy(found.features), None).dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("encoding", ["float16", "uint8"])
def test_what_is_not_finite_is_not_storable(encoding: str, value: float) -> None:
    features = features_of(19, spread=1)
    constants = calibrate([features]) if encoding == "uint8" else None
    assert encode(features, constants).storable.tolist() == [True] * B
    features[1, 6, 2] = value
    assert encode(features, constants).storable.tolist() == [True, False, True]


@pytest.mark.parametrize(("value", "storable"), [(65504, True), (-65519, True), (65520, False), (-70000, False)])
def test_what_float16_cannot_hold_is_not_storable(value: float, storable: bool) -> None:
    features = features_of(23, spread=1)
    features[2, 0, 10] = value
    assert encode(features, None).storable.tolist() == [True, True, storable]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_constants_are_finite_or_refused(value: float) -> None:
    features = features_of(29, spread=1)
    features[1, 6, 2] = value
    try:
        constants = calibrate([features])
    except ValueError:
        return
    assert np.isfinite(constants).all()
