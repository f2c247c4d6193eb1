"""Where devices go; one plugin per file."""
