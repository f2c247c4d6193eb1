"""``usbfilter``, rule by rule (filters.md 3.1, 1.10, part 7)."""

import json
import re

import pytest

from tests.support.vbox import Vbox


def names(vbox: Vbox) -> list[str]:
    """The machine's filters by name."""
    return [
        line.split("=")[1].strip('"')
        for line in vbox.info()
        if line.startswith("USBFilterName")
    ]


def rows(vbox: Vbox) -> list[dict[str, str]]:
    """The global filters."""
    found: list[dict[str, str]] = json.loads(vbox("list usbfilters --json"))
    return found


@pytest.fixture
def two(vbox: Vbox) -> Vbox:
    """Two filters at the machine, two global ones."""
    vbox("usbfilter add 0 --target Lab --name A --vendorid 46d --remote yes")
    vbox("usbfilter add 1 --target Lab --name B --product 'Flash*' --port 3")
    vbox("usbfilter add 0 --target global --name G --action hold --vendorid 951")
    vbox("usbfilter add 1 --target global --name H --action ignore")
    return vbox


# ------------------------------------------------------------------- INDEX ----


@pytest.mark.parametrize("index", ["0x1", "-1", "1a", "''", "4294967296", "1.0", "٣"])
def test_an_index_is_a_decimal_number(two: Vbox, index: str) -> None:
    two.fails(f"usbfilter add {index} --target Lab --name X", "INDEX")
    two.fails(f"usbfilter remove {index} --target global", "INDEX")


@pytest.mark.parametrize(
    ("index", "order"),
    [
        ("0", ["X", "A", "B"]),
        ("+1", ["A", "X", "B"]),
        ("2", ["A", "B", "X"]),
        ("4294967295", ["A", "B", "X"]),
    ],
)
def test_add_inserts_before_the_index_or_appends(
    two: Vbox, index: str, order: list[str]
) -> None:
    two(f"usbfilter add {index} --target Lab --name X")
    assert names(two) == order


def test_add_far_beyond_the_end_of_the_global_list_appends(two: Vbox) -> None:
    two("usbfilter add 4000000000 --target global --name X --action hold")
    assert [row["name"] for row in rows(two)] == ["G", "H", "X"]


def test_remove_moves_later_ones_up(two: Vbox) -> None:
    two("usbfilter remove 0 --target Lab")
    two("usbfilter remove 0 --target global")
    assert names(two) == ["B"]
    assert [row["name"] for row in rows(two)] == ["H"]


@pytest.mark.parametrize("verb", ["modify 2 --name X", "remove 2"])
@pytest.mark.parametrize("target", ["Lab", "global"])
def test_an_index_out_of_range_names_the_range(
    two: Vbox, verb: str, target: str
) -> None:  # D7
    line = f"usbfilter {verb} --target {target}"
    two.fails(line, "there is no USB filter 2; the last one is 1", 1)


@pytest.mark.parametrize("verb", ["modify 0 --name X", "remove 0"])
@pytest.mark.parametrize("target", ["Lab", "global"])
def test_an_empty_list_has_no_index(vbox: Vbox, verb: str, target: str) -> None:
    line = f"usbfilter {verb} --target {target}"
    vbox.fails(line, "there is no USB filter 0; there are none", 1)


# ------------------------------------------------------------------ values ----


def test_a_new_filter_is_active_and_takes_anything(vbox: Vbox) -> None:
    vbox("usbfilter add 0 --target Lab --name X")
    assert '<DeviceFilter name="X" active="true"/>' in vbox.file()
    vbox("usbfilter add 0 --target Lab --name Y --active no")
    assert '<DeviceFilter name="Y" active="false"/>' in vbox.file()


def test_every_value_is_kept_in_the_form_of_files(vbox: Vbox) -> None:  # 1.9, D1, D3
    vbox(
        "usbfilter add 0 --target Lab --name 'Ä & co' --vendorid 46d --productid '|1|2'"
        " --revision 0x100 --manufacturer 'M*' --product P --serialnumber S --port 3"
        " --remote 1 --maskedinterfaces 0x3"
    )
    assert (
        '<DeviceFilter name="&#xC4; &amp; co" active="true" vendorId="046D"'
        ' productId="1|2" revision="0100" manufacturer="M*" product="P"'
        ' serialNumber="S" port="0003" remote="1" maskedInterfaces="3"/>'
    ) in vbox.file()


