"""A running machine moves to another host (docs/spec/teleport.md)."""
