"""Filters as elements of a settings file: read, and changed one by one.

Machines and the installation share this; what a change does not concern, attributes
that rusb does not know and comments among it, keeps its bytes (filters.md 2.4).
"""

from collections.abc import Callable, Iterable, Sequence

from rusb.errors import FilterError, SettingsError
from rusb.filters.model import ATTRIBUTES, Filter

from .document import Document, Node
from .filter_attributes import from_attributes, to_attributes

__all__ = ["MAX_FILTERS", "FilterList"]

MAX_FILTERS = 1024
"""Filters of one machine, or of the installation."""

ELEMENT = "DeviceFilter"


class FilterList:
    """The filters in one or several elements of a document, in order.

    An element without ``name`` or a readable ``active`` does not count. A wrong text
    makes a machine unusable; in the global list it and all entries after it are
    left out with a warning (filters.md 1.10). They stay in the file, and what is added
    at the end goes before them.

    Args:
        parents: the elements that hold filters; those that are None are not there.
        make: returns the parent of a filter that comes after all others.

    Raises:
        SettingsError: a filter of a machine is wrong, or there are too many.
    """

    def __init__(
        self,
        document: Document,
        parents: Iterable[Node | None],
        make: Callable[[], Node] | None = None,
        *,
        is_global: bool = False,
    ) -> None:
        self._document = document
        self._make = make
        self._is_global = is_global
        self._nodes: list[Node] = []
        self._next: Node | None = None  # the one that is wrong
        self.filters: list[Filter] = []
        nodes = [n for parent in parents if parent for n in parent.all(ELEMENT)]
        if len(nodes) > MAX_FILTERS:
            raise SettingsError(
                f"{len(nodes)} USB filters; the maximum is {MAX_FILTERS}"
            )
        for number, node in enumerate(nodes):
            try:
                found = from_attributes(node.attributes, is_global=is_global)
            except FilterError as error:
                name = node.attributes.get("name", "")
                where = f"line {node.line}: " if node.line else ""
                sentence = f'{where}USB filter {number} "{name}": {error}'
                if not is_global:
                    raise SettingsError(sentence) from error
                _warn(f"global {sentence}; it and those after it are ignored")
                self._next = node
                break
            if found is not None:
                self._nodes.append(node)
                self.filters.append(found)

    def insert(self, index: int, given: Filter) -> None:
        """Insert a filter before the one at *index*, or at the end (D7).

        Raises:
            SettingsError: there are too many.
        """
        if len(self._nodes) >= MAX_FILTERS:
            raise SettingsError(f"the maximum is {MAX_FILTERS} USB filters")
        index = min(index, len(self._nodes))
        before = self._nodes[index] if index < len(self._nodes) else self._next
        parent = before.parent if before else self._make and self._make()
        assert parent is not None
        attributes = to_attributes(given, is_global=self._is_global)
        node = self._document.add(parent, ELEMENT, attributes, before=before)
        self._nodes.insert(index, node)
        self.filters.insert(index, given)

    def replace(self, index: int, given: Filter) -> None:
        """Put another filter in the place of one; only what differs is written.

        Raises:
            SettingsError: there is none at *index*.
        """
        node = self._at(index)
        old = to_attributes(self.filters[index], is_global=self._is_global)
        new = to_attributes(given, is_global=self._is_global)
        for name in (*new, *(old.keys() - new.keys())):
            if new.get(name) != old.get(name):
                if name in ATTRIBUTES.values():  # settings before 1.3 have vendorid
                    self._document.set(node, name.lower(), None)
                self._document.set(node, name, new.get(name))
        self.filters[index] = given

    def remove(self, index: int) -> None:
        """Remove the filter at *index*; those after it move up.

        Raises:
            SettingsError: there is none.
        """
        self._document.remove(self._at(index))
        del self._nodes[index], self.filters[index]

    def change(self, wanted: Sequence[Filter]) -> None:
        """Make the list what is wanted; filters at both ends that stay are not touched.

        Raises:
            SettingsError: there are too many.
        """
        old = list(self.filters)
        shortest = min(len(old), len(wanted))
        first = 0
        while first < shortest and old[first] == wanted[first]:
            first += 1
        last = 0
        while last < shortest - first and old[-1 - last] == wanted[-1 - last]:
            last += 1
        middle = wanted[first : len(wanted) - last]
        count = len(old) - last - first
        for offset, given in enumerate(middle):
            if offset < count:
                self.replace(first + offset, given)
            else:
                self.insert(first + offset, given)
        for _ in range(count - len(middle)):
            self.remove(first + len(middle))

    def _at(self, index: int) -> Node:
        if index >= len(self._nodes):
            last = len(self._nodes) - 1
            allowed = f"the last one is {last}" if self._nodes else "there are none"
            raise SettingsError(f"there is no USB filter {index}; {allowed}")
        return self._nodes[index]


def _warn(sentence: str) -> None:
    import logging  # it costs as much as what most commands do

    logging.getLogger(__name__).warning("%s", sentence)
