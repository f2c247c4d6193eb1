"""Types of guest systems, as VirtualBox names them; rusb does nothing with them."""

from collections.abc import Iterator

__all__ = ["OS_TYPES", "describe", "family", "identify", "is_64_bit"]

FAMILIES = {
    "Other": "Other",
    "Windows": "Microsoft Windows",
    "Linux": "Linux",
    "Solaris": "Solaris",
    "BSD": "BSD",
    "OS2": "IBM OS/2",
    "MacOS": "Mac OS X",
}

_BOTH = {
    "Windows": {
        "WindowsXP": "Windows XP",
        "Windows2003": "Windows 2003",
        "WindowsVista": "Windows Vista",
        "Windows2008": "Windows 2008",
        "Windows7": "Windows 7",
        "Windows8": "Windows 8",
        "Windows81": "Windows 8.1",
        "Windows10": "Windows 10",
        "WindowsNT": "Other Windows",
    },
    "Linux": {
        "Linux24": "Linux 2.4",
        "Linux26": "Linux 2.6 / 3.x / 4.x / 5.x",
        "ArchLinux": "Arch Linux",
        "Debian": "Debian",
        "Fedora": "Fedora",
        "Gentoo": "Gentoo",
        "Mandriva": "Mandriva",
        "Oracle": "Oracle Linux",
        "RedHat": "Red Hat",
        "OpenSUSE": "openSUSE",
        "Turbolinux": "Turbolinux",
        "Ubuntu": "Ubuntu",
        "Xandros": "Xandros",
        "Linux": "Other Linux",
    },
    "Solaris": {
        "Solaris": "Oracle Solaris 10 5/09 and earlier",
        "OpenSolaris": "Oracle Solaris 10 10/09 and later",
    },
    "BSD": {"FreeBSD": "FreeBSD", "OpenBSD": "OpenBSD", "NetBSD": "NetBSD"},
    "MacOS": {"MacOS": "Mac OS X"},
}
"""Those of 32 and of 64 bits."""

_ONE = {
    "Other": {
        "Other": "Other/Unknown",
        "Other_64": "Other/Unknown (64-bit)",
        "DOS": "DOS",
        "Netware": "Netware",
        "L4": "L4",
        "QNX": "QNX",
    },
    "Windows": {
        "Windows31": "Windows 3.1",
        "Windows95": "Windows 95",
        "Windows98": "Windows 98",
        "WindowsMe": "Windows ME",
        "WindowsNT3x": "Windows NT 3.x",
        "WindowsNT4": "Windows NT 4",
        "Windows2000": "Windows 2000",
        "Windows2012_64": "Windows 2012 (64-bit)",
        "Windows2016_64": "Windows 2016 (64-bit)",
        "Windows2019_64": "Windows 2019 (64-bit)",
        "Windows2022_64": "Windows 2022 (64-bit)",
        "Windows11_64": "Windows 11 (64-bit)",
    },
    "Linux": {"Linux22": "Linux 2.2"},
    "Solaris": {"Solaris11_64": "Oracle Solaris 11 (64-bit)"},
    "OS2": {
        "OS2Warp3": "OS/2 Warp 3",
        "OS2Warp4": "OS/2 Warp 4",
        "OS2Warp45": "OS/2 Warp 4.5",
        "OS2eCS": "eComStation",
        "OS2": "Other OS/2",
    },
}
"""Those of one kind."""


def _all() -> Iterator[tuple[str, str, str]]:
    """Yield word, description and family."""
    for name in FAMILIES:
        for word, text in _ONE.get(name, {}).items():
            yield word, text, name
        for word, text in _BOTH.get(name, {}).items():
            yield word, f"{text} (32-bit)", name
            yield f"{word}_64", f"{text} (64-bit)", name


_FAMILY_OF = {word: name for word, _, name in _all()}

OS_TYPES = {word: text for word, text, _ in _all()}
"""What ``list ostypes`` shows; other words are kept as they are."""


def identify(text: str) -> str:
    """Return the word for what was typed: a word or a description, in any case."""
    for word, description in OS_TYPES.items():
        if text.lower() in (word.lower(), description.lower()):
            return word
    return text


def describe(word: str) -> str:
    """Return what a word means, or the word."""
    return OS_TYPES.get(word, word)


def family(word: str) -> tuple[str, str]:
    """Return word and description of the family."""
    name = _FAMILY_OF[word]
    return name, FAMILIES[name]


def is_64_bit(word: str) -> bool:
    """Does the type have 64 bits?"""
    return word.endswith("_64")
