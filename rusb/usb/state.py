"""Which configuration and alternate settings of a device are selected."""

from .descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)

__all__ = ["DeviceState"]


class DeviceState:
    """Which configuration and alternate settings of a device are selected.

    Attributes:
        descriptors: what there is to select from.
        configuration: the active configuration; None while unconfigured.
        alternates: alternate setting of each interface of it.
        endpoints: address to descriptor of every endpoint now in being, without
            endpoint zero.
    """

    def __init__(self, descriptors: DeviceDescriptors) -> None:
        self.descriptors = descriptors
        self.configuration: ConfigurationDescriptor | None = None
        self.alternates: dict[int, int] = {}
        self.endpoints: dict[int, EndpointDescriptor] = {}

    @property
    def interfaces(self) -> tuple[InterfaceDescriptor, ...]:
        """The selected alternate setting of each interface, by number."""
        if self.configuration is None:
            return ()
        chosen = (self.configuration.interface(*i) for i in self.alternates.items())
        return tuple(i for i in chosen if i is not None)

    def select_configuration(self, value: int) -> bool:
        """Select a configuration; every alternate setting becomes 0.

        0 selects none, unless the device has a configuration of that value, against
        the specification (some smart card readers and modems).

        Returns:
            False, with nothing changed, where the device has no such configuration.
        """
        chosen = self.descriptors.configuration(value)
        if value and chosen is None:
            return False
        self._use(chosen)
        return True

    def unconfigure(self) -> None:
        """Select no configuration, as after a reset."""
        self._use(None)

    def _use(self, chosen: ConfigurationDescriptor | None) -> None:
        self.configuration = chosen
        numbers = chosen.interface_numbers if chosen else ()
        self.alternates = dict.fromkeys(numbers, 0)
        self._find_endpoints()

    def select_interface(self, number: int, alternate: int) -> bool:
        """Select an alternate setting; False where there is none such."""
        if self.configuration is None:
            return False
        if self.configuration.interface(number, alternate) is None:
            return False
        self.alternates[number] = alternate
        self._find_endpoints()
        return True

    def _find_endpoints(self) -> None:
        self.endpoints = {e.address: e for i in self.interfaces for e in i.endpoints}
