"""An XML settings file that keeps every byte but those that are changed.

Changes are spliced into the text, so comments, unknown elements, the order and quotes
of attributes, line ends and encoding stay as they are (filters.md 2.1). New text is
ASCII with numeric references.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from rusb.errors import SettingsError

__all__ = ["Document", "Node"]

MAX_SIZE = 4 << 20
"""Bytes of a settings file; a large one with snapshots has some hundred KiB."""

MAX_DEPTH = 64
"""Elements inside each other; a chain of snapshots may be long, each is two deep."""

INDENT = 2


@dataclass(slots=True, eq=False)
class Node:
    """An element; good until the next change of the document.

    Attributes:
        name: without the prefix of a namespace.
        start, inner, close, end: offsets of its start tag, of what is inside, of its
            end tag, and behind it; ``<empty/>`` has ``inner == close == end``.
    """

    name: str
    attributes: dict[str, str]
    parent: "Node | None"
    start: int
    inner: int = 0
    close: int = 0
    end: int = 0
    text: str = ""
    children: list["Node"] = field(default_factory=list)

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


class Document:
    """The text of a file and its elements.

    Args:
        data: the file.
        name: of the file, for messages.

    Raises:
        SettingsError: too large, not XML, with a DOCTYPE, or not ASCII-compatible.
    """

    def __init__(self, data: bytes, name: str = "the settings") -> None:
        if len(data) > MAX_SIZE:
            raise SettingsError(f"{name} is larger than {MAX_SIZE >> 20} MiB")
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise SettingsError(f"{name} is in UTF-16, which rusb does not write")
        self.data = data
        self._name = name
        self._newline = b"\r\n" if b"\r\n" in data else b"\n"
        self.root = self._parse()

    def find(self, *names: str) -> Node | None:
        """Return an element by the path of names below the root."""
        return self.root.find(*names)

    def set(self, node: Node, name: str, value: str | None) -> None:
        """Set an attribute, or remove it with None."""
        span = self._attribute(node, name)
        if value is None:
            if span is not None:
                self._splice(span[0], span[1], b"")
            return
        new = b' %s="%s"' % (name.encode(), _escape(value))
        if span is not None:
            if node.attributes[name] != value:
                self._splice(span[0], span[1], new)
            return
        at = node.inner - (2 if self._is_empty(node) else 1)
        while self.data[at - 1 : at].isspace():
            at -= 1
        self._splice(at, at, new)

    def add(
        self,
        parent: Node,
        name: str,
        attributes: Mapping[str, str] | None = None,
        *,
        before: Node | None = None,
        text: str = "",
    ) -> None:
        """Add an element as the last child, or before another one."""
        pairs = (attributes or {}).items()
        words = b"".join(b' %s="%s"' % (k.encode(), _escape(v)) for k, v in pairs)
        tag = name.encode()
        new = b"<%s%s/>" % (tag, words)
        if text:
            new = b"<%s%s>%s</%s>" % (tag, words, _escape(text), tag)
        if before is not None:
            line = self._newline + b" " * (INDENT * before.depth)
            self._splice(before.start, before.start, new + line)
            return
        line = self._newline + b" " * (INDENT * (parent.depth + 1))
        if self._is_empty(parent):
            head = self.data[parent.start : parent.inner].rstrip(b"/> \t\r\n") + b">"
            own = self.data[parent.start + 1 : parent.inner].split(maxsplit=1)[0]
            own = own.rstrip(b"/>")
            back = self._newline + b" " * (INDENT * parent.depth)
            whole = head + line + new + back + b"</%s>" % own
            self._splice(parent.start, parent.end, whole)
        elif parent.children:
            end = parent.children[-1].end
            self._splice(end, end, line + new)
        else:
            back = self._newline + b" " * (INDENT * parent.depth)
            at = parent.close
            while self.data[at - 1 : at].isspace():
                at -= 1
            self._splice(at, parent.close, line + new + back)

    def remove(self, node: Node) -> None:
        """Remove an element and the blanks before it; the root stays."""
        start = node.start
        while start > 0 and self.data[start - 1 : start].isspace():
            start -= 1
        parent = node.parent
        assert parent is not None
        end = node.end
        if len(parent.children) == 1 and self.data[parent.inner : start].strip() == b"":
            start = parent.inner  # nothing is left inside
            while end < parent.close and self.data[end : end + 1].isspace():
                end += 1
        self._splice(start, end, b"")

    def set_text(self, node: Node, text: str) -> None:
        """Replace what is inside an element by text."""
        new = _escape(text)
        if not self._is_empty(node):
            self._splice(node.inner, node.close, new)
        elif text:
            head = self.data[node.start : node.inner].rstrip(b"/> \t\r\n")
            whole = head + b">" + new + b"</%s>" % node.name.encode()
            self._splice(node.start, node.end, whole)

    def ensure(self, *names: str) -> Node:
        """Return an element by its path below the root; make what is missing."""
        for depth in range(1, len(names) + 1):
            if self.find(*names[:depth]) is None:
                parent = self.find(*names[: depth - 1])
                assert parent is not None
                self.add(parent, names[depth - 1])
        found = self.find(*names)
        assert found is not None
        return found

    # ------------------------------------------------------------- our own ----

    def _is_empty(self, node: Node) -> bool:
        return self.data[node.inner - 2 : node.inner] == b"/>"

    def _splice(self, start: int, end: int, new: bytes) -> None:
        self.data = self.data[:start] + new + self.data[end:]
        self.root = self._parse()

    def _tag_end(self, start: int) -> int:
        """Return where a start tag ends; a ``>`` in a value does not end it."""
        quote = 0
        for at in range(start, len(self.data)):
            byte = self.data[at]
            if quote:
                quote = 0 if byte == quote else quote
            elif byte in b"\"'":
                quote = byte
            elif byte == 0x3E:
                return at + 1
        raise AssertionError("expat has seen the end of this tag")

    def _attribute(self, node: Node, name: str) -> tuple[int, int] | None:
        """Return the span of an attribute with the blanks before it."""
        at = node.start + 1
        end = node.inner
        while at < end and not self.data[at : at + 1].isspace():
            at += 1
        while at < end:
            begin = at
            while self.data[at : at + 1].isspace():
                at += 1
            equals = self.data.find(b"=", at, end)
            if equals < 0:
                return None
            found = self.data[at:equals].strip().decode("utf-8", "replace")
            at = equals + 1
            while self.data[at : at + 1].isspace():
                at += 1
            at = self.data.index(self.data[at : at + 1], at + 1) + 1
            if found == name:
                return begin, at
        return None

    def _parse(self) -> Node:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        stack: list[Node] = []
        roots: list[Node] = []

        def begin(name: str, attributes: dict[str, str]) -> None:
            parent = stack[-1] if stack else None
            local = name.rpartition(":")[2]
            node = Node(local, attributes, parent, parser.CurrentByteIndex)
            node.inner = self._tag_end(node.start)
            (parent.children if parent else roots).append(node)
            stack.append(node)
            if len(stack) > MAX_DEPTH:
                raise SettingsError(
                    f"{self._name}: more than {MAX_DEPTH} elements deep"
                )

        def finish(name: str) -> None:
            node = stack.pop()
            node.close = parser.CurrentByteIndex
            if self._is_empty(node):
                node.close = node.end = node.inner
            else:
                node.end = self._tag_end(node.close)

        def text(data: str) -> None:
            if stack:
                stack[-1].text += data

        def doctype(*_: object) -> None:
            raise SettingsError(
                f"{self._name} has a DOCTYPE, which no settings file has; remove it"
            )

        parser.StartElementHandler = begin
        parser.EndElementHandler = finish
        parser.CharacterDataHandler = text
        parser.StartDoctypeDeclHandler = doctype
        try:
            parser.Parse(self.data, True)
        except expat.ExpatError as error:
            raise SettingsError(
                f"{self._name} is not XML: {error}; is it really a settings file?"
            ) from error
        return roots[0]


def _escape(text: str) -> bytes:
    """Return a value for an attribute or a text: ASCII, one line.

    Raises:
        SettingsError: it has characters that XML cannot hold.
    """
    for character in text:
        code = ord(character)
        if code < 32 and character not in "\t\n\r" or 0xD800 <= code < 0xE000:
            raise SettingsError(f"{text!r} has characters that XML cannot hold")
    table = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    table |= {c: f"&#{ord(c)};" for c in "\t\n\r"}
    plain = "".join(table.get(c, c) for c in text)
    return plain.encode("ascii", "xmlcharrefreplace")
