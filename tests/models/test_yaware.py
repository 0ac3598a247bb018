"""y-Aware: networks of known size, a loss beside its formula, proxies with gaps, several processes as one."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

from neuropipe.data import order
from neuropipe.data.batch import Batch
from neuropipe.data.chance import Piece
from neuropipe.errors import ConfigError, InputError
from neuropipe.models import yaware
from neuropipe.models.yaware import Classifier, Config, Model, Proxy, Segmenter, contrast, similarity
from neuropipe.train import loop
from neuropipe.train.recipe import TrainSettings

SMALL = {
    "growth_rate": 4,
    "block_config": (2, 2),
    "n_init_features": 8,
    "bn_size": 2,
    "head_hidden_dim": 16,
    "head_dim": 8,
}


def small(**changes) -> Model:
    torch.manual_seed(0)
    return Model(Config(**(SMALL | changes)))


def volumes(n: int, shape: tuple[int, int, int] = (12, 14, 12), seed: int = 0) -> Batch:
    x = torch.randn(n, 1, *shape, generator=torch.Generator().manual_seed(seed))
    return Batch.of_volumes(x, {"age": 20.0 + 3 * torch.arange(n), "sex": torch.arange(n) % 2})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def projections(n: int, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    return tuple(torch.from_numpy(rng.normal(size=(n, dim))) for _ in range(2))


# ------------------------------------------------------------------ networks


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_the_published_ones():
    with torch.device("meta"):
        unet = Config(backbone="unet")
        found = {
            "densenet": n_parameters(Model(Config())),
            "densenet_backbone": n_parameters(Model(Config()).backbone),
            "densenet_classifier": n_parameters(Classifier(Config(final_norm=True), 2)),
            "unet": n_parameters(Model(unet)),
            "unet_backbone": n_parameters(Model(unet).backbone),
            "unet_classifier": n_parameters(Classifier(unet, 2, 1024)),
            "unet_segmenter": n_parameters(Segmenter(unet, 2)),
        }
        assert Model(Config()).embed_dim == 1024 and Model(Config(feature="grid")).embed_dim == 8192
    assert found == {
        "densenet": 11_831_040,
        "densenet_backbone": 11_240_576,
        "densenet_classifier": 11_244_674,
        "unet": 3_732_688,
        "unet_backbone": 3_535_440,
        "unet_classifier": 3_800_658,
        "unet_segmenter": 5_647_874,
    }


def test_matrix_product_and_pooled_planes_are_convolution_and_pooling():
    x = torch.randn(2, 5, 7, 6, 9).to(memory_format=torch.channels_last_3d)
    weight = torch.randn(4, 5, 1, 1, 1)
    torch.testing.assert_close(yaware.pointwise(x, weight), F.conv3d(x, weight))
    torch.testing.assert_close(yaware.halve(x), F.avg_pool3d(x, 2))


def test_channels_lie_last_all_the_way():
    model = small()
    kept = []
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.register_forward_hook(
                lambda module, args, out: kept.append(args[0].is_contiguous(memory_format=torch.channels_last_3d))
            )
    model.backbone(volumes(2).volume)
    assert len(kept) == 10 and all(kept)


def test_four_blocks_need_29_voxels():
    model = Model(Config(**(SMALL | {"block_config": (1, 1, 1, 1)}))).eval()
    assert model.embed(volumes(2, (29, 29, 29))).shape == (2, model.embed_dim)
    with pytest.raises(InputError, match=r"at least 29 voxels along every axis, found \(29, 28, 29\)"):
        model.embed(volumes(2, (29, 28, 29)))


def test_a_segmenter_needs_edges_that_halve():
    segmenter = Segmenter(Config(backbone="unet", unet_width=2, unet_depth=3), 3).eval()
    assert segmenter(volumes(1, (8, 12, 16)).volume).shape == (1, 3, 8, 12, 16)
    with pytest.raises(InputError, match="divisible by 4"):
        segmenter(volumes(1, (8, 12, 14)).volume)


def test_input_shape_takes_the_centre_before_the_zscore():
    model = small(input_shape=(16, 10, 16))
    x = volumes(2).volume
    by_hand = F.pad(x[:, :, :, 2:12], (2, 2, 0, 0, 2, 2))
    expected = (by_hand - by_hand.mean((1, 2, 3, 4), keepdim=True)) / by_hand.std((1, 2, 3, 4), correction=0)[
        :, None, None, None, None
    ]
    torch.testing.assert_close(model.standardize(x), expected)


def test_the_grid_feature_is_the_map_before_relu():
    model = small(feature="grid")
    batch = volumes(2)
    with torch.no_grad(), yaware.evaluating(model):
        expected = F.adaptive_avg_pool3d(model.backbone(model.standardize(batch.volume)), model.grid).flatten(1)
        assert torch.equal(model.embed(batch), expected)
    assert (expected < 0).any()


def test_gradients_reach_the_voxels():
    """Saliency maps need them; what pads a volume has none."""
    batch = volumes(2)
    batch.volume.requires_grad_()
    small(input_shape=(16, 10, 16)).embed(batch).sum().backward()
    assert (batch.volume.grad[:, :, :, 2:12] != 0).any() and (batch.volume.grad[:, :, :, :2] == 0).all()


@pytest.mark.parametrize(("how", "n_updates"), [("joint", 1), ("per_view", 2)])
def test_running_statistics_see_the_views_together_or_one_after_the_other(how, n_updates):
    model = small(forward_passes=how)
    model.loss(volumes(3), generator(), 0.0)
    assert model.backbone.norm0.num_batches_tracked == n_updates


def test_dropout_draws_from_the_generator():
    model = small(drop_rate=0.5, augmentation="none")
    losses = [model.loss(volumes(4), generator(seed), 0.0)["loss"].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_bf16_leaves_the_loss_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        found = small().loss(volumes(4), generator(), 0.0)
    plain = small().loss(volumes(4), generator(), 0.0)
    assert found["loss"].dtype == torch.float32
    assert found["loss"].item() == pytest.approx(plain["loss"].item(), rel=0.1)


# ------------------------------------------------------------------ who is alike


def test_one_kernel_per_proxy_multiplied_or_averaged():
    age, sex = torch.tensor([20.0, 23.0, 40.0]), torch.tensor([0, 1, 0])
    proxies = (Proxy(column="age", sigma=5.0), Proxy(column="sex", kernel="category", weight=3.0))
    near = math.exp(-9 / 50), math.exp(-400 / 50), math.exp(-289 / 50)
    labels = {"age": age, "sex": sex}
    product = similarity(labels, proxies, "product", 3)
    np.testing.assert_allclose(product, [[1, 0, near[1]], [0, 1, 0], [near[1], 0, 1]], rtol=1e-6)
    mean = similarity(labels, proxies, "sum", 3)
    expected = [[4, near[0], near[1] + 3], [near[0], 4, near[2]], [near[1] + 3, near[2], 4]]
    np.testing.assert_allclose(mean, np.divide(expected, 4), rtol=1e-6)
    laplacian = similarity(labels, (Proxy(column="age", kernel="laplacian", sigma=2.0),), "product", 3)
    assert laplacian[0, 1].item() == pytest.approx(math.exp(-3 / 2))


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_what_is_unknown_has_no_say(combine):
    """Person 1 has no age: sex alone decides. Persons 2 and 3 have no proxy in common: not alike."""
    proxies = (Proxy(column="age", sigma=5.0), Proxy(column="sex", kernel="category"))
    labels = {"age": torch.tensor([20.0, math.nan, math.nan, 21.0]), "sex": torch.tensor([0, 0, 1, -1])}
    alike = similarity(labels, proxies, combine, 4)
    assert torch.equal(alike, alike.T) and (alike.diagonal() == 1).all()
    assert alike[0, 1] == 1 and alike[1, 2] == 0 and alike[2, 3] == 0 and alike[1, 3] == 0
    assert alike[0, 3].item() == pytest.approx(math.exp(-1 / 50))


def test_the_batch_must_hold_the_proxies():
    batch = Batch.of_volumes(volumes(3).volume)
    with pytest.raises(ConfigError, match=r"column\(s\) age, which the batch lacks"):
        small().loss(batch, generator(), 0.0)
    assert small(proxies=()).loss(batch, generator(), 0.0)["loss"] > 0


def test_a_kernel_needs_its_width():
    with pytest.raises(ValueError, match="rbf kernel of 'age' needs a sigma"):
        Proxy(column="age", sigma=None)


# ------------------------------------------------------------------ loss


def by_the_formula(first, second, alike, temperature, negatives="all"):
    """Sum over anchors, one by one, weights normalised per anchor."""
    z = np.concatenate([first, second])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    w = np.tile(alike, (2, 2))
    total = 0.0
    for a in range(len(z)):
        others = [b for b in range(len(z)) if b != a]
        s = {b: z[a] @ z[b] / temperature for b in others}
        pushed = {
            "all": sum(math.exp(s[b]) for b in others),
            "softened": sum(math.exp(s[b] * (1 - w[a, b])) for b in others),
            "decoupled": sum((1 - w[a, b]) * math.exp(s[b]) for b in others),
        }[negatives]
        pull = sum(w[a, b] * (s[b] - math.log(pushed)) for b in others) / sum(w[a, b] for b in others)
        total -= pull
    return total / len(first)


@pytest.mark.parametrize("negatives", ["all", "softened", "decoupled"])
def test_loss_is_the_formula_per_anchor(negatives):
    first, second = projections(7)
    alike = similarity({"age": torch.arange(7.0).double() * 3}, (Proxy(column="age"),), "product", 7)
    found = contrast(first, second, alike, 0.2, negatives=negatives)
    assert found.loss.item() == pytest.approx(by_the_formula(first, second, alike.numpy(), 0.2, negatives), rel=1e-9)


def test_weights_of_an_anchor_or_of_a_column_sum_to_one():
    first, second = projections(6)
    alike = similarity({"age": torch.tensor([8.0, 20, 21, 22, 23, 60])}, (Proxy(column="age"),), "product", 6)
    row, column = (contrast(first, second, alike, 0.1, how).weights for how in ("row", "column"))
    torch.testing.assert_close(row.sum(1), torch.ones(12).double())
    torch.testing.assert_close(column.sum(0), torch.ones(12).double())
    assert (column.sum(1) - 1).abs().max() > 0.05
    assert (row.diagonal() == 0).all() and (column.diagonal() == 0).all()


def test_without_proxies_or_with_a_vanishing_width_it_is_simclr():
    """NT-Xent by torch's cross-entropy: the other view is the class to be found among all others."""
    first, second = projections(9)
    z = F.normalize(torch.cat([first, second]), dim=1)
    logits = (z @ z.T / 0.1).fill_diagonal_(-math.inf)
    twin = (torch.arange(18) + 9) % 18
    expected = 2 * F.cross_entropy(logits, twin)
    alone = similarity({}, (), "product", 9)
    torch.testing.assert_close(contrast(first, second, alone, 0.1).loss, expected)
    narrow = similarity({"age": torch.arange(9.0)}, (Proxy(column="age", sigma=1e-3),), "product", 9)
    torch.testing.assert_close(contrast(first, second, narrow, 0.1).loss, expected)


