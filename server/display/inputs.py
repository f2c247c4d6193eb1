"""What a viewer types and points at, for the guest (display.md 6)."""

from collections.abc import Hashable

from rusb.rdp.events import (
    Button,
    Input,
    KeyInput,
    LocksInput,
    PointerInput,
    UnicodeInput,
    WheelInput,
)

from .hub import Hub

__all__ = ["pass_on"]

_BUTTONS = {
    Button.LEFT: "left",
    Button.RIGHT: "right",
    Button.MIDDLE: "middle",
    Button.BACK: "side",
    Button.FORWARD: "extra",
}
"""What QMP calls them."""


def pass_on(event: Input, hub: Hub, viewer: Hashable) -> None:
    """Do in the guest what a viewer did."""
    hub.touched()
    match event:
        case KeyInput():
            hub.keyboard.key(viewer, event.code, is_down=event.is_pressed)
        case UnicodeInput():
            if event.is_pressed:
                hub.keyboard.type(chr(event.code))
        case LocksInput():
            hub.keyboard.synchronize(viewer, event.locks)
        case PointerInput():
            hub.move(event.x, event.y)
            if event.button is not None:
                name = _BUTTONS[event.button]
                hub.pointer.button(viewer, name, is_down=event.is_pressed)
        case WheelInput():
            hub.pointer.wheel(event.notches, is_horizontal=event.is_horizontal)
