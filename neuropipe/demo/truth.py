"""What is true of a simulated study: the effects, every person's coupling, and the best that any method can reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from neuropipe.demo import anatomy, scan
from neuropipe.demo.coupling import (
    AGE_PAIRS,
    AGE_RANGE,
    AGE_SD,
    DIAGNOSIS_PAIRS,
    NETWORKS,
    Effects,
    Pair,
    draw_couplings,
    population,
    score,
)
from neuropipe.demo.people import LOG_FD_SD, LOG_FD_STEP, Site
from neuropipe.demo.signals import BAND_HZ, LOADING, band_limited

N_NOISE_PEOPLE = 1000  # simulated to measure the error of one recording


def best_auroc(effects: Effects, noise_sd: float = 0.0, motion_d: float = 0.0) -> float:
    """Return the best AUROC of diagnosis that any method can reach, Phi(d' / sqrt 2).

    `noise_sd` is the standard error of the score of one recording; 0 means that the true coupling is known.
    `motion_d` is the difference of log mean FD between the groups in standard deviations, for who uses motion too.
    """
    step = effects.diagnosis_step * len(DIAGNOSIS_PAIRS) ** 0.5
    spread = np.hypot(np.hypot(effects.diagnosis_spread, effects.pair_spread), noise_sd)
    return float(ndtr(np.hypot(step / spread, motion_d) / 2**0.5))


def best_age_r2(effects: Effects, noise_sd: float = 0.0) -> float:
    """Return the best R2 of a linear prediction of age (`noise_sd` as in `best_auroc`); r is its square root."""
    explained = len(AGE_PAIRS) * effects.age_slope**2
    return float(explained / (explained + effects.age_spread**2 + effects.pair_spread**2 + noise_sd**2))


def best_age_mae(r2: float) -> float:
    """Return the mean absolute error, in years, of the best linear prediction of age with this R2.

    Its error is a uniform part (age shrunk to the mean) plus a Gaussian one: a folded normal, averaged over age.
    """
    z = (np.arange(10_000) + 0.5) / 10_000 * 12**0.5 - 3**0.5  # age is uniform
    shift, spread = (1 - r2) * z, (r2 * (1 - r2)) ** 0.5
    if spread == 0:
        return float(np.abs(shift).mean() * AGE_SD)
    folded = spread * (2 / np.pi) ** 0.5 * np.exp(-((shift / spread) ** 2) / 2) + shift * (
        1 - 2 * ndtr(-shift / spread)
    )
    return float(folded.mean() * AGE_SD)


def auroc(scores: np.ndarray, patient: np.ndarray) -> float:
    """Return the share of (patient, control) pairs in which the patient's score is higher."""
    higher = scores[patient][:, None] > scores[~patient][None]
    return float(higher.mean())


def recording_noise(n_samples: int, t_r: float, rng: np.random.Generator, effects: Effects) -> tuple[float, float]:
    """Return the standard errors of the diagnosis and the age score when coupling is measured in one recording.

    Measured on simulated people whose network signals are seen without noise of regions, voxels, or motion.
    """
    patient = np.arange(N_NOISE_PEOPLE) % 2 == 0
    couplings = draw_couplings(patient, rng.uniform(*AGE_RANGE, N_NOISE_PEOPLE), rng, effects)
    measured = np.empty_like(couplings)
    for person, mixing in enumerate(np.linalg.cholesky(couplings)):
        signals = band_limited(n_samples, len(NETWORKS), t_r, rng) @ mixing.T
        measured[person] = np.corrcoef(signals, rowvar=False)
    error = measured - couplings
    return float(score(error, DIAGNOSIS_PAIRS).std()), float(score(error, AGE_PAIRS).std())


def describe_truth(
    people: pd.DataFrame, couplings: np.ndarray, sites: Sequence[Site], rng: np.random.Generator
) -> dict[str, Any]:
    """Return what ``truth.json`` says of effects, people and the best that can be reached.

    Parameters
    ----------
    people : DataFrame, as `neuropipe.demo.people.draw_people` returns it
    couplings : ndarray of shape (n_people, 9, 9)
        Drawn with the default `Effects`.
    sites : sequence of Site
    rng : numpy Generator
        Draws the simulated recordings that the error of one recording is measured on.
    """
    effects = Effects()
    shortest = min(sites, key=lambda site: site.n_volumes * site.t_r)
    diagnosis_noise, age_noise = recording_noise(shortest.n_volumes, shortest.t_r, rng, effects)
    patient = (people["diagnosis"] == "patient").to_numpy()
    diagnosis_scores, age_scores = score(couplings, DIAGNOSIS_PAIRS), score(couplings, AGE_PAIRS)
    best_r2, recorded_r2 = best_age_r2(effects), best_age_r2(effects, age_noise)
    return {
        "networks": list(NETWORKS),
        "effects": asdict(effects),
        "diagnosis": {
            "planted_in": _pairs(DIAGNOSIS_PAIRS, "patients_minus_controls", effects.diagnosis_step),
            "best_auroc": best_auroc(effects),
            "best_auroc_from_one_recording": best_auroc(effects, diagnosis_noise),
            "best_auroc_with_mean_fd": best_auroc(effects, motion_d=LOG_FD_STEP / LOG_FD_SD),
            "auroc_of_true_coupling_in_these_people": auroc(diagnosis_scores, patient),
        },
        "age": {
            "planted_in": _pairs(AGE_PAIRS, "per_standard_deviation", effects.age_slope),
            "standard_deviation_years": AGE_SD,
            "best_r2": best_r2,
            "best_mae_years": best_age_mae(best_r2),
            "best_r2_from_one_recording": recorded_r2,
            "best_mae_years_from_one_recording": best_age_mae(recorded_r2),
            "r_of_true_coupling_in_these_people": float(np.corrcoef(age_scores, people["age"])[0, 1]),
        },
        "the_same_for_everyone": {
            "regional_mean": 0.0,
            "regional_variance": 1.0,
            "spectrum": f"flat from {BAND_HZ[0]} to {BAND_HZ[1]} Hz",
            "correlation_of_region_and_network": LOADING,
        },
        "population_coupling": population().tolist(),
        "artefacts": _artefacts(sites),
        "people": [
            {**person, "diagnosis_score": d, "age_score": a, "coupling": coupling}
            for person, d, a, coupling in zip(
                people.to_dict("records"),
                diagnosis_scores.tolist(),
                age_scores.tolist(),
                couplings.round(6).tolist(),
                strict=True,
            )
        ],
    }


def describe_anatomy(people: pd.DataFrame, scans: Sequence[anatomy.Scan], sites: Sequence[Site]) -> dict[str, Any]:
    """Return what ``truth.json`` says of the grey-matter maps: where and how much is planted, and what can be reached.

    The best numbers are for who knows everyone's two scores; in a map they are hidden by what is a person's own.
    """
    effects = anatomy.AnatomyEffects()
    patient = (people["diagnosis"] == "patient").to_numpy()
    age_scores, diagnosis_scores = (
        np.array([getattr(s, f"{what}_score") for s in scans]) for what in ("age", "diagnosis")
    )
    best_r2 = effects.age_slope**2 / (effects.age_slope**2 + effects.age_spread**2)
    return {
        "effects": asdict(effects),
        "diagnosis": {
            "planted_in": _blobs(anatomy.DIAGNOSIS_BLOBS, "loss_of_patients", effects.diagnosis_step),
            "cohens_d": effects.diagnosis_step / effects.diagnosis_spread,
            "best_auroc": float(ndtr(effects.diagnosis_step / effects.diagnosis_spread / 2**0.5)),
            "auroc_of_planted_score_in_these_people": auroc(diagnosis_scores, patient),
        },
        "age": {
            "planted_in": _blobs(anatomy.AGE_BLOBS, "loss_per_standard_deviation", effects.age_slope),
            "best_r2": best_r2,
            "best_mae_years": best_age_mae(best_r2),
            "r_of_planted_score_in_these_people": float(np.corrcoef(age_scores, people["age"])[0, 1]),
        },
        "tiv": {"mean_ml_by_sex": anatomy.TIV_BY_SEX_ML, "sd_ml": anatomy.TIV_SD_ML},
        "sites": {site.name: {"gain": site.grey_gain, "blur_fwhm_mm": site.grey_blur_mm} for site in sites},
    }


def _blobs(blobs: tuple[anatomy.Blob, ...], what: str, size: float) -> list[dict[str, Any]]:
    return [
        {"name": name, "centre_mm": [[-x, y, z], [x, y, z]], "sd_mm": sd, what: size} for name, (x, y, z), sd in blobs
    ]


def _pairs(pairs: tuple[Pair, ...], what: str, size: float) -> list[dict[str, Any]]:
    return [{"networks": [a, b], what: sign * size} for a, b, sign in pairs]


def _artefacts(sites: Sequence[Site]) -> dict[str, Any]:
    """Return what scanner and body add to the images, in % of a voxel's mean where nothing else is said."""
    return {
        "neural_signal": scan.NEURAL,
        "global_signal_by_tissue": scan.PHYSIOLOGY,
        "motion_leak_per_mm_of_position": scan.LEAK_PER_MM,
        "motion_drop_per_mm_of_displacement": scan.DROP_PER_MM,
        "slow_drift": scan.DRIFT,
        "first_volume_at_unsteady_sites": scan.UNSTEADY,
        "sites": {site.name: asdict(site) for site in sites},
    }
