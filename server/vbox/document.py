"""An XML settings file that keeps every byte but those that are changed.

The file is cut into tags and what is between them; a change replaces single pieces, so
comments, unknown elements, the order and quotes of attributes, line ends and encoding
stay as they are (filters.md 2.1). New text is ASCII with numeric references.
"""

import re
from collections.abc import Iterator, Mapping
from xml.parsers import expat

from rusb.errors import SettingsError

__all__ = ["MAX_SIZE", "Document", "Node", "escape"]

MAX_SIZE = 4 << 20
"""Bytes of a settings file; a large one with snapshots has some hundred KiB."""

MAX_DEPTH = 64
"""Elements inside each other; a chain of snapshots may be long, each is two deep."""

MAX_ELEMENTS = 100_000
"""Elements of a file; one of MAX_SIZE as other programs write it has fewer."""

INDENT = 2

ENCODINGS = ("utf-8", "us-ascii", "iso-8859-1")
"""Encodings that may be declared; in each, ASCII is what it looks like."""

_NEVER_EMPTY = frozenset(
    ("Controllers", "DeviceFilters", "DVDImages", "ExtraData", "FloppyImages")
    + ("GuestProperties", "HardDisks", "MediaRegistry", "RemoteDisplay")
    + (
        "StorageControllers",
        "UART",
        "USB",
        "USBDeviceFilters",
        "VideoChannel",
        "VRDEProperties",
    )
)
"""Elements that are not written when they say nothing (filters.md 2.3, 2.5, 2.7)."""

_TAG = re.compile(rb"""<(?:[^"'>]++|"[^"]*+"|'[^']*+')*+>""")
_TAG_NAME = re.compile(rb"<([^\s/>]++)")
_ATTRIBUTE = re.compile(rb"""\s++([^\s=]++)\s*+=\s*+("[^"]*+"|'[^']*+')""")


