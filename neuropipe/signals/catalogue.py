"""The atlases that are known by name: where they come from, in which space they lie, and who made them.

A checksum is given where the published file's is known; where it is not, the first fetch records
what it got and every later use is held to that (``trust on first use``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from neuropipe.errors import AtlasError
from neuropipe.signals.checksums import SHA256

TEMPLATEFLOW = "https://templateflow.s3.amazonaws.com"
SUBCORTEX = "https://raw.githubusercontent.com/yetianmed/subcortex/master/Group-Parcellation/3T/Subcortex-Only"
CEREBELLUM = "https://raw.githubusercontent.com/DiedrichsenLab/cerebellar_atlases/master/Buckner_2011"
ABIDE = "https://fcp-indi.s3.amazonaws.com/data/Projects/ABIDE_Initiative/Resources"

FSL, ICBM = "MNI152NLin6Asym", "MNI152NLin2009cAsym"
SUFFIX = {FSL: "", ICBM: "-2009c"}  # of the ids of an atlas's builds


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    Attributes
    ----------
    file : str
        Path inside the cache, or inside TEMPLATEFLOW_HOME where `source` is ``templateflow``.
    url : str
        Where it is published; for `source` ``nilearn`` the fetcher and its arguments, as a query.
    source : str
        ``templateflow``, ``nilearn`` or ``url``.
    sha256 : str or None
        Checksum of the published file, where known.
    """

    file: str
    url: str
    source: Literal["templateflow", "nilearn", "url"] = "url"
    sha256: str | None = None


@dataclass(frozen=True)
class Entry:
    """One atlas of the catalogue.

    Attributes
    ----------
    id : str
        The name in config.yaml and in region tables.
    title : str
        What it is, in words.
    space : str
        Template space of the image.
    n_regions : int
        Number of regions; labels are 1..n in the atlas's own order, or as its table numbers them.
    image : Remote
        The label image, or the 4-D image of maps.
    table : Remote or None
        The table of names; without one regions are called after `names`.
    names : tuple of str
        Names in order of the labels, where there is no table; numbered where this is empty too.
    network : str or None
        The one network of all regions; None where it stands in the names (Schaefer) or nowhere.
    aliases : tuple of str
        What merged tables call it.
    licence, citation : str
        As published.
    kind : {"labels", "maps"}
        ``labels``: one integer per region; ``maps``: one map of weights per region, in the table's order.
    sides_apart : bool
        The image has a left and a right region, in this order, for each row of the table.
    """

    id: str
    title: str
    space: str
    n_regions: int
    image: Remote
    licence: str
    citation: str
    table: Remote | None = None
    names: tuple[str, ...] = ()
    network: str | None = None
    aliases: tuple[str, ...] = ()
    kind: Literal["labels", "maps"] = "labels"
    sides_apart: bool = False

    @property
    def base(self) -> str:
        """Id without the mark of the space: what the builds of one atlas share."""
        return base_id(self.id)


def base_id(atlas: str) -> str:
    """Return an id without the mark of the space: the builds of one atlas have the same regions in the same order."""
    return atlas.removesuffix(SUFFIX[ICBM])


def _templateflow(space: str, rest: str) -> Remote:
    file = f"tpl-{space}/tpl-{space}_{rest}"
    return Remote(file, f"{TEMPLATEFLOW}/{file}", "templateflow", SHA256.get(f"tpl-{space}_{rest}"))


def _url(folder: str, base: str, file: str) -> Remote:
    return Remote(f"{folder}/{file}", f"{base}/{file}", "url", SHA256.get(file))


