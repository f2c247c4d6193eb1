"""The libvirt guest backend against a virsh that fails in every way."""

import asyncio
import dataclasses
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rusb.errors import GuestError
from rusb.server.guests import _domain, _hotplug, libvirt
from rusb.server.guests._domain import Domain
from rusb.server.guests._listening import is_stale
from rusb.server.guests.base import AttachedDevice
from rusb.server.guests.libvirt import LibvirtGuest
from rusb.usb.types import Speed
from tests.support.fake_libvirt import Failed, FakeLibvirt
from tests.support.fake_qemu import GuestEnd, Redirected
from tests.support.guest_programs import Device, until

pytestmark = pytest.mark.timeout(60)

UHCI = "<controller type='usb' index='0' model='piix3-uhci'/>"
ICH9 = (
    "<controller type='usb' index='0' model='ich9-ehci1'/>"
    "<controller type='usb' index='0' model='ich9-uhci1'><master startport='0'/>"
    "</controller>"
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibvirt]:
    monkeypatch.setattr(libvirt, "SETTLE", 0.05)
    monkeypatch.setattr(libvirt, "END_POLL", 0.02)
    monkeypatch.setattr(_hotplug, "RETURN_POLL", 0.02)
    with FakeLibvirt(tmp_path) as found:
        yield found


def guest_of(fake: FakeLibvirt, address: str = "lab") -> LibvirtGuest:
    return LibvirtGuest(address, program=fake.program)


def fail(text: str) -> Callable[[], str]:
    def answer() -> str:
        raise Failed(text)

    return answer


def exists(path: Path) -> bool:
    return path.exists()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Watched:
    """What a guest tells of its end."""

    def __init__(self, guest: LibvirtGuest) -> None:
        self.lost: list[tuple[AttachedDevice, str]] = []
        self.ended: list[str] = []
        self.returned: list[bool] = []
        guest.watch_lost(lambda device, why: self.lost.append((device, why)))
        guest.watch_guest(self.ended.append, lambda: self.returned.append(True))


# ------------------------------------------------------------- address ----


@pytest.mark.parametrize("address", [None, "", "qemu:///session", "qemu:///system,"])
def test_a_wrong_address_is_refused(address: str | None) -> None:
    with pytest.raises(GuestError, match="libvirt needs DOMAIN or URI,DOMAIN"):
        LibvirtGuest(address)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("qemu+ssh://anna@far/system", "not on anna@far: its QEMU connects to"),
        ("qemu://far/system", "not on far.*Run rusb serve on far"),
        ("qemu+tcp://[::1]:16509/system", "must be on this machine"),
        ("qemu+ssh:///system", "choose qemu:///system or qemu:///session"),
        ("test:/default", "choose qemu:///system or qemu:///session"),
        ("xen:///system", "choose qemu:///system"),
        ("qemu:///embed?root=/x", "choose qemu:///system"),
        ("qemu://[/system", "is no URI"),
    ],
)
async def test_a_uri_of_another_machine_or_kind_is_refused(
    fake: FakeLibvirt, uri: str, why: str
) -> None:
    with pytest.raises(GuestError, match=why):
        await guest_of(fake, f"{uri},lab").start()
    assert fake.asked == []  # virsh would ask for passwords, and wait for networks
    fake.uri = uri  # the default, which somebody has set
    with pytest.raises(GuestError, match=why):
        await guest_of(fake).start()


@pytest.mark.parametrize(
    "uri", ["qemu:///system", "qemu+unix:///session?socket=/run/x"]
)
async def test_a_uri_of_this_machine(fake: FakeLibvirt, uri: str) -> None:
    fake.uri = uri
    guest = guest_of(fake, f"{uri},lab")
    await guest.start()
    await guest.aclose()


