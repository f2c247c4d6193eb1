"""Options that change nothing here: VirtualBox's way to do what QEMU does in its own.

They are accepted, the machine's file keeps them for VirtualBox, ``showvminfo`` shows
them. What asks for something that is not there is refused (``_refused.py``).
"""

from collections.abc import Callable, Mapping

from rusb.cli._vbox_options import Option, one_of, unsigned
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.kept import ADAPTER, KEPT, Kept

from ._refused import ADAPTERS

__all__ = ["CHANGES", "OPTIONS"]

DECIDES = "QEMU decides that"

_SAME = {
    f"firmware-{name.removeprefix('bios-')}": name
    for name in KEPT
    if name.startswith("bios-")
}
"""Names since 7.x."""


def _to_file(kept: Kept, name: str, text: str) -> str:
    """Return what the file has for a word of an option.

    Raises:
        UsageError: the option takes no such word.
    """
    if kept.words is None:
        return text
    if isinstance(kept.words, int):
        return str(unsigned(f"--{name}", text, kept.words))
    return kept.words[one_of(name, text, kept.words)]


def _keep(name: str) -> Callable[[Editor, str], None]:
    """Return what keeps a value."""
    plain = _SAME.get(name, name)
    stem, number = plain.rstrip("12345678"), plain[-1]
    shown = name.replace("-", "")

    def apply(editor: Editor, text: str) -> None:
        kept = KEPT.get(plain) or ADAPTER[stem]
        stored = _to_file(kept, shown, text)
        word = text.lower() if isinstance(kept.words, Mapping) else stored
        editor.keep(kept, word, stored, 0 if plain in KEPT else int(number))

    return apply


_DECIDED = (
    "synthcpu hwvirtexexcl page-fusion virt-vmsave-vmload ibpb-on-vm-exit"
    " ibpb-on-vm-entry spec-ctrl l1d-flush-on-sched l1d-flush-on-vm-entry"
    " mds-clear-on-sched mds-clear-on-vm-entry"
)
"""What is not even kept."""

_KEPT = (
    *(Option(name, idle=kept.why) for name, kept in KEPT.items()),
    *(Option(name, idle=KEPT[same].why) for name, same in _SAME.items()),
    *(
        Option(f"{name}{number}", idle=kept.why)
        for name, kept in ADAPTER.items()
        for number in ADAPTERS
    ),
)

OPTIONS = (*(Option(name, idle=DECIDES) for name in _DECIDED.split()), *_KEPT)
"""Options of ``modifyvm``."""

CHANGES = {option.name: _keep(option.name) for option in _KEPT}
"""What keeps their values."""
