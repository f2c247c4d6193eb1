"""Extra data, properties, password hashes (filters.md 2.7, 3.3 to 3.5)."""

import json

import pytest

from rusb.cli.vbox import _refused
from rusb.server.vbox.registry import Registry
from tests.support.vbox import Vbox

SECRET = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
SALTED = (
    "$scrypt$ln=15,r=8,p=1$iPA3TsDeQCkW2ZzwgOw37A$"
    "WOzzsPFdPxiAmuiMay6QYf7mo8XPb6Hw5oGJ0KeYS2M"
)


@pytest.mark.parametrize("target", ["Lab", "global"])
def test_set_get_and_remove(vbox: Vbox, target: str) -> None:
    vbox(f"setextradata {target} VBoxAuthSimple/users/john {SECRET}")
    assert vbox.out == ""
    vbox(f"setextradata {target} Ä -value")
    assert vbox(f"getextradata {target} Ä") == "Value: -value\n"
    assert vbox(f"getextradata {target} enumerate") == (
        f"Key: VBoxAuthSimple/users/john, Value: {SECRET}\nKey: Ä, Value: -value\n"
    )
    assert vbox(f"getextradata {target}") == vbox(f"getextradata {target} enumerate")
    vbox(f"setextradata {target} Ä")
    vbox(f"setextradata {target} VBoxAuthSimple/users/john ''")
    assert vbox(f"getextradata {target} Ä") == "No value set!\n"
    assert vbox(f"getextradata {target} enumerate") == ""
    vbox(f"setextradata {target} Never")


def test_a_library_of_virtualbox_is_warned_of(vbox: Vbox) -> None:
    vbox("setproperty vrdeauthlibrary /opt/VBoxAuth.so")
    assert "such as /opt/VBoxAuth.so, cannot be loaded" in vbox.err
    vbox("setproperty vrdeauthlibrary null")
    assert vbox.err == ""


def test_how_far_disks_are_read_ahead_is_one_of_some_words(vbox: Vbox) -> None:
    key = "rusb/Filter/Any/Storage"
    vbox(f"setextradata Lab {key} fast", 1)
    assert (
        f"extra data {key}: 'fast' is invalid; choose one of off, strict, early"
        in vbox.err
    )
    assert vbox(f"getextradata Lab {key}") == "No value set!\n"
    vbox(f"setextradata Lab {key} strict")
    assert vbox(f"getextradata Lab {key}") == "Value: strict\n"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("VBoxAuthSimple/users/john", "secret", "not the hash of a password"),
        ("VBoxAuthSimple/users/john", SECRET.upper(), "'john' cannot log on"),
        ("VBoxAuthSimple/users/john", SECRET, ""),
        ("VBoxAuthSimple/users/john", SALTED, ""),
        ("VRDE/Feature/Client/DisableUSB", "yes", "'yes' switches nothing off"),
        ("VRDP/Feature/Client/DisableUSB", "1", ""),
        ("VRDE/Feature/Client/DisableRDPDR", "1", "rusb has no such switch"),
        ("rusb/resume", "1", "did you mean rusb/Resume?"),
        ("rusb/Filter/a/b/Hold", "1", ""),
        ("rusb/Filter/a/InterfaceClass", "08", ""),
        ("rusb/Filter/a/Class", "08", "rusb has no such key"),
        ("rusb/Engine", "qemu", ""),
    ],
)
def test_what_does_not_do_what_it_says(
    vbox: Vbox, key: str, value: str, sentence: str
) -> None:
    vbox(f"setextradata Lab {key} '{value}'")
    assert sentence in vbox.err
    assert bool(sentence) == bool(vbox.err)
    assert vbox(f"getextradata Lab {key}") == f"Value: {value}\n"
    vbox(f"setextradata Lab {key}")
    assert vbox.err == ""


@pytest.mark.parametrize("target", ["Lab", "global"])
def test_keys_keep_their_case(vbox: Vbox, target: str) -> None:
    vbox(f"setextradata {target} Key 1")
    assert vbox(f"getextradata {target} key") == "No value set!\n"


@pytest.mark.parametrize("target", ["Lab", "global"])
def test_json_has_a_value_as_it_is(vbox: Vbox, target: str) -> None:
    """The form for people is fit for a terminal (T42)."""
    vbox(f"setextradata {target} K 'a\tb\u202e\x9b\"'")
    assert vbox(f"getextradata {target} K") == 'Value: a b"\n'
    expected = {"K": 'a\tb\u202e\x9b"'}
    assert json.loads(vbox(f"getextradata {target} K --json")) == expected
    assert json.loads(vbox(f"getextradata {target} --json")) == expected
    assert json.loads(vbox(f"getextradata {target} X --json")) == {"X": None}


