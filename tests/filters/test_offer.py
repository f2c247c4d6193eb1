"""Rules as people type them, and sentences that people read."""

import time
from dataclasses import replace

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
        "vid=951 , product = DataTraveler* ",
        'product="DataTraveler, 3.0"',
        "manufacturer=Kingston,serial=E0D5",
        "revision=0x100-0x1FF",
        "port=2",
    ],
)
def test_rules_that_admit_the_stick(text: str) -> None:
    assert decide([parse_offer(text)], STICK).matched


@pytest.mark.parametrize(
    "text",
    ["0951:1667", "vid=1209", "product=datatraveler*", 'product="DataTraveler* "'],
)
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
        ' filter 1 "here": it is for local devices, this one is remote;'
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
        ({"name": "f", "masked_interfaces": 1 << 32}, "a 32-bit number"),
    ],
)
def test_a_wrong_filter_names_the_attribute(fields: dict[str, str], part: str) -> None:
    with pytest.raises(FilterError, match=part):
        Filter(**fields)  # type: ignore[arg-type]


# ------------------------------------------------- interface classes, in-use rule ----

DISK = Filter("disks", interface_class="08")
MASKED = Filter("masked", interface_class="08", masked_interfaces=2)


@pytest.mark.parametrize(
    ("given", "interfaces", "admits"),
    [
        (DISK, None, True),  # nobody has looked yet
        (DISK, {0: {8}}, True),
        (DISK, {0: {8}, 1: {3}}, False),  # T40: a keyboard in a disk
        (MASKED, {0: {8}, 1: {3}}, True),
        (MASKED, {0: {8}, 2: {3}}, False),
        (DISK, {0: {8, 0xFF}}, False),
        (Filter("two", interface_class="0x08|0x03"), {0: {8}, 1: {3}}, True),
        (
            parse_offer("interfaceClass=08,vid=0951", reads_devices=True),
            {0: {3}},
            False,
        ),
    ],
)
def test_t40_a_filter_can_ask_what_the_interfaces_are(
    given: Filter, interfaces: dict[int, set[int]] | None, admits: bool
) -> None:
    decision = decide([given], STICK, interfaces=interfaces)
    assert decision.matched == admits
    if not admits:
        assert "interfaceClass wanted" in str(decision)


def test_t40_the_next_filter_may_take_what_one_refuses() -> None:
    filters = [DISK, Filter("any", masked_interfaces=0b110)]
    decision = decide(filters, STICK, interfaces={0: {8}, 1: {3}})
    assert decision.index == 1
    assert (
        "interfaces 1, 2 are to be hidden from the guest (maskedInterfaces 0x6)"
        in str(decision)
    )


def test_t40_a_class_is_not_asked_for_where_nobody_looks() -> None:
    with pytest.raises(FilterError, match="rusb serve --allow"):
        parse_offer("interfaceClass=08")


def test_a_wrong_interface_class_names_itself() -> None:
    with pytest.raises(FilterError, match="interfaceClass"):
        Filter("disks", interface_class="08,03")


def test_a_wildcard_ignore_leaves_a_device_in_use_alone() -> None:
    here = replace(STICK, remote=False)
    every = [Filter("all", action="Ignore")]
    assert decide(every, here).matched
    assert not decide(every, here, busy=True).matched
    named = [Filter("Kingston", vendor_id="0951", action="Ignore")]
    assert decide(named, here, busy=True).matched


# T41: what a filter's texts may be

T41 = [
    ("10000", "too big|larger|hex"),
    ("-1", None),  # 0 to 1 (1.2)
    ("\u0661", "number"),  # a digit, but no ASCII one
    ("\uff11", "number"),
    ("1209 ", None),
]


@pytest.mark.parametrize(("text", "trouble"), T41)
def test_t41_numbers_are_ascii_and_bounded(text: str, trouble: str | None) -> None:
    if trouble is None:
        assert Filter("f", vendor_id=text).criteria
        return
    with pytest.raises(FilterError, match="vendorId"):
        Filter("f", vendor_id=text)


def test_t41_case_and_look_alikes_differ() -> None:
    kingston = replace(STICK, manufacturer="Kingston")
    for text in (
        *("kingston", "KINGSTON", "K\u0456ngston", "Kingston\u200b"),
        "\uff2bingston",  # full width: the same after normalisation
        "K\u0131ngston",
    ):
        assert not decide([Filter("f", manufacturer=text)], kingston).matched
    composed = replace(STICK, manufacturer="Caf\u00e9")
    assert not decide([Filter("f", manufacturer="Cafe\u0301")], composed).matched


def test_t41_an_expression_is_short_even_where_little_of_it_is_stored() -> None:
    """Leading separators do not count towards the budget of a filter's texts."""
    assert Filter("f", vendor_id="|" * 253 + "1").criteria
    with pytest.raises(FilterError, match="vendorId an expression of more than 254"):
        Filter("f", vendor_id="|" * 254 + "1")


def test_t41_an_empty_rule_is_not_everything() -> None:
    with pytest.raises(FilterError, match="the filter is empty; omit --filter"):
        parse_offer("")


def test_t41_a_pattern_takes_no_time_whatever_it_is() -> None:
    slow = replace(STICK, manufacturer="a" * 200)
    bomb = Filter("f", manufacturer="*a" * 100 + "b")
    start = time.process_time()
    for _ in range(100):
        assert not decide([bomb], slow).matched
    assert time.process_time() - start < 1
