"""Plugins of other packages, really installed, and classes in files of one's own."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rusb
import rusb.client.backends
import rusb.server.guests
import rusb.wire
from rusb import plugins
from rusb.aio.protocols import load_protocol
from rusb.client.config import ClientConfig
from rusb.client.devices import load_backend
from rusb.client.session import connect
from rusb.errors import BackendError, PluginError
from rusb.filters.model import Filter
from rusb.server.config import ServerConfig
from rusb.server.server import Server, load_guest
from rusb.server.vbox.settings import Machine
from tests.support.program import run_rusb

ROOT = Path(__file__).resolve().parent.parent

THEIR_MODULE = '''
from rusb.client.backends.emulated import EmulatedBackend, EmulatedDevice, describe
from rusb.server.guests.loopback import LoopbackGuest
from rusb.usb.descriptors import InterfaceDescriptor
from rusb.usb.types import Speed
from rusb.wire.vrdpusb import PLUGIN as WIRE

class Thermometer(EmulatedDevice):
    def __init__(self, name):
        descriptors = describe(Speed.HIGH, 0x10, InterfaceDescriptor(0, 0, 0xFF, 0, 0))
        super().__init__(descriptors, ("Acme", name, "1"))

class Thermometers(EmulatedBackend):
    """One thermometer, called as the address says."""
    def __init__(self, address=None):
        super().__init__(devices=[Thermometer(address or "Thermometer")])

class Shelf(LoopbackGuest):
    """A guest."""
'''

THEIR_POINTS = """
[rusb.backends]
thermometer = acme_usb:Thermometers
libusb = acme_usb:Thermometers
needy = acme_needy:Backend [serial]
broken = acme_broken:Backend
nameless = acme_usb:NoSuchName
odd = !!![

[rusb.guests]
shelf = acme_usb:Shelf

[rusb.wires]
theirs = acme_usb:WIRE
"""

THEIRS = {
    "acme_usb.py": THEIR_MODULE,
    "acme_needy.py": "import rusb_no_such_package\n",
    "acme_broken.py": "\n1 / 0\n",
}

REQUIRES = (
    "Provides-Extra: serial\n"
    'Requires-Dist: rusb-no-such-package>=1; extra == "serial"\n'
    'Requires-Dist: rusb-neither; python_version < "3" and extra == "serial"\n'
)

NEEDS = f"{shlex.quote(sys.executable)} -m pip install 'acme-usb[serial]'"


def make_wheel(
    folder: Path, name: str, files: dict[str, str], points: str, requires: str = ""
) -> Path:
    """Build a package by hand, so that it takes neither network nor build tools."""
    stem = f"{name.replace('-', '_')}-1.5"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n{requires}"
    kind = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any"
    )
    members = {
        **files,
        f"{stem}.dist-info/METADATA": about,
        f"{stem}.dist-info/WHEEL": kind,
        f"{stem}.dist-info/entry_points.txt": points,
    }
    record = "".join(f"{member},,\n" for member in members)
    members[f"{stem}.dist-info/RECORD"] = record + f"{stem}.dist-info/RECORD,,\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in members.items():
            wheel.writestr(member, text)
    return path


def install(wheel: Path, site: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command = [*pip, "--disable-pip-version-check", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed somebody's package."""
    folder = tmp_path_factory.mktemp("theirs")
    wheel = make_wheel(folder, "acme-usb", THEIRS, THEIR_POINTS, REQUIRES)
    install(wheel, folder / "site")
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, for this process."""
    monkeypatch.syspath_prepend(site)
    return site


def rusb_command(*words: str, path: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(path)}
    return run_rusb(*words, cwd=ROOT, env=env, capture_output=True)


def files(folder: str) -> list[str]:
    """What has a file of its own there."""
    found = [path.stem for path in (ROOT / folder).glob("[!_]*.py")]
    return [name for name in found if name != "base"]


BROUGHT = ["broken", "nameless", "needy", "odd", "thermometer"]
BACKENDS = sorted([*files("client/backends"), *BROUGHT])
GUESTS = sorted([*files("server/guests"), "shelf"])


# ---------------------------------------------------------- as one sees it ----


def test_what_a_package_brings_is_listed(site: Path) -> None:
    done = rusb_command("plugins", path=site)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "wires:    rdpeusb theirs usbip usbredir vrdpusb"
    assert lines[1] == f"backends: {' '.join(BACKENDS)}"
    assert lines[2] == f"guests:   {' '.join(GUESTS)}"
    assert "backends: thermometer is from acme-usb 1.5" in lines
    assert f"backends: needy needs more packages: {NEEDS}" in lines


def test_scripts_get_the_same_as_json(site: Path) -> None:
    found = json.loads(rusb_command("plugins", "--json", path=site).stdout)
    assert found["guests"] == GUESTS
    assert {
        "family": "backends",
        "name": "needy",
        "package": "acme-usb",
        "version": "1.5",
        "install": NEEDS,
    } in found["details"]
    ours = [d for d in found["details"] if d["name"] == "libusb"]
    assert [d["package"] for d in ours] == ["rusb"]


def test_a_backend_of_another_package_offers_its_devices(site: Path) -> None:
    words = ("devices", "--json", "--backend", "thermometer:Outdoors")
    (device,) = json.loads(rusb_command(*words, path=site).stdout)
    assert (device["manufacturer"], device["product"]) == ("Acme", "Outdoors")


def test_what_a_plugin_needs_is_said_when_it_is_chosen(site: Path) -> None:
    done = rusb_command("devices", "--backend", "needy", path=site)
    assert done.returncode == 64
    assert done.stderr == (
        "rusb devices: backends: 'needy' needs packages that are not installed"
        f" (No module named 'rusb_no_such_package'); install them with: {NEEDS}\n"
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("broken", "ZeroDivisionError: division by zero (acme_broken.py, line 2)"),
        ("nameless", "AttributeError"),
        ("odd", "AttributeError"),
    ],
)
def test_a_broken_plugin_is_named_with_its_package(
    site: Path, name: str, why: str
) -> None:
    done = rusb_command("devices", "--backend", name, path=site)
    assert done.returncode == 64
    text = f"backends: {name!r} of acme-usb 1.5 cannot be loaded: "
    assert f"rusb devices: {text}" in done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_with_unreadable_metadata_hides_no_other(
    site: Path, tmp_path: Path
) -> None:
    info = tmp_path / "ruin-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[rusb.guests]\nruin\n\xff\xfe")
    path = Path(f"{tmp_path}{os.pathsep}{site}")
    done = rusb_command("plugins", path=path)
    assert done.returncode == 0
    assert f"guests:   {' '.join(GUESTS)}" in done.stdout


# ------------------------------------------------------------ from programs ----


async def test_a_device_travels_through_plugins_of_another_package(
    installed: Path, tmp_path: Path
) -> None:
    machine = Machine(
        name="Lab", filters=(Filter(name="all"),), usb_controllers=("XHCI",)
    )
    config = ServerConfig(
        machine,
        ports=[0],
        address="127.0.0.1",
        log=str(tmp_path / "VBox.log"),
        state=tmp_path,
        guest="shelf",
    )
    async with asyncio.timeout(20), Server(config) as server:
        client = ClientConfig(
            "127.0.0.1",
            server.port,
            known_servers=tmp_path / "known",
            backends=("thermometer",),
        )
        async with connect(client):
            (device,) = await server.guest.wait_for(1)  # type: ignore[attr-defined]
            assert device.strings["product"] == "Thermometer"


def test_a_wire_and_a_guest_are_loaded(installed: Path) -> None:
    assert load_protocol("theirs") is load_protocol("vrdpusb")
    assert type(load_guest("shelf")).__name__ == "Shelf"


def test_a_name_of_ours_stays_ours(installed: Path) -> None:
    assert plugins.names(rusb.client.backends).count("libusb") == 1
    assert type(load_backend("libusb")).__module__ == "rusb.client.backends.libusb"


def test_a_name_that_two_packages_have_is_refused(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[rusb.guests]\nshelf = acme_usb:Shelf\n"
    install(make_wheel(tmp_path, "other-usb", {}, points), tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = plugins.find(rusb.server.guests)
    packages = [p.package for p in found if p.name == "shelf"]
    assert packages == ["acme-usb", "other-usb"]
    with pytest.raises(PluginError, match="all have 'shelf'; uninstall all but one"):
        load_guest("shelf")


def test_our_own_plugin_may_need_the_extra_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a guest would that only some use; ``find`` and ``load`` agree."""
    folder = tmp_path / "guests"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "libvirt.py").write_text("import rusb_no_such_package\n")
    (folder / "plain.py").write_text("import rusb_neither\n")
    info = tmp_path / "rusb-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: rusb\nVersion: 0.1.0\nProvides-Extra: libvirt\n"
        'Requires-Dist: rusb-no-such-package; extra == "libvirt"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    import guests  # type: ignore[import-not-found]

    command = f"{shlex.quote(sys.executable)} -m pip install 'rusb[libvirt]'"
    ours = {p.name: p for p in plugins.find(guests)}
    assert ours["libvirt"].install == command
    assert ours["plain"].install is None
    with pytest.raises(PluginError) as caught:
        plugins.load(guests, "libvirt")
    assert str(caught.value).endswith(f"install them with: {command}")
    with pytest.raises(ModuleNotFoundError):  # a bug of ours, not an extra
        plugins.load(guests, "plain")
    monkeypatch.delitem(sys.modules, "guests")


