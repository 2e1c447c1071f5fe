-- Further prefixes of nodes.

CREATE TABLE further_prefixes (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL REFERENCES nodes (id),
    prefix_first BLOB NOT NULL CHECK (length(prefix_first) = 16),   -- first address, network byte order
    prefix_last BLOB NOT NULL CHECK (length(prefix_last) = 16),     -- last address
    prefix_length INTEGER NOT NULL CHECK (prefix_length BETWEEN 33 AND 120),
    created REAL NOT NULL,
    released REAL                                                   -- NULL while the node has it
) STRICT;
CREATE INDEX further_prefixes_by_node ON further_prefixes (node);
CREATE INDEX further_prefixes_taken ON further_prefixes (prefix_first);
CREATE INDEX further_prefixes_waiting ON further_prefixes (released) WHERE released IS NOT NULL;
CREATE UNIQUE INDEX further_prefixes_by_prefix ON further_prefixes (prefix_first) WHERE released IS NULL;

-- All that is held, to see that nothing overlaps. Should the allocator ever be wrong, nothing is stored.
CREATE VIEW held_prefixes AS
SELECT prefix_first, prefix_last FROM nodes WHERE released IS NULL
UNION ALL SELECT prefix_first, prefix_last FROM further_prefixes WHERE released IS NULL;

CREATE TRIGGER further_prefixes_do_not_overlap BEFORE INSERT ON further_prefixes
WHEN NEW.released IS NULL AND EXISTS (
    SELECT 1 FROM held_prefixes WHERE prefix_first <= NEW.prefix_last AND prefix_last >= NEW.prefix_first
)
BEGIN
    SELECT RAISE (ABORT, 'the prefix overlaps that of another node');
END;
CREATE TRIGGER further_prefixes_do_not_overlap_again BEFORE UPDATE OF released ON further_prefixes
WHEN NEW.released IS NULL AND OLD.released IS NOT NULL AND EXISTS (
    SELECT 1 FROM held_prefixes WHERE prefix_first <= NEW.prefix_last AND prefix_last >= NEW.prefix_first
)
BEGIN
    SELECT RAISE (ABORT, 'the prefix overlaps that of another node');
END;
CREATE TRIGGER nodes_do_not_overlap_further BEFORE INSERT ON nodes
WHEN EXISTS (
    SELECT 1 FROM further_prefixes
    WHERE released IS NULL AND prefix_first <= NEW.prefix_last AND prefix_last >= NEW.prefix_first
)
BEGIN
    SELECT RAISE (ABORT, 'the prefix overlaps a further one of another node');
END;
CREATE TRIGGER nodes_do_not_overlap_further_again BEFORE UPDATE OF released ON nodes
WHEN NEW.released IS NULL AND OLD.released IS NOT NULL AND EXISTS (
    SELECT 1 FROM further_prefixes
    WHERE released IS NULL AND prefix_first <= NEW.prefix_last AND prefix_last >= NEW.prefix_first
)
BEGIN
    SELECT RAISE (ABORT, 'the prefix overlaps a further one of another node');
END;
