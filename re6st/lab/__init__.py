"""The lab: an internet of network namespaces on one machine."""
