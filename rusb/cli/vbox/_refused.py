"""What VBoxManage has and rusb has not: a sentence for each, nothing is ignored."""

from collections.abc import Iterator

from rusb.cli._vbox_options import Option

__all__ = ["COMMANDS", "CONTROL", "LISTS", "MODIFY", "PROPERTIES", "refused"]

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
        "machines have no sound card; devices with sound come in over USB",
        "none off null",
        "audio audio-driver audio-enabled audio-in audio-out audio-controller"
        " audio-codec",
    ),
    (
        "the clipboard is not shared",
        "disabled",
        "clipboard clipboard-mode clipboard-file-transfers",
    ),
    ("nothing can be dragged into a guest", "disabled", "draganddrop drag-and-drop"),
    ("there are no snapshots", "default", "snapshot-folder"),
    ("a guest may use all of the processors it has", "100", "cpu-execution-cap"),
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
    ("machines have the board i440FX with a PIIX3", "piix3", "chipset"),
    ("there is no emulated TPM", "none", "tpm-type tpm-location"),
    (
        "the firmware is QEMU's SeaBIOS or OVMF, without such switches",
        "0",
        "bios-logo-image-path bios-apic bios-system-time-offset"
        " firmware-logo-image-path firmware-apic firmware-system-time-offset",
    ),
    ("the guest sees the machine's own UUID", "", "hardware-uuid"),
    (
        "only NAT networks are there",
        "none",
        "host-only-net# nic-generic-drv# nic-property# nic-bandwidth-group#",
    ),
    ("network traffic is not traced", "off", "nic-trace# nic-trace-file#"),
    (
        "QEMU's NAT is used as it is; the guest reaches out, nobody reaches in",
        "default",
        "nat-net# nat-settings# nat-tftp-prefix# nat-tftp-file#"
        " nat-tftp-server# nat-bind-ip# nat-alias-mode#",
    ),
    ("guests reach the host at 10.0.2.2", "on", "nat-localhostreachable#"),
    (
        "there is one serial port, --uart1",
        "off",
        "uart2 uart3 uart4 uart-mode2 uart-mode3 uart-mode4",
    ),
    ("QEMU's serial ports are 16550A", "16550a", "uart-type1"),
    (
        "there is one serial port, --uart1",
        "",
        "uart-type2 uart-type3 uart-type4",
    ),
    ("there are no parallel ports", "off", "lpt1 lpt2 lpt-mode1 lpt-mode2"),
    ("memory is not taken from a running guest", "0", "guest-memory-balloon"),
    ("there is no emulated card reader; remote ones work", "off", "usb-card-reader"),
    (
        "teleporting is not there yet",
        "off",
        "teleporter teleporter-port teleporter-address teleporter-password"
        " teleporter-password-file fault-tolerance fault-tolerance-address"
        " fault-tolerance-port fault-tolerance-password",
    ),
    ("there is no window that would show it", "", "icon-file"),
    ("machines have no window, they start headless", "headless", "default-frontend"),
    (
        "let systemd start 'rusb headless' when the host starts",
        "off",
        "autostart-enabled autostart-delay autostop-type",
    ),
    (
        "nothing is recorded",
        "off",
        "recording recording-screens recording-file recording-max-size"
        " recording-max-time recording-opts recording-video-fps recording-video-rate"
        " recording-video-res videocap videocap-screens videocap-file videocap-res"
        " videocap-rate videocap-fps videocap-max-time videocap-max-size"
        " videocap-opts",
    ),
    ("use nice(1) when you start it", "default", "vm-process-priority"),
    ("no device on the host's PCI bus can be passed on", "", "pci-attach pci-detach"),
    (
        "the log is Logs/VBox.log, there is no tracing",
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

_CONTROL = (
    ("there is no saving of a machine's state", "savestate"),
    (
        "nothing is recorded; screenshotpng takes a picture",
        "recording videocap videocapscreens videocapfile videocapres"
        " videocaprate videocapfps",
    ),
    (
        "the size of the screen is the guest's affair",
        "setvideomodehint setscreenlayout",
    ),
    ("teleporting is not there yet", "teleport"),
    ("there are no Guest Additions", "setcredentials reboot shutdown"),
    ("machines have no sound card", "audioin audioout"),
    ("the clipboard is not shared", "clipboard"),
    ("nothing can be dragged into a guest", "draganddrop"),
    ("it changes while the machine is off: modifyvm VM --nicN", "nic#"),
    ("NAT, the one kind of network, has no such setting", "nicpromisc# nicproperty#"),
    ("network traffic is not traced", "nictrace# nictracefile#"),
    (
        "their number changes while the machine is off: modifyvm VM --cpus NUMBER",
        "plugcpu unplugcpu",
    ),
    ("a guest may use all of the processors it has", "cpuexecutioncap"),
    ("memory is not taken from a running guest", "guestmemoryballoon"),
    (
        "it changes while the machine is off: modifyvm VM --uartmode1",
        "changeuartmode1",
    ),
    ("there are no cameras but those that come in over USB", "webcam"),
    ("rusb does not encrypt disks", "addencpassword removeencpassword"),
    ("use renice(1)", "vm-process-priority"),
    (
        "let systemd start 'rusb headless' when the host starts",
        "autostart-enabled autostart-delay",
    ),
)

CONTROL = {word: why for why, words in _CONTROL for word in _expanded(words)}
"""Words of ``controlvm``."""

PROPERTIES = {
    "autostartdbpath": "let systemd start 'rusb headless' when the host starts",
    "defaultfrontend": "machines have no window, they start headless",
    "hwvirtexclusive": "QEMU shares the processor's virtualisation with others",
    "language": "rusb speaks English",
    "logginglevel": "'rusb serve -v' and '-vv' say more",
    "loghistorycount": "three old logs are kept",
    "proxymode": "rusb downloads nothing",
    "proxyurl": "rusb downloads nothing",
    "websrvauthlibrary": "there is no web service",
}
"""Properties of ``setproperty``."""

LISTS = (
    *("cloudnets", "cloudprofiles", "cloudproviders", "cpu-profiles", "hddbackends"),
    *("hostcpuids", "hostdrives", "screenshotformats"),
)
"""Words of ``list``."""

_NO_SNAPSHOTS = "there are no snapshots and no saved states"
_NO_NETWORKS = "only NAT networks are there: modifyvm VM --nic1 nat"
_NO_IMAGES = "use qemu-img for that; machines name their disks by path"

COMMANDS = {
    "adoptstate": _NO_SNAPSHOTS,
    "bandwidthctl": "QEMU does not limit bandwidth",
    "cloud": "rusb knows no clouds",
    "cloudprofile": "rusb knows no clouds",
    "debugvm": "there is no debugger of guests",
    "dhcpserver": _NO_NETWORKS,
    "discardstate": _NO_SNAPSHOTS,
    "encryptmedium": "rusb does not encrypt disks",
    "encryptvm": "rusb does not encrypt settings",
    "export": "machines are not exported; their folder is all there is of them",
    "extpack": "there are no extension packs; remote display and USB are in rusb",
    "guestcontrol": "there are no Guest Additions",
    "hostonlyif": _NO_NETWORKS,
    "hostonlynet": _NO_NETWORKS,
    "import": "appliances are not imported; registervm FILE takes a .vbox file",
    "mediumio": _NO_IMAGES,
    "mediumproperty": _NO_IMAGES,
    "modifyhd": _NO_IMAGES,
    "modifymedium": _NO_IMAGES,
    "modifynvram": "the firmware is QEMU's",
    "movevm": "clonevm VM --name NAME --basefolder DIR --register copies it there",
    "natnetwork": _NO_NETWORKS,
    "openmedium": "there is no list of media; storageattach takes a file",
    "sharedfolder": "there are no Guest Additions",
    "signova": "machines are not exported",
    "unattended": "a CD installs it: storageattach VM --storagectl IDE --port 1"
    " --type dvddrive --medium FILE",
    "updatecheck": "pip or your distribution updates rusb",
    "usbdevsource": "devices come from clients: usbfilter add 0 --target VM --name"
    " NAME",
}
"""Whole commands."""
