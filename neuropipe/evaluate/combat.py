"""ComBat: location and scale of sites, shrunk by empirical Bayes, fitted on some people and applied to others.

The model of Johnson, Li and Rabinovic (2007), as Fortin et al. (2018) use it for images: feature ``v`` of person ``j``
of site ``i`` is ``alpha_v + x_j beta_v + gamma_iv + delta_iv e_ijv``, with a normal prior on a site's ``gamma`` and an
inverse gamma prior on its ``delta^2``, whose parameters are the moments of that site's estimates over features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_PEOPLE = 2  # of a site, for a variance
MAX_ITERATIONS = 200
TOLERANCE = 1e-4  # of the relative change of any parameter, as in the reference implementations
FLAT = 1e-9  # of a feature's size: a feature that varies less is left as it is


@dataclass(frozen=True, eq=False)
class Combat:
    """What sites do to features, as the people that it was fitted on show it.

    Attributes
    ----------
    sites : tuple of str
        Whose effects are known.
    mean : ndarray (n_features,)
        Grand mean, sites weighted by their people.
    slopes : ndarray (n_covariates, n_features)
        What covariates do; it is kept.
    spread : ndarray (n_features,)
        Pooled standard deviation around sites and covariates; 0 where a feature does not vary.
    shift, scale : ndarray (n_sites, n_features)
        A site's location and variance after standardisation (``gamma*``, ``delta*^2``).
    """

    sites: tuple[str, ...]
    mean: np.ndarray
    slopes: np.ndarray
    spread: np.ndarray
    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, sites: np.ndarray, covariates: np.ndarray | None = None) -> Combat:
        """Fit on people of one side.

        Parameters
        ----------
        values : ndarray (n, n_features)
            Missing values (NaN) are told by the mean of the person's site, or else of everyone.
        sites : text ndarray (n,)
            Empty where unknown. Sites with fewer than `MIN_PEOPLE` people take no part.
        covariates : ndarray (n, n_covariates), optional
            Whose effects are kept, without missing values.
        """
        names, counts = np.unique(sites, return_counts=True)
        known = tuple(str(n) for n, count in zip(names, counts, strict=True) if n != "" and count >= MIN_PEOPLE)
        used = np.isin(sites, known)
        x = np.zeros((len(values), 0)) if covariates is None else covariates
        if len(known) < 2:  # nothing to tell apart
            n_features = values.shape[1]
            none, flat = np.zeros((0, n_features)), np.zeros(n_features)
            return cls((), flat, np.zeros((x.shape[1], n_features)), flat, none, none)
        onehot = (sites[used, None] == np.array(known)).astype(float)
        y = _filled(values[used].astype(np.float64), onehot)
        design = np.concatenate([onehot, x[used]], axis=1)
        weights = np.linalg.pinv(design) @ y  # of collinear covariates the smallest
        n_people = onehot.sum(axis=0)
        mean, slopes = n_people @ weights[: len(known)] / len(y), weights[len(known) :]
        spread = np.sqrt(((y - design @ weights) ** 2).mean(axis=0))
        spread[spread <= FLAT * np.maximum(1, np.abs(y).max(axis=0))] = 0
        varies = np.flatnonzero(spread > 0)
        shift, scale = np.zeros((len(known), len(spread))), np.ones((len(known), len(spread)))
        for i in range(len(known)):
            rows = np.flatnonzero(onehot[:, i])
            z = _divided(y[rows] - mean - x[used][rows] @ slopes, spread)
            shift[i, varies], scale[i, varies] = _shrunk(z if len(varies) == len(spread) else z[:, varies])
        return cls(known, mean, slopes, spread, shift, scale)

    def apply(self, values: np.ndarray, sites: np.ndarray, covariates: np.ndarray | None = None) -> np.ndarray:
        """Return `values` (n, n_features) without what their sites did to them, in their own type.

        People of sites that were not fitted keep their values: what their scanner does is not known. Missing values
        stay missing.
        """
        found = values.copy()
        for place, site in enumerate(self.sites):
            rows = np.flatnonzero(sites == site)
            kept = self.mean + (0 if covariates is None else covariates[rows] @ self.slopes)
            z = _divided(values[rows] - kept, self.spread)
            moved = (z - self.shift[place]) / np.sqrt(self.scale[place]) * self.spread + kept
            found[rows] = np.where(self.spread > 0, moved, values[rows])
        return found


def _shrunk(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return location and variance (n_features,) of one site's standardised values (n, n_features), shrunk.

    Priors are of one site over all features; the two posterior means depend on each other and are iterated. A single
    feature has no prior, and keeps its own estimates.
    """
    n, gamma, delta = len(z), z.mean(axis=0), np.maximum(z.var(axis=0, ddof=1), np.finfo(float).eps)
    if len(gamma) < 2:
        return gamma, delta
    prior, tau = gamma.mean(), gamma.var(ddof=1)
    centre, width = delta.mean(), delta.var(ddof=1)
    if tau == 0 or width == 0:  # all features agree, so that there is nothing to shrink
        return gamma, delta
    a, b = 2 + centre**2 / width, centre + centre**3 / width
    location, variance, squares = gamma, delta, (n - 1) * delta
    for _ in range(MAX_ITERATIONS):
        before = location, variance
        location = (n * tau * gamma + variance * prior) / (n * tau + variance)
        variance = (b + (squares + n * (gamma - location) ** 2) / 2) / (n / 2 + a - 1)
        change = max(np.abs(location - before[0]).max(), np.abs(variance / before[1] - 1).max())
        if change < TOLERANCE:
            break
    return location, variance


def _filled(y: np.ndarray, onehot: np.ndarray) -> np.ndarray:
    """Return values (n, n_features) with what is missing told by the mean of the site, or else of everyone."""
    missing = np.isnan(y)
    if not missing.any():
        return y
    zeros, present = np.where(missing, 0, y), (~missing).astype(float)
    everyone = zeros.sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    count = onehot.T @ present
    of_site = np.where(count > 0, onehot.T @ zeros / np.maximum(count, 1), everyone)
    return np.where(missing, onehot @ of_site, y)


def _divided(values: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return np.divide(values, spread, out=np.zeros(values.shape), where=spread > 0)
