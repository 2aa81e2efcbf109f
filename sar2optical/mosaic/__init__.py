"""Write mosaics: strips in run folders, COGs, pictures, and the tags that describe the run.

Strips are written as the rows arrive (`MosaicWriter`, or `StripFiles` where several processes share a scene), kept in
a `RunFolder` with the run's `Manifest`, and assembled into one file at the end.
"""

from sar2optical.mosaic.coding import COMPRESSIONS, BlockCoding
from sar2optical.mosaic.manifest import Manifest
from sar2optical.mosaic.output import check_output, cleanup
from sar2optical.mosaic.run_folder import RunFolder, run_folder_of
from sar2optical.mosaic.strip_files import StripFiles
from sar2optical.mosaic.strip_store import StripStore
from sar2optical.mosaic.tags import run_of, tags_of
from sar2optical.mosaic.writer import MosaicOptions, MosaicWriter

__all__ = [
    "COMPRESSIONS",
    "BlockCoding",
    "Manifest",
    "MosaicOptions",
    "MosaicWriter",
    "RunFolder",
    "StripFiles",
    "StripStore",
    "check_output",
    "cleanup",
    "run_folder_of",
    "run_of",
    "tags_of",
]
