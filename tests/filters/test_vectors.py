"""Every vector of filters.md, section 5, and the rules that its text names."""

from typing import Any

import pytest

from rusb.errors import FilterError
from rusb.filters.criteria import (
    Criterion,
    NumberIs,
    Present,
    Text,
    Value,
    parse_expression,
)
from rusb.filters.engine import decide, first_difference
from rusb.filters.model import ATTRIBUTES, Filter
from rusb.server.vbox.filter_attributes import from_attributes, to_attributes
from rusb.usb.device import DeviceInfo
from tests.support.rows import each_row
from tests.support.vectors import load_vectors

FIELDS = {documented: field for field, documented in ATTRIBUTES.items()}
ENGINE_ONLY = ("deviceClass", "deviceSubClass", "deviceProtocol", "bus")


def engine_criterion(value: dict[str, Any]) -> Criterion | None:
    """Make the criterion of an engine-level value; None for "ignore"."""
    required = value.get("required", True)
    if value.get("ignore"):
        return None
    if value.get("present"):
        return Present()
    if "num" in value:
        return NumberIs(number=value["num"], required=required)
    if "numExpr" in value:
        parsed = parse_expression(value["numExpr"])
        return type(parsed)(text=parsed.text, ranges=parsed.ranges, required=required)
    pattern = value.get("strPattern")
    return Text(
        text=value["str"] if pattern is None else pattern,
        is_pattern=pattern is not None,
        required=required,
    )


def make_filter(given: dict[str, Any]) -> Filter:
    """Make a filter as the vectors describe it; successive values are assigned."""
    plain: dict[str, Any] = {"name": given.get("name", "t")}
    for key in ("active", "remote", "action"):
        if given.get(key) is not None:
            plain[key] = given[key]
    plain["masked_interfaces"] = given.get("maskedInterfaces") or 0
    engine: dict[str, Criterion] = {}
    for documented in (*ATTRIBUTES.values(), *ENGINE_ONLY):
        field = FIELDS.get(documented, documented)
        value = given.get(documented)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                criterion = engine_criterion(one)
                if criterion is not None:
                    engine[field] = criterion
            elif field in ATTRIBUTES:
                plain[field] = one or ""
                Filter(**plain)
    found = Filter(**plain)
    object.__setattr__(found, "criteria", {**found.criteria, **engine})
    return found


def make_device(given: dict[str, Any]) -> DeviceInfo:
    return DeviceInfo(
        id=1,
        vendor_id=given.get("vendorId", 0),
        product_id=given.get("productId", 0),
        bcd_device=given.get("revision", 0),
        port=given.get("port", 0),
        manufacturer=given.get("manufacturer"),
        product=given.get("product"),
        serial=given.get("serialNumber"),
        remote=given["remote"],
    )


def evaluate(vector: dict[str, Any]) -> str:
    try:
        candidate = make_filter(vector["filter"])
    except FilterError:
        return "error"
    device = vector["device"]
    if device.get("raw"):
        attributes: dict[str, Value] = {
            FIELDS.get(k, k): v for k, v in device.items() if k != "raw"
        }
        difference = first_difference(candidate.criteria, attributes)
        return "match" if difference is None else "no-match"
    if not device.get("usbController", True):
        return "no-match"
    info, busy = make_device(device), device.get("busy", False)
    decision = decide([candidate], info, busy=busy)
    assert decision.matched or decision.reasons
    return "match" if decision.matched else "no-match"


@each_row("vector", load_vectors("filters"), ids=lambda v: v["name"])
def test_single_filter_vectors(vector: dict[str, Any]) -> None:
    assert evaluate(vector) == vector["expect"], vector["why"]


def evaluate_list(vector: dict[str, Any]) -> dict[str, Any]:
    has_controller = vector["device"].get("usbController", True)
    try:
        machines = {
            m["name"]: [make_filter(f) for f in m["filters"]]
            for m in vector["machines"]
            if has_controller
        }
        ours = [make_filter(f) for f in vector["globalFilters"]]
    except FilterError:
        return {"outcome": "error"}
    device, busy = make_device(vector["device"]), vector["device"].get("busy", False)
    ours_first = None  # 1.8: the installation's filters are asked for local devices
    if not device.remote:
        ours_first = decide(ours, device, busy=busy).filter
        if ours_first is not None and ours_first.action == "Ignore":
            return {"outcome": "released"}
    for name, filters in machines.items():
        decision = decide(filters, device, busy=busy)
        if decision.matched:
            return {
                "outcome": "attached",
                "machine": name,
                "index": decision.index,
                "maskedInterfaces": decision.masked_interfaces,
            }
    if device.remote:
        return {"outcome": "available"}
    return {"outcome": "released" if ours_first is None else "held"}


@each_row("vector", load_vectors("filter_lists"), ids=lambda v: v["name"])
def test_list_vectors(vector: dict[str, Any]) -> None:
    assert evaluate_list(vector) == vector["expect"], vector["why"]


@pytest.mark.parametrize(
    ("attribute", "text", "stored"),
    [
        ("vendorId", "46d", "046D"),
        ("vendorId", "0x046d", "046D"),
        ("vendorId", "+1", "0001"),
        ("vendorId", "FFFFFFFF", "FFFF"),
        ("port", "3", "0003"),
        ("revision", "100", "0100"),
        ("product", "Opt*", "Opt*"),
        ("vendorId", "1200-1300", "1200-1300"),  # D1
        ("vendorId", "||0x10|0x20 ", "0x10|0x20 "),  # D1
        ("vendorId", " 1234", " 1234"),  # D1: without its blank it would be 0x1234
        ("vendorId", "", None),
    ],
)
def test_texts_are_stored_so_that_they_mean_the_same(
    attribute: str, text: str, stored: str | None
) -> None:
    given = {"name": "f", "active": "true", attribute: text}
    made = from_attributes(given)
    assert made is not None
    written = to_attributes(made)
    assert written.get(attribute) == stored
    again = from_attributes(written)
    assert again is not None
    for number in range(0x3000):
        first = first_difference(made.criteria, {"vendor_id": number, "product": "Opt"})
        assert first == first_difference(
            again.criteria, {"vendor_id": number, "product": "Opt"}
        )
