"""The end with the guest."""
