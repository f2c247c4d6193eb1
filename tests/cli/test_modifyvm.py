"""``modifyvm``, rule by rule (filters.md 3.2, vrdp-server.md 5.4)."""

import io
import shlex

import pytest

from rusb.cli.vbox import _refused
from rusb.server.auth.hashes import verify
from rusb.server.vbox.registry import Registry
from rusb.server.vbox.teleporter import Teleporter
from tests.support.vbox import Vbox

ON_OFF = {
    "acpi": '<ACPI enabled="{}"/>',
    "vrde": '<RemoteDisplay enabled="{}"',
}


# ------------------------------------------------------------------- rules ----


def test_all_of_it_or_nothing(vbox: Vbox) -> None:
    line = "modifyvm Lab --memory 512 --cpus 2 --vrdeport 70000"
    vbox.fails(line, "'70000' is not a port", 1)
    vbox.fails(
        "modifyvm Lab --memory 512 --acpi maybe", "--acpi; choose one of on, off"
    )
    line = "modifyvm Lab --memory 512 --draganddrop on"
    vbox.fails(line, "--draganddrop: drag and drop is not supported", 1)
    vbox.fails("modifyvm Lab --memory 512 --memroy 1", "did you mean --memory?")


def test_options_apply_in_order(vbox: Vbox) -> None:
    vbox("modifyvm Lab --memory 256 --memory 512 --usbehci on --usbehci off")
    assert "memory=512" in vbox.info()
    assert 'ehci="off"' in vbox.info()
    vbox("modifyvm Lab --nic2 nat --macaddress2 0800270000aa")
    vbox("modifyvm Lab --macaddress3 0800270000bb --nictype3 virtio")
    assert 'nic3="none"' in vbox.info()
    vbox("modifyvm Lab --nic3 nat")
    assert 'macaddress3="0800270000BB"' in vbox.info()


def test_all_that_is_refused_is_named_at_once(vbox: Vbox) -> None:
    line = "modifyvm Lab --draganddrop on --lpt1 0x378 --nic1 bridged --memory 512"
    vbox.fails(f"{line} --lptmode1 x --cpuhotplug off --chipset ich9", "", 1)
    assert vbox.err == (
        "rusb: error: --draganddrop: drag and drop is not supported;"
        " --lpt1, --lptmode1: machines have no parallel ports; --chipset: machines"
        " always have the i440FX and PIIX3 chipset;"
        " --nic1 bridged: rusb has no such network; choose one of none, null, nat\n"
    )
    vbox.fails("createvm --name X --default y --cipher z", "--default: storage", 1)
    assert "; --cipher: rusb does not encrypt settings" in vbox.err
    vbox.fails("modifyvm Lab --lpt1 on --memory x", "it must be a number", 2)


def test_what_changes_nothing_is_kept(vbox: Vbox) -> None:
    """Lines of Vagrantfiles, of docker-machine and of how-tos."""
    vbox(
        "modifyvm Lab --firmware bios --bioslogofadein off --bioslogofadeout off"
        " --bioslogodisplaytime 0 --biosbootmenu disabled --ostype Linux26_64 --cpus 1"
        " --memory 1024 --acpi on --ioapic on --rtcuseutc on --natdnshostresolver1 off"
        " --natdnsproxy1 on --cpuhotplug off --pae on --hpet on --hwvirtex on"
        " --nestedpaging on --largepages on --vtxvpid on --accelerate3d off"
        " --boot1 dvd"
    )
    vbox("modifyvm Lab --vram 16 --graphicscontroller VMSVGA --nested-hw-virt on")
    vbox("modifyvm Lab --mouse usbtablet --keyboard usb --paravirtprovider kvm")
    vbox("modifyvm Lab --hostonlyadapter1 vboxnet0 --nicpromisc1 deny")
    file = vbox.file()
    for line in (
        '<Display VRAMSize="16" controller="VMSVGA"/>',
        '<HID Pointing="USBTablet" Keyboard="USBKeyboard"/>',
        '<Paravirt provider="KVM"/>',
        '<Logo fadeIn="false" fadeOut="false"/>',
        '<BootMenu mode="Disabled"/>',
        '<HardwareVirtExLargePages enabled="true"/>',
        '<NestedHWVirt enabled="true"/>',
        '<HPET enabled="true"/>',
        '<DNS use-proxy="true"/>',
        '<HostOnlyInterface name="vboxnet0"/>',
    ):
        assert line in file
    vbox("modifyvm Lab --natdnshostresolver1 off --pae on --hostonlyadapter1 vboxnet0")
    assert vbox.file() == file  # so it is already
    for option, word in (
        *(("vram", "257"), ("vram", "-1"), ("mouse", "trackball"), ("pae", "yes")),
        ("graphicscontroller", "s3"),
    ):
        vbox.fails(f"modifyvm Lab --{option} {word}", f"invalid value '{word}' for --")


