-- What is free of the network, so that an allocation looks at a few rows only; and names of tokens by index.

ALTER TABLE nodes ADD COLUMN recycled REAL;                         -- when the quarantine was seen to be over
CREATE INDEX nodes_taken ON nodes (prefix_first) WHERE recycled IS NULL;
CREATE INDEX nodes_waiting ON nodes (released) WHERE released IS NOT NULL AND recycled IS NULL;

-- The largest prefixes of the network that nobody has, that nobody had lately, and that are not reserved.
CREATE TABLE free_space (
    prefix_first BLOB PRIMARY KEY CHECK (length(prefix_first) = 16),
    prefix_length INTEGER NOT NULL
) STRICT;
CREATE INDEX free_space_by_length ON free_space (prefix_length, prefix_first);

CREATE INDEX tokens_by_name ON tokens (name) WHERE name IS NOT NULL;
