"""Find plugins by file name: a module in the right folder is a plugin of that name."""

import importlib
import pkgutil
from types import ModuleType

from rusb.errors import PluginError

__all__ = ["load", "names"]


def names(folder: ModuleType) -> list[str]:
    """Return the names of the plugins in package *folder*, importing none of them."""
    found = (module.name for module in pkgutil.iter_modules(folder.__path__))
    return sorted(n for n in found if n != "base" and not n.startswith("_"))


def load(folder: ModuleType, name: str) -> object:
    """Import plugin *name* of package *folder* and return its ``PLUGIN``.

    Raises:
        PluginError: there is no such plugin, or its module lacks ``PLUGIN``.
    """
    known = names(folder)
    if name not in known:
        kind = folder.__name__.rpartition(".")[2]
        raise PluginError(f"{kind}: there is no {name!r}, only {', '.join(known)}")
    module = importlib.import_module(f"{folder.__name__}.{name}")
    if not hasattr(module, "PLUGIN"):
        raise PluginError(f"{module.__name__} does not define PLUGIN")
    plugin: object = module.PLUGIN
    return plugin
