"""From a hospital's files to clips of known patients.

:mod:`.reading` decodes any supported file, :mod:`.quality` finds out what it shows,
:mod:`.inventory` keeps a site's manifest and holds patients out, :mod:`.partition` makes
hospitals of a folder. What needs torch or MONAI is imported by its own name: :mod:`.frames`,
:mod:`.synthetic`, :mod:`.reading.monai_reader`.
"""

from feat_fed.data.inventory.entries import ClipEntry, Exclusion, Inventory, window_frames
from feat_fed.data.inventory.identity import site_key
from feat_fed.data.inventory.manifest import Manifest, records
from feat_fed.data.inventory.records import ClipRecord
from feat_fed.data.inventory.scan import scan
from feat_fed.data.inventory.sheets import sheet_paths
from feat_fed.data.inventory.split import Split, split_by_patient, split_site
from feat_fed.data.partition import hospitals_from_folder
from feat_fed.data.reading.clip import Clip, ClipInfo
from feat_fed.data.reading.reader import READER_VERSION, iter_frames, probe, read_clip

__all__ = [
    "READER_VERSION",
    "Clip",
    "ClipEntry",
    "ClipInfo",
    "ClipRecord",
    "Exclusion",
    "Inventory",
    "Manifest",
    "Split",
    "hospitals_from_folder",
    "iter_frames",
    "probe",
    "read_clip",
    "records",
    "scan",
    "sheet_paths",
    "site_key",
    "split_by_patient",
    "split_site",
    "window_frames",
]
