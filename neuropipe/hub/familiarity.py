"""Whether a new person is like those that a network was trained on: a distance, and how large it usually is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from neuropipe.errors import CheckpointError, InputError
from neuropipe.paths import atomic

N_COMPONENTS = 64  # at most
QUANTILE = 0.975  # of held-out people are called familiar


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Where the training people lie among all possible features.

    The distance is that of Mahalanobis in the training people's principal components, with a covariance shrunk
    as Ledoit and Wolf do. What lies outside these components counts as much as all of them together, in units
    of what held-out people have there: strange people may be strange where the training people do not vary.

    Attributes
    ----------
    mean : ndarray (n_features,)
    components : ndarray (k, n_features)
        Principal components of the training people.
    precision : ndarray (k, k)
        Inverse of the shrunk covariance of their coordinates.
    outside : ndarray ()
        Mean squared distance of held-out people from the span of `components`; 0 where it is everything.
    threshold : ndarray ()
        `QUANTILE` of the distances of held-out people.
    """

    mean: np.ndarray
    components: np.ndarray
    precision: np.ndarray
    outside: np.ndarray
    threshold: np.ndarray

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the distance of each row of `features` (..., n_features) from the training people."""
        centred = np.asarray(features, dtype=np.float64) - self.mean
        inside = centred @ self.components.T
        squared = np.einsum("...i,ij,...j->...", inside, self.precision, inside)
        if self.outside > 0:
            rest = ((centred - inside @ self.components) ** 2).sum(-1)
            squared = squared + len(self.components) * rest / self.outside
        return np.sqrt(squared)

    def is_far(self, features: np.ndarray) -> np.ndarray:
        """Return whether each row of `features` is farther away than held-out people usually are."""
        return self.distance(features) > self.threshold

    def save(self, path: str | Path) -> None:
        """Write all arrays as npz."""
        with atomic(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> Familiarity:
        """Read what `save` wrote; nothing is unpickled.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or lacks an array.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                return cls(**{f.name: held[f.name] for f in fields(cls)})
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); fine-tune again.") from error


def fit(train: np.ndarray, held_out: np.ndarray) -> Familiarity:
    """Return the familiarity of the people in `train`.

    Parameters
    ----------
    train : ndarray (n, n_features)
        Features of training people.
    held_out : ndarray (m, n_features)
        Features of people whom the network was not fitted to; they set the threshold.

    Raises
    ------
    InputError
        Fewer than two training people or no held-out person.
    """
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA

    train, held_out = (np.asarray(part, dtype=np.float64) for part in (train, held_out))
    if len(train) < 2 or len(held_out) < 1:
        raise InputError(
            f"Familiarity needs two training people and one held-out person at least, found {len(train)} and "
            f"{len(held_out)}. Give the task more people, or a larger validation share."
        )
    n_components = min(N_COMPONENTS, train.shape[1], len(train) - 1)
    found = PCA(n_components, svd_solver="full").fit(train)
    precision = LedoitWolf().fit(found.transform(train)).precision_
    outside = np.zeros(())
    if n_components < train.shape[1]:
        centred = held_out - found.mean_
        rest = centred - centred @ found.components_.T @ found.components_
        outside = np.asarray((rest**2).sum(-1).mean())
    familiarity = Familiarity(found.mean_, found.components_, precision, outside, np.asarray(np.inf))
    threshold = np.quantile(familiarity.distance(held_out), QUANTILE, method="higher")
    return Familiarity(found.mean_, found.components_, precision, outside, np.asarray(threshold))
