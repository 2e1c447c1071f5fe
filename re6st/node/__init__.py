"""The node daemon: adapters to the kernel, programs, HTTP and disk around the pure core."""
