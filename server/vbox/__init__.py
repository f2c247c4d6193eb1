"""The store of machines: settings files, their drives, the registry."""