def test_decoupled_simclr_leaves_the_other_view_out_of_the_sum():
    first, second = projections(5)
    z = F.normalize(torch.cat([first, second]), dim=1)
    logits = z @ z.T / 0.1
    twin = (torch.arange(10) + 5) % 10
    others = logits.clone().fill_diagonal_(-math.inf)
    others[torch.arange(10), twin] = -math.inf
    expected = (others.logsumexp(1) - logits[torch.arange(10), twin]).sum() / 5
    torch.testing.assert_close(contrast(first, second, torch.eye(5), 0.1, negatives="decoupled").loss, expected)


@pytest.mark.parametrize("negatives", ["all", "softened", "decoupled"])
def test_everyone_alike_and_a_single_person_have_finite_gradients(negatives):
    for n in (1, 4):
        first, second = (z.float().requires_grad_() for z in projections(n))
        contrast(first, second, torch.ones(n, n), 0.1, negatives=negatives).loss.backward()
        assert torch.isfinite(first.grad).all()


def test_parameters_near_the_input_learn_slowest_and_norms_do_not_decay():
    model = small()
    names = {id(p): name for name, p in model.named_parameters()}
    scale = {names[id(p)]: group for group in model.param_groups(0.1, 0.5) for p in group["params"]}
    chosen = ("head.fc2.weight", "backbone.blocks.1.0.conv1.weight", "backbone.blocks.0.1.conv2.weight")
    assert [scale[name]["lr_scale"] for name in (*chosen, "backbone.conv0.weight")] == [1, 0.5, 0.25, 0.125]
    assert scale["backbone.norm0.weight"]["weight_decay"] == scale["head.fc1.bias"]["weight_decay"] == 0
    released = small(decay_biases_and_norms=True)
    assert {group["weight_decay"] for group in released.param_groups(0.1, 1.0)} == {0.1}


