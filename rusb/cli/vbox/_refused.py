"""What VBoxManage has and rusb has not: a sentence for each, nothing is ignored."""

from collections.abc import Iterator

from rusb.cli._vbox_options import Option

__all__ = [
    *(
        "COMMANDS",
        "CONTROL",
        "CONTROL_OPTIONS",
        "HEADLESS",
        "LISTS",
        "MODIFY",
        "PROPERTIES",
    ),
    *("STARTVM", "refused"),
]

ADAPTERS = range(1, 9)
"""What ``#`` in the name of an option stands for."""

_MODIFY = (
    # sentence, values that ask for what is so anyhow, options
    (
        "machines have QEMU's standard VGA card, without acceleration",
        "off",
        "accelerate-3d accelerate-2d-video",
    ),
    (
        "only text is shared, no files",
        "off",
        "clipboard-file-transfers",
    ),
    ("drag and drop is not supported", "disabled", "draganddrop drag-and-drop"),
    ("rusb has no snapshots", "default", "snapshot-folder"),
    ("a guest may always use its processors fully", "100", "cpu-execution-cap"),
    ("the number of processors cannot change", "off", "cpu-hotplug"),
    ("the number of processors cannot change", "", "plug-cpu unplug-cpu"),
    (
        "the guest sees QEMU's most capable processor",
        "host",
        "cpu-profile cpuid-portability-level cpuid-set cpuid-remove cpuid-remove-all",
    ),
    (
        "QEMU offers the guest what it needs",
        "default",
        "paravirt-debug",
    ),
    ("machines always have the i440FX and PIIX3 chipset", "piix3", "chipset"),
    ("machines have no TPM", "none", "tpm-type tpm-location"),
    (
        "the firmware is QEMU's SeaBIOS or OVMF, which has no such setting",
        "0",
        "bios-logo-image-path bios-apic bios-system-time-offset"
        " firmware-logo-image-path firmware-apic firmware-system-time-offset",
    ),
    ("the guest sees the machine's own UUID", "", "hardware-uuid"),
    (
        "NAT is the only network",
        "none",
        "host-only-net# nic-generic-drv# nic-property# nic-bandwidth-group#",
    ),
    ("network traffic is not traced", "off", "nic-trace# nic-trace-file#"),
    (
        "QEMU's NAT is used with its own settings",
        "default",
        "nat-net# nat-settings# nat-tftp-prefix# nat-tftp-file#"
        " nat-tftp-server# nat-bind-ip# nat-alias-mode#",
    ),
    ("guests reach the host at 10.0.2.2", "on", "nat-localhostreachable#"),
    (
        "machines have only one serial port, --uart1",
        "off",
        "uart2 uart3 uart4 uart-mode2 uart-mode3 uart-mode4",
    ),
    ("QEMU's serial ports are 16550A", "16550a", "uart-type1"),
    (
        "machines have only one serial port, --uart1",
        "",
        "uart-type2 uart-type3 uart-type4",
    ),
    ("machines have no parallel ports", "off", "lpt1 lpt2 lpt-mode1 lpt-mode2"),
    ("the memory of a running guest cannot change", "0", "guest-memory-balloon"),
    (
        "machines have no emulated card reader; attach a real one",
        "off",
        "usb-card-reader",
    ),
    (
        "rusb keeps no second copy of a machine running",
        "off",
        "fault-tolerance fault-tolerance-address fault-tolerance-port"
        " fault-tolerance-password",
    ),
    ("machines have no window to show it in", "", "icon-file"),
    ("machines have no window and start headless", "headless", "default-frontend"),
    (
        "let systemd start 'rusb headless' when the host starts",
        "off",
        "autostart-enabled autostart-delay autostop-type",
    ),
    (
        "the screen cannot be recorded",
        "off",
        "recording recording-screens recording-file recording-max-size"
        " recording-max-time recording-opts recording-video-fps recording-video-rate"
        " recording-video-res videocap videocap-screens videocap-file videocap-res"
        " videocap-rate videocap-fps videocap-max-time videocap-max-size"
        " videocap-opts",
    ),
    ("use nice(1) when you start the machine", "default", "vm-process-priority"),
    ("PCI devices of the host cannot be passed through", "", "pci-attach pci-detach"),
    (
        "there is no tracing; the log is Logs/VBox.log",
        "off",
        "tracing-enabled tracing-config tracing-allow-vm-access",
    ),
    (
        "rusb has no such test device",
        "off",
        "testing-enabled testing-mmio testing-cfg-dword",
    ),
    ("rusb does not encrypt settings", "", "cipher password-id"),
)


def _expanded(names: str) -> Iterator[str]:
    for name in names.split():
        if name.endswith("#"):
            yield from (f"{name[:-1]}{number}" for number in ADAPTERS)
        else:
            yield name


def refused(sentence: str, names: str, unless: str = "") -> tuple[Option, ...]:
    """Return options that are refused with a sentence.

    Args:
        sentence: why.
        names: blanks between them; ``#`` at the end: one for each network adapter.
        unless: values that ask for what is so anyhow, which are accepted.
    """
    words = tuple(unless.split())
    return tuple(
        Option(name, refused=sentence, unless=words) for name in _expanded(names)
    )


MODIFY = tuple(
    option
    for sentence, unless, names in _MODIFY
    for option in refused(sentence, names, unless)
)
"""Options of ``modifyvm``."""

