"""USB redirection protocols, sans-IO; one plugin per file."""