@pytest.mark.parametrize(
    ("line", "sentence", "status"),
    [
        ("setextradata Lab", "too few arguments", 2),
        ("setextradata Lab K V W", "too many", 2),
        ("setextradata Nowhere K V", "'Nowhere'", 1),
        ("getextradata Nowhere", "'Nowhere'", 1),
        ("getextradata Lab K V", "too many arguments", 2),
        ("getextradata Lab --jason", "did you mean --json?", 2),
        ("setextradata Lab 'a\nb' V", "invalid extra data key", 1),
        ("setextradata global 'a\nb' V", "invalid extra data key", 1),
        ("setextradata Lab '' V", "invalid extra data key", 1),
        ("setextradata Lab K gr\udcfcn", "'gr?n' is not UTF-8; check LANG", 1),
        ("setextradata Lab gr\udcfcn V", "'gr?n' is not UTF-8; check LANG", 1),
        ("setextradata global gr\udcfcn V", "'gr?n' is not UTF-8; check LANG", 1),
        ("setextradata Lab K '\x1b'", "XML does not allow", 1),
        ("setextradata global K '\x1b'", "XML does not allow", 1),
    ],
)
def test_what_is_wrong_is_said(
    vbox: Vbox, line: str, sentence: str, status: int
) -> None:
    vbox.fails(line, sentence, status)


def test_a_running_machine_is_told(vbox: Vbox) -> None:
    with vbox.running() as got:
        vbox("setextradata Lab VRDP/Feature/Client/DisableUSB 1")
    assert "reload" in got


# ------------------------------------------------------------- setproperty ----


@pytest.mark.parametrize(
    ("name", "value", "attribute", "default"),
    [
        ("vrdeauthlibrary", "VBoxAuthSimple", "VRDEAuthLibrary", "VBoxAuth"),
        ("vrdpauthlibrary", "VBoxAuthSimple", "VRDEAuthLibrary", "VBoxAuth"),
        ("machinefolder", "/srv/vms", "defaultMachineFolder", ""),
        ("vrdeextpack", "Some Pack", "defaultVRDEExtPack", ""),
    ],
)
def test_properties(
    empty: Vbox, name: str, value: str, attribute: str, default: str
) -> None:
    empty(f"setproperty {name} '{value}'")
    assert Registry().get_property(attribute) == value
    assert ("Warning" in empty.err) == (name in ("vrdpauthlibrary", "vrdeextpack"))
    empty(f"setproperty {name} default")
    assert Registry().get_property(attribute) == default


def test_new_machines_go_into_the_machine_folder(empty: Vbox) -> None:
    empty("setproperty machinefolder vms")
    empty("createvm --name Lab")
    assert (empty.folder / "vms/Lab/Lab.vbox").exists()
    empty("setproperty machinefolder default")
    empty("createvm --name Lab")
    assert (empty.folder / "data/rusb/VirtualBox VMs/Lab/Lab.vbox").exists()


@pytest.mark.parametrize(
    ("line", "sentence", "status"),
    [
        ("vrdeauthlibrary", "too few arguments", 2),
        ("vrdeauthlibrary a b", "too many", 2),
        ("colour red", "vrdeauthlibrary, machinefolder, vrdeextpack", 2),
        ("vrdeextpack null", "new machines have no remote display", 1),
        *((f"{n} x", f"{n}: {s}", 1) for n, s in _refused.PROPERTIES.items()),
    ],
)
def test_properties_that_cannot_be(
    vbox: Vbox, line: str, sentence: str, status: int
) -> None:
    vbox.fails(f"setproperty {line}", sentence, status)


# -------------------------------------------------------- internalcommands ----


def test_the_hash_of_the_manual(empty: Vbox) -> None:  # 3.5
    assert empty("internalcommands passwordhash secret") == f"Password hash: {SECRET}\n"
    assert empty("internalcommands passwordhash -x").startswith("Password hash: ")


@pytest.mark.parametrize(
    "words", ["passwordhash", "passwordhash a b", "passwordhsah secret", "secret"]
)
def test_anything_else_is_status_2(empty: Vbox, words: str) -> None:
    empty.fails(f"internalcommands {words}", "error: ")


@pytest.mark.parametrize("key", ["rusb/Resume", "rusb/Hold", "rusb/Filter/A/B/Hold"])
@pytest.mark.parametrize("text", ["-1", "601", "nan", "soon"])
def test_how_long_devices_wait_is_a_number_of_seconds(
    vbox: Vbox, key: str, text: str
) -> None:
    vbox(f"setextradata Lab {key} {text}", 1)
    assert f"extra data {key}: '{text}' is invalid; give 0 to 600 seconds" in vbox.err
    assert vbox(f"getextradata Lab {key}") == "No value set!\n"
    vbox(f"setextradata Lab {key} 600")
    assert vbox(f"getextradata Lab {key}") == "Value: 600\n"
