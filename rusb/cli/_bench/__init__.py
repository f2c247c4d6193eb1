"""What ``rusb bench`` does (docs/spec/speed.md)."""
