"""A simulated brain on a coarse MNI152NLin6Asym grid: tissues, and 457 regions laid out like the models' atlas.

The layout is the same for every study, as an atlas is. Cortical regions are compact patches of the shell of an
ellipsoid, given to networks by their distance from where those networks lie in people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from neuropipe.demo.coupling import LEFT_CORTEX, N_CEREBELLUM, N_SUBCORTEX, NETWORKS, RIGHT_CORTEX

VOXEL_MM = 6.0
# Centres of the first and last voxel: every third voxel of the template's 2 mm grid, in RAS order.
FIRST_MM = np.array([-90.0, -126.0, -72.0])
SHAPE = (31, 37, 31)
LAYOUT_SEED = 461  # a draw whose smallest region has four voxels
SPACE = "MNI152NLin6Asym"
ATLASES = ("schaefer400-7n", "tian-s3", "buckner7")

# Ellipsoids: centre and semi-axes, mm.
CEREBRUM = ((0.0, -17.0, 14.0), (70.0, 87.0, 62.0))
CEREBELLUM = ((0.0, -64.0, -38.0), (50.0, 32.0, 22.0))
SUBCORTEX = ((0.0, -8.0, 2.0), (36.0, 34.0, 22.0))
VENTRICLES = ((0.0, -20.0, 18.0), (9.0, 30.0, 10.0))
CORTEX_FROM = 0.72  # share of the cerebrum's radius at which cortex begins

# Where the cortical networks lie on the right side, mm (mirrored for the left).
ANCHORS_MM = {
    "Vis": [(12, -92, 2), (30, -78, -8), (14, -72, 14)],
    "SomMot": [(40, -22, 58), (8, -26, 66), (60, -10, 26), (58, -22, 10)],
    "DorsAttn": [(24, -62, 58), (46, -64, -4), (28, -4, 60)],
    "SalVentAttn": [(42, 10, 2), (60, -36, 30), (10, 12, 46)],
    "Limbic": [(30, 10, -34), (16, 38, -22)],
    "Cont": [(42, 40, 20), (48, -48, 48), (12, 30, 40)],
    "Default": [(8, 56, 12), (10, -54, 32), (50, -62, 30), (58, -14, -20), (22, 34, 50)],
}


@dataclass(frozen=True, eq=False)
class Layout:
    """The simulated brain.

    Attributes
    ----------
    labels : ndarray of int16, shape `SHAPE`
        Region (1-457) of each voxel, 0 elsewhere.
    white_matter, csf : ndarray of bool, shape `SHAPE`
    table : DataFrame
        One row per region: index (its label in the image), name, atlas, network, hemisphere, n_voxels and the centre
        x, y, z in mm.
    """

    labels: np.ndarray
    white_matter: np.ndarray
    csf: np.ndarray
    table: pd.DataFrame

    @property
    def brain(self) -> np.ndarray:
        """Bool array of all simulated voxels."""
        return (self.labels > 0) | self.white_matter | self.csf


def affine() -> np.ndarray:
    """Return the affine (4, 4) of the grid, mm, RAS."""
    matrix = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    matrix[:3, 3] = FIRST_MM
    return matrix


def make_layout() -> Layout:
    """Lay out tissues and regions; always the same."""
    rng = np.random.default_rng(LAYOUT_SEED)
    xyz = np.moveaxis(np.indices(SHAPE), 0, -1) * VOXEL_MM + FIRST_MM  # (x, y, z, 3), mm
    cerebrum, right = radius(xyz, CEREBRUM), xyz[..., 0] >= 0
    cerebellum = radius(xyz, CEREBELLUM) <= 1
    inside = (cerebrum <= 1) & ~cerebellum
    ventricles = inside & (radius(xyz, VENTRICLES) <= 1)
    subcortex = inside & (radius(xyz, SUBCORTEX) <= 1) & ~ventricles
    cortex = inside & (cerebrum >= CORTEX_FROM) & ~subcortex & ~ventricles

    labels, rows = np.zeros(SHAPE, dtype=np.int16), []
    for side, part, sizes in (("L", cortex & ~right, LEFT_CORTEX), ("R", cortex & right, RIGHT_CORTEX)):
        patches = _patches(xyz[part], sum(sizes), rng)
        number = _by_network(_centres(xyz[part], patches), side, sizes)
        labels[part] = len(rows) + number[patches] + 1
        rows += [
            (f"7Networks_{side}H_{network}_{i + 1}", ATLASES[0], network, side)
            for network, size in zip(NETWORKS, sizes, strict=False)
            for i in range(size)
        ]
    for side, part in (("R", subcortex & right), ("L", subcortex & ~right)):  # right first, as in the Tian atlas
        n_side = N_SUBCORTEX // 2
        labels[part] = len(rows) + _patches(xyz[part], n_side, rng) + 1
        rows += [(f"Subcortex-{i + 1:02d}-{side.lower()}h", ATLASES[1], "Subcortex", side) for i in range(n_side)]
    folded = xyz[cerebellum]
    folded[:, 0] = abs(folded[:, 0])  # one region lies on both sides
    labels[cerebellum] = len(rows) + _patches(folded, N_CEREBELLUM, rng) + 1
    rows += [(f"Cerebellum_Network{i + 1}", ATLASES[2], "Cerebellum", "n/a") for i in range(N_CEREBELLUM)]
    white_matter = inside & (labels == 0) & ~ventricles
    return Layout(labels, white_matter, ventricles, _table(labels, xyz, rows))


def radius(xyz: np.ndarray, ellipsoid: tuple[tuple[float, ...], tuple[float, ...]]) -> np.ndarray:
    """Return how far out points (..., 3) in mm lie, in radii of an ellipsoid: 1 on its surface."""
    centre, axes = ellipsoid
    return np.sqrt((((xyz - centre) / axes) ** 2).sum(-1))


def _patches(points: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Cut points (n_points, 3) in `n` compact patches; return the patch of each point, 0 to n - 1."""
    seeds = rng.choice(np.unique(points, axis=0), n, replace=False)
    return kmeans2(points, seeds, iter=30, minit="matrix", missing="raise")[1]


def _centres(points: np.ndarray, patches: np.ndarray) -> np.ndarray:
    return np.array([points[patches == patch].mean(0) for patch in range(patches.max() + 1)])


def _by_network(centres: np.ndarray, side: str, sizes: tuple[int, ...]) -> np.ndarray:
    """Return each patch's number within its hemisphere, so that every network has its size and lies by its anchors."""
    mirror = np.array([1.0 if side == "R" else -1.0, 1.0, 1.0])
    distance = np.stack([cdist(centres, np.array(ANCHORS_MM[name]) * mirror).min(1) for name in NETWORKS[:7]], 1)
    network = np.repeat(np.arange(7), sizes)
    patch, place = linear_sum_assignment(distance[:, network] ** 2)
    number = np.empty(len(centres), dtype=np.int64)
    number[patch] = place
    return number


def _table(labels: np.ndarray, xyz: np.ndarray, rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["name", "atlas", "network", "hemisphere"])
    table.insert(0, "index", np.arange(1, len(rows) + 1))
    table["n_voxels"] = np.bincount(labels.ravel(), minlength=len(rows) + 1)[1:]
    centres = np.array([xyz[labels == label].mean(0) for label in table["index"]])
    return table.assign(**{axis: centres[:, i].round(1) for i, axis in enumerate("xyz")})