def test_modify_keeps_what_is_not_given(two: Vbox) -> None:
    two("usbfilter modify 1 --target Lab --active no")
    assert 'name="B" active="false" product="Flash*" port="0003"' in two.file()
    two("usbfilter modify 0 --target global --name GG")
    assert rows(two)[0] == {
        "name": "GG",
        "active": "true",
        "vendorId": "0951",
        "action": "Hold",
    }


@pytest.mark.parametrize(
    ("word", "value"), [("InterfaceClass", "08"), ("Storage", "off"), ("Hold", "60")]
)
def test_a_new_name_keeps_the_extra_data(two: Vbox, word: str, value: str) -> None:
    """They are found by the name: without the first of them a disk with a keyboard
    would be admitted."""
    two(f"setextradata Lab rusb/Filter/A/{word} {value}")
    two("setextradata Lab rusb/Filter/A/B/Storage strict")  # of a filter "A/B"
    two("usbfilter modify 0 --target Lab --name Sticks")
    told = two("getextradata Lab enumerate")
    assert f"rusb/Filter/Sticks/{word}" in told
    assert f"rusb/Filter/A/{word}" not in told
    assert "rusb/Filter/A/B/Storage" in told
    two("usbfilter modify 1 --target Lab --name Sticks")
    two("usbfilter modify 0 --target Lab --name Disks")  # the other one keeps it
    told = two("getextradata Lab enumerate")
    assert f"rusb/Filter/Sticks/{word}" in told
    assert f"rusb/Filter/Disks/{word}" in told


def test_an_empty_value_means_any(two: Vbox) -> None:  # D4
    two("usbfilter modify 0 --target Lab --vendorid '' --remote ''")
    assert '<DeviceFilter name="A" active="true"/>' in two.file()
    two("usbfilter modify 0 --target Lab --maskedinterfaces 5")
    two("usbfilter modify 0 --target Lab --maskedinterfaces ''")
    assert '<DeviceFilter name="A" active="true"/>' in two.file()
    two("usbfilter modify 0 --target global --vendorid=")
    assert "vendorId" not in rows(two)[0]


@pytest.mark.parametrize("target", ["Lab", "global"])
def test_a_filter_keeps_a_name(two: Vbox, target: str) -> None:
    line = f"usbfilter modify 0 --target {target} --name ''"
    two.fails(line, "a filter needs a name", 1)
    line = f"usbfilter add 0 --target {target} --name '' --action hold"
    two.fails(line, "a filter needs a name", 1)


def test_the_last_of_several_counts(two: Vbox) -> None:
    two("usbfilter add 0 -t nowhere -t Lab -n X -n Y -v 1 -v 2 -R maybe -R no")
    assert 'name="Y" active="true" vendorId="0002" remote="no"' in two.file()


@pytest.mark.parametrize("text", ["yes", "no", "1", "0", "true", "false"])
def test_words_for_remote_are_kept_as_they_are(two: Vbox, text: str) -> None:
    two(f"usbfilter modify 1 --target Lab --remote {text}")
    assert f'USBFilterRemote2="{text}"' in two.info()


def test_any_is_a_word_of_the_command_line_only(two: Vbox) -> None:  # D9
    two("usbfilter modify 0 --target Lab --remote any")
    assert '<DeviceFilter name="A" active="true" vendorId="046D"/>' in two.file()


@pytest.mark.parametrize("text", ["Any", "Yes", "on", "off", " yes", "2"])
def test_no_other_word_is_one_for_remote(two: Vbox, text: str) -> None:
    two.fails(f"usbfilter modify 0 --target Lab --remote '{text}'", "remote", 1)


@pytest.mark.parametrize(
    ("text", "stored"), [("10", "10"), ("0x10", "16"), ("010", "8"), ("0", None)]
)
def test_masks_in_every_base(two: Vbox, text: str, stored: str | None) -> None:
    two(f"usbfilter modify 0 --target Lab --maskedinterfaces {text}")
    assert ("maskedInterfaces" in two.file()) == (stored is not None)
    assert stored is None or f'maskedInterfaces="{stored}"' in two.file()