# ------------------------------------------------------------------ training


class Cohort:
    """A source of volumes in memory: a bright ball whose size follows age, and noise of one's own."""

    device = torch.device("cpu")

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.age = torch.from_numpy(rng.uniform(20, 80, n)).float()
        x, y, z = (torch.arange(m) - m / 2 for m in (12, 14, 12))
        distance = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt()
        radius = 5 - (self.age - 20)[:, None, None, None] / 25
        noise = torch.from_numpy(rng.normal(size=(n, 12, 14, 12))).float()
        self.volume = (torch.sigmoid(3 * (radius - distance)) + 0.5 * noise)[:, None]

    def training_batch(self, spec, batch_size: int, seed: int, step: int) -> Batch:
        rows = torch.from_numpy(order.batch_people(len(self.age), batch_size, seed, step))
        return Batch.of_volumes(self.volume[rows], {"age": self.age[rows]})


def test_training_brings_people_of_like_age_together(tmp_path):
    """Features of people whom training never saw: those of like age are closer than before training."""
    model, seen, unseen = small(augmentation="all"), Cohort(64, seed=0), Cohort(64, seed=1)
    batch = Batch.of_volumes(unseen.volume)

    def agreement() -> float:
        with torch.no_grad():
            z = F.normalize(model.head(model.embed(batch))[0], dim=1)
        pairs = torch.triu_indices(64, 64, 1)
        gaps = (unseen.age[:, None] - unseen.age).abs()[*pairs]
        return np.corrcoef(-gaps.argsort().argsort(), (z @ z.T)[*pairs].argsort().argsort())[0, 1]

    before = agreement()
    settings = TrainSettings(n_steps=60, batch_size=32, lr=3e-3, log_every=10, checkpoint_every=60)
    rows = loop.train(model, seen, model.config.reads(), settings, seed=0, folder=tmp_path, identity="x")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert agreement() > max(before, 0) + 0.2