def schaefer(n_regions: int, n_networks: int, space: str) -> Entry:
    """Return one of Schaefer's parcellations of the cortex; TemplateFlow has no 700 and 900, nilearn has."""
    name = f"Schaefer2018_{n_regions}Parcels_{n_networks}Networks"
    if n_regions in (700, 900):
        query = f"fetch_atlas_schaefer_2018?n_rois={n_regions}&yeo_networks={n_networks}&resolution_mm=2"
        image, table = (Remote(f"schaefer2018/{name}{suffix}", query, "nilearn") for suffix in (".nii", ".tsv"))
    else:
        atlas = f"atlas-Schaefer2018_desc-{n_regions}Parcels{n_networks}Networks_dseg"
        image, table = _templateflow(space, f"res-02_{atlas}.nii.gz"), _templateflow(space, f"{atlas}.tsv")
    return Entry(
        id=f"schaefer{n_regions}-{n_networks}n{SUFFIX[space]}",
        title=f"Cortex, {n_regions} regions in the order of {n_networks} networks",
        space=space,
        n_regions=n_regions,
        image=image,
        table=table,
        aliases=("Schaefer2018",) if space == FSL else (),
        licence="MIT",
        citation="Schaefer et al. 2018, Cerebral Cortex 28:3095, doi:10.1093/cercor/bhx179; "
        "networks: Yeo et al. 2011, Journal of Neurophysiology 106:1125, doi:10.1152/jn.00338.2011",
    )


def tian(scale: int, space: str) -> Entry:
    """Return one scale of Tian's subcortex (3 T)."""
    stem = f"Tian_Subcortex_S{scale}_3T"
    n_regions = {1: 16, 2: 32, 3: 50, 4: 54}[scale]
    return Entry(
        id=f"tian-s{scale}{SUFFIX[space]}",
        title=f"Subcortex, {n_regions} regions (scale {scale}), right hemisphere first",
        space=space,
        n_regions=n_regions,
        image=_url("tian2020", SUBCORTEX, f"{stem}_{'1mm' if space == FSL else '2009cAsym'}.nii.gz"),
        table=_url("tian2020", SUBCORTEX, f"{stem}_label.txt"),
        network="Subcortex",
        aliases=(f"Tian2020S{scale}",) if space == FSL else (),
        licence="none stated; cite the paper",
        citation="Tian et al. 2020, Nature Neuroscience 23:1421, doi:10.1038/s41593-020-00711-6",
    )


def buckner(n_networks: int) -> Entry:
    """Return the cerebellum by Yeo's cortical networks."""
    return Entry(
        id=f"buckner{n_networks}",
        title=f"Cerebellum, {n_networks} networks (both hemispheres)",
        space=FSL,
        n_regions=n_networks,
        image=_url("buckner2011", CEREBELLUM, f"atl-Buckner{n_networks}_space-MNI_dseg.nii"),
        names=tuple(f"Buckner{n_networks}_Network{n}" for n in range(1, n_networks + 1)),
        network="Cerebellum",
        aliases=("Buckner2011",),
        licence="CC BY-NC 3.0 (SUIT collection)",
        citation="Buckner et al. 2011, Journal of Neurophysiology 106:2322, doi:10.1152/jn.00339.2011",
    )


def difumo(n_regions: int, space: str) -> Entry:
    """Return one dimension of DiFuMo: functional modes, as maps that overlap."""
    atlas = f"atlas-DiFuMo_desc-{n_regions}dimensions_probseg"
    return Entry(
        id=f"difumo{n_regions}{SUFFIX[space]}",
        title=f"Whole brain, {n_regions} functional modes (probabilistic maps)",
        space=space,
        n_regions=n_regions,
        image=_templateflow(space, f"res-02_{atlas}.nii.gz"),
        table=_templateflow(space, f"{atlas}.tsv"),
        kind="maps",
        licence="non-commercial research",
        citation="Dadi et al. 2020, NeuroImage 221:117126, doi:10.1016/j.neuroimage.2020.117126",
    )


def craddock(name: str, n_regions: int, has_table: bool) -> Entry:
    """Return one of Craddock's parcellations, in the builds of the Preprocessed Connectomes Project."""
    return Entry(
        id=name,
        title=f"Whole brain, {n_regions} regions by spectral clustering",
        space=FSL,
        n_regions=n_regions,
        image=_url("craddock2012", ABIDE, f"{name}_roi_atlas.nii.gz"),
        table=_url("craddock2012", ABIDE, f"{name.upper()}_ROI_labels.csv") if has_table else None,
        licence="CC BY-NC-SA",
        citation="Craddock et al. 2012, Human Brain Mapping 33:1914, doi:10.1002/hbm.21333",
    )


