"""How those who count on something old in the store, and sweeps that would remove it, keep out of each other's way.

S3 deletes what is under a key at that moment: no server must know "delete if unchanged", and many do not. So whoever counts
on an old blob or manifest (finds it and does not make it) and whoever removes it follow Dekker's rule, *first write what you
mean to do, then look what the other one has written*:

    to count on something   write a claim, then read the notices, wait until none names it, then look whether it is there
    to remove something     write a notice, then read claims, manifests, roots and dates again, delete what still may go,
                            and take the notice back when the last deletion was answered

Reads and lists see every earlier write (S3: strong consistency; a folder: by nature; a sweep waits out the seconds that a
server in front of a folder may be late). So of a claim and a notice that cross, at least one side sees the other:

- the sweep sees the claim, and does not delete;
- or the claim was written after the sweep had looked, hence after the notice, which its writer then sees: it waits, and looks
  whether the thing is there when no deletion can be on its way any more.

What is written is young, and a sweep takes nothing that is younger than `YOUTH` when it looks for the last time. Before it is
written the notices are read, too: a deletion of an earlier object of the same name may be on its way, or be sent a second
time by a client that has lost the first answer. A manifest is written in the same way, after every blob that it names has
been counted on. So each blob of a manifest is there when the manifest is written, and stays.

What is young when it is counted on is claimed before it is old, and claims are renewed, by a thread of the process for as
long as that lives. They outlast it, so that a run that was killed finds what it had found (`--older` says for how long).

One thing is assumed of time: a process that counts on something is not stopped for half a day, and a sweep not for five
minutes between a look at its clock and the deletion that it then sends. Where that fails, a commit finds the blob missing and
refuses: the run repeats.

No two clocks are compared: ages are the store's own, and a notice is dead when it was watched for `NOTICE_LIFE` without an
end, twice as long as its sweep deletes.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from containers.errors import Error
from containers.store.client import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from containers.store.client import Bucket, Seen

CLAIMS: Final = "claims/"
NOTICES: Final = "notices/"
YOUTH: Final = timedelta(
    days=1
)  # a sweep takes nothing younger; longer than any upload, which S3 dates by its beginning
NOTICE_LIFE: Final = 600.0  # seconds
_HALF: Final = YOUTH / 2
_RENEWAL: Final = 1800.0  # seconds between two looks at what grows old
_POLL: Final = 0.5  # seconds between two looks at a notice


def steady() -> float:
    """Seconds that nobody sets, those of a suspended machine included (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Claims:
    """What one user of a store counts on; for several threads. A name is a key of the bucket. With `renewing` a thread sees to
    what grows old.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        clock: Callable[[], float] = steady,
        sleep: Callable[[float], object] = time.sleep,
        renewing: bool = False,
    ) -> None:
        self._bucket = bucket
        self._clock = clock
        self._sleep = sleep
        self._key = f"{CLAIMS}{uuid.uuid4().hex}.json"
        self._lock = threading.Lock()
        self._known: dict[str, float] = {}  # everything counted on, and since when it may be growing old
        self._claimed: frozenset[str] = frozenset()
        self._settled: set[str] = set()  # claimed, and no sweep that had not seen it is left
        self._written = 0.0
        self._renewing = renewing

    def look(self, names: Collection[str]) -> dict[str, Seen | None]:
        """Look for things and count on those that are there: from then on no sweep takes them."""
        found = self.glance(names)
        self.renew()
        if old := {name for name, seen in found.items() if seen is not None and not self._safe(name, seen)}:
            self.claim(old)
            found |= self.glance(old)
        return found

    def claim(self, names: Collection[str]) -> None:
        """Count on things, there or not, whatever their age."""
        with self._lock:
            if self._settled.issuperset(names):
                return
            for name in names:
                self._count(name, self._clock())
            if not self._claimed.issuperset(names):
                self._write()
        self.wait(names)
        with self._lock:
            self._settled |= set(names)

    def written(self, name: str) -> None:
        """Count on what was written just now."""
        with self._lock:
            self._count(name, self._clock())

    def renew(self) -> None:
        """Claim what was young when it was counted on and grows old now; and again what was claimed long ago."""
        with self._lock:
            since = [at for name, at in self._known.items() if name not in self._claimed]
            if self._claimed:
                since.append(self._written)
            if since and self._clock() - min(since) > _HALF.total_seconds():
                self._write()
                self._settled |= self._claimed  # too young, until now, for any sweep

    def wait(self, names: Collection[str]) -> None:
        """Wait for every sweep that may be removing one of these; one that has died on its way is cleared away."""
        watched: dict[tuple[str, object], float] = {}
        while True:
            listed = [one for one in self._bucket.listing(NOTICES) if self._concerns(one.key, names)]
            if not listed:
                return
            for one in listed:
                since = watched.setdefault((one.key, one.modified), self._clock())
                if self._clock() - since > NOTICE_LIFE:
                    self._bucket.delete(one.key)
            self._sleep(_POLL)

    def glance(self, names: Collection[str]) -> dict[str, Seen | None]:
        """Look, and count on nothing."""
        if len(names) == 1:
            return {name: self._bucket.look(name) for name in names}
        with ThreadPoolExecutor(CONNECTIONS // 2, thread_name_prefix="store-look") as pool:
            return dict(zip(names, pool.map(self._bucket.look, names), strict=True))

    def _safe(self, name: str, seen: Seen) -> bool:
        with self._lock:
            if name in self._settled:
                return True
            if seen.age is None or seen.age > _HALF:
                return False
            if name not in self._known:
                self._count(name, self._clock() - max(seen.age.total_seconds(), 0.0))
            return True

    def _count(self, name: str, since: float) -> None:
        self._known[name] = since
        if self._renewing:
            self._renewing = False
            threading.Thread(target=_renew, args=(weakref.ref(self),), daemon=True, name="store-claims").start()

    def _write(self) -> None:
        names = frozenset(self._known)
        self._bucket.write(self._key, json.dumps(sorted(names)).encode())
        self._claimed, self._written = names, self._clock()

    def _concerns(self, notice: str, names: Collection[str]) -> bool:
        content = self._bucket.read(notice)
        if content is None:
            return False
        try:
            return not set(json.loads(content)).isdisjoint(names)
        except (ValueError, TypeError):  # of another version: it may name anything
            return True


def _renew(claims: weakref.ref[Claims]) -> None:
    """Until nobody has them any more; one try that fails is passed over."""
    while (now := claims()) is not None:
        with contextlib.suppress(Error, OSError):
            now.renew()
        del now
        time.sleep(_RENEWAL)