WORKER = """
    import sys; sys.path.insert(0, {folder!r})
    import torch, test_yaware
    from torch import distributed
    torch.set_num_threads(1)
    rank = int(sys.argv[1])
    distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
    loss, gradients = test_yaware.global_loss(slice(3 * rank, 3 * rank + 3), 2)
    torch.save((loss, gradients), sys.argv[2] + f".{{rank}}")
    distributed.destroy_process_group()
"""


def global_loss(mine: slice, n_processes: int = 1) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return loss and gradients, averaged over processes, where this process holds `mine` of six people."""
    model = small(augmentation="none").eval()  # a batch norm would see the people of its own process only
    whole = volumes(6)
    piece = Piece.of(whole.device, 0, 6, mine, whole.n_views, n_processes)
    loss = model.loss(whole.people(mine), piece, 0.0)["loss"]
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if distributed.is_initialized():
        for gradient in gradients:
            distributed.all_reduce(gradient)
            gradient /= distributed.get_world_size()
    return loss.detach(), gradients


@pytest.mark.slow
def test_two_processes_compute_the_loss_and_gradient_of_one(tmp_path):
    script = textwrap.dedent(WORKER.format(folder=str(Path(__file__).parent)))
    command = [sys.executable, "-c", script]
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")]) for rank in (0, 1)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    expected, gradients = global_loss(slice(0, 6))
    for rank in (0, 1):
        loss, found = torch.load(tmp_path / f"meeting.{rank}", weights_only=True)
        torch.testing.assert_close(loss, expected)
        for a, b in zip(found, gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
