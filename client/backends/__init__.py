"""Where devices come from; one plugin per file."""
