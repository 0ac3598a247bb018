"""Atlases of the user's own, of voxels or of vertices."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import model_validator

from neuropipe.config.base import Name, Section

# Meshes that people share; what is not one of them is the space of a volume.
SURFACE_SPACE = re.compile(r"fsLR|fsaverage[3-6]?|onavg")
HEMISPHERE_LABELS = (".gii", ".annot")


class AtlasFile(Section):
    """An atlas of the user's own: a label image and its table."""

    id: Name
    """Short name, used in file names and region tables."""
    image: str | tuple[str, str]
    """Label image (``.nii``, ``.nii.gz``); for surfaces a ``.dlabel.nii``, or ``[left, right]``: two ``.label.gii`` or
    FreeSurfer's ``.annot``."""
    table: str | None = None
    """tsv with at least ``index`` and ``name``; ``atlas, network, hemisphere, x, y, z`` are used where present. Surface
    labels may go without: their files name the regions."""
    space: str
    """Template space of the image, e.g. ``MNI152NLin6Asym``; of surfaces ``fsLR``, ``fsaverage5``, ..."""
    kind: Literal["labels", "maps"] = "labels"
    """``labels``: one integer per region; ``maps``: a 4-D image, one map of weights per row of the table, in order."""
    sha256: str | None = None
    """Checksum of the image (of a pair: of the left file's bytes followed by the right's); a mismatch is an error."""

    @property
    def images(self) -> tuple[str, ...]:
        """The label image, or the pair."""
        return (self.image,) if isinstance(self.image, str) else self.image

    @property
    def on_surface(self) -> bool:
        """Whether the labels belong to vertices."""
        return self.images[0].endswith((".dlabel.nii", *HEMISPHERE_LABELS))

    @model_validator(mode="after")
    def _fits(self) -> AtlasFile:
        halves = [name for name in self.images if name.endswith(HEMISPHERE_LABELS)]
        if len(self.images) == 2 and len(halves) != 2:
            raise ValueError(f"two images are the .label.gii or .annot of both hemispheres, found {list(self.images)}")
        if len(self.images) == 1 and halves:
            raise ValueError(f"this file covers one hemisphere; write image: [left, right], found {self.image!r}")
        if self.on_surface and not SURFACE_SPACE.fullmatch(self.space):
            raise ValueError(f"labels of vertices lie in fsLR, fsaverage, fsaverage3-6 or onavg, found {self.space!r}")
        if not self.on_surface and SURFACE_SPACE.fullmatch(self.space):
            raise ValueError(f"{self.space} needs a .dlabel.nii, or two .label.gii or .annot, found {self.image!r}")
        if self.on_surface and self.kind == "maps":
            raise ValueError(f"maps are images of voxels, found {self.image!r}; write kind: labels")
        if self.table is None and not self.on_surface:
            raise ValueError("an image of voxels needs table: a tsv with index and name")
        return self
