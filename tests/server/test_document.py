"""Settings files keep every byte but those that are changed."""

from collections.abc import Callable

import pytest

from rusb.errors import SettingsError
from rusb.server.machine.document import MAX_SIZE, Document

TEXT = """<?xml version='1.0'?>\r
<!-- made by hand; keep > me -->\r
<v:Root xmlns:v="urn:x" a = 'one' b="2&amp;3">\r
\t<Thing  name="x>y" other='"'   /><Thing name="second">text &#xE9; \xc3\xa9</Thing>\r
  <Empty></Empty>\r
  <?pi data?>\r
  <List>\r
    <!-- in the list -->\r
    <Item n="0"/>\r
    <Item n="1"/>\r
  </List>\r
</v:Root>\r
""".encode("latin-1")


def changed(change: Callable[[Document], None]) -> tuple[bytes, bytes]:
    """Return what stood there and what stands there now, without what is equal."""
    document = Document(TEXT)
    change(document)
    old, new = TEXT, document.data
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return old, new


def test_reading() -> None:
    document = Document(TEXT)
    root = document.root
    assert root.name == "Root"
    assert (root.attributes["a"], root.attributes["b"]) == ("one", "2&3")
    first, second = root.all("Thing")
    assert first.attributes == {"name": "x>y", "other": '"'}
    assert second.text == "text \u00e9 \u00e9"
    assert [i.attributes["n"] for i in document.find("List").all("Item")] == ["0", "1"]  # type: ignore[union-attr]
    assert document.data == TEXT


def test_setting_what_it_is_changes_nothing() -> None:
    def change(document: Document) -> None:
        document.set(document.root, "a", "one")
        document.set(document.root, "b", "2&3")
        document.set(document.root, "absent", None)

    assert changed(change) == (b"", b"")


def test_an_attribute_is_replaced_where_it_stands() -> None:
    old, new = changed(lambda d: d.set(d.root, "a", 'two "<\u00e9>'))
    assert old == b" = 'one'"
    assert new == b'="two &quot;&lt;&#233;&gt;"'


def test_an_attribute_is_added_and_removed() -> None:
    document = Document(TEXT)
    document.set(next(document.root.all("Thing")), "new", "1")
    assert b'other=\'"\' new="1"   /><Thing' in document.data
    document.set(next(document.root.all("Thing")), "new", None)
    assert document.data == TEXT
    document.set(next(document.root.all("Thing")), "name", None)
    assert b"<Thing other='\"'   />" in document.data


def test_elements_are_added_with_the_files_line_ends() -> None:
    document = Document(TEXT)
    items = document.find("List")
    assert items is not None
    document.add(items, "Item", {"n": "2"})
    assert b'<Item n="1"/>\r\n    <Item n="2"/>\r\n  </List>' in document.data
    items = document.find("List")
    assert items is not None
    document.add(items, "Item", {"n": "-1"}, before=items.children[0])
    assert b'list -->\r\n    <Item n="-1"/>\r\n    <Item n="0"/>' in document.data


@pytest.mark.parametrize("name", ["Empty", "Thing"])
def test_elements_inside_empty_ones(name: str) -> None:
    document = Document(TEXT)
    parent = next(document.root.all(name))
    document.add(parent, "Child", {"k": "v"})
    parent = next(document.root.all(name))
    (child,) = parent.children
    assert child.attributes == {"k": "v"}
    document.remove(child)
    assert not next(document.root.all(name)).children
    assert document.find("List", "Item") is not None


def test_removing_leaves_no_empty_lines() -> None:
    document = Document(TEXT)
    item = document.find("List", "Item")
    assert item is not None
    document.remove(item)
    assert b'list -->\r\n    <Item n="1"/>\r\n  </List>' in document.data


def test_paths_are_made() -> None:
    document = Document(TEXT)
    document.set(document.ensure("New", "Deep", "Leaf"), "x", "y")
    assert (
        b'<New>\r\n    <Deep>\r\n      <Leaf x="y"/>\r\n    </Deep>\r\n  </New>'
        in document.data
    )
    before = document.data
    document.ensure("New", "Deep", "Leaf")
    assert document.data == before


def test_text_is_set() -> None:
    document = Document(b"<a><b/><c>old</c></a>")
    document.set_text(document.ensure("b"), "new & <old>")
    document.set_text(document.ensure("c"), "")
    assert document.data == b"<a><b>new &amp; &lt;old&gt;</b><c></c></a>"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"<a>",
        b"<a></b>",
        b"<!DOCTYPE a><a/>",
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        b"<a>&x;</a>",
        "<a/>".encode("utf-16"),
        b"<a>" * 100 + b"</a>" * 100,
        b"<a/>" + b" " * MAX_SIZE,
    ],
)
def test_what_is_no_settings_file(data: bytes) -> None:
    with pytest.raises(SettingsError):
        Document(data, "x.vbox")


@pytest.mark.parametrize("text", ["\0", "\x1b", "\ud800"])
def test_what_xml_cannot_hold_is_refused(text: str) -> None:
    document = Document(TEXT)
    with pytest.raises(SettingsError, match="cannot hold"):
        document.set(document.root, "a", text)
    assert document.data == TEXT


def test_line_ends_in_values_survive() -> None:
    document = Document(TEXT)
    document.set(document.root, "a", "one\ntwo\tthree\r")
    assert Document(document.data).root.attributes["a"] == "one\ntwo\tthree\r"
