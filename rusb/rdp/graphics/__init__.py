"""The screen as RDP has it: pictures, pointers, and what both are made of."""