def test_commands_that_need_no_plugin_look_for_none() -> None:
    """``importlib.metadata`` takes longer than some commands."""
    code = (
        "import sys; from rusb.cli import main; main(['list', 'vms']);"
        "import rusb.plugins, rusb.client.devices;"
        "rusb.client.devices.load_backend('emulated');"
        "print('importlib.metadata' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# ------------------------------------------------------- a file of one's own ----

DEVICE = THEIR_MODULE.partition("class Thermometers")[0].replace(
    "self, name)", 'self, name="Mine")'
)


def test_a_device_class_in_a_file_is_offered(tmp_path: Path) -> None:
    file = tmp_path / "thermometer.py"
    file.write_text(DEVICE)
    words = ("devices", "--json", "--backend", f"{file}:Thermometer")
    (device,) = json.loads(rusb_command(*words, path=tmp_path).stdout)
    assert device["product"] == "Mine"


def test_a_backend_class_in_a_file_gets_its_address(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(THEIR_MODULE)
    words = ("devices", "--json", "--backend", f"{file}:Thermometers:Inside")
    (device,) = json.loads(rusb_command(*words, path=tmp_path).stdout)
    assert device["product"] == "Inside"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("x.py", "", "no class of .*x.py was named; write .*x.py:CLASS"),
        ("x.py:Gone", DEVICE, "x.py does not define 'Gone'"),
        ("x.py:Speed", DEVICE, "Speed is neither a DeviceBackend nor an Emulated"),
        ("x.py:Thermometer:1", DEVICE, "a device and accepts no address"),
        ("x.py:T", "def", r"x.py cannot be loaded: SyntaxError: .*line 1\)"),
        ("x.py:T", "\n\nnope", r"NameError: name 'nope' is not defined \(x.py, line 3"),
        ("gone.py:T", "", "gone.py cannot be read: No such file or directory"),
        (
            "x.py:Thermometer",
            DEVICE.replace('"Acme"', "1 / 0"),
            r"x.py: Thermometer: ZeroDivisionError: division by zero \(x.py, line",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, name: str, text: str, why: str
) -> None:
    (tmp_path / "x.py").write_text(text)
    with pytest.raises(PluginError, match=why):
        load_backend(f"{tmp_path}/{name}")


def test_a_flash_drive_with_an_image_called_py_is_no_file_of_code(
    tmp_path: Path,
) -> None:
    with pytest.raises(BackendError, match="gone.py"):
        load_backend(f"emulated:flash-drive={tmp_path}/gone.py")


def test_a_program_that_a_plugin_of_ours_needs_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def install() -> str | None:
        found = plugins.find(rusb.server.guests)
        (libvirt,) = (plugin for plugin in found if plugin.name == "libvirt")
        return libvirt.install

    monkeypatch.setenv("PATH", str(tmp_path))
    command = "apt-get install --no-install-recommends libvirt-clients"
    assert install() == command
    (tmp_path / "virsh").write_text("#!/bin/sh\n")
    (tmp_path / "virsh").chmod(0o755)
    assert install() is None
