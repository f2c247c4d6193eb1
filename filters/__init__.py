"""Policy: USB device filters; pure functions."""