def test_the_name_of_a_network_that_is_used(vbox: Vbox) -> None:
    vbox.put("<NAT/>", '<BridgedInterface name="eth0"/>')
    for name in ("Eth0", "eth1"):
        vbox(f"modifyvm Lab --bridgeadapter1 {name}")
        assert f'<BridgedInterface name="{name}"/>' in vbox.file()
    assert "DisabledModes" not in vbox.file()


@pytest.mark.parametrize("option", sorted(ON_OFF))
@pytest.mark.parametrize(
    ("word", "stored"), [("on", "true"), ("OFF", "false"), ("On", "true")]
)
def test_on_and_off_in_any_case(
    vbox: Vbox, option: str, word: str, stored: str
) -> None:
    vbox(f"modifyvm Lab --{option} {word}")
    assert ON_OFF[option].format(stored) in vbox.file()


@pytest.mark.parametrize("word", ["yes", "1", "true", "", "enable"])
def test_no_other_word_is_on(vbox: Vbox, word: str) -> None:
    vbox.fails(f"modifyvm Lab --vrde '{word}'", "for --vrde; choose one of on, off")


def test_a_running_machine_is_refused(vbox: Vbox) -> None:
    with vbox.running():
        line = "modifyvm Lab --memory 512"
        vbox.fails(line, "the machine 'Lab' is running; power it off first", 1)


@pytest.mark.parametrize(
    ("line", "sentence", "status"),
    [
        ("Nowhere --memory 512", "registered machine named 'Nowhere'", 1),
        ("Lab", "nothing to change", 2),
        ("Lab extra --memory 512", "unexpected 'extra'", 2),
        ("--memory 512", "too few arguments", 2),
        ("Lab --memory", "--memory needs a value", 2),
        ("Lab --usbrename OHCI", "--usbrename needs two values", 2),
        ("Lab --memory 0", "invalid value 0", 2),
        ("Lab --memory 4194305", "at most 4194304", 2),
        ("Lab --memory 0x100", "it must be a number", 2),
        ("Lab --cpus 65", "at most 64", 2),
        ("Lab --monitorcount 0", "invalid value 0", 2),
        ("Lab --monitorcount 65", "at most 64", 2),
        ("Lab --boot1 cdrom", "none, floppy, dvd, disk, net", 2),
        ("Lab --firmware coreboot", "bios, efi", 2),
        ("Lab --nic1 bridged", "rusb has no such network", 1),
        (
            "Lab --nictype1 82576",
            "unknown network card '82576'; choose one of Am79C970A",
            1,
        ),
        ("Lab --macaddress1 0900270000aa", "the second one even", 2),
        ("Lab --macaddress1 08:00:27:00:00:aa", "twelve hexadecimal digits", 2),
        ("Lab --cableconnected1 out", "invalid value 'out'", 2),
        ("Lab --groups lab", "each group must begin with /", 2),
        ("Lab --ioapic off", "have an I/O APIC", 1),
        ("Lab --rtcuseutc no", "invalid value 'no'", 2),
        ("Lab --uart1 0x2F8 3", "COM1 is always at 0x3F8 4", 1),
        ("Lab --uartmode1 /dev/ttyS0", "choose one of disconnected, server, cl", 1),
        ("Lab --uartmode1 file nowhere/x", "there is no directory /", 1),
        ("Lab --uartmode1 tcpserver x", "--uartmode1 tcpserver x: 'x' is not PORT", 1),
        ("Lab --uartmode1 server", "--uartmode1 needs two values", 2),
        ("Lab --natpf1 ssh", "--natpf1: 'ssh' is not NAME,tcp|udp,HOSTIP", 1),
        ("Lab --natpf1 delete", "--natpf1 needs two values", 2),
        ("Lab --natpf1 delete ssh", "no forwarding rule named 'ssh'; the adapter", 1),
        (
            "Lab --natpf2 ssh,tcp,,1,,1",
            "adapter 2 is not attached to NAT; attach it with --nic2 n",
            1,
        ),
        ("Lab --usbrename None New", "no USB controller named 'None'", 1),
        ("Lab --name ''", "cannot be the name", 2),
        ("Lab --name a/b", "cannot be the name", 2),
        ("Lab --name=-x", "it begins with -", 2),
        ("Lab --name Other", "named 'Other' is registered already", 1),
    ],
)
def test_what_is_wrong_is_said(
    vbox: Vbox, line: str, sentence: str, status: int
) -> None:
    vbox("createvm --name Other --register")
    vbox.fails(f"modifyvm {line}", sentence, status)


