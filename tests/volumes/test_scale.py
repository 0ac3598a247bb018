"""Units and number formats of prepared maps."""

from __future__ import annotations

import numpy as np
import pytest

from neuropipe.config import Volumes
from neuropipe.errors import RunExcluded
from neuropipe.volumes.scale import pack, scaled, threshold


@pytest.fixture
def array() -> np.ndarray:
    """A block of tissue of 0.2 to 1 in an empty field."""
    array = np.zeros((20, 20, 20), dtype=np.float32)
    array[5:15, 5:15, 5:15] = np.random.default_rng(0).uniform(0.2, 1, size=(10, 10, 10))
    return array


def test_zscore_is_of_the_mask_and_a_line_everywhere(array: np.ndarray) -> None:
    found, border = scaled(array, Volumes(scale="zscore"), None)
    inside = array > 0
    assert found[inside].mean() == pytest.approx(0, abs=1e-5) and found[inside].std() == pytest.approx(1, abs=1e-5)
    slope, shift = np.polyfit(array.ravel(), found.ravel(), 1)
    np.testing.assert_allclose(found, slope * array + shift, atol=1e-5)
    assert np.array_equal(found > border, inside), "the threshold follows the values"


def test_padding_does_not_change_a_zscore(array: np.ndarray) -> None:
    padded = np.pad(array, 3)
    one, other = (scaled(a, Volumes(scale="zscore"), None)[0] for a in (array, padded))
    np.testing.assert_allclose(other[3:-3, 3:-3, 3:-3], one, atol=1e-5)


def test_tiv_scaling(array: np.ndarray) -> None:
    found, border = scaled(array, Volumes(scale="tiv"), 1200.0)
    np.testing.assert_allclose(found, array * 1.25, rtol=1e-6)
    assert border == pytest.approx(1.25 * threshold(array, 0.05))
    for missing in (None, float("nan"), 0.0):
        with pytest.raises(RunExcluded, match=r"no TIV: .* add CAT12's report"):
            scaled(array, Volumes(scale="tiv"), missing)


@pytest.mark.parametrize(("low", "high"), [(0, 1.3), (-4.2, 3.1), (200, 60000), (1e-7, 3e-7)])
def test_uint8_is_off_by_half_a_step_at_most(low: float, high: float) -> None:
    array = np.random.default_rng(0).uniform(low, high, size=(9, 8, 7)).astype(np.float32)
    stored, scale, shift = pack(array, "uint8")
    assert stored.dtype == np.uint8 and (stored.min(), stored.max()) == (0, 255)
    assert scale == pytest.approx((float(array.max()) - float(array.min())) / 255)
    assert np.abs(stored * scale + shift - array).max() <= scale / 2 * (1 + 1e-6)


def test_zero_stays_zero(array: np.ndarray) -> None:
    for dtype in ("uint8", "float16", "float32"):
        stored, scale, shift = pack(array, dtype)
        assert (stored.astype(float) * scale + shift)[0, 0, 0] == 0


@pytest.mark.parametrize("peak", [1e-6, 1.0, 4000.0, 7e5])
def test_float16_has_its_digits_at_any_size(peak: float) -> None:
    array = (peak * np.random.default_rng(0).uniform(0.1, 1, size=500)).astype(np.float32)
    stored, scale, shift = pack(array, "float16")
    assert shift == 0 and np.log2(scale) % 1 == 0
    np.testing.assert_allclose(stored.astype(float) * scale, array, rtol=2**-11)
