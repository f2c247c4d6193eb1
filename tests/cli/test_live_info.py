"""What showvminfo says of those who look at a machine that runs."""

import dataclasses

from rusb.cli.vbox.info import _device_lines, _live_pairs
from rusb.server.state import (
    ClientState,
    DeviceState,
    DisplayState,
    MachineState,
    SoundState,
    StreamState,
    ViewState,
)
from rusb.server.vbox.settings import RemoteDisplay
from rusb.usb.device import DeviceInfo

VIEW = ViewState(1, 800, 600, 16, "compressed bitmaps", frames=3, bytes=4000)
CLIENT = ClientState(
    *(3, "anna", "", "desk", "::1", 2600, True, 1.5, 10, 20, 0),
    view=VIEW,
    sound=SoundState(44100, 25, 2),
    clipboard="guesttohost",
)
LIVE = MachineState(
    "running",
    DisplayState(
        RemoteDisplay(True),
        3389,
        clients=(CLIENT,),
        clients_so_far=1,
        screens=((0, 0), (1280, 800)),
    ),
)


def test_programs_read_what_each_client_sees() -> None:
    pairs = dict(_live_pairs(LIVE))
    assert pairs["VRDEClientScreen"] == '"1: 800x600, 16 bit, compressed bitmaps"'
    assert pairs["VRDEPictures"] == '"3"'
    assert pairs["VRDEPictureBytes"] == '"4000"'


def test_screens_have_a_mode_while_the_guest_shows_them() -> None:
    pairs = dict(_live_pairs(LIVE))
    assert pairs["VideoMode1"] == '"1280,800,32"@0,0 1'
    assert "VideoMode" not in pairs
    said = list(_device_lines(LIVE))
    assert f"{'Video mode 1:':<28} 1280x800x32 at 0,0 enabled" in said
    assert any("800x600, 16 bit" in line for line in said)


def test_what_each_client_hears_and_pastes_is_shown() -> None:
    pairs = dict(_live_pairs(LIVE))
    assert pairs["VRDEClientSound"] == '"44100 Hz, 25 blocks, 2 dropped"'
    assert pairs["VRDEClientClipboard"] == '"guesttohost"'
    said = list(_device_lines(LIVE))
    assert f"{'Clipboard:':<28} guesttohost" in said


def test_streams_of_a_device_are_shown_with_it() -> None:
    stream = StreamState(
        *(0x81, True, 480_000, 1, 2, 3, 4), fill=0.0124, target=0.014, jitter=0.0031
    )
    info = DeviceInfo(1, 0x1209, 5, product="Microphone")
    device = DeviceState.of(
        info, uuid="u", address="a", attached=True, streams=(stream,)
    )
    live = dataclasses.replace(LIVE, devices=(device,))
    (line,) = (one for one in _device_lines(live) if one.startswith("Stream 0x81"))
    assert line.endswith(
        "on, 480000 packets, 1 bad, 2 underruns, 3 late, drift 4, buffer 12 of 14 ms,"
        " jitter 3.1 ms"
    )
    assert MachineState.from_json(live.to_json()) == live
