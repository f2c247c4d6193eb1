"""What a server tells of what is attached."""

from rusb.usb.device import DeviceInfo

__all__ = ["describe_device"]


def describe_device(info: DeviceInfo) -> dict[str, object]:
    """Return a device as it travels over the control socket."""
    return {
        "vendor_id": info.vendor_id,
        "product_id": info.product_id,
        "revision": info.bcd_device,
        "manufacturer": info.manufacturer or "",
        "product": info.product or "",
        "serial": info.serial or "",
        "port": info.port,
    }
