"""Texts that devices and peers supply."""

__all__ = ["clean_lines", "clean_text"]


def clean_text(data: bytes | str) -> str:
    """Make a text that a device or peer supplied fit for logs and terminals.

    Bytes that are not UTF-8 become ``?``, a TAB becomes a blank, every other control
    character (C0, DEL, C1) and the line and paragraph separators are removed
    (vrdpusb.md 4.4, bad-inputs T42).
    """
    if isinstance(data, bytes):
        text = data.decode("utf-8", "replace").replace("\ufffd", "?")
    else:
        text = data
    text = text.replace("\t", " ")
    return "".join(c for c in text if c.isprintable() or c == " ")


def clean_lines(text: str) -> str:
    """Make a text of several lines fit for terminals; its line ends stay."""
    return "\n".join(map(clean_text, text.split("\n")))