def test_a_machine_may_keep_its_name(vbox: Vbox) -> None:
    vbox("modifyvm Lab --name Lab")
    vbox("modifyvm Lab --name 'Labor 2'")
    assert 'name="Labor 2"' in vbox("showvminfo 'Labor 2' --machinereadable")
    vbox("showvminfo Lab", 1)


def test_refused_options_say_why(vbox: Vbox) -> None:
    before = vbox.files()
    for option in _refused.MODIFY:
        vbox(f"modifyvm Lab --memory 512 --{option.name} 17", 1)
        assert vbox.err == f"rusb: error: --{option.name}: {option.refused}\n"
        for word in option.unless:
            vbox(f"modifyvm Lab --{option.name.replace('-', '')} {word.upper()}")
        assert vbox.files() == before, option.name


# ---------------------------------------------------------- remote display ----


@pytest.mark.parametrize("word", ["default", "DEFAULT", "0"])
def test_the_default_port(vbox: Vbox, word: str) -> None:
    vbox("modifyvm Lab --vrde on --vrdeport 5000")
    vbox(f"modifyvm Lab --vrdeport {word}")
    assert 'vrdeports="3389"' in vbox.info()
    assert '<Property name="TCP/Ports" value="3389"/>' in vbox.file()


@pytest.mark.parametrize("text", ["5000", "5000,5010-5012", "5000,", "5012-5010"])
def test_port_lists(vbox: Vbox, text: str) -> None:
    for option in ("--vrdeport ", "--vrdeproperty TCP/Ports="):
        vbox(f"modifyvm Lab --vrde on {option}{text}")
        assert f'vrdeports="{text}"' in vbox.info()


@pytest.mark.parametrize(
    "text", ["", "x", "5000,,5001", "5000-", "-5000", "1-2-3", "65536", "500 0", "0,1"]
)
@pytest.mark.parametrize("option", ["--vrdeport=", "--vrdeproperty=TCP/Ports="])
def test_what_is_no_port_list(vbox: Vbox, option: str, text: str) -> None:
    vbox.fails(f"modifyvm Lab '{option}{text}'", "ort", 1)


def test_properties(vbox: Vbox) -> None:
    vbox("modifyvm Lab --vrde on --vrdeproperty Client/DisableUSB=1")
    assert 'vrdeproperty[Client/DisableUSB]="1"' in vbox.info()
    vbox("modifyvm Lab --vrdeproperty Client/DisableUSB=")
    assert "vrdeproperty[Client/DisableUSB]=<not set>" in vbox.info()
    vbox("modifyvm Lab --vrdeproperty My/Own=a=b")
    assert '<Property name="My/Own" value="a=b"/>' in vbox.file()
    vbox.fails("modifyvm Lab --vrdeproperty Client/DisableUSB", "is not NAME=VALUE")
    vbox.fails("modifyvm Lab --vrdeproperty =1", "is not NAME=VALUE")


def test_values_of_the_remote_display(vbox: Vbox) -> None:
    vbox(
        "modifyvm Lab --vrde on --vrdeaddress 192.0.2.10 --vrdeauthtype EXTERNAL"
        " --vrdeauthlibrary VBoxAuthSimple --vrdemulticon on --vrdereusecon on"
        " --vrdevideochannel on --vrdevideochannelquality 175"
    )
    info = vbox.info()
    for line in (
        'vrdeaddress="192.0.2.10"',
        'vrdeauthtype="external"',
        'vrdemulticon="on"',
        'vrdereusecon="on"',
        'vrdeproperty[VideoChannel/Enabled]="true"',
        'vrdeproperty[VideoChannel/Quality]="175"',  # not validated
    ):
        assert line in info
    assert 'authLibrary="VBoxAuthSimple"' in vbox.file()
    vbox(
        "modifyvm Lab --vrdeaddress '' --vrdeauthtype null --vrdeauthlibrary Default"
        " --vrdemulticon off --vrdereusecon off --vrdevideochannel off"
    )
    text = vbox.file()
    assert '<Property name="VideoChannel/Enabled" value="false"/>' in text
    for gone in ("authType", "authLibrary", "allowMulti", "reuseSingle", "TCP/Address"):
        assert gone not in text
    vbox.fails("modifyvm Lab --vrdeauthtype none", "null, external, guest")


