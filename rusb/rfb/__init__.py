"""The client side of QEMU's VNC server, sans-IO."""
