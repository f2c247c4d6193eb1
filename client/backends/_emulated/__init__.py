"""USB devices written in Python; each module but ``core`` and its parts is one."""
