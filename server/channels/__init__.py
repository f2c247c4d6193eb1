"""One file joins a channel of a client to the machine."""
