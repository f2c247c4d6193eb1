"""Asyncio plumbing that client and server share."""
