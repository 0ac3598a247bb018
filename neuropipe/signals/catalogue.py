"""The atlases that are known by name: where they come from, in which space they lie, and who made them.

A checksum is given where the published file's is known; where it is not, the first fetch records
what it got and every later use is held to that (``trust on first use``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TEMPLATEFLOW = "https://templateflow.s3.amazonaws.com"
SUBCORTEX = "https://raw.githubusercontent.com/yetianmed/subcortex/master/Group-Parcellation/3T/Subcortex-Only"
CEREBELLUM = "https://raw.githubusercontent.com/DiedrichsenLab/cerebellar_atlases/master/Buckner_2011"
ABIDE = "https://fcp-indi.s3.amazonaws.com/data/Projects/ABIDE_Initiative/Resources"


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    Attributes
    ----------
    file : str
        Path inside the cache; inside TEMPLATEFLOW_HOME too where `source` is ``templateflow``.
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
        Template space of the label image.
    n_regions : int
        Number of regions; labels are 1..n in the atlas's own order.
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


def _templateflow(file: str, sha256: str | None = None) -> Remote:
    template = file.split("_")[0]
    return Remote(f"{template}/{file}", f"{TEMPLATEFLOW}/{template}/{file}", "templateflow", sha256)


HARVARD_OXFORD = "fetch_atlas_harvard_oxford?atlas_name=cort-maxprob-thr25-2mm"
SCHAEFER = "Schaefer et al. 2018, Cerebral Cortex 28:3095, doi:10.1093/cercor/bhx179"
TIAN = "Tian et al. 2020, Nature Neuroscience 23:1421, doi:10.1038/s41593-020-00711-6"
TIAN_LABELS = Remote("tian2020/Tian_Subcortex_S3_3T_label.txt", f"{SUBCORTEX}/Tian_Subcortex_S3_3T_label.txt")

ENTRIES = (
    Entry(
        id="schaefer400-7n",
        title="Cortex, 400 regions in the order of 7 networks",
        space="MNI152NLin6Asym",
        n_regions=400,
        image=_templateflow("tpl-MNI152NLin6Asym_res-02_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.nii.gz"),
        table=_templateflow("tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.tsv"),
        aliases=("Schaefer2018",),
        licence="MIT",
        citation=SCHAEFER,
    ),
    Entry(
        id="schaefer400-7n-2009c",
        title="Cortex, 400 regions in the order of 7 networks",
        space="MNI152NLin2009cAsym",
        n_regions=400,
        image=_templateflow(
            "tpl-MNI152NLin2009cAsym_res-02_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.nii.gz",
            "e5dfdc5674fe6122609fa8d223d7d7c17f989ff1b03d7746559c95b11da1d264",
        ),
        table=_templateflow(
            "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.tsv",
            "91fe503df22267bb6c9ab3b9e9e82eec0e08f496d4f9dcb9661e67d1abb14f07",
        ),
        licence="MIT",
        citation=SCHAEFER,
    ),
    Entry(
        id="tian-s3",
        title="Subcortex, 50 regions (scale 3), right hemisphere first",
        space="MNI152NLin6Asym",
        n_regions=50,
        image=Remote("tian2020/Tian_Subcortex_S3_3T_1mm.nii.gz", f"{SUBCORTEX}/Tian_Subcortex_S3_3T_1mm.nii.gz"),
        table=TIAN_LABELS,
        network="Subcortex",
        aliases=("Tian2020S3",),
        licence="none stated; cite the paper",
        citation=TIAN,
    ),
    Entry(
        id="tian-s3-2009c",
        title="Subcortex, 50 regions (scale 3), right hemisphere first",
        space="MNI152NLin2009cAsym",
        n_regions=50,
        image=Remote(
            "tian2020/Tian_Subcortex_S3_3T_2009cAsym.nii.gz", f"{SUBCORTEX}/Tian_Subcortex_S3_3T_2009cAsym.nii.gz"
        ),
        table=TIAN_LABELS,
        network="Subcortex",
        licence="none stated; cite the paper",
        citation=TIAN,
    ),
    Entry(
        id="buckner7",
        title="Cerebellum, 7 networks (both hemispheres)",
        space="MNI152NLin6Asym",
        n_regions=7,
        image=Remote("buckner2011/atl-Buckner7_space-MNI_dseg.nii", f"{CEREBELLUM}/atl-Buckner7_space-MNI_dseg.nii"),
        names=tuple(f"Buckner7_Network{n}" for n in range(1, 8)),
        network="Cerebellum",
        aliases=("Buckner2011",),
        licence="CC BY-NC 3.0 (SUIT collection)",
        citation="Buckner et al. 2011, Journal of Neurophysiology 106:2322, doi:10.1152/jn.00339.2011",
    ),
    Entry(
        id="cc200",
        title="Whole brain, 200 regions by spectral clustering",
        space="MNI152NLin6Asym",
        n_regions=200,
        image=Remote(
            "craddock2012/cc200_roi_atlas.nii.gz",
            f"{ABIDE}/cc200_roi_atlas.nii.gz",
            sha256="9467afce23ad7197fbbc8c96aadc8c0c2e36d4938445e3c1570a5deac489c650",
        ),
        licence="CC BY-NC-SA",
        citation="Craddock et al. 2012, Human Brain Mapping 33:1914, doi:10.1002/hbm.21333",
    ),
    Entry(
        id="harvard-oxford-cort",
        title="Cortex, 48 regions of the Harvard-Oxford atlas (maximum probability, 25 %, both hemispheres)",
        space="MNI152NLin6Asym",
        n_regions=48,
        image=Remote("harvardoxford/cort-maxprob-thr25-2mm.nii", HARVARD_OXFORD, "nilearn"),
        table=Remote("harvardoxford/cort-maxprob-thr25-2mm.tsv", HARVARD_OXFORD, "nilearn"),
        licence="FSL licence, non-commercial use",
        citation="Desikan et al. 2006, NeuroImage 31:968, doi:10.1016/j.neuroimage.2006.01.021",
    ),
)

CATALOGUE = {entry.id: entry for entry in ENTRIES}
