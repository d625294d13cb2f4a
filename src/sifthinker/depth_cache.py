"""Memory cache for depth maps of datasets. Rewards need the same map many times."""

from __future__ import annotations

import threading
from collections import OrderedDict

from sifthinker.depth import DepthMap, dataset_depth

MAX_CACHED_BYTES = 256 << 20


class DepthCache:
    """Cache of the depth maps used last, limited to `most` bytes of maps and tables. It drops tables before maps."""

    def __init__(self, most: int) -> None:
        self.most = most
        # The map used last is at the end. Each entry has its size in bytes, with or without its tables.
        self._full: OrderedDict[str, tuple[DepthMap, int]] = OrderedDict()
        self._bare: OrderedDict[str, tuple[DepthMap, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, path: str) -> DepthMap:
        with self._lock:
            found = self._take(path)
        if found is None:
            found = dataset_depth(path)
        with self._lock:
            self._take(path)  # another thread may have added it
            self._put(self._full, path, found, found.full_nbytes)
            while self._bytes > self.most and len(self._full) > 1:
                oldest, (other, size) = self._full.popitem(last=False)
                self._bytes -= size
                other.release()
                self._put(self._bare, oldest, other, other.nbytes)
            while self._bytes > self.most and self._bare:
                self._bytes -= self._bare.popitem(last=False)[1][1]
        return found

    def _take(self, path: str) -> DepthMap | None:
        for shelf in (self._full, self._bare):
            if path in shelf:
                found, size = shelf.pop(path)
                self._bytes -= size
                return found
        return None

    def _put(self, shelf: OrderedDict[str, tuple[DepthMap, int]], path: str, depth: DepthMap, size: int) -> None:
        shelf[path] = depth, size
        self._bytes += size


_cache = DepthCache(MAX_CACHED_BYTES)


def cached_depth(path: str) -> DepthMap:
    """Return `dataset_depth(path)` from a cache in memory.

    The cache holds at most 256 MiB of maps and their tables, or only the map used last if that is larger.
    """
    return _cache(path)
