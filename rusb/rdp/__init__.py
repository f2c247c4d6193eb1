"""RDP, both sides, sans-IO."""
