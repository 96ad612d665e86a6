"""From a hospital's files to clips of known patients.

:mod:`.reader` decodes any supported file, :mod:`.scan` takes the inventory of a site,
:mod:`.split` holds patients out, :mod:`.partition` makes hospitals of a folder. What needs
torch or MONAI is imported by its own name: :mod:`.frames`, :mod:`.synthetic`,
:mod:`.monai_reader`.
"""

from feat_fed.data.inventory.scan import (
    ClipEntry,
    Exclusion,
    Inventory,
    scan,
    site_key,
    window_frames,
)
from feat_fed.data.inventory.split import Split, split_by_patient
from feat_fed.data.partition import hospitals_from_folder
from feat_fed.data.reading.clip import Clip, ClipInfo
from feat_fed.data.reading.reader import READER_VERSION, iter_frames, probe, read_clip

__all__ = [
    "READER_VERSION",
    "Clip",
    "ClipEntry",
    "ClipInfo",
    "Exclusion",
    "Inventory",
    "Split",
    "hospitals_from_folder",
    "iter_frames",
    "probe",
    "read_clip",
    "scan",
    "site_key",
    "split_by_patient",
    "window_frames",
]