async def test_root_has_no_session(
    fake: FakeLibvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(GuestError, match="root has no session of libvirt: run rusb as"):
        await guest_of(fake, "qemu:///session,lab").start()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    guest = guest_of(fake, "qemu:///session,lab")
    await guest.start()
    await guest.aclose()


# --------------------------------------------------------------- start ----


async def test_without_virsh(tmp_path: Path) -> None:
    guest = LibvirtGuest("lab", program=str(tmp_path / "virsh"))
    with pytest.raises(GuestError, match="not installed; on Debian: apt-get install"):
        await guest.start()


async def test_a_virsh_that_cannot_run(tmp_path: Path) -> None:
    program = tmp_path / "virsh"
    program.write_bytes(b"\0")
    program.chmod(0o755)
    with pytest.raises(GuestError, match="virsh cannot be run"):
        await LibvirtGuest("lab", program=str(program)).start()


async def test_a_virsh_that_hangs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "virsh"
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(_domain, "TIMEOUT", 1.0)
    with pytest.raises(GuestError, match="virsh uri did not end within 1 s"):
        await LibvirtGuest("lab", program=str(program)).start()
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "failed to connect to the hypervisor\nerror: Failed to connect socket to"
            " '/run/libvirt/libvirt-sock': No such file",
            "does not run at its default URI: start it",
        ),
        (
            "authentication unavailable: no polkit agent available",
            "add the user to the group libvirt",
        ),
        ("surprise\x1b[31m", r"virsh uri failed: surprise\[31m"),
    ],
)
async def test_a_libvirt_that_refuses_us(
    fake: FakeLibvirt, text: str, why: str
) -> None:
    fake.answers["uri"] = fail(text)
    with pytest.raises(GuestError, match=why):
        await guest_of(fake).start()


async def test_an_unknown_domain_is_answered_with_those_that_there_are(
    fake: FakeLibvirt,
) -> None:
    with pytest.raises(GuestError, match="no domain 'lib' at .*; it has lab, other"):
        await guest_of(fake, "lib").start()
    fake.answers["list"] = lambda: "\n"
    with pytest.raises(GuestError, match="it has none"):
        await guest_of(fake, "lib").start()


async def test_a_domain_that_is_off(fake: FakeLibvirt) -> None:
    fake.run = ""
    with pytest.raises(
        GuestError,
        match="'lab' is off: start it with 'virsh -c qemu:///system start lab'",
    ):
        await guest_of(fake).start()


@pytest.mark.parametrize("model", ["", "<controller type='usb' model='none'/>"])
async def test_a_domain_without_usb_controller(fake: FakeLibvirt, model: str) -> None:
    fake.controllers = model
    with pytest.raises(
        GuestError, match="no USB controller: give it <controller.*edit lab"
    ):
        await guest_of(fake).start()


async def test_what_is_no_xml(fake: FakeLibvirt) -> None:
    fake.answers["dumpxml"] = lambda: "<domain"
    with pytest.raises(GuestError, match="printed no XML"):
        await guest_of(fake).start()


async def test_a_domain_named_by_its_number_is_found_under_its_name(
    fake: FakeLibvirt,
) -> None:
    guest = guest_of(fake, "1")
    await guest.start()
    fake.run = "2"
    await guest.attach(Device())
    assert ["dumpxml", "--domain=lab"] in fake.asked
    await guest.aclose()


# -------------------------------------------------------------- attach ----


async def test_what_is_attached_and_where(fake: FakeLibvirt) -> None:
    guest, device = guest_of(fake), Device()
    await guest.start()
    assert await guest.attach(device) == "port 1 of USB controller 0"
    ((alias, found),) = fake.devices.items()
    assert alias.startswith("ua-rusb-")
    source, address = found.find("source"), found.find("address")
    assert source is not None
    assert address is not None
    assert address.get("bus") == "0"
    path = Path(source.get("path", ""))
    assert [mode_of(path), mode_of(path.parent)] == [0o600, 0o700]
    (words,) = [words for words in fake.asked if words[0] == "attach-device"]
    assert "--live" in words  # and nothing that changes its settings
    assert "--config" not in words
    assert "--persistent" not in words
    await guest.aclose()
    assert not path.parent.exists()


async def test_each_speed_goes_to_a_controller_that_takes_it(
    fake: FakeLibvirt,
) -> None:
    fake.controllers = UHCI + "<controller type='usb' index='1' model='nec-xhci'/>"
    guest, slow, fast = guest_of(fake), Device(1), Device(2)
    slow.info = dataclasses.replace(slow.info, speed=Speed.FULL)
    await guest.start()
    assert (await guest.attach(fast)).endswith("controller 1")
    await guest.aclose()
    fake.controllers = UHCI
    guest = guest_of(fake)
    await guest.start()
    assert (await guest.attach(slow)).endswith("controller 0")
    with pytest.raises(
        GuestError,
        match=r"supports a HighSpeed device; it has controller 0 \(UHCI\): give it",
    ):
        await guest.attach(fast)
    await guest.aclose()


