"""Augmentations of volumes beside scipy's, and the promises of their draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from neuropipe.data import augment_volume
from neuropipe.data.augment_volume import POLICIES, Draws, Policy
from neuropipe.data.chance import Piece

SHAPE = (13, 16, 11)


def volume(n_channels: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n_channels, *SHAPE))).to(dtype)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sigma", [0.1, 0.6, 1.0, 3.5, 9.0])
def test_blur_is_scipys_per_channel(sigma):
    x = volume()
    expected = np.stack([ndimage.gaussian_filter(channel, sigma) for channel in x.numpy()])
    np.testing.assert_allclose(augment_volume.blur(x, sigma).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(17, 16, 9), (7, 31, 22), (1, 2, 3)])
def test_resize_is_scipys_zoom_between_voxel_centres(shape):
    x = volume()
    factors = np.divide(shape, SHAPE)
    expected = [ndimage.zoom(channel, factors, order=1, mode="mirror", grid_mode=True) for channel in x.numpy()]
    np.testing.assert_allclose(augment_volume.resize(x, shape).numpy(), np.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("angles", "planes"), [((90, 0, 0), (2, 3)), ((0, 90, 0), (3, 1)), ((0, 0, 90), (1, 2))])
def test_rotation_by_a_right_angle_is_exact(angles, planes):
    cube = volume()[:, :11, :11, :11]
    turned = augment_volume.rotate(cube, angles)
    np.testing.assert_allclose(turned.numpy(), torch.rot90(cube, 1, planes).numpy(), rtol=0, atol=1e-9)


def test_small_rotations_of_an_uneven_grid_keep_lengths():
    """A ball stays a ball where it is; a cube-shaped space would squeeze it."""
    x, y, z = np.ogrid[-15:16, -10:11, -12:13]
    ball = torch.from_numpy(np.exp(-(x**2 + y**2 + z**2) / 18.0))[None]
    error = (augment_volume.rotate(ball, (20, -30, 25)) - ball).abs().max()
    assert error < 3 * (1 / 8) * (1 / 9)  # linear interpolation's own: an eighth of each second derivative


def test_zscore_per_channel_and_over_all():
    x = 3 * volume() + torch.tensor([5.0, -20.0])[:, None, None, None]
    own, shared = augment_volume.zscore(x), augment_volume.zscore(x, per_channel=False)
    np.testing.assert_allclose(own.mean((1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(own.std((1, 2, 3), correction=0), 1, rtol=1e-7)
    assert abs(shared.mean()) < 1e-12 and shared[0].mean() > 0.5
    assert (augment_volume.zscore(torch.full((1, *SHAPE), 3.25)) == 0).all()


def test_zscore_is_precise_in_float32_far_from_zero():
    x = 1000 + volume(1)
    exact = augment_volume.zscore(x)
    torch.testing.assert_close(augment_volume.zscore(x.float()).double(), exact, rtol=0, atol=1e-3)


def test_the_published_crop_and_padding():
    x = torch.arange(121 * 145 * 2.0).view(1, 121, 145, 2)
    out = augment_volume.crop_or_pad(x, (128, 128, 2))
    assert out.shape == (1, 128, 128, 2)
    assert torch.equal(out[:, 3:124], x[:, :, 8:136]) and (out[:, :3] == 0).all() and (out[:, 124:] == 0).all()
    assert augment_volume.crop_or_pad(x, (121, 145, 2)).data_ptr() == x.data_ptr()


def test_views_follow_the_generator_and_leave_the_input_alone():
    x = volume(1, torch.float32)[None].repeat(3, 1, 1, 1, 1)
    before = x.clone()
    policy = Policy(flip=0.5, rotation=0.5, blur=0.5, noise=0.5, cutout=0.5, crop=0.5)
    first, again, other = (augment_volume.views(x, policy, 2, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(x, before)
    assert first.shape == (6, 1, *SHAPE)
    assert torch.equal(augment_volume.views(x, POLICIES["none"], 2, generator()), torch.cat([x, x]))


@pytest.mark.parametrize("recipe", ["all", "cutout", "crop"])
def test_channels_are_treated_alike_and_never_mixed(recipe):
    """The second channel is constant: it stays constant, but for noise and the cut-out box, which the first has too."""
    both = torch.stack([volume(1)[0], torch.full(SHAPE, 2.0, dtype=torch.float64)])[None].repeat(8, 1, 1, 1, 1)
    policy = POLICIES[recipe].model_copy(update={"noise": 0.0})
    for out in augment_volume.views(both, policy, 1, generator(3)):
        values = out[1].unique().numpy()
        hole = out[1] == 0
        inside = (out[1] > 1e-9) & (out[1] < 2 - 1e-9)  # the box's edge, enlarged
        assert np.allclose(values[values > 2 - 1e-9], 2) and (hole | inside | (out[1] > 1.9)).all()
        assert (out[0][hole] == 0).all()


@pytest.mark.parametrize("name", ["flip", "rotation", "blur", "noise", "cutout", "crop"])
def test_each_augmentation_comes_as_often_as_asked(name):
    """Of 2000 draws at probability 0.3 the count lies within 4 standard errors; the others never come."""
    fields = {"flip": "flip", "rotation": "angles_deg", "blur": "blur_sigma_voxels", "noise": "noise_sd"}
    field = fields.get(name, name)
    drawn = augment_volume.draw(Policy(**{name: 0.3}), SHAPE, 2000, generator())
    count = sum(getattr(one, field) is not None for one in drawn)
    assert abs(count - 600) < 4 * np.sqrt(2000 * 0.3 * 0.7)
    assert all(
        getattr(one, other) is None for one in drawn for other in vars(Draws()) if other not in (field, "noise_seed")
    )


def test_boxes_lie_everywhere_and_only_inside():
    policy = Policy(cutout=1.0, crop=1.0)
    drawn = augment_volume.draw(policy, SHAPE, 3000, generator())
    for box, size in (("cutout", (4, 4, 3)), ("crop", (10, 12, 9))):
        for axis, (n, s) in enumerate(zip(SHAPE, size, strict=True)):
            parts = [getattr(one, box)[axis] for one in drawn]
            assert {part.stop - part.start for part in parts} == {s}
            counts = np.bincount([part.start for part in parts], minlength=n - s + 1)
            assert len(counts) == n - s + 1
            expected = 3000 / len(counts)
            assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_flips_are_left_to_right_unless_other_axes_are_named():
    assert {one.flip for one in augment_volume.draw(Policy(flip=1.0), SHAPE, 200, generator())} == {-3}
    every = Policy(flip=1.0, flip_axes=("x", "y", "z"))
    assert {one.flip for one in augment_volume.draw(every, SHAPE, 200, generator())} == {-3, -2, -1}


def test_rician_noise_is_the_magnitude_of_a_complex_signal():
    x, real, imaginary = (torch.from_numpy(np.random.default_rng(i).normal(size=(1, *SHAPE))) for i in range(3))
    expected = np.abs(x.numpy() + real.numpy() + 1j * imaginary.numpy())
    np.testing.assert_allclose(augment_volume.rician(x, real, imaginary).numpy(), expected, rtol=1e-12)


def test_noise_of_a_view_does_not_depend_on_who_else_has_any():
    """Half of the people draw the same in a batch of their own piece, noise of others or not."""
    x = torch.randn(4, 1, *SHAPE, generator=generator())
    policy = Policy(noise=0.5, flip=0.5)
    whole = augment_volume.views(x, policy, 2, generator(5)).unflatten(0, (2, 4))
    for mine in (slice(0, 2), slice(2, 4)):
        piece = Piece.of(x.device, 5, 4, mine, n_views=2)
        assert torch.equal(augment_volume.views(x[mine], policy, 2, piece), whole[:, mine].flatten(0, 1))
