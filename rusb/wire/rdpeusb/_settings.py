"""What selects configurations and settings, and what comes of it (rdpeusb.md 6 and 7).

The bodies of SELECT_CONFIGURATION and SELECT_INTERFACE, and of their results, which
have the handles of pipes.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from construct import (
    FocusedSeq,
    GreedyBytes,
    Int8ul,
    Int16ul,
    Int32ul,
    Padding,
    PrefixedArray,
    Rebuild,
    Struct,
    Terminated,
)

from rusb.errors import ParseError

from ._messages import at_most, parse_layout

__all__ = [
    *("Configuration", "ConfigurationResult", "Interface", "InterfaceResult"),
    *("InterfaceSelection", "PipeResult"),
]

MAX_INTERFACES, MAX_PIPES = 256, 30
"""Interfaces that a configuration can number, endpoints that a device can have."""

TRANSFER_SIZE: Final = 65536
"""MaximumTransferSize: Windows ignores it (6)."""

_PIPE = FocusedSeq(
    "size",
    "size" / Int16ul,
    Padding(2),
    Rebuild(Int32ul, TRANSFER_SIZE),
    Padding(4),
)
_INTERFACE_INFORMATION = Struct(
    "length" / Rebuild(Int16ul, lambda c: 12 + 12 * len(c.pipes)),
    "expected" / Rebuild(Int16ul, lambda c: len(c.pipes)),
    "number" / Int8ul,
    "alternate" / Int8ul,
    Padding(2),
    "pipes" / PrefixedArray(at_most(MAX_PIPES), _PIPE),
)
_SELECT_CONFIGURATION = Struct(
    "is_valid" / Int8ul,
    Padding(3),
    "interfaces" / PrefixedArray(at_most(MAX_INTERFACES), _INTERFACE_INFORMATION),
    "descriptor" / GreedyBytes,
)
_SELECT_INTERFACE = Struct(
    "handle" / Int32ul, "interface" / _INTERFACE_INFORMATION, Terminated
)
_PIPE_RESULT = Struct(
    "size" / Int16ul,
    "address" / Int8ul,
    "interval" / Int8ul,
    "kind" / Int32ul,
    "handle" / Int32ul,
    "most" / Rebuild(Int32ul, TRANSFER_SIZE),
    "flags" / Rebuild(Int32ul, 0),
)
_INTERFACE_RESULT = Struct(
    "length" / Rebuild(Int16ul, lambda c: 16 + 20 * len(c.pipes)),
    "number" / Int8ul,
    "alternate" / Int8ul,
    "interface_class" / Int8ul,
    "subclass" / Int8ul,
    "protocol" / Int8ul,
    Padding(1),
    "handle" / Int32ul,
    "pipes" / PrefixedArray(at_most(MAX_PIPES), _PIPE_RESULT),
)
_CONFIGURATION_RESULT = Struct(
    "handle" / Int32ul,
    "interfaces" / PrefixedArray(at_most(MAX_INTERFACES), _INTERFACE_RESULT),
)


@dataclass(frozen=True, slots=True)
class Interface:
    """INTERFACE_INFORMATION: the alternate setting that is wanted of an interface.

    Attributes:
        pipes: wMaxPacketSize of each endpoint, in the order of the descriptor.
    """

    number: int
    alternate: int
    pipes: tuple[int, ...]

    @classmethod
    def of(cls, found: Any) -> Self:
        """Take it from a layout."""
        if found.length != 12 + 12 * len(found.pipes):
            size, count = found.length, len(found.pipes)
            raise ParseError(f"INTERFACE_INFORMATION of {size} bytes, {count} pipes")
        return cls(found.number, found.alternate, tuple(found.pipes))

    def fields(self) -> dict[str, object]:
        """Return it for a layout."""
        return {
            "number": self.number,
            "alternate": self.alternate,
            "pipes": self.pipes,
        }


@dataclass(frozen=True, slots=True)
class Configuration:
    """The body of SELECT_CONFIGURATION.

    Attributes:
        interfaces: one of each number, ascending.
        descriptor: the whole descriptor; None: no configuration is selected.
    """

    interfaces: tuple[Interface, ...] = ()
    descriptor: bytes | None = None

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header of the URB."""
        found = parse_layout(_SELECT_CONFIGURATION, body, "SELECT_CONFIGURATION")
        descriptor = found.descriptor if found.is_valid else None
        return cls(tuple(map(Interface.of, found.interfaces)), descriptor)

    def serialize(self) -> bytes:
        """Return what follows the header of the URB."""
        return bytes(
            _SELECT_CONFIGURATION.build(
                {
                    "is_valid": self.descriptor is not None,
                    "interfaces": [i.fields() for i in self.interfaces],
                    "descriptor": self.descriptor or b"",
                }
            )
        )


@dataclass(frozen=True, slots=True)
class InterfaceSelection:
    """The body of SELECT_INTERFACE, with the handle of the configuration."""

    handle: int
    interface: Interface

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header of the URB."""
        found = parse_layout(_SELECT_INTERFACE, body, "SELECT_INTERFACE")
        return cls(found.handle, Interface.of(found.interface))

    def serialize(self) -> bytes:
        """Return what follows the header of the URB."""
        fields = {"handle": self.handle, "interface": self.interface.fields()}
        return bytes(_SELECT_INTERFACE.build(fields))


@dataclass(frozen=True, slots=True)
class PipeResult:
    """An endpoint, and the handle by which transfers name it."""

    size: int
    address: int
    interval: int
    kind: int
    handle: int


@dataclass(frozen=True, slots=True)
class InterfaceResult:
    """INTERFACE_RESULT (7): the result of SELECT_INTERFACE."""

    number: int
    alternate: int
    interface_class: int
    subclass: int
    protocol: int
    handle: int
    pipes: tuple[PipeResult, ...]

    @classmethod
    def of(cls, found: Any) -> Self:
        """Take it from a layout."""
        if found.length != 16 + 20 * len(found.pipes):
            size, count = found.length, len(found.pipes)
            raise ParseError(f"INTERFACE_RESULT of {size} bytes, {count} pipes")
        pipes = (
            PipeResult(p.size, p.address, p.interval, p.kind, p.handle)
            for p in found.pipes
        )
        return cls(
            found.number,
            found.alternate,
            found.interface_class,
            found.subclass,
            found.protocol,
            found.handle,
            tuple(pipes),
        )

    def fields(self) -> dict[str, object]:
        """Return it for a layout."""
        return {**asdict(self), "pipes": [asdict(pipe) for pipe in self.pipes]}

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header of the result."""
        return cls.of(parse_layout(_INTERFACE_RESULT, body, "INTERFACE_RESULT"))

    def serialize(self) -> bytes:
        """Return what follows the header of the result."""
        return bytes(_INTERFACE_RESULT.build(self.fields()))


@dataclass(frozen=True, slots=True)
class ConfigurationResult:
    """The result of SELECT_CONFIGURATION."""

    handle: int = 0
    interfaces: tuple[InterfaceResult, ...] = ()

    @classmethod
    def parse(cls, body: bytes | memoryview) -> Self:
        """Read what follows the header of the result."""
        found = parse_layout(
            _CONFIGURATION_RESULT, body, "result of SELECT_CONFIGURATION"
        )
        return cls(found.handle, tuple(map(InterfaceResult.of, found.interfaces)))

    def serialize(self) -> bytes:
        """Return what follows the header of the result."""
        interfaces = [i.fields() for i in self.interfaces]
        fields = {"handle": self.handle, "interfaces": interfaces}
        return bytes(_CONFIGURATION_RESULT.build(fields))