def test_redirected_devices_of_others() -> None:
    texts = (
        "<source mode='connect' host='127.0.0.1' service='http'/><alias name='a'/>",
        "<source mode='bind' path='/run/x'/><alias name='b'/>",
        "<source mode='connect' host='far' service='4000'/><alias name='c'/>",
        "<alias name='d'/><address type='usb' bus='0' port='3.1'/>",
        "<source mode='connect' path='/run/y'/>",
    )
    devices = "".join(f"<redirdev>{text}</redirdev>" for text in texts)
    found = Domain.parse(f"<domain><devices>{devices}</devices></domain>").redirections
    assert {name: (r.place, r.port) for name, r in found.items()} == {
        **dict.fromkeys("abc", (None, "")),
        "d": (None, "3.1"),
    }


def test_companions_share_the_bus_of_their_ehci() -> None:
    text = f"<domain><devices>{ICH9}</devices></domain>"
    (bus,) = Domain.parse(text).buses
    assert (bus.name, bus.kind) == ("controller 0", "ehci")
    assert bus.takes(Speed.LOW)
    assert bus.takes(Speed.HIGH)
    assert not bus.takes(Speed.SUPER)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("internal error: No free USB ports", "unplug another device, or give its"),
        (
            "unsupported configuration: USB redirection is not supported by this"
            " version of QEMU",
            "has no usb-redir: install it",
        ),
        ("internal error: x", "virsh attach-device failed: internal error: x"),
    ],
)
async def test_a_device_that_libvirt_refuses(
    fake: FakeLibvirt, text: str, why: str
) -> None:
    fake.answers["attach-device"] = fail(text)
    guest = guest_of(fake)
    await guest.start()
    with pytest.raises(GuestError, match=why):
        await guest.attach(Device())
    del fake.answers["attach-device"]
    await guest.attach(Device(2))
    await guest.aclose()
    assert fake.devices == {}


async def test_a_device_that_a_filter_of_the_domain_refuses(fake: FakeLibvirt) -> None:
    fake.rejects = True
    guest = guest_of(fake)
    await guest.start()
    with pytest.raises(GuestError, match="refused 1209:0001.*<redirfilter>"):
        await guest.attach(Device())
    assert fake.devices == {}
    await guest.aclose()


async def test_a_qemu_that_does_not_connect(
    fake: FakeLibvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "CONNECT_TIMEOUT", 0.1)
    fake.answers["attach-device"] = lambda: ""
    guest = guest_of(fake)
    await guest.start()
    with pytest.raises(GuestError, match="has not connected"):
        await guest.attach(Device())
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(f"{guest._folder}/redir")
        late.settimeout(10)
        assert await asyncio.to_thread(_read, late) == b""
    await guest.aclose()


async def test_a_device_that_somebody_detaches_meanwhile(fake: FakeLibvirt) -> None:
    guest = guest_of(fake)
    await guest.start()

    def attach_and_forget() -> str:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{guest._folder}/redir")
        fake.ends["gone"] = fake.plug(sock)
        return ""

    fake.answers["attach-device"] = attach_and_forget
    with pytest.raises(GuestError, match="somebody has detached it"):
        await guest.attach(Device())
    await guest.aclose()


# ------------------------------------------------- QEMU that is confined ----


def confined(fake: FakeLibvirt, user: str) -> None:
    fake.label = (
        f"<seclabel type='dynamic' model='dac'><label>{user}</label></seclabel>"
    )


async def test_a_confined_qemu_connects_by_tcp(fake: FakeLibvirt) -> None:
    confined(fake, f"+{os.geteuid()}:+0")
    guest = guest_of(fake)
    await guest.start()
    await guest.attach(Device())
    (found,) = fake.devices.values()
    assert found.get("type") == "tcp"
    source = found.find("source")
    assert source is not None
    assert source.get("host") == "127.0.0.1"
    port = int(source.get("service", ""))
    with socket.create_connection(("127.0.0.1", port), 5) as stranger:
        stranger.settimeout(5)
        assert await asyncio.to_thread(_read, stranger) == b""
    await guest.aclose()


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(100)
    except ConnectionResetError:
        return b""


