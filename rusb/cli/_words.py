"""The words of the command line, so that one command is run without importing all.

``tests/cli/test_main.py`` compares both tables with the modules.
"""

__all__ = ["OWN", "VBOX"]

OWN = {
    "aliases": "make links named VBoxManage and rdesktop-vrdp in a directory",
    "bench": "measure how fast transfers are, compared with a raw TLS stream",
    "connect": "offer USB devices of this machine to a virtual machine elsewhere",
    "demo": "watch a USB drive move to a guest and back, all on this machine",
    "devices": "list this machine's USB devices, and why some cannot be used",
    "events": "print events of running machines, as JSON",
    "passwordhash": "print the hash of a password, for VBoxAuthSimple",
    "plugins": "list wire protocols, device backends and guest kinds",
    "rdesktop": "a client with the options of rdesktop-vrdp: -r usb host[:port]",
    "run": "run a pyusb program that sees the devices of a machine, as its guest",
    "screenshot": "save what is on a machine's screen, as viewers see it",
    "serve": "serve remote USB to a virtual machine",
    "version": "print the version, as --version does",
}
"""Our own commands, and what each does; its module has its name, ``_`` for ``-``."""

_MODULES = {
    "clone": "clonevm",
    "guest": "guestproperty snapshot metrics",
    "info": "showvminfo",
    "lists": "list",
    "machines": "createvm registervm unregistervm",
    "media": "showmediuminfo showhdinfo closemedium clonemedium clonehd convertfromraw",
    "modify": "modifyvm",
    "properties": "setextradata getextradata setproperty internalcommands",
    "running": "headless startvm controlvm",
    "storage": "createmedium createhd storagectl storageattach",
    "usbfilter": "usbfilter",
}

VBOX = {word: name for name, words in _MODULES.items() for word in words.split()}
"""The commands of VBoxManage: the module of ``rusb.cli.vbox`` that has each."""
