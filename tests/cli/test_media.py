"""Sound and clipboard in settings: what is written, shown and refused."""

import dataclasses
from pathlib import Path

import pytest

from rusb.server.vbox.hardware import load_hardware
from rusb.server.vbox.model import Audio
from rusb.server.vbox.registry import Registry
from rusb.server.vbox.settings import load_machine
from tests.support.vbox import RUNNING, Vbox


def path(vbox: Vbox) -> Path:
    return Registry().find("Lab").path


def test_a_sound_card_is_there_when_it_is_enabled(vbox: Vbox) -> None:
    assert load_hardware(path(vbox)).audio is None
    assert 'audio="none"' in vbox.info()
    vbox("modifyvm Lab --audio-driver Pulse --audio-controller hda")
    assert load_hardware(path(vbox)).audio is None
    vbox("modifyvm Lab --audio-enabled on --audio-codec stac9221")
    assert load_hardware(path(vbox)).audio == Audio("HDA", "Pulse", "STAC9221")
    found = vbox.info()
    at = found.index('audio="pulse"')
    assert found[at + 1 : at + 3] == ['audio_out="on"', 'audio_in="off"']
    vbox("showvminfo Lab")
    for line in (
        "Audio:                       enabled (Driver: Pulse, Controller: HDA, Codec:"
        " STAC9221)",
        "Audio playback:              enabled",
        "Audio capture:               disabled",
        "Clipboard Mode:              disabled",
    ):
        assert line in vbox.out
    vbox("modifyvm Lab --audio none")
    assert vbox.err == ""
    assert load_hardware(path(vbox)).audio is None


def test_output_can_be_switched_off_and_input_not_on(vbox: Vbox) -> None:
    assert load_machine(path(vbox)).has_sound
    vbox("modifyvm Lab --audio-out off --audio-in off")
    assert not load_machine(path(vbox)).has_sound
    vbox.fails("modifyvm Lab --audio-out on --audio-in on", "no microphone", 1)
    assert not load_machine(path(vbox)).has_sound  # all of it or nothing


@pytest.mark.parametrize(
    ("word", "stored"),
    [
        ("hosttoguest", "HostToGuest"),
        ("GuestToHost", "GuestToHost"),
        ("bidirectional", "Bidirectional"),
        ("disabled", "Disabled"),
    ],
)
def test_the_clipboard_has_four_modes(vbox: Vbox, word: str, stored: str) -> None:
    vbox(f"modifyvm Lab --clipboard-mode {word}")
    assert f'<Clipboard mode="{stored}"/>' in vbox.file()
    assert load_machine(path(vbox)).clipboard == word.lower()
    assert f'clipboard="{word.lower()}"' in vbox.info()
    vbox("showvminfo Lab")
    shown = "disabled" if word == "disabled" else stored
    assert f"Clipboard Mode:              {shown}" in vbox.out


def test_what_is_wrong_is_said(vbox: Vbox) -> None:
    for line, why in (
        ("modifyvm Lab --clipboard-mode both", "for --clipboard-mode; choose one of"),
        ("modifyvm Lab --audio-controller es1370", "choose one of ac97, hda, sb16"),
        ("modifyvm Lab --audio-driver jack", "choose one of none, null, default"),
        ("controlvm Lab clipboard mode both", "choose one of disabled, hosttoguest"),
        ("controlvm Lab clipboard", "clipboard mode needs one value"),
        ("controlvm Lab audioout", "audioout needs one value"),
    ):
        vbox.fails(line, why)
    vbox.fails("controlvm Lab audioin on", "no microphone", 1)
    vbox.fails("controlvm Lab clipboard filetransfers on", "only text", 1)
    vbox("controlvm Lab audioin off")
    vbox("controlvm Lab clipboard filetransfers off")


def test_a_running_machine_is_told(vbox: Vbox) -> None:
    vbox.fails("controlvm Lab clipboard mode bidirectional", "not running", 1)
    state = dataclasses.replace(RUNNING, has_sound=False, clipboard="guesttohost")
    vbox("modifyvm Lab --audio-enabled on --clipboard-mode hosttoguest")
    with vbox.running(state=state) as asked:
        vbox("controlvm Lab clipboard mode BiDirectional")
        vbox("controlvm Lab clipboard disabled")
        vbox("controlvm Lab audioout off")
        found = vbox.info()
    assert asked == ["clipboard", "clipboard", "audioout", "info"]
    assert 'audio_out="off"' in found
    assert 'clipboard="guesttohost"' in found


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("property Client/DisableUSB=yes", "'yes' switches nothing off; 1 does"),
        ("property Security/Method=TLSS", "'TLSS' is unknown, so TLS is used; choose"),
        ("property VideoChannel/Quality=abc", "'abc' is not from 10 to 100"),
        ("videochannelquality 5", "VideoChannel/Quality '5' is not from 10 to 100"),
        ("property client/disableusb=1", "did you mean Client/DisableUSB?"),
        ("property VNCPassword=x", "VNCPassword changes nothing: rusb has no such"),
        ("property VNCPassword=", ""),
        ("property Security/RequireEncryption=1", ""),
        ("videochannelquality 100", ""),
        ("property Security/Method=negotiate", ""),
        ("property Client/DisableUSB=0", ""),
        ("property Client/DisableUSB=", ""),
    ],
)
def test_values_that_do_not_do_what_they_say(
    vbox: Vbox, line: str, sentence: str
) -> None:
    vbox(f"modifyvm Lab --vrde{line}")
    said = vbox.err
    with vbox.running():
        vbox(f"controlvm Lab vrde{line}")
    assert vbox.err == said
    assert sentence in said
    assert bool(sentence) == bool(said)


def test_the_property_for_a_microphone_changes_nothing(vbox: Vbox) -> None:
    vbox("modifyvm Lab --vrdeproperty Client/DisableUpstreamAudio=0")
    assert vbox.err == (
        "Warning: Client/DisableUpstreamAudio changes nothing: the guest has no"
        " microphone, because QEMU's VNC server (QEMU 7.2) offers none\n"
    )
