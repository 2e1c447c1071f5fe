-- Groups of nodes, and to whom nodes belong.

CREATE TABLE node_groups (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    description TEXT NOT NULL,
    prefix_length INTEGER,                                          -- of new nodes; NULL: as everywhere
    maximum_nodes INTEGER,                                          -- NULL: any number
    created REAL NOT NULL
) STRICT;
INSERT INTO node_groups (name, description, created) VALUES ('default', '', 0);

ALTER TABLE nodes ADD COLUMN node_group INTEGER REFERENCES node_groups (id);
ALTER TABLE nodes ADD COLUMN owner TEXT NOT NULL COLLATE NOCASE DEFAULT '';
UPDATE nodes SET node_group = 1;
CREATE INDEX nodes_by_group ON nodes (node_group, released);

ALTER TABLE tokens ADD COLUMN node_group INTEGER REFERENCES node_groups (id); -- NULL: the first one
ALTER TABLE tokens ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX tokens_by_group ON tokens (node_group) WHERE node_group IS NOT NULL;

DROP VIEW overview;
CREATE VIEW overview AS
SELECT nodes.id, nodes.name, nodes.prefix_first, nodes.prefix_length, nodes.created, nodes.released,
    nodes.suspended, certificates.serial, certificates.expires, records.published, records.reachable,
    records.software, nodes.node_group, nodes.owner
FROM nodes
LEFT JOIN certificates ON certificates.rowid = (
    SELECT newest.rowid FROM certificates AS newest
    WHERE newest.node = nodes.id ORDER BY newest.issued DESC, newest.rowid DESC LIMIT 1
)
LEFT JOIN records ON records.node = nodes.id
WHERE nodes.deleted IS NULL;