class Node:
    """An element.

    Attributes:
        name: without prefix; of another namespace than the root's, ``{URI}name``.
        line: where its start tag is in the file, from 1; 0 for a new one.
        head, content, tail: its start tag, what is inside, its end tag; ``<empty/>``
            has no end tag.
    """

    __slots__ = (
        *("name", "attributes", "parent", "head", "tail", "line"),
        *("content", "texts"),
    )

    def __init__(
        self,
        name: str,
        attributes: dict[str, str],
        parent: "Node | None",
        head: bytes,
        line: int = 0,
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.parent = parent
        self.head = head
        self.tail = b""
        self.line = line
        self.content: list[bytes | Node] = []
        self.texts: list[str] = []

    @property
    def text(self) -> str:
        """The text that is directly inside."""
        return "".join(self.texts)

    @property
    def children(self) -> list["Node"]:
        """The elements that are directly inside."""
        return [piece for piece in self.content if isinstance(piece, Node)]

    @property
    def depth(self) -> int:
        """How many elements it is in."""
        return 0 if self.parent is None else self.parent.depth + 1

    def all(self, name: str) -> Iterator["Node"]:
        """Yield the children of a name."""
        return (child for child in self.children if child.name == name)

    def find(self, *names: str) -> "Node | None":
        """Return the first descendant along a path of names."""
        node: Node | None = self
        for name in names:
            node = next(node.all(name), None) if node else None
        return node

    def write(self, out: list[bytes]) -> None:
        """Append the bytes of the element."""
        out.append(self.head)
        for piece in self.content:
            if isinstance(piece, Node):
                piece.write(out)
            else:
                out.append(piece)
        out.append(self.tail)


class Document:
    """The text of a file and its elements.

    Args:
        data: the file.
        name: of the file, for messages.

    Attributes:
        namespace: of the root element, empty if it has none.

    Raises:
        SettingsError: too large, not XML, with a DOCTYPE, or in another encoding than
            ENCODINGS.
    """

    def __init__(self, data: bytes, name: str = "the settings") -> None:
        if len(data) > MAX_SIZE:
            raise SettingsError(f"{name} is larger than {MAX_SIZE >> 20} MiB")
        if b"\0" in data:
            raise SettingsError(
                f"{name} is not XML in UTF-8: it has NUL bytes, like UTF-16; check that"
                " it is a settings file"
            )
        self._newline = b"\r\n" if b"\r\n" in data else b"\n"
        parsed = _Parser(data, name)
        self.root = parsed.root
        self.namespace = parsed.namespace
        self._before, self._after = parsed.before, parsed.after

    @property
    def data(self) -> bytes:
        """The text as it is now."""
        out = [self._before]
        self.root.write(out)
        return b"".join([*out, self._after])

    def find(self, *names: str) -> Node | None:
        """Return an element by the path of names below the root."""
        return self.root.find(*names)

    def set(self, node: Node, name: str, value: str | None) -> None:
        """Set an attribute, or remove it with None."""
        if node.attributes.get(name) == value:
            return
        head = node.head
        found = next((m for m in _attributes(head) if m[1] == name.encode()), None)
        if value is None:
            assert found is not None
            node.head = head[: found.start()] + head[found.end() :]
            del node.attributes[name]
            return
        if found is not None:
            start, end = found.start(2) + 1, found.end(2) - 1
            new = escape(value, quote=head[start - 1 : start])
        else:
            start = end = len(head[: -1 if node.tail else -2].rstrip())
            new = b' %s="%s"' % (name.encode(), escape(value))
        node.head = head[:start] + new + head[end:]
        node.attributes[name] = value

    def add(
        self,
        parent: Node,
        name: str,
        attributes: Mapping[str, str] | None = None,
        *,
        before: Node | None = None,
        text: str = "",
    ) -> Node:
        """Add an element as the last child, or before another one; return it."""
        given = dict(attributes or {})
        words = b"".join(
            b' %s="%s"' % (k.encode(), escape(v)) for k, v in given.items()
        )
        prefix, colon, _ = _tag_name(parent).rpartition(b":")
        tag = prefix + colon + name.encode()
        new = Node(name, given, parent, b"<%s%s/>" % (tag, words))
        self.set_text(new, text)
        self._open(parent)
        content = parent.content
        if before is not None:
            at = content.index(before)
            content[at:at] = [new, _gap(content[at - 1] if at else b"")]
        elif children := parent.children:
            at = content.index(children[-1])
            gap = _gap(content[at - 1] if at else b"")
            content[at + 1 : at + 1] = [gap, new]
        else:
            if content and isinstance(content[-1], bytes):
                content[-1] = content[-1].rstrip()
            content += [self._line(parent, 1), new, self._line(parent, 0)]
        return new

    def remove(self, node: Node) -> None:
        """Remove an element with the blanks before it, and lists that are then empty.

        The root stays.
        """
        parent = node.parent
        assert parent is not None
        at = parent.content.index(node)
        del parent.content[at]
        piece = parent.content[at - 1] if at else None
        if isinstance(piece, bytes):
            parent.content[at - 1] = piece.removesuffix(_gap(piece))
        if _is_hollow(parent):
            self._close(parent)
            self.tidy(parent)

    def tidy(self, node: Node) -> None:
        """Remove an element that says nothing and is not written then."""
        if node.name in _NEVER_EMPTY and not node.attributes and _is_hollow(node):
            self.remove(node)

    def set_text(self, node: Node, text: str) -> None:
        """Replace what is inside an element by text."""
        if text == node.text and not node.children:
            return
        new = escape(text)
        self._open(node)
        node.content, node.texts = [new], [text]
        if not text:
            self._close(node)

    def move(self, source: Node, target: Node) -> None:
        """Move what is inside an element to the end of another, one level deeper."""
        deeper = b"\n" + b" " * INDENT
        self._open(target)
        if target.content and isinstance(target.content[-1], bytes):
            target.content[-1] = target.content[-1].rstrip()
        for piece in source.content:
            if isinstance(piece, Node):
                piece.parent = target
            elif not piece.strip():
                piece = piece.replace(b"\n", deeper)
            target.content.append(piece)
        source.content = []
        self._close(source)

    def ensure(self, *names: str) -> Node:
        """Return an element by its path below the root; make what is missing."""
        return self.ensure_in(self.root, *names)

    def ensure_in(self, node: Node, *names: str) -> Node:
        """Return an element by its path below another; make what is missing."""
        for name in names:
            node = node.find(name) or self.add(node, name)
        return node

    def set_pair(
        self, path: tuple[str, ...], element: str, name: str, value: str
    ) -> None:
        """Set an element with name and value in a list that is in byte order.

        Args:
            path: of the list.
            value: empty removes the element, and the list if nothing is left.
        """
        parent = self.find(*path)
        nodes = list(parent.all(element)) if parent else []
        found = [node for node in nodes if node.attributes.get("name") == name]
        for node in found[: -1 if value else None]:  # the last one of doubles counts
            self.remove(node)
        if found and value:
            self.set(found[-1], "value", value)
        elif value:
            later = (n for n in nodes if n.attributes.get("name", "") > name)
            attributes = {"name": name, "value": value}
            parent = self.ensure(*path)
            self.add(parent, element, attributes, before=next(later, None))

    # ------------------------------------------------------------- our own ----

    def _open(self, node: Node) -> None:
        """Give ``<empty/>`` an end tag."""
        if not node.tail:
            node.head = node.head[:-2] + b">"
            node.tail = b"</%s>" % _tag_name(node)

    def _close(self, node: Node) -> None:
        """Write an element that has nothing inside as ``<empty/>``."""
        node.content = []
        node.texts = []
        if node.tail:
            node.head = node.head[:-1] + b"/>"
            node.tail = b""

    def _line(self, node: Node, deeper: int) -> bytes:
        return self._newline + b" " * (INDENT * (node.depth + deeper))


def _gap(piece: "bytes | Node") -> bytes:
    """Return the blanks at the end of what is before an element: a line's beginning."""
    if isinstance(piece, Node):
        return b""
    rest = piece.rstrip(b" \t")
    if rest.endswith(b"\n"):
        rest = rest[: -2 if rest.endswith(b"\r\n") else -1]
    return piece[len(rest) :]


def _is_hollow(node: Node) -> bool:
    """Are there only blanks inside?"""
    return all(isinstance(p, bytes) and not p.strip() for p in node.content)


def _tag_name(node: Node) -> bytes:
    """Return the name of an element as it is in the file, with its prefix."""
    found = _TAG_NAME.match(node.head)
    assert found is not None
    return found[1]


def _attributes(head: bytes) -> Iterator[re.Match[bytes]]:
    found = _TAG_NAME.match(head)
    while found is not None:
        found = _ATTRIBUTE.match(head, found.end())
        if found is not None:
            yield found


class _Parser:
    """Cuts a file into pieces; expat says where they are, and that it is XML."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._stack: list[Node] = []
        self._meanings: dict[str, str] = {}  # of prefixes, here
        self._scopes: list[dict[str, str | None]] = []  # what they meant outside
        self._at = 0
        self._count = 0
        self.namespace = ""
        self._expat = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.XmlDeclHandler = self._declaration
        self._expat.StartElementHandler = self._begin
        self._expat.EndElementHandler = self._finish
        self._expat.CharacterDataHandler = self._text
        self._expat.StartDoctypeDeclHandler = self._doctype
        try:
            self._expat.Parse(data, True)
        except expat.ExpatError as error:
            raise SettingsError(
                f"{name} is not XML: {error}; check that it is a settings file"
            ) from error
        self.after = data[self._at :]

    def _declaration(self, version: str, encoding: str | None, alone: int) -> None:
        if encoding is not None and encoding.lower() not in ENCODINGS:
            raise SettingsError(
                f"{self._name} declares the encoding {encoding}; rusb only reads"
                " UTF-8 and ISO-8859-1"
            )

    def _doctype(self, *_: object) -> None:
        raise SettingsError(
            f"{self._name} has a DOCTYPE, which settings files do not have; remove it"
        )

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        start = self._expat.CurrentByteIndex
        tag = _TAG.match(self._data, start)
        assert tag is not None  # expat has seen its end
        self._count += 1
        if len(self._stack) >= MAX_DEPTH or self._count > MAX_ELEMENTS:
            raise SettingsError(
                f"{self._name}: more than {MAX_DEPTH} elements deep, or more than"
                f" {MAX_ELEMENTS} elements"
            )
        line = self._expat.CurrentLineNumber
        node = Node(self._local(name, attributes), attributes, None, tag[0], line)
        between = self._data[self._at : start]
        if self._stack:
            node.parent = self._stack[-1]
            node.parent.content += [between, node] if between else [node]
        else:
            self.before, self.root = between, node
        self._stack.append(node)
        self._at = tag.end()

    def _local(self, name: str, attributes: dict[str, str]) -> str:
        """Return what an element is called here; remember what its prefixes mean."""
        outside: dict[str, str | None] = {}
        for key, value in attributes.items():
            if key == "xmlns" or key.startswith("xmlns:"):
                outside[key[6:]] = self._meanings.get(key[6:])
                self._meanings[key[6:]] = value
        self._scopes.append(outside)
        prefix, _, local = name.rpartition(":")
        namespace = self._meanings.get(prefix, prefix)
        if not self._stack:
            self.namespace = namespace
        return local if namespace == self.namespace else f"{{{namespace}}}{local}"

    def _finish(self, name: str) -> None:
        node = self._stack.pop()
        for prefix, meaning in self._scopes.pop().items():
            if meaning is None:
                del self._meanings[prefix]
            else:
                self._meanings[prefix] = meaning
        if node.head.endswith(b"/>"):
            return
        close = self._expat.CurrentByteIndex
        if between := self._data[self._at : close]:
            node.content.append(between)
        tag = _TAG.match(self._data, close)
        assert tag is not None
        node.tail = tag[0]
        self._at = tag.end()

    def _text(self, data: str) -> None:
        if self._stack:
            self._stack[-1].texts.append(data)


def escape(text: str, quote: bytes = b'"') -> bytes:
    """Return a value for an attribute or a text: ASCII, one line.

    Raises:
        SettingsError: it has characters that XML does not allow, or was not UTF-8.
    """
    if any(0xDC80 <= ord(character) < 0xDD00 for character in text):  # surrogateescape
        shown = text.encode("utf-8", "replace").decode()
        raise SettingsError(f"{shown!r} is not UTF-8; check LANG")
    for character in text:
        code = ord(character)
        is_control = code < 32 and character not in "\t\n\r"
        if is_control or 0xD800 <= code < 0xE000 or code in (0xFFFE, 0xFFFF):
            raise SettingsError(f"{text!r} has characters that XML does not allow")
    special = '&<>\t\n\r"' if quote == b'"' else "&<>\t\n\r'"
    names = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    return "".join(
        names.get(c, f"&#x{ord(c):X};") if c in special or not c.isascii() else c
        for c in text
    ).encode()
