"""A virtual machine as VirtualBox users know it."""
