"""CAT12's XML files: a report of each scan (``cat_*.xml``) and its regional volumes (``catROI_*.xml``)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import pandas as pd

from neuropipe.errors import RunExcluded

LARGEST = 1 << 26  # bytes; reports have 0.1 MB
TISSUES = {"gm_ml": "Vgm", "wm_ml": "Vwm", "csf_ml": "Vcsf"}


def parse(path: Path) -> Element:
    """Return the root of an XML file; document types, and with them entities, are refused.

    Raises
    ------
    RunExcluded
        The file is missing, too large, or not plain XML.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except (OSError, expat.ExpatError, ValueError, AssertionError) as error:
        detail = f"{path.name} is no XML file of CAT12: {error}; copy it again, or take it away to do without"
        raise RunExcluded("damaged report", detail) from error


def _refuse(*_: object) -> None:
    raise ValueError("it declares a document type, which CAT12 never does")


def report(path: Path) -> dict[str, float]:
    """Return what a ``cat_*.xml`` states of a scan.

    Returns
    -------
    dict of str to float
        ``tiv_ml``, ``csf_ml``, ``gm_ml``, ``wm_ml`` (mL of this person's head) and ``iqr_grade`` (CAT12's
        image quality rating: 1 excellent, 6 unacceptable), those that are there. CAT12 lists volumes as CSF, grey,
        white matter (then hyperintensities and lesions), and its total is their sum.
    """
    root = parse(path)
    volumes = _numbers_at(root, "subjectmeasures/vol_abs_CGW")
    total = _numbers_at(root, "subjectmeasures/vol_TIV") or [math.fsum(v for v in volumes if not math.isnan(v))]
    grade = _numbers_at(root, "qualityratings/IQR")
    stated = {"tiv_ml": total, "iqr_grade": grade}
    stated |= {name: volumes[place : place + 1] for place, name in enumerate(("csf_ml", "gm_ml", "wm_ml"))}
    return {name: values[0] for name, values in stated.items() if values and math.isfinite(values[0]) and values[0] > 0}


def regional_volumes(path: Path) -> pd.DataFrame:
    """Return the regional volumes of a ``catROI_*.xml``.

    Returns
    -------
    DataFrame
        One row per region: ``atlas``, ``name``, ``label`` (n/a where the file does not number them), and
        ``gm_ml``, ``wm_ml``, ``csf_ml`` (mL, NaN where the atlas was not measured in that tissue).

    Raises
    ------
    RunExcluded
        The file is damaged, or an atlas has not as many volumes as names.
    """
    tables = [_of_atlas(atlas, path.name) for atlas in parse(path) if atlas.find("names") is not None]
    columns = ["atlas", "name", "label", *TISSUES]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _of_atlas(atlas: Element, file: str) -> pd.DataFrame:
    names = [(item.text or "").strip() for item in atlas.iterfind("names/item")]
    table = pd.DataFrame({"atlas": atlas.tag, "name": names})
    places = {"label": "ids"} | {column: f"data/{tissue}" for column, tissue in TISSUES.items()}
    for column, tag in places.items():
        values = _numbers_at(atlas, tag, anywhere=False)
        if values and len(values) != len(names):
            detail = f"{file}: atlas {atlas.tag} has {len(names)} names but {len(values)} values of {tag}"
            raise RunExcluded("damaged report", detail)
        table[column] = values or math.nan
    table["label"] = [("n/a" if math.isnan(label) else str(int(label))) for label in table["label"]]
    return table


def _numbers_at(root: Element, place: str, anywhere: bool = True) -> list[float]:
    """Return the numbers of an element, none where it is not there; ``item`` elements are one number each."""
    element = root.find(f".//{place}" if anywhere else place)
    if element is None:
        return []
    texts = [item.text or "" for item in element.iterfind("item")] or [element.text or ""]
    try:
        return [number for text in texts for number in numbers(text)]
    except ValueError as error:
        raise RunExcluded("damaged report", f"{place} should hold numbers: {error}") from error


def numbers(text: str) -> list[float]:
    """Return the numbers of MATLAB's text, ``[300.5 900 2.5e+02]``, also where a locale made the points commas."""
    words = text.strip().strip("[]").replace(";", " ").split()
    return [float(part) for word in words for part in _parts(word)]


def _parts(word: str) -> Iterable[str]:
    """Split ``1.5,2.5``, but not ``1,5``: one comma among digits and no point is a decimal comma."""
    if re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", word):
        return [word.replace(",", ".")]
    return [part for part in word.split(",") if part]