@pytest.mark.parametrize("text", ["x", "-1", "0x100000000", "4294967296", "08", "1 "])
def test_what_is_no_mask(two: Vbox, text: str) -> None:
    line = f"usbfilter modify 0 --target Lab --maskedinterfaces '{text}'"
    two.fails(line, "a 32-bit number")


def test_an_action_is_for_global_filters(two: Vbox) -> None:
    two.fails("usbfilter add 0 --target global --name X", "missing --action")
    two.fails("usbfilter add 0 --target global --name X --action keep", "--action")
    two.fails("usbfilter add 0 --target Lab --name X --action Hold", "--action")
    two("usbfilter add 0 --target Lab --name X --action hold")
    assert "--action is for global filters" in two.err
    assert '<DeviceFilter name="X" active="true"/>' in two.file()
    two("usbfilter modify 0 --target global --action ignore")
    assert rows(two)[0]["action"] == "Ignore"


@pytest.mark.parametrize("option", ["--remote yes", "--remote ''", "-M 1"])
@pytest.mark.parametrize("verb", ["add 0 --name X --action hold", "modify 0"])
def test_global_filters_have_no_origin_and_no_mask(
    two: Vbox, verb: str, option: str
) -> None:
    line = f"usbfilter {verb} --target global {option}"
    two.fails(line, "is not supported for global filters")


# ------------------------------------------------------------------ errors ----


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("add 0 --name X", "missing --target"),
        ("modify 0 --name X", "missing --target"),
        ("remove 0", "missing --target"),
        ("add 0 --target Lab", "missing --name"),
        ("modify 0 --target Lab", "nothing to change"),
        ("add --target Lab --name X", "too few arguments"),
        ("add 0 1 --target Lab --name X", "unexpected '1'"),
        ("add 0 --target Lab --name X --active maybe", "yes or no"),
        ("add 0 --target Lab --name X --active Yes", "yes or no"),
        ("add 0 --target Lab --name X --colour red", "unknown option '--colour'"),
        ("add 0 --target Lab --name X --vendor 1", "did you mean --vendorid?"),
        ("remove 0 --target Lab --name X", "unknown option '--name'"),
        ("add 0 --target Lab --name", "--name needs a value"),
        ("replace 0 --target Lab", "choose one of add, modify, remove, explain"),
        ("explan Lab", "remove, explain; did you mean explain?"),
    ],
)
def test_a_wrong_command_line(two: Vbox, line: str, sentence: str) -> None:
    two.fails(f"usbfilter {line}", sentence)
    usages = re.findall("usage: rusb usbfilter (.*?) ", two.err)
    verb = line.partition(" ")[0]
    assert usages == [verb] * (verb in ("add", "modify", "remove"))  # not of others


@pytest.mark.parametrize(
    "text", ["12345", "0x", "5-", "word", "int:5", "1,2", "46d|930", "12h"]
)
@pytest.mark.parametrize("target", ["Lab", "global"])
def test_a_wrong_text_changes_nothing(two: Vbox, target: str, text: str) -> None:
    """A global one neither, whose options the original saves one by one."""
    values = f"--name New --active no --vendorid '{text}'"
    two.fails(f"usbfilter modify 0 --target {target} {values}", "vendorId", 1)
    values = f"--name New --action hold --port '{text}'"
    two.fails(f"usbfilter add 0 --target {target} {values}", "port", 1)


def test_texts_beyond_the_budget(two: Vbox) -> None:
    line = f"usbfilter modify 0 --target Lab --manufacturer {'m' * 255}"
    two.fails(line, "255 bytes", 1)
    two(f"usbfilter modify 0 --target Lab --manufacturer {'m' * 254}")


def test_an_unknown_machine(two: Vbox) -> None:
    line = "usbfilter add 0 --target Nowhere --name X"
    two.fails(line, "could not find a registered machine named 'Nowhere'", 1)


def test_words_are_judged_before_machines_are_sought(two: Vbox) -> None:
    """Status 2 says that the line is wrong wherever it is typed."""
    two.fails("usbfilter frob x --bogus", "choose one of")
    two.fails("usbfilter add x --target Nowhere --bogus 1", "unknown option '--bogus'")
    two.fails("usbfilter add x --target Nowhere", "INDEX")
    two.fails("usbfilter add 0 --target Nowhere", "missing --name")
    two.fails("usbfilter add 0 -t Nowhere -n X -a maybe -v zz", "yes or no")
    two.fails("usbfilter add 0 -t Nowhere -n X -v zz", "could not find", 1)


