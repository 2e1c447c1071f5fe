"""The brain of a node, pure: events and the time go in, effects come out."""