# Name in TemplateFlow, regions and what they are, of each part of the Harvard-Oxford atlas.
HARVARD_OXFORD = {
    "harvard-oxford-cort": ("HOCPA", 48, "Cortex, 48 regions of both hemispheres"),
    "harvard-oxford-cortl": ("HOCPAL", 96, "Cortex, 96 regions, left and right apart"),
    "harvard-oxford-sub": ("HOSPA", 21, "Subcortex, 21 regions with white matter, cortex and ventricles"),
}
HARVARD_OXFORD_NILEARN = "fetch_atlas_harvard_oxford?atlas_name=cort-maxprob-thr25-2mm"


def harvard_oxford(name: str, space: str) -> Entry:
    """Return a part of the Harvard-Oxford atlas: the most probable region, where that has 25 % at least."""
    atlas, n_regions, title = HARVARD_OXFORD[name]
    image = _templateflow(space, f"res-02_atlas-{atlas}_desc-th25_dseg.nii.gz")
    # Only the one space has tables; that of HOCPAL lacks 44 of its 96 regions.
    table = _templateflow(FSL, f"atlas-{atlas.removesuffix('L')}_dseg.tsv")
    if (name, space) == ("harvard-oxford-cort", FSL):
        stem = "harvardoxford/cort-maxprob-thr25-2mm"
        image, table = (Remote(f"{stem}{suffix}", HARVARD_OXFORD_NILEARN, "nilearn") for suffix in (".nii", ".tsv"))
    return Entry(
        id=f"{name}{SUFFIX[space]}",
        title=f"{title} (maximum probability, 25 %)",
        space=space,
        n_regions=n_regions,
        image=image,
        table=table,
        licence="FSL licence, non-commercial use",
        sides_apart=atlas == "HOCPAL",
        citation="Makris et al. 2006, Schizophrenia Research 83:155, doi:10.1016/j.schres.2005.11.020; "
        "Frazier et al. 2005, American Journal of Psychiatry 162:1256, doi:10.1176/appi.ajp.162.7.1256; "
        "Desikan et al. 2006, NeuroImage 31:968, doi:10.1016/j.neuroimage.2006.01.021; "
        "Goldstein et al. 2007, Biological Psychiatry 61:935, doi:10.1016/j.biopsych.2006.06.027",
    )


def _entries() -> Iterator[Entry]:
    for space in SUFFIX:
        for n_networks in (7, 17):
            for n_regions in range(100, 1001, 100):
                if space == FSL or n_regions not in (700, 900):
                    yield schaefer(n_regions, n_networks, space)
    yield from (tian(scale, space) for space in SUFFIX for scale in (1, 2, 3, 4))
    yield from (buckner(n_networks) for n_networks in (7, 17))
    yield from (difumo(n_regions, space) for space in SUFFIX for n_regions in (64, 128, 256, 512, 1024))
    yield craddock("cc200", 200, has_table=False)
    yield craddock("cc400", 392, has_table=True)
    yield from (harvard_oxford(name, space) for space in SUFFIX for name in HARVARD_OXFORD)


CATALOGUE = {entry.id: entry for entry in _entries()}


def entry(name: str) -> Entry:
    """Return the catalogue entry of an id; an unknown id is an error that lists the nearest and the families."""
    if name not in CATALOGUE:
        raise AtlasError(
            f"No atlas {name!r} in the catalogue{_nearest(name)}; see neuropipe atlas list. An atlas of your own is "
            "written as {id: ..., image: ..., table: ..., space: ...} in config.yaml."
        )
    return CATALOGUE[name]


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.5)
    return f" (did you mean {', '.join(near)}?)" if near else ""


def in_space(name: str, space: str) -> Entry | None:
    """Return the build of a catalogue atlas in another space, or None where there is none."""
    base = CATALOGUE[name].base if name in CATALOGUE else None
    return next((entry for entry in CATALOGUE.values() if entry.base == base and entry.space == space), None)


TRANSFORMS = ((FSL, ICBM), (ICBM, FSL))  # source and target space
TRANSFORM_NAME = re.compile(r"^(?P<source>[A-Za-z0-9]+)-to-(?P<target>[A-Za-z0-9]+)$")


def transform_name(source: str, target: str) -> str:
    """Return what `neuropipe atlas fetch` calls the transform that brings images of `source` to `target`."""
    return f"{source}-to-{target}"


def transform(source: str, target: str) -> Remote:
    """Return TemplateFlow's transform that brings images of the space `source` to the space `target`."""
    return _templateflow(target, f"from-{source}_mode-image_xfm.h5")