def test_a_wrong_filter_in_the_file_is_not_written_over(two: Vbox) -> None:
    two.put('vendorId="046D"', 'vendorId="zz"')
    two.fails("usbfilter add 0 --target Lab --name X", "vendorId", 1)


# ----------------------------------------------------------------- running ----


def test_filters_of_a_running_machine_change_at_once(two: Vbox) -> None:
    with two.running() as got:
        two("usbfilter add 0 --target Lab --name X")
        two("usbfilter modify 0 --target Lab --active no")
        two("usbfilter remove 0 --target Lab")
    assert got.count("reload") == 3
    assert names(two) == ["A", "B"]


# ----------------------------------------------------------------- dry run ----


@pytest.mark.parametrize(
    ("line", "admitted"),
    [
        ("add 0 --name X --vendorid 1209", True),
        ("modify 1 --port '' --active yes", True),
        ("remove 0", False),
    ],
)
def test_a_dry_run_tells_what_would_be(two: Vbox, line: str, admitted: bool) -> None:
    two("modifyvm Lab --usbxhci on")
    before = two.files()
    text = two(f"usbfilter {line} --target Lab --dry-run")
    assert text.startswith("1209:0001 rusb Flash Drive (local)\n")
    assert ("currently it is refused" in text) == admitted
    (row,) = json.loads(two(f"usbfilter {line} -t Lab --dry-run --json"))
    assert (row["now"]["admitted"], row["then"]["admitted"]) == (False, admitted)
    assert two.files() == before


def test_a_dry_run_has_the_same_errors(two: Vbox) -> None:
    two.fails("usbfilter remove 2 --target Lab --dry-run", "the last one is 1", 1)
    two.fails("usbfilter modify 0 --target Lab --dry-run", "nothing to change")
    two.fails("usbfilter remove 0 --target Lab --json", "needs --dry-run")
    line = "usbfilter add 0 --target global --name X --action hold --dry-run"
    two.fails(line, "--dry-run is not supported for global filters")


# ------------------------------------------------------------------- lists ----


def test_the_form_of_the_machines_filters(two: Vbox) -> None:  # 3.7
    two("usbfilter modify 0 --target Lab --maskedinterfaces 3")
    two("usbfilter remove 1 --target Lab")
    text = two("showvminfo Lab").partition("USB Device Filters:\n\n")[2]
    assert [line.rstrip() for line in text.splitlines()[:12]] == [
        "Index:                       0",
        "Active:                      yes",
        "Name:                        A",
        "VendorId:                    046D",
        "ProductId:",
        "Revision:",
        "Manufacturer:",
        "Product:",
        "Remote:                      yes",
        "Serial Number:",
        "Masked Interfaces:           0x00000003",
        "",
    ]
    assert "Port" not in text


def test_the_form_of_the_global_filters(two: Vbox) -> None:  # 3.8
    two("usbfilter modify 0 --target global --serialnumber S --product P")
    two("usbfilter modify 1 --target global --active no")
    assert two("list usbfilters") == (
        "Global USB Device Filters:\n\n"
        "Index:            0\nActive:           yes\nAction:           Hold\n"
        "Name:             G\nVendorId:         0951\nProductId:\nRevision:\n"
        "Manufacturer:\nProduct:          P\nSerial Number:    S\n\n"
        "Index:            1\nActive:           no\nAction:           Ignore\n"
        "Name:             H\nVendorId:\nProductId:\nRevision:\n"
        "Manufacturer:\nProduct:\nSerial Number:\n\n"
    )


def test_no_filters_are_none(vbox: Vbox) -> None:
    assert vbox("list usbfilters") == "Global USB Device Filters:\n\n<none>\n\n"
    assert "USB Device Filters:\n\n<none>\n\n" in vbox("showvminfo Lab")
    assert rows(vbox) == []


def test_what_a_file_says_is_fit_for_a_terminal(two: Vbox) -> None:  # T42
    two.put('name="A"', 'name="A&#x9b;31m&#10;&#x202e;"')
    text = two("showvminfo Lab").partition("USB Device Filters:")[2]
    assert "Name:                        A31m\n" in text
    assert "\x9b" not in text
    assert "\u202e" not in text
