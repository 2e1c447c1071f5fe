"""Port mappings on the home router (UPnP internet gateway device)."""
