"""USB as such: descriptors, SETUP packets, URBs; stdlib only."""
