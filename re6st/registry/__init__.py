"""The registry: allocates prefixes, issues certificates, signs the documents of the network."""
