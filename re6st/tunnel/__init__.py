"""Tunnels: life-cycle, interface pool, and the drivers that carry the packets."""
