"""Rules as people type them, and sentences that people read."""

import pytest

from rusb.errors import FilterError
from rusb.filters import Filter, decide, parse_offer
from rusb.usb.device import DeviceInfo

STICK = DeviceInfo(
    1,
    0x0951,
    0x1666,
    bcd_device=0x0110,
    manufacturer="Kingston",
    product="DataTraveler, 3.0",
    serial="E0D5",
    port=2,
    remote=True,
)


@pytest.mark.parametrize(
    "text",
    [
        "0951:1666",
        "951:1666",
        "0951:",
        "vendorId=0951",
        "VENDORID=951,pid=1666",
        "vid=0951, product=DataTraveler*",
        'product="DataTraveler, 3.0"',
        "manufacturer=Kingston,serial=E0D5",
        "revision=0x100-0x1FF",
        "port=2",
    ],
)
def test_rules_that_admit_the_stick(text: str) -> None:
    assert decide([parse_offer(text)], STICK).matched


@pytest.mark.parametrize("text", ["0951:1667", "vid=1209", "product=datatraveler*"])
def test_rules_that_do_not(text: str) -> None:
    assert not decide([parse_offer(text)], STICK).matched


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", None),
        ("colour=red", 0),
        ("vid=1,colour=red", 6),
        ("vid", 0),
        ("vid=12345", None),
        ('product="open', 0),
        ("vid=46d|930", 2),
    ],
)
def test_rules_that_are_wrong_say_where(text: str, column: int | None) -> None:
    with pytest.raises(FilterError) as caught:
        parse_offer(text)
    assert caught.value.column == column


def test_an_admission_names_the_filter_and_what_it_wants() -> None:
    filters = [
        Filter("off", active=False),
        Filter("ours", vendor_id="951", remote="yes"),
    ]
    decision = decide(filters, STICK)
    assert (decision.index, decision.masked_interfaces) == (1, 0)
    assert str(decision) == 'admitted by filter 1 "ours" (vendorId 0951, remote yes)'


def test_a_refusal_says_for_each_filter_what_was_wanted_and_found() -> None:
    filters = [
        Filter("off", active=False),
        Filter("here", remote="no"),
        Filter("other", vendor_id="0951", product_id="1667"),
        Filter("named", serial_number="X*"),
    ]
    assert str(decide(filters, STICK)) == (
        'refused: filter 0 "off": it is inactive;'
        ' filter 1 "here": it wants local devices, this one is remote;'
        ' filter 2 "other": productId wanted 1667, found 1666;'
        ' filter 3 "named": serialNumber wanted X*, found E0D5'
    )
    assert str(decide([], STICK)) == "refused: there are no filters"


def test_t42_what_a_device_says_is_made_harmless_in_sentences() -> None:
    evil = DeviceInfo(1, 1, 1, product="\x1b[31mred\n" + "x" * 500, remote=True)
    text = str(decide([Filter("f", product="a")], evil))
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 200


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"name": ""}, "needs a name"),
        ({"name": "f", "remote": "any"}, "remote 'any'"),
        ({"name": "f", "action": "Keep"}, "Ignore or Hold"),
        ({"name": "f", "vendor_id": "12345"}, "vendorId '12345'"),
        ({"name": "f", "product": "x" * 255}, "product: a filter's texts"),
        ({"name": "f", "masked_interfaces": 1 << 32}, "32 bits"),
    ],
)
def test_a_wrong_filter_names_the_attribute(fields: dict[str, str], part: str) -> None:
    with pytest.raises(FilterError, match=part):
        Filter(**fields)  # type: ignore[arg-type]
