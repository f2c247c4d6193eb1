"""Settings files keep every byte but those that are changed."""

import time
import tracemalloc
from collections.abc import Callable

import pytest

from rusb.errors import SettingsError
from rusb.server.vbox.document import MAX_ELEMENTS, MAX_SIZE, Document

TEXT = """<?xml version='1.0'?>\r
<!-- made by hand; keep > me -->\r
<v:Root xmlns:v="urn:x" xmlns="urn:x" xmlns:f="urn:f" a = 'one' b="2&amp;3">\r
\t<Thing  name="x>y" other='"'   /><Thing name="second">text &#xE9; \xc3\xa9</Thing>\r
  <Empty></Empty>\r
  <f:List><Item n="foreign"/></f:List>\r
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
    old, new = changed(lambda d: d.set(d.root, "a", "'two' \"<\u00e9>"))
    assert old == b"one"
    assert new == b'&#x27;two&#x27; "&lt;&#xE9;&gt;'


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


def test_an_element_that_says_nothing_goes_where_it_is_not_written() -> None:
    data = b"<R><RemoteDisplay a='1'  ></RemoteDisplay ><RemoteDisplay/><Hardware/></R>"
    document = Document(data)
    for node in document.root.children:
        document.tidy(node)
    assert document.data == data.replace(b"<RemoteDisplay/>", b"")


def test_paths_are_made() -> None:
    document = Document(TEXT)
    document.set(document.ensure("New", "Deep", "Leaf"), "x", "y")
    assert (
        b'<v:New>\r\n    <v:Deep>\r\n      <v:Leaf x="y"/>\r\n    </v:Deep>'
        in document.data
    )
    before = document.data
    document.ensure("New", "Deep", "Leaf")
    assert document.data == before


def test_text_is_set() -> None:
    document = Document(b"<a><b/><c>old</c></a>")
    document.set_text(document.ensure("b"), "new & <old>")
    document.set_text(document.ensure("c"), "")
    assert document.data == b"<a><b>new &amp; &lt;old&gt;</b><c/></a>"


def test_what_is_of_another_namespace_has_another_name() -> None:
    document = Document(
        b'<R xmlns="u:1"><f:A xmlns:f="u:2"/><A xmlns="u:2"><B/></A>'
        b'<o:A xmlns:o="u:1" o:x="1"/><q:A/></R>'
    )
    names = [child.name for child in document.root.children]
    assert names == ["{u:2}A", "{u:2}A", "A", "{q}A"]
    assert document.root.children[1].children[0].name == "{u:2}B"
    document.set(document.ensure("A"), "x", "2")
    assert b'<o:A xmlns:o="u:1" o:x="1" x="2"/>' in document.data


def test_new_elements_follow_the_neighbours() -> None:
    document = Document(b"<R>\n\n\t<!-- c -->\n\t<A/>\n\n</R>")
    before = document.data
    new = document.add(document.root, "B")
    assert document.data == b"<R>\n\n\t<!-- c -->\n\t<A/>\n\t<B/>\n\n</R>"
    document.remove(new)
    new = document.add(document.root, "B", before=document.find("A"))
    assert document.data == b"<R>\n\n\t<!-- c -->\n\t<B/>\n\t<A/>\n\n</R>"
    document.remove(new)
    assert document.data == before


@pytest.mark.parametrize("empty", [b"<R/>", b"<R a='1'  />", b"<R><E/></R>"])
def test_undoing_gives_the_same_bytes(empty: bytes) -> None:
    document = Document(empty)
    parent = document.root.children[0] if document.root.children else document.root
    document.remove(document.add(parent, "C", {"k": "v"}))
    assert document.data == empty
    document.set(parent, "k", "v")
    document.set(parent, "k", None)
    assert document.data == empty


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        (b"", "utf-8"),
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xef\xbb\xbf<?xml version='1.0' encoding='UTF-8'?>", "utf-8"),
        (b"<?xml version='1.0' encoding='ISO-8859-1'?>", "latin-1"),
    ],
)
def test_encodings(head: bytes, encoding: str) -> None:
    data = head + '<r n="\u00fc"><a/>\u00fc</r>'.encode(encoding)
    document = Document(data)
    assert (document.root.attributes["n"], document.root.text) == ("\u00fc", "\u00fc")
    document.set(document.ensure("a"), "n", "\u20ac\u00fc\U0001f600")
    a = document.ensure("a")
    assert Document(document.data).ensure("a").attributes == a.attributes
    document.set(a, "n", None)
    assert document.data == data


def test_xinclude_and_processing_instructions_are_left_alone() -> None:
    data = (
        b'<r xmlns:xi="http://www.w3.org/2001/XInclude"><?php system("x")?>'
        b'<xi:include href="/etc/passwd" parse="text"/><![CDATA[<a>]]></r>'
    )
    document = Document(data)
    assert document.root.text == "<a>"
    assert document.data == data


BOMB = b"<!DOCTYPE r [<!ENTITY a0 'aaaaaaaaaa'>%s]><r>&a9;</r>" % b"".join(
    b"<!ENTITY a%d '%s'>" % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is not XML"),
        (b"junk", "is not XML"),
        (b"<a>", "is not XML"),
        (b"<a></b>", "is not XML"),
        (b"<a b='1' b='2'/>", "is not XML"),
        (b"<a>\xff</a>", "is not XML"),
        (b"<a>\x00</a>", "NUL"),
        ("<a/>".encode("utf-16"), "NUL"),
        ("<a/>".encode("utf-16-le"), "NUL"),
        (b"<?xml version='1.0' encoding='utf-7'?><a/>", "declares the encoding utf-7"),
        (b"<?xml version='1.0' encoding='cp037'?><a/>", "declares the encoding cp037"),
        (
            b"<?xml version='1.0' encoding='nonsense'?><a/>",
            "declares the encoding nonsense",
        ),
        (b"<!DOCTYPE a><a/>", "DOCTYPE"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "DOCTYPE"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///dev/zero">]><a>&x;</a>', "DOCTYPE"),
        (b'<!DOCTYPE a SYSTEM "file:///dev/zero"><a/>', "DOCTYPE"),
        (b'<!DOCTYPE a [<!ENTITY %% x "y"> %%x;]><a/>', "DOCTYPE"),
        (BOMB, "DOCTYPE"),
        (b"<a>&x;</a>", "is not XML"),
        (b"<a>" * 65 + b"</a>" * 65, "64 elements deep"),
        (b"<a>" * 100_000, "64 elements deep"),
        (b"<a>" + b"<b/>" * MAX_ELEMENTS + b"</a>", "100000 elements"),
        (b"<a/>" + b" " * MAX_SIZE, "larger than 4 MiB"),
    ],
    ids=lambda part: ascii(part)[:40],
)
def test_what_is_no_settings_file(data: bytes, sentence: str) -> None:
    begin = time.process_time()
    with pytest.raises(SettingsError, match=sentence) as caught:
        Document(data, "x.vbox")
    assert "x.vbox" in str(caught.value)
    assert time.process_time() - begin < 5


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "elements": lambda part: b"<a>%s</a>" % (b"x<b/>" * ((MAX_ELEMENTS - 1) // part)),
    "attributes": lambda part: (
        b"<a %s/>" % b" ".join(b"a%d=''" % n for n in range(350_000 // part))
    ),
    "comments": lambda part: b"<a>%s</a>" % (b"x<!---->" * (500_000 // part)),
    "references": lambda part: b"<a>%s</a>" % (b"&#10;" * (800_000 // part)),
    "value": lambda part: b"<a b='%s'/>" % (b" " * (4_000_000 // part)),
    "blanks": lambda part: b"<a%s/>" % (b" " * (4_000_000 // part)),
    "namespaces": lambda part: (
        b"<a %s>%s</a>"
        % (
            b" ".join(b"xmlns:n%d='u'" % n for n in range(100_000 // part)),
            b"<b xmlns='u'/>" * (90_000 // part),
        )
    ),
}
"""What takes most of something; all that is allowed, or a part of it."""


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_take_bounded_time(kind: str) -> None:
    data = HOSTILE[kind](1)
    assert MAX_SIZE // 9 < len(data) <= MAX_SIZE
    begin = time.process_time()
    document = Document(data)
    document.set(document.root, "new", "1")
    document.remove(document.add(document.root, "new"))
    document.set(document.root, "new", None)
    assert document.data[:2] == b"<a"
    assert time.process_time() - begin < 8  # 0.6 s on a quiet machine


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_take_memory_by_their_size(kind: str) -> None:
    """Measuring takes longer than reading: a part tells as much."""
    data = HOSTILE[kind](8)
    tracemalloc.start()
    try:
        Document(data)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(data)
    finally:
        tracemalloc.stop()


def test_a_hundred_changes_to_a_large_file() -> None:
    item = b'    <Item name="some name" value="some value that is not so short"/>\n'
    data = b"<a>\n  <list>\n" + item * 55_000 + b"  </list>\n  <b n='0'/>\n</a>\n"
    assert 3_700_000 < len(data) < MAX_SIZE
    document = Document(data)
    begin = time.process_time()
    for number in range(100):
        document.set(document.ensure("b"), "n", str(number))
        document.add(document.ensure("b"), "c")
    assert time.process_time() - begin < 2
    assert document.data.startswith(data[:-20])


@pytest.mark.parametrize("text", ["\0", "\x1b", "\ud800", "\ufffe", "\uffff"])
def test_what_xml_cannot_hold_is_refused(text: str) -> None:
    document = Document(TEXT)
    with pytest.raises(SettingsError, match="does not allow"):
        document.set(document.root, "a", text)
    assert document.data == TEXT


def test_line_ends_in_values_survive() -> None:
    document = Document(TEXT)
    document.set(document.root, "a", "one\ntwo\tthree\r")
    assert Document(document.data).root.attributes["a"] == "one\ntwo\tthree\r"
