"""Content-addressed artifacts on S3. The only place that imports boto3.

Layout of the bucket: `blobs/sha256/<hex>`, `artifacts/<kind>/<fingerprint>.json`, `results/<name>`, `watch/<name>`, and the
`claims/` and `notices/` of those who count on something and those who remove something, and `midstates/sha256/<hex>`, with which
all cores check a large blob.
"""

from containers.store.client import Rehearsal, rehearse
from containers.store.failures import DamagedBlob
from containers.store.manifest import FileEntry, Manifest
from containers.store.store import Store
from containers.store.sweep import Fate, Swept
from containers.store.transfer import BlobReader

__all__ = ["BlobReader", "DamagedBlob", "Fate", "FileEntry", "Manifest", "Rehearsal", "Store", "Swept", "rehearse"]
