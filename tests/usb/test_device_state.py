"""Which configuration and alternate settings are selected."""

from rusb.usb.descriptors import (
    ConfigurationDescriptor,
    DeviceDescriptor,
    DeviceDescriptors,
    EndpointDescriptor,
    InterfaceDescriptor,
)
from rusb.usb.state import DeviceState


def interface(number: int, alternate: int, *addresses: int) -> InterfaceDescriptor:
    endpoints = tuple(EndpointDescriptor(a, 2, 512, 0) for a in addresses)
    return InterfaceDescriptor(number, alternate, 0xFF, 0, 0, endpoints=endpoints)


TWO = DeviceDescriptors(
    DeviceDescriptor(0x0200, 0, 0, 0, 64, 0x1209, 1, 1, num_configurations=2),
    (
        ConfigurationDescriptor(
            *(1, 0x80, 50),
            (interface(0, 0, 0x81), interface(2, 0), interface(2, 1, 0x82, 0x02)),
        ),
        ConfigurationDescriptor(5, 0x80, 50, (interface(0, 0, 0x83),)),
    ),
)


def test_at_first_nothing_is_selected() -> None:
    state = DeviceState(TWO)
    assert state.configuration is None
    assert (state.alternates, state.endpoints, state.interfaces) == ({}, {}, ())
    assert not state.select_interface(0, 0)


def test_a_configuration_brings_its_endpoints() -> None:
    state = DeviceState(TWO)
    assert state.select_configuration(1)
    assert state.configuration is TWO.configurations[0]
    assert state.alternates == {0: 0, 2: 0}
    assert set(state.endpoints) == {0x81}
    assert state.select_configuration(5)
    assert set(state.endpoints) == {0x83}
    assert state.select_configuration(0)
    assert state.interfaces == ()
    assert not state.endpoints


def test_an_alternate_setting_brings_its_endpoints() -> None:
    state = DeviceState(TWO)
    state.select_configuration(1)
    assert state.select_interface(2, 1)
    assert set(state.endpoints) == {0x81, 0x82, 0x02}
    assert [(i.number, i.alternate) for i in state.interfaces] == [(0, 0), (2, 1)]
    assert state.select_configuration(1)  # selecting again starts anew (9.1.1.5)
    assert state.alternates == {0: 0, 2: 0}
    assert set(state.endpoints) == {0x81}


def test_configuration_0_is_one_where_the_device_has_it() -> None:
    odd = DeviceDescriptors(
        TWO.device, (ConfigurationDescriptor(0, 0x80, 50, (interface(0, 0, 0x81),)),)
    )
    state = DeviceState(odd)
    assert state.select_configuration(0)
    assert set(state.endpoints) == {0x81}
    state.unconfigure()
    assert (state.configuration, state.endpoints) == (None, {})


def test_what_is_not_there_changes_nothing() -> None:
    state = DeviceState(TWO)
    state.select_configuration(1)
    state.select_interface(2, 1)
    assert not state.select_configuration(2)
    assert not state.select_interface(1, 0)
    assert not state.select_interface(2, 2)
    assert state.configuration is TWO.configurations[0]
    assert state.alternates == {0: 0, 2: 1}


def test_t33_an_interface_without_setting_zero_has_no_endpoints() -> None:
    odd = DeviceDescriptors(
        TWO.device, (ConfigurationDescriptor(1, 0x80, 50, (interface(0, 3, 0x81),)),)
    )
    state = DeviceState(odd)
    assert state.select_configuration(1)
    assert (state.interfaces, state.endpoints) == ((), {})
    assert state.select_interface(0, 3)
    assert set(state.endpoints) == {0x81}