async def test_another_user_does_not_get_the_device(
    fake: FakeLibvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU's user is known; here it is not the one that connects."""
    monkeypatch.setattr(libvirt, "CONNECT_TIMEOUT", 0.2)
    confined(fake, f"+{os.geteuid() + 1}:+0")
    guest = guest_of(fake)
    await guest.start()
    with pytest.raises(GuestError, match="has not connected"):
        await guest.attach(Device())
    await guest.aclose()


@pytest.mark.parametrize(
    ("labels", "user"),
    [
        ("", None),
        ("<seclabel type='none' model='none'/>", None),
        (
            "<seclabel model='selinux' type='dynamic'><label>x</label></seclabel>"
            "<seclabel model='dac' type='dynamic'><label>+64055:+1</label></seclabel>",
            64055,
        ),
        ("<seclabel model='dac'><label>root:root</label></seclabel>", 0),
        ("<seclabel model='dac'><label>no such:0</label></seclabel>", os.geteuid()),
        ("<seclabel model='apparmor'><label>y</label></seclabel>", os.geteuid()),
    ],
)
def test_whose_qemu_is(labels: str, user: int | None) -> None:
    assert Domain.parse(f"<domain>{labels}</domain>").user == user


# ----------------------------------------------------------- its endings ----


async def test_detached_by_hand_is_a_loss(
    fake: FakeLibvirt, caplog: pytest.LogCaptureFixture
) -> None:
    guest, device = guest_of(fake), Device()
    watched = Watched(guest)
    await guest.start()
    await guest.attach(device)
    fake.detach(*fake.devices)
    await until(lambda: watched.lost)
    assert watched.lost == [(device, "detached from the domain")]
    assert watched.ended == []
    await guest.aclose()
    assert "left behind" not in caplog.text


async def test_a_qemu_that_hangs_up_is_a_loss_in_the_end(
    fake: FakeLibvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "END_LOOKS", 2)
    guest, device = guest_of(fake), Device()
    watched = Watched(guest)
    await guest.start()
    await guest.attach(device)
    (end,) = fake.ends.values()
    end.close()
    await until(lambda: watched.lost)
    assert watched.lost == [(device, "QEMU closed its end")]
    await until(lambda: not fake.devices)
    await guest.aclose()


@pytest.mark.parametrize("is_fast", [True, False], ids=["at once", "later"])
async def test_a_domain_that_is_started_again(
    fake: FakeLibvirt, *, is_fast: bool
) -> None:
    guest, devices = guest_of(fake), [Device(1), Device(2)]
    watched = Watched(guest)
    await guest.start()
    for device in devices:
        await guest.attach(device)
    fake.shut_down()
    if is_fast:
        fake.run = "2"
    await until(lambda: len(watched.lost) == 2)
    assert watched.ended == ["the domain 'lab' has ended"]
    assert {device for device, _ in watched.lost} == set(devices)
    if not is_fast:
        with pytest.raises(GuestError, match="'lab' is off"):
            await guest.attach(devices[0])
        assert watched.returned == []
        fake.run = "2"
    await until(lambda: watched.returned)
    await guest.attach(devices[0])
    assert (watched.ended, watched.returned) == ([watched.ended[0]], [True])
    await guest.aclose()


async def test_who_looks_late_does_not_end_a_domain_that_is_back(
    fake: FakeLibvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both devices' ends are looked into; the slower look is over after the return."""
    guest, devices = guest_of(fake), [Device(1), Device(2)]
    watched = Watched(guest)
    await guest.start()
    for device in devices:
        await guest.attach(device)
    look, begun, go_on = guest._look, asyncio.Event(), asyncio.Event()

    async def look_slowly() -> Domain:
        is_first = not begun.is_set()
        begun.set()
        found = await look()
        if is_first:
            await go_on.wait()
        return found

    monkeypatch.setattr(guest, "_look", look_slowly)
    fake.shut_down()
    fake.run = "2"
    await until(lambda: watched.returned)
    await guest.attach(devices[0])
    go_on.set()
    await asyncio.sleep(0.1)
    assert len(watched.ended) == len(watched.returned) == 1
    assert len(watched.lost) == 2
    await guest.aclose()


async def test_an_idle_domain_that_ends_is_noticed_by_the_next_device(
    fake: FakeLibvirt,
) -> None:
    guest = guest_of(fake)
    watched = Watched(guest)
    await guest.start()
    fake.answers["dumpxml"] = fail("failed to get domain 'lab'")  # it was transient
    with pytest.raises(GuestError, match="'lab' is off"):
        await guest.attach(Device())
    assert len(watched.ended) == 1
    del fake.answers["dumpxml"]
    await until(lambda: watched.returned)
    await guest.aclose()


async def test_a_libvirt_that_is_away_while_a_domain_ends(fake: FakeLibvirt) -> None:
    guest = guest_of(fake)
    watched = Watched(guest)
    await guest.start()
    await guest.attach(Device())
    fake.answers["dumpxml"] = fail("Failed to connect socket to ")
    fake.shut_down()
    count = len(fake.asked)
    await until(lambda: len(fake.asked) > count + 2)
    assert watched.lost == []
    del fake.answers["dumpxml"]
    await until(lambda: watched.ended)
    await guest.aclose()


# --------------------------------------------------------- what was left ----


@pytest.mark.parametrize("label", [False, True], ids=["path", "TCP"])
async def test_only_what_nobody_holds_is_removed(
    fake: FakeLibvirt, *, label: bool
) -> None:
    if label:
        confined(fake, f"+{os.geteuid()}:+0")
    first = guest_of(fake)
    await first.start()
    await first.attach(Device())
    second = guest_of(fake)
    await second.start()
    assert len(fake.devices) == 1
    for server in first._servers.values():
        server.close()  # as if it were killed
    fake.answers["detach-device-alias"] = fail("busy")
    await second.start()
    assert len(fake.devices) == 1  # which is no reason not to begin
    del fake.answers["detach-device-alias"]
    await second.start()
    assert fake.devices == {}
    assert first._folder is None or not exists(first._folder)
    await second.aclose()
    await first.aclose()


async def test_what_comes_back_with_a_saved_state_is_removed(fake: FakeLibvirt) -> None:
    """The domain's XML at the time of ``managedsave`` had our device."""
    guest = guest_of(fake)
    watched = Watched(guest)
    await guest.start()
    await guest.attach(Device())
    ((alias, device),) = fake.devices.items()
    fake.shut_down()
    await until(lambda: watched.ended and not guest._plugs)
    fake.devices[alias] = device
    fake.ends[alias] = _Gone()
    fake.run = "2"
    await until(lambda: watched.returned)
    assert fake.devices == {}
    await guest.aclose()


class _Gone:
    is_attached = False

    def close(self) -> None:
        pass


async def test_what_belongs_to_somebody_else_is_not_stale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert await is_stale(tmp_path / "none")

    async def refuse(path: str) -> None:
        raise PermissionError

    monkeypatch.setattr(asyncio, "open_unix_connection", refuse)
    assert not await is_stale(tmp_path / "theirs")


async def test_devices_of_others_stay(fake: FakeLibvirt) -> None:
    guest = guest_of(fake)
    await guest.start()
    await guest.attach(Device())
    fake.devices["ua-mine"] = ElementTree.fromstring(
        "<redirdev><source mode='connect' path='/none'/><alias name='ua-mine'/>"
        "</redirdev>"
    )
    other = guest_of(fake)
    await other.start()
    await other.aclose()
    await guest.aclose()
    assert list(fake.devices) == ["ua-mine"]


# ------------------------------------------------------------ virsh itself ----


def script(folder: Path, text: str) -> str:
    program = folder / "virsh"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return str(program)


async def test_virsh_has_no_terminal_and_speaks_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its password prompts would go to the terminal; errors are read by us."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    text = "read -r pid name state parent group session rest </proc/$$/stat\n"
    text += 'echo "$LC_ALL $pid $session" >&2; exit 1'
    with pytest.raises(GuestError) as caught:
        await LibvirtGuest("lab", program=script(tmp_path, text)).start()
    _, _, said = str(caught.value).partition("failed: ")
    language, pid, session = said.split()
    assert (language, pid) == ("C", session)


async def test_a_virsh_that_is_not_waited_for_any_more_is_killed(
    tmp_path: Path,
) -> None:
    text = f"echo $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid\n"
    program = script(tmp_path, text + "exec sleep 600")
    starting = asyncio.create_task(LibvirtGuest("lab", program=program).start())
    await until((tmp_path / "pid").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_only_the_first_that_connects_gets_the_device(fake: FakeLibvirt) -> None:
    guest = guest_of(fake)
    await guest.start()
    second: list[bytes] = []

    def plug_and_look(sock: socket.socket) -> GuestEnd:
        end = Redirected(sock, rejects=False)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(sock.getpeername())
            other.settimeout(10)
            second.append(_read(other))
        return end

    fake.plug = plug_and_look
    await guest.attach(Device())
    assert second == [b""]
    await guest.aclose()
