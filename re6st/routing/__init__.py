"""Routing by babeld: configuration, monitor socket, and the supervised daemon itself."""