def test_an_extension_pack_is_kept_and_warned_of(vbox: Vbox) -> None:
    vbox("modifyvm Lab --vrdeextpack 'Some Pack'")
    assert 'VRDEExtPack="Some Pack"' in vbox.file()
    assert "Warning: rusb has no extension packs" in vbox.err
    vbox("modifyvm Lab --vrde-extpack DEFAULT")
    assert "VRDEExtPack" not in vbox.file()
    assert vbox.err == ""


def test_old_spellings_warn_and_work(vbox: Vbox) -> None:
    vbox(
        "modifyvm Lab --vrdp on --vrdpport 5000 --vrdpaddress 192.0.2.10"
        " --vrdpauthtype guest --vrdpmulticon on --vrdpreusecon on"
        " --vrdpvideochannel on --vrdpvideochannelquality 50"
    )
    assert vbox.err.count("is deprecated") == 8
    assert "Warning: --vrdp is deprecated; use --vrde\n" in vbox.err
    assert 'vrdeports="5000"' in vbox.info()
    assert 'vrdeauthtype="guest"' in vbox.info()


# --------------------------------------------------------------------- USB ----


@pytest.mark.parametrize(
    ("option", "name", "kind", "key"),
    [
        ("usb", "OHCI", "OHCI", "usb"),
        ("usbohci", "OHCI", "OHCI", "usb"),
        ("usb-ehci", "EHCI", "EHCI", "ehci"),
        ("usbxhci", "xHCI", "XHCI", "xhci"),
    ],
)
def test_controllers(vbox: Vbox, option: str, name: str, kind: str, key: str) -> None:
    for _ in range(2):  # one of a type at most
        vbox(f"modifyvm Lab --{option} on")
        assert vbox.file().count(f'<Controller name="{name}" type="{kind}"/>') == 1
    assert f'{key}="on"' in vbox.info()
    vbox(f"modifyvm Lab --usbrename {name} Mine")
    vbox(f"modifyvm Lab --{option} off")
    assert f'{key}="off"' in vbox.info()


# ------------------------------------------------------------- the machine ----


def test_the_rest_of_the_machine(vbox: Vbox) -> None:
    vbox(
        "modifyvm Lab --ostype Debian_64 --description 'a\nb' --memory 512 --cpus 2"
        " --firmware efi64 --boot1 net --boot2 None --monitorcount 2 --ioapic on"
        " --rtcuseutc on --groups /a,/b/c --uart1 0x3f8 4 --uartmode1 file com1.log"
        " --nictype1 VIRTIO --macaddress1 0800270000aa --cableconnected1 on"
    )
    text = vbox.file()
    for piece in (
        'OSType="Debian_64"',
        'monitorCount="2"',
        '<IOAPIC enabled="true"/>',
        '<RTC localOrUTC="UTC"/>',
        '<Group name="/a"/>',
        '<Group name="/b/c"/>',
        f'hostMode="RawFile" path="{vbox.folder}/com1.log"',
        'MACAddress="0800270000AA" type="virtio"',
    ):
        assert piece in text
    assert "Description:\na\nb\n" in vbox("showvminfo Lab")
    info = vbox.info()
    for line in ('firmware="EFI64"', 'boot1="net"', 'boot2="none"', "cpus=2"):
        assert line in info
    vbox.put('<Group name="/a"/>', '<Group name="/a"/><!-- mine -->')
    vbox.put("<UART>", "<UART><!-- mine -->")
    text = vbox.file()
    vbox("modifyvm Lab --groups /a,/b/c --uartmode1 file com1.log")
    assert vbox.file() == text  # so it is already
    vbox("modifyvm Lab --groups / --uartmode1 disconnected --macaddress1 auto")
    text = vbox.file()
    assert "<Group" not in text
    assert "RawFile" not in text
    assert "0800270000AA" not in text
    assert 'MACAddress="080027' in text
    vbox("modifyvm Lab --nic1 null --nic8 nat --nic7 none --description ''")
    assert 'nic1="null"' in vbox.info()
    assert 'nic8="nat"' in vbox.info()


def test_ports_are_forwarded_and_shown_where_vagrant_looks(vbox: Vbox) -> None:
    rule = "ssh,tcp,127.0.0.1,2222,,22"
    vbox(f"modifyvm Lab --nic2 nat --natpf1 {rule} --nat-pf2 web,tcp,,8080,,80")
    info = vbox.info()
    at = info.index(f'Forwarding(0)="{rule}"')
    assert info.index('nic1="nat"') < at < info.index('nic2="nat"')
    assert 'Forwarding(0)="web,tcp,,8080,,80"' in info[at + 1 :]
    assert 'hostip="127.0.0.1" hostport="2222" guestport="22"/>' in vbox.file()
    vbox("modifyvm Lab --natpf1 delete ssh --natpf2 DELETE web")
    assert "Forwarding" not in vbox.file()


