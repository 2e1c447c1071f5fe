"""re6st: a stable, routed IPv6 prefix for every machine, over a self-healing mesh of tunnels."""

__version__ = "0.1.0"
