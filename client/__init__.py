"""The end with the devices."""
