"""Settings that change nothing here: VirtualBox's way to do what QEMU does in its own.

The machine's file keeps them for VirtualBox, and ``showvminfo`` shows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .document import Node

__all__ = ["ADAPTER", "KEPT", "MAX_VIDEO_MEMORY", "Kept"]

ON_OFF = {"on": "true", "off": "false"}
MAX_VIDEO_MEMORY = 256
"""MiB (VirtualBox's limit)."""

CARD = "the guest has QEMU's standard VGA card, which has the memory it needs"
PROCESSOR = "QEMU always uses what KVM and the processor offer"
DECIDES = "QEMU decides that"
POINTER = "pointer and keyboard are PS/2; USB ones come from clients"
FIRMWARE = "the firmware is QEMU's SeaBIOS or OVMF, which has no such setting"
NETWORK = "NAT is the only network, and does not use it"
NAT = "QEMU's NAT always answers names through the host's resolver"


@dataclass(frozen=True, slots=True)
class Kept:
    """A setting.

    Attributes:
        why: nothing changes.
        path: of its element, below ``Hardware`` or below its network adapter.
        attribute: of that element.
        words: what the option takes, and what the file has; a number: the largest one
            of numbers from 0; None: any text.
        default: the word, where the file says nothing.
    """

    why: str
    path: tuple[str, ...]
    attribute: str
    words: Mapping[str, str] | int | None
    default: str

    def place(self, owner: Node) -> tuple[str, ...]:
        """Return *path*, or where an adapter has it that is attached in this way."""
        is_used = self.path[:1] == (_OTHER,) and owner.find(self.path[1])
        return self.path[1:] if is_used else self.path

    def to_word(self, owner: Node | None) -> str:
        """Return the word for what the file has, from the node that *path* is below."""
        node = owner.find(*self.place(owner)) if owner else None
        text = node.attributes.get(self.attribute) if node else None
        if text is None:
            return self.default
        words = {} if isinstance(self.words, int | None) else self.words
        return {stored: word for word, stored in words.items()}.get(text, text)


def _cpu(element: str, default: str, why: str = PROCESSOR) -> Kept:
    return Kept(why, ("CPU", element), "enabled", ON_OFF, default)


def _logo(attribute: str) -> Kept:
    return Kept(FIRMWARE, ("BIOS", "Logo"), attribute, ON_OFF, "on")


_CARDS = {"none": "None", "vboxvga": "VBoxVGA", "vmsvga": "VMSVGA"}
_PARAVIRT = {"none": "None", "default": "Default", "legacy": "Legacy"}
_MENU = {"disabled": "Disabled", "menuonly": "MenuOnly"}

_OTHER = "DisabledModes"
"""Element of an adapter: how it is attached when another mode is chosen."""

KEPT: dict[str, Kept] = {
    "vram": Kept(CARD, ("Display",), "VRAMSize", MAX_VIDEO_MEMORY, "8"),
    "graphicscontroller": Kept(
        *(CARD, ("Display",), "controller"),
        _CARDS | {"vboxsvga": "VBoxSVGA", "qemuramfb": "QemuRamFB"},
        "vboxvga",
    ),
    "mouse": Kept(
        *(POINTER, ("HID",), "Pointing"),
        {
            **{"ps2": "PS2Mouse", "usb": "USBMouse", "usbtablet": "USBTablet"},
            "usbmultitouch": "USBMultiTouch",
        },
        "ps2",
    ),
    "keyboard": Kept(
        *(POINTER, ("HID",), "Keyboard"),
        {"ps2": "PS2Keyboard", "usb": "USBKeyboard"},
        "ps2",
    ),
    "hwvirtex": _cpu("HardwareVirtEx", "on"),
    "nested-paging": _cpu("HardwareVirtExNestedPaging", "on"),
    "large-pages": _cpu("HardwareVirtExLargePages", "off", DECIDES),
    "vtx-vpid": _cpu("HardwareVirtExVPID", "on"),
    "vtx-ux": _cpu("HardwareVirtExUX", "on"),
    "pae": _cpu("PAE", "on"),
    "long-mode": _cpu("LongMode", "on"),
    "apic": _cpu("APIC", "on"),
    "x2apic": _cpu("X2APIC", "on"),
    "nested-hw-virt": _cpu("NestedHWVirt", "off"),
    "triple-fault-reset": _cpu("TripleFaultReset", "off", DECIDES),
    "hpet": Kept(DECIDES, ("HPET",), "enabled", ON_OFF, "off"),
    "paravirt-provider": Kept(
        *("QEMU offers the guest what it needs", ("Paravirt",), "provider"),
        _PARAVIRT | {"minimal": "Minimal", "hyperv": "HyperV", "kvm": "KVM"},
        "default",
    ),
    "bios-logo-fade-in": _logo("fadeIn"),
    "bios-logo-fade-out": _logo("fadeOut"),
    "bios-logo-display-time": Kept(
        FIRMWARE, ("BIOS", "Logo"), "displayTime", 0xFFFF_FFFF, "0"
    ),
    "bios-boot-menu": Kept(
        *(FIRMWARE, ("BIOS", "BootMenu"), "mode"),
        _MENU | {"messageandmenu": "MessageAndMenu"},
        "messageandmenu",
    ),
    "bios-pxe-debug": Kept(FIRMWARE, ("BIOS", "PXEDebug"), "enabled", ON_OFF, "off"),
}
"""Those of a machine."""

_PROMISCUOUS = {"deny": "Deny", "allow-vms": "AllowNetwork", "allow-all": "AllowAll"}

ADAPTER: dict[str, Kept] = {
    "nic-speed": Kept(DECIDES, (), "speed", 0xFFFF_FFFF, "0"),
    "nic-promisc": Kept(NETWORK, (), "promiscuousModePolicy", _PROMISCUOUS, "deny"),
    "nic-boot-prio": Kept(
        "--boot1 to --boot4 set the boot order", (), "bootPriority", 4, "0"
    ),
    "bridge-adapter": Kept(NETWORK, (_OTHER, "BridgedInterface"), "name", None, ""),
    "host-only-adapter": Kept(NETWORK, (_OTHER, "HostOnlyInterface"), "name", None, ""),
    "intnet": Kept(NETWORK, (_OTHER, "InternalNetwork"), "name", None, ""),
    "nat-network": Kept(NETWORK, (_OTHER, "NATNetwork"), "name", None, ""),
    "nat-dns-pass-domain": Kept(
        NAT, (_OTHER, "NAT", "DNS"), "pass-domain", ON_OFF, "on"
    ),
    "nat-dns-proxy": Kept(NAT, (_OTHER, "NAT", "DNS"), "use-proxy", ON_OFF, "off"),
    "nat-dns-host-resolver": Kept(
        NAT, (_OTHER, "NAT", "DNS"), "use-host-resolver", ON_OFF, "off"
    ),
}
"""Those of a network adapter, whose number follows the name."""
