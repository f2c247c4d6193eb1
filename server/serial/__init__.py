"""Serial ports of USB chips, for guests that have no kernel driver for them."""
