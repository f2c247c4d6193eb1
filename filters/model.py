"""Filters and decisions (filters.md 1.1, 1.6, 1.9)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rusb.errors import FilterError

from .criteria import Criterion, NumberIs, parse_number, parse_text

__all__ = ["ATTRIBUTES", "Decision", "Filter", "describe_mask"]

BUDGET = 255
"""Bytes of all stored texts of one filter, each with one more (1.6)."""

ATTRIBUTES = {
    "vendor_id": "vendorId",
    "product_id": "productId",
    "revision": "revision",
    "manufacturer": "manufacturer",
    "product": "product",
    "serial_number": "serialNumber",
    "port": "port",
}
"""Field to documented attribute, in the order in which texts are applied."""

NUMERIC = frozenset(("vendor_id", "product_id", "revision", "port"))

REMOTE_TEXTS = {
    "": None,
    "true": True,
    "yes": True,
    "1": True,
    "false": False,
    "no": False,
    "0": False,
}
"""Text to origin wanted; None: any (1.4)."""

ACTIONS = ("Ignore", "Hold")


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter; its texts are those of a settings file.

    A lone number is normalised to four upper-case hexadecimal digits; every other
    text stays as it was entered (D1).

    Attributes:
        interface_class: numeric text (1.2): the class that every interface must have
            which the filter does not mask. Ours, not VirtualBox's: what a device says
            of itself is one number, what its interfaces are decides what it can do.
        criteria: what follows from the texts, by field name; without
            ``interface_class``.
        interface_criterion: what follows from ``interface_class``, if anything.

    Raises:
        FilterError: a text is invalid; the message names the attribute.
    """

    name: str
    active: bool = True
    vendor_id: str = ""
    product_id: str = ""
    revision: str = ""
    manufacturer: str = ""
    product: str = ""
    serial_number: str = ""
    port: str = ""
    remote: str = ""
    masked_interfaces: int = 0
    action: str = "Ignore"
    interface_class: str = ""
    criteria: Mapping[str, Criterion] = field(init=False, repr=False, compare=False)
    interface_criterion: Criterion | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise FilterError("a filter needs a name")
        if self.remote not in REMOTE_TEXTS:
            raise FilterError(
                f"remote {self.remote!r}: use yes, no, true, false, 1, 0, or an empty"
                " text for any"
            )
        if self.action not in ACTIONS:
            raise FilterError(f"action {self.action!r}: use Ignore or Hold")
        if not 0 <= self.masked_interfaces <= 0xFFFFFFFF:
            raise FilterError(
                f"maskedInterfaces {self.masked_interfaces}: it must be a 32-bit number"
            )
        criteria: dict[str, Criterion] = {}
        left = BUDGET
        for attribute, documented in ATTRIBUTES.items():
            text: str = getattr(self, attribute)
            if not text:
                continue
            try:
                parse = parse_number if attribute in NUMERIC else parse_text
                criterion = criteria[attribute] = parse(text)
            except FilterError as error:
                raise FilterError(f"{documented} {error}", error.column) from None
            if criterion.stored:
                left -= len(criterion.stored.encode("utf-8", "replace")) + 1
            if left < 0:
                raise FilterError(
                    f"{documented}: a filter's texts may have {BUDGET} bytes in all"
                )
            if isinstance(criterion, NumberIs):
                object.__setattr__(self, attribute, str(criterion))
        object.__setattr__(self, "criteria", criteria)
        object.__setattr__(self, "interface_criterion", self._of_interfaces())

    def _of_interfaces(self) -> Criterion | None:
        if not self.interface_class:
            return None
        try:
            return parse_number(self.interface_class)
        except FilterError as error:
            raise FilterError(f"interfaceClass {error}", error.column) from None

    @property
    def wants_remote(self) -> bool | None:
        """Which origin it accepts: True remote, False this host's, None any."""
        return REMOTE_TEXTS[self.remote]

    @property
    def is_substantial(self) -> bool:
        """Does any criterion name something (the in-use rule, 1.7)?"""
        return any(c.is_substantial for c in self.criteria.values())

    def __str__(self) -> str:
        """The name, and what the filter wants."""
        wants = [f"{ATTRIBUTES[a]} {c}" for a, c in self.criteria.items()]
        if self.interface_criterion:
            wants.append(f"interfaceClass {self.interface_criterion}")
        if self.remote:
            wants.append(f"remote {self.remote}")
        return f'"{self.name}" ({", ".join(wants) or "any device"})'


def describe_mask(mask: int) -> str:
    """Say which interfaces a mask is to hide; a device may lack them (1.1)."""
    numbers = ", ".join(str(n) for n in range(32) if mask >> n & 1)
    who = f"interfaces {numbers} are" if mask & mask - 1 else f"interface {numbers} is"
    return f"{who} to be hidden from the guest (maskedInterfaces 0x{mask:x})"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the filters decided about one device, and why.

    Attributes:
        filter: the one that admits; None if none does.
        index: its position in the list.
        reasons: a sentence for each filter that was tried.
    """

    filter: Filter | None
    index: int | None
    reasons: tuple[str, ...]

    @property
    def matched(self) -> bool:
        """Is the device admitted?"""
        return self.filter is not None

    @property
    def masked_interfaces(self) -> int:
        """Interfaces that the guest is not to see, a bit each."""
        return self.filter.masked_interfaces if self.filter else 0

    def __str__(self) -> str:
        if self.filter is not None:
            mask = self.masked_interfaces
            hidden = f"; {describe_mask(mask)}" if mask else ""
            return f"admitted by filter {self.index} {self.filter}{hidden}"
        return "refused: " + ("; ".join(self.reasons) or "there are no filters")
