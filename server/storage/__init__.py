"""Storage over distance: between a guest and a device (docs/spec/storage.md).

:class:`PipelinedStorage` makes one round trip of a command's three,
:class:`ReadAhead` reads what follows before the guest asks for it.
"""

from .ahead import ReadAhead
from .pipeline import PipelinedStorage, StorageTarget, is_storage

__all__ = ["PipelinedStorage", "ReadAhead", "StorageTarget", "is_storage"]
