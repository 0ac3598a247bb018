"""The demo's structural half on disk, as CAT12 lays out a BIDS study: a grey-matter map and a report for everyone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from threadpoolctl import threadpool_limits

from neuropipe.demo.anatomy import WHITE_SHARE, Scan, grey_ml, simulate_map
from neuropipe.demo.scan import write_volume
from neuropipe.paths import write_text

VERSION = ("CAT12", "12.8", "1932")  # name, release, revision that the reports imitate


def scan_files(scan: Scan) -> dict[str, str]:
    """Return the names of a person's files below the CAT12 folder; none where segmentation failed."""
    folder, stem = f"{scan.participant_id}/anat", f"{scan.participant_id}_T1w"
    if not scan.has_map:
        return {}
    return {"map": f"{folder}/mri/mwp1{stem}.nii.gz", "report": f"{folder}/report/cat_{stem}.xml"}


@threadpool_limits.wrap(limits=1)  # as for the runs: the same bytes everywhere
def write_scans(
    root: Path, scans: Sequence[Scan], rng_of: Callable[[Scan], np.random.Generator]
) -> list[dict[str, Any]]:
    """Simulate and write everyone's map and report into `root`; return what truth.json says of them."""
    return [_write_scan(root, scan, rng_of(scan)) for scan in scans]


def _write_scan(root: Path, scan: Scan, rng: np.random.Generator) -> dict[str, Any]:
    told = {
        "participant_id": scan.participant_id,
        "tiv_ml": scan.tiv_ml,
        "iqr_grade": scan.iqr_grade,
        "age_score": scan.age_score,
        "diagnosis_score": scan.diagnosis_score,
        "has_map": scan.has_map,
        "poor_quality": scan.is_poor,
        "orientation": "LAS" if scan.left_first else "RAS",
        "gm_ml": None,
    }
    if not scan.has_map:
        return told
    grey, files = simulate_map(scan, rng), scan_files(scan)
    write_volume(root / files["map"], grey, left_first=scan.left_first)
    write_text(root / files["report"], _report(scan, grey_ml(grey)))
    return told | {"gm_ml": round(grey_ml(grey), 3)}


def _report(scan: Scan, gm_ml: float) -> str:
    """Return CAT12's XML report, the parts of it that are read: volumes in mL and the quality grade."""
    wm_ml = WHITE_SHARE * scan.tiv_ml
    tissues = (scan.tiv_ml - gm_ml - wm_ml, gm_ml, wm_ml, 0.0, 0.0)  # CSF, grey, white, lesions, the rest
    content = {
        "software": dict(zip(("name", "version_cat", "revision_cat"), VERSION, strict=True)),
        "subjectmeasures": {
            "vol_TIV": f"{scan.tiv_ml:.6g}",
            "vol_abs_CGW": "[" + " ".join(f"{volume:.6g}" for volume in tissues) + "]",
            "vol_rel_CGW": "[" + " ".join(f"{volume / scan.tiv_ml:.4g}" for volume in tissues) + "]",
        },
        "qualityratings": {"IQR": f"{scan.iqr_grade:.4g}"},
    }
    root = ElementTree.Element("S")
    for section, values in content.items():
        part = ElementTree.SubElement(root, section)
        for key, value in values.items():
            ElementTree.SubElement(part, key).text = value
    ElementTree.indent(root, "   ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