def test_an_old_file_stays_old(vbox: Vbox) -> None:  # 2.8
    vbox.put('version="1.18-linux"', 'version="1.10-linux"')
    vbox("modifyvm Lab --vrdeport 5000 --vrdeaddress 192.0.2.10 --memory 64")
    assert 'port="5000" netAddress="192.0.2.10"' in vbox.file()
    assert 'version="1.10-linux"' in vbox.file()
    vbox("modifyvm Lab --usbxhci on")
    assert 'version="1.15-linux"' in vbox.file()
    assert [p for p in vbox.files() if p.endswith("Lab-1.10-linux.vbox")]


# ------------------------------------------------------------- teleporting ----


def settings() -> Teleporter:
    machine = Registry().find("Lab").machine
    assert machine is not None
    return machine.teleporter


def test_the_password_of_a_teleport_is_kept_as_a_hash(
    vbox: Vbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    vbox("modifyvm Lab --teleporter on --teleporterpassword mine")
    assert "other users of this machine can see a password" in vbox.err
    assert "mine" not in vbox.err
    stored = settings().password
    assert verify(stored, "mine")
    assert "mine" not in vbox.file()
    assert stored not in vbox("showvminfo Lab --machinereadable")

    monkeypatch.setattr("sys.stdin", io.StringIO("other words\nmore\n"))
    vbox("modifyvm Lab --teleporterpasswordfile stdin")
    assert vbox.err == ""
    assert verify(settings().password, "other words")

    vbox('modifyvm Lab --teleporterpassword ""')
    assert vbox.err == ""
    assert 'teleporterpassword="not set"' in vbox.info()
    assert settings() == Teleporter(enabled=True)


def test_passwords_of_a_teleport_that_cannot_be_read(vbox: Vbox) -> None:
    line = "modifyvm Lab --teleporterpasswordfile"
    vbox.fails(f"{line} nowhere", "cannot read a password from nowhere: No such", 1)
    (vbox.folder / "latin1").write_bytes(b"\xe4")
    vbox.fails(f"{line} {vbox.folder}/latin1", "is not UTF-8", 1)
    vbox.fails(f"modifyvm Lab --teleporterpassword {'x' * 1025}", "at most 1024")
    vbox.fails("modifyvm Lab --teleporterport 65536", "--teleporterport")


def test_a_machine_that_never_waited_shows_one_line(vbox: Vbox) -> None:
    shown = [line for line in vbox.info() if "teleporter" in line]
    assert shown == ['teleporterenabled="off"']


ADDRESSES = [
    *("0.0.0.0", "::", "::1", "fe80::1%eth0", "192.0.2.10", "127.1", "0", "*"),
    *("localhost", "lab.example.", "my_host", "münchen.example", "a" * 63),
]
NO_ADDRESSES = [
    *("a b", " ", "[::1]", "1.2.3.4:5000", "host:3389", "999.1.1.1", "1.2.3.4.5"),
    *("::1::", "a..b", "x\ny", "a" * 64, "a." * 130, "any/all"),
]


@pytest.mark.parametrize("text", ADDRESSES)
def test_what_a_server_may_be_able_to_listen_on_is_kept(vbox: Vbox, text: str) -> None:
    vbox(f"modifyvm Lab --vrde on --vrdeaddress {shlex.quote(text)}")
    assert f'vrdeaddress="{text}"' in vbox("showvminfo Lab --machinereadable")


@pytest.mark.parametrize("text", NO_ADDRESSES)
@pytest.mark.parametrize(
    "words",
    [
        "modifyvm Lab --vrdeaddress ",
        "modifyvm Lab --vrde-property TCP/Address=",
        "modifyvm Lab --teleporteraddress ",
        "headless -s Lab -a ",
        "headless -s Lab -e TCP/Address=",
        "controlvm Lab vrdeproperty TCP/Address=",
    ],
)
def test_what_is_no_address_at_all_is_named_and_changes_nothing(
    vbox: Vbox, words: str, text: str
) -> None:
    """VirtualBox stores it, and its server fails to start later."""
    before = vbox.files()
    vbox.fails(words + shlex.quote(text), f"{text!r} is no address to listen on", 1)
    assert vbox.files() == before
