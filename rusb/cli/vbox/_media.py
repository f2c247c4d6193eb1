"""Options and commands about sound and the clipboard.

The guest plays to viewers of its remote display, whatever the driver: the host's own
loudspeakers are never used.
"""

from collections.abc import Callable, Sequence

from rusb.cli._vbox_options import UsageError, on_off, one_of
from rusb.errors import SettingsError
from rusb.server.vbox.editor import Editor
from rusb.server.vbox.settings import CLIPBOARD_MODES

from ._common import ask_running, warn
from ._vrde import NO_MICROPHONE

__all__ = ["CHANGES", "CONTROL", "DRIVERS"]

DRIVERS = {
    **{"null": "Null", "default": "Default", "alsa": "ALSA", "pulse": "Pulse"},
    **{"oss": "OSS", "coreaudio": "CoreAudio", "dsound": "DirectSound", "was": "WAS"},
    **{"winmm": "WinMM", "solaudio": "SolAudio", "mmpm": "MMPM"},
}
"""Words for drivers, and what files have."""

CONTROLLERS = {"ac97": "AC97", "hda": "HDA", "sb16": "SB16"}
CODECS = {
    **{"stac9700": "STAC9700", "ad1980": "AD1980"},
    **{"stac9221": "STAC9221", "sb16": "SB16"},
}

_MODES = dict(
    zip(
        CLIPBOARD_MODES,
        ("Disabled", "HostToGuest", "GuestToHost", "Bidirectional"),
        strict=True,
    )
)


def _audio(editor: Editor, value: str) -> None:
    """``--audio none``, or a driver: the card is there then, too."""
    word = one_of("audio", value, ("none", *DRIVERS))
    _driver(editor, word)
    if word != "none":  # tools switch it off without wanting to hear of it
        warn("--audio is deprecated; use --audio-driver and --audio-enabled")
        editor.set_audio(enabled="true")


def _driver(editor: Editor, value: str) -> None:
    word = one_of("audio-driver", value, ("none", *DRIVERS))
    if word == "none":
        editor.set_audio(enabled="false", driver="Null")
    else:
        editor.set_audio(driver=DRIVERS[word])


def _switch(name: str, attribute: str) -> Callable[[Editor, str], None]:
    def apply(editor: Editor, value: str) -> None:
        is_on = on_off(name, value)
        if is_on and attribute == "enabledIn":
            raise SettingsError(f"--{name} {value}: {NO_MICROPHONE}")
        editor.set_audio(**{attribute: "true" if is_on else "false"})

    return apply


def _controller(editor: Editor, value: str) -> None:
    word = one_of("audio-controller", value, CONTROLLERS)
    editor.set_audio(controller=CONTROLLERS[word])


def _codec(editor: Editor, value: str) -> None:
    editor.set_audio(codec=CODECS[one_of("audio-codec", value, CODECS)])


def _clipboard(editor: Editor, value: str) -> None:
    editor.set_clipboard(_MODES[one_of("clipboard-mode", value, _MODES)])


CHANGES: dict[str, Callable[[Editor, str], None]] = {
    "audio": _audio,
    "audio-driver": _driver,
    "audio-enabled": _switch("audio-enabled", "enabled"),
    "audio-in": _switch("audio-in", "enabledIn"),
    "audio-out": _switch("audio-out", "enabledOut"),
    "audio-controller": _controller,
    "audio-codec": _codec,
    "clipboard-mode": _clipboard,
}
"""Options of ``modifyvm``."""


def _control_input(uuid: str, values: Sequence[str]) -> None:
    """``controlvm VM audioin off``: as it is."""
    if on_off("audioin", _only("audioin", values)):
        raise SettingsError(f"controlvm audioin: {NO_MICROPHONE}")


def _control_output(uuid: str, values: Sequence[str]) -> None:
    """``controlvm VM audioout on|off``."""
    is_on = on_off("audioout", _only("audioout", values))
    ask_running(uuid, "audioout", enabled=is_on)


def _control_clipboard(uuid: str, values: Sequence[str]) -> None:
    """``controlvm VM clipboard [mode] MODE``, ``clipboard filetransfers off``."""
    what, *rest = values or ("",)
    if what == "filetransfers":
        if on_off("filetransfers", _only("filetransfers", rest)):
            raise SettingsError("clipboard filetransfers: only text is shared")
        return
    if what == "mode":
        values = rest
    mode = _only("clipboard mode", values).lower()
    if mode not in CLIPBOARD_MODES:
        known = ", ".join(CLIPBOARD_MODES)
        raise UsageError(f"invalid clipboard mode {mode!r}; choose one of {known}")
    ask_running(uuid, "clipboard", mode=mode)


def _only(verb: str, values: Sequence[str]) -> str:
    if len(values) != 1:
        raise UsageError(f"{verb} needs one value")
    return values[0]


CONTROL: dict[str, Callable[[str, Sequence[str]], None]] = {
    "audioin": _control_input,
    "audioout": _control_output,
    "clipboard": _control_clipboard,
}
"""Words of ``controlvm``."""
