"""A peer of rpc-core in Python, written from docs/PROTOCOL.md alone. Section numbers are those of that page."""