_NO_DISK_KEYS = "rusb does not encrypt disks"
_NO_SETTINGS_KEYS = "rusb does not encrypt settings"

STARTVM = (
    Option(
        "putenv",
        short="E",
        refused="the machine inherits the environment of startvm; set the variable"
        " there: env NAME=VALUE VBoxManage startvm VM",
    ),
    *refused(_NO_DISK_KEYS, "password password-id"),
)
"""Options of ``startvm``."""

HEADLESS = (
    *refused("machines start at once; controlvm VM pause stops one", "start-paused"),
    Option("capture", 0, "c", refused="the screen cannot be recorded"),
    *refused(_NO_DISK_KEYS, "password password-id"),
    *refused(_NO_SETTINGS_KEYS, "settingspw settingspwfile"),
)
"""Options of ``VBoxHeadless``."""

_CONTROL = (
    ("the state of a machine cannot be saved", "savestate"),
    (
        "the screen cannot be recorded; screenshotpng saves a picture",
        "recording videocap videocapscreens videocapfile videocapres"
        " videocaprate videocapfps",
    ),
    (
        "the guest sets the size of its screen",
        "setvideomodehint setscreenlayout",
    ),
    ("rusb has no Guest Additions", "setcredentials reboot shutdown"),
    ("drag and drop is not supported", "draganddrop"),
    ("change it while the machine is off: modifyvm VM --nicN", "nic#"),
    ("NAT, the only network, has no such setting", "nicpromisc# nicproperty#"),
    ("network traffic is not traced", "nictrace# nictracefile#"),
    (
        "change their number while the machine is off: modifyvm VM --cpus NUMBER",
        "plugcpu unplugcpu",
    ),
    ("a guest may always use its processors fully", "cpuexecutioncap"),
    ("the memory of a running guest cannot change", "guestmemoryballoon"),
    (
        "change it while the machine is off: modifyvm VM --uartmode1",
        "changeuartmode1",
    ),
    ("machines have no emulated camera", "webcam"),
    (_NO_DISK_KEYS, "addencpassword removeencpassword"),
    ("use renice(1)", "vm-process-priority"),
    (
        "let systemd start 'rusb headless' when the host starts",
        "autostart-enabled autostart-delay",
    ),
)

CONTROL_OPTIONS = refused(
    "rusb captures nothing; use usbmon and tcpdump on this host", "capturefile"
)
"""Options of ``controlvm``."""

CONTROL = {word: why for why, words in _CONTROL for word in _expanded(words)}
"""Words of ``controlvm``."""

PROPERTIES = {
    "autostartdbpath": "let systemd start 'rusb headless' when the host starts",
    "defaultfrontend": "machines have no window and start headless",
    "hwvirtexclusive": "QEMU always shares hardware virtualization with other programs",
    "language": "rusb is available in English only",
    "logginglevel": "use 'rusb serve -v' or '-vv' to log more",
    "loghistorycount": "rusb always keeps three old logs",
    "proxymode": "rusb downloads nothing",
    "proxyurl": "rusb downloads nothing",
    "websrvauthlibrary": "rusb has no web service",
}
"""Properties of ``setproperty``."""

LISTS = (
    *("cloudnets", "cloudprofiles", "cloudproviders", "cpu-profiles", "hddbackends"),
    *("hostcpuids", "hostdrives", "screenshotformats"),
)
"""Words of ``list``."""

_NO_SNAPSHOTS = "rusb has no snapshots and no saved states"
_NO_NETWORKS = "NAT is the only network: modifyvm VM --nic1 nat"
_NO_IMAGES = "use qemu-img for that; machines name their disks by path"

COMMANDS = {
    "adoptstate": _NO_SNAPSHOTS,
    "bandwidthctl": "rusb does not limit bandwidth",
    "cloud": "rusb does not support clouds",
    "cloudprofile": "rusb does not support clouds",
    "debugvm": "rusb has no debugger for guests",
    "dhcpserver": _NO_NETWORKS,
    "discardstate": _NO_SNAPSHOTS,
    "encryptmedium": _NO_DISK_KEYS,
    "encryptvm": _NO_SETTINGS_KEYS,
    "export": "machines cannot be exported; copy their directory instead",
    "extpack": "rusb needs no extension packs for remote display and USB",
    "guestcontrol": "rusb has no Guest Additions",
    "hostonlyif": _NO_NETWORKS,
    "hostonlynet": _NO_NETWORKS,
    "import": "appliances cannot be imported; to use a .vbox file: registervm FILE",
    "mediumio": _NO_IMAGES,
    "mediumproperty": _NO_IMAGES,
    "modifyhd": _NO_IMAGES,
    "modifymedium": _NO_IMAGES,
    "modifynvram": "the firmware is QEMU's",
    "movevm": "clonevm VM --name NAME --basefolder DIR --register makes a copy there",
    "natnetwork": _NO_NETWORKS,
    "openmedium": "rusb keeps no list of media; storageattach accepts a file",
    "sharedfolder": "rusb has no Guest Additions",
    "signova": "machines cannot be exported",
    "unattended": "install from a CD: storageattach VM --storagectl IDE --port 1"
    " --type dvddrive --medium FILE",
    "updatecheck": "update rusb with pip or your distribution",
    "usbdevsource": "devices come from clients; to admit one: usbfilter add 0"
    " --target VM --name NAME",
}
"""Whole commands."""
