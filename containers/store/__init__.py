"""Content-addressed artifacts on S3. The only place that imports boto3.

Layout of the bucket: `blobs/sha256/<hex>`, `artifacts/<kind>/<fingerprint>.json` and `results/<name>`.
"""

from containers.store.client import Rehearsal, rehearse
from containers.store.failures import DamagedBlob
from containers.store.manifest import FileEntry, Manifest
from containers.store.store import Orphan, Store
from containers.store.transfer import BlobReader

__all__ = ["BlobReader", "DamagedBlob", "FileEntry", "Manifest", "Orphan", "Rehearsal", "Store", "rehearse"]
