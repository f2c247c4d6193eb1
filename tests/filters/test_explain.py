"""Why a device is admitted or not; what is named to change it does change it."""

import shlex
from dataclasses import replace

import pytest

from rusb.filters import Filter
from rusb.filters.explain import Explanation, explain
from rusb.usb.device import DeviceInfo

STICK = DeviceInfo(
    *(1, 0x0951, 0x1666), serial="E0D5", product="Data Traveler", port=2, remote=True
)
VENDOR = Filter("sticks", vendor_id="0951")


def about(*filters: Filter, info: DeviceInfo = STICK, has: bool = True) -> Explanation:
    return explain("my lab", filters, info, has_controller=has)


def changed(filters: list[Filter], command: str) -> list[Filter]:
    """Do to filters what a command says, as ``rusb usbfilter`` would."""
    program, verb, number, target, lab, *options = shlex.split(command)
    assert (program, target, lab) == ("usbfilter", "--target", "my lab")
    fields = {
        {
            "vendorid": "vendor_id",
            "productid": "product_id",
            "serialnumber": "serial_number",
        }.get(name, name): value
        for name, value in zip(
            (o[2:] for o in options[::2]), options[1::2], strict=True
        )
    }
    values = {**fields, "active": fields.get("active", "yes") == "yes"}
    place = int(number)
    if verb == "add":
        new = Filter(**values)  # type: ignore[arg-type]
        return [*filters[:place], new, *filters[place:]]
    assert verb == "modify"
    new = replace(filters[place], **values)  # type: ignore[arg-type]
    return [*filters[:place], new, *filters[place + 1 :]]


REFUSED = [
    [],
    [replace(VENDOR, active=False)],
    [replace(VENDOR, remote="no")],
    [replace(VENDOR, product_id="1667")],
    [replace(VENDOR, serial_number="X"), Filter("mice", vendor_id="046d", port="9")],
    [Filter("mice", vendor_id="046d", product_id="c077", remote="no")],
]


@pytest.mark.parametrize("filters", REFUSED)
@pytest.mark.parametrize("remote", [True, False])
def test_each_change_admits_what_is_refused(
    filters: list[Filter], remote: bool
) -> None:
    info = replace(STICK, remote=remote)
    found = about(*filters, info=info)
    if found.admitted:
        assert filters[0].remote == "no"  # for devices of this machine
        return
    assert found.filter is None
    assert found.change
    for command in found.change:
        assert about(*changed(filters, command), info=info).admitted, command


def test_all_changes_together_keep_out_what_is_admitted() -> None:
    filters = [Filter("none", vendor_id="1"), VENDOR, Filter("all")]
    found = about(*filters)
    assert (found.admitted, found.filter) == (True, 1)
    assert any("filter 1" in reason for reason in found.reasons)
    for command in found.change:
        assert about(*filters).admitted
        filters = changed(filters, command)
    assert not about(*filters).admitted


def test_what_is_hidden_and_what_is_checked_later_is_said() -> None:
    found = about(replace(VENDOR, masked_interfaces=6, interface_class="8"))
    assert found.masked_interfaces == 6
    said = " ".join(found.reasons)
    assert "maskedInterfaces 0x6" in said
    assert "its interfaces are not known yet" in said


def test_without_a_controller_no_filter_helps() -> None:
    found = about(VENDOR, has=False)
    assert not found.admitted
    assert "no USB controller" in found.reasons[0]
    assert found.change == ("modifyvm 'my lab' --usb-xhci on",)


def test_a_device_without_a_vendor_is_admitted_by_none() -> None:
    found = about(VENDOR, info=replace(STICK, vendor_id=0))
    assert (found.admitted, found.change) == (False, ())
