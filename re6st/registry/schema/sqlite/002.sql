-- Life cycle of nodes, tokens for several nodes, reservations, history of parameters, audit log, operators.

ALTER TABLE nodes ADD COLUMN suspended REAL;                        -- since when it may not take part
ALTER TABLE nodes ADD COLUMN deleted REAL;                          -- not shown any more; see purge

-- A former member may come back to its prefix: as strict as for a new one.
CREATE TRIGGER nodes_do_not_overlap_again BEFORE UPDATE OF released ON nodes
WHEN NEW.released IS NULL AND OLD.released IS NOT NULL AND (EXISTS (
    SELECT 1 FROM nodes
    WHERE released IS NULL AND prefix_first BETWEEN NEW.prefix_first AND NEW.prefix_last
) OR (
    SELECT prefix_last FROM nodes
    WHERE released IS NULL AND prefix_first <= NEW.prefix_first
    ORDER BY prefix_first DESC LIMIT 1
) >= NEW.prefix_first)
BEGIN
    SELECT RAISE (ABORT, 'the prefix overlaps that of another node');
END;

-- What operators see of nodes: with the newest certificate and the record, if any.
CREATE VIEW overview AS
SELECT nodes.id, nodes.name, nodes.prefix_first, nodes.prefix_length, nodes.created, nodes.released,
    nodes.suspended, certificates.serial, certificates.expires, records.published, records.reachable,
    records.software
FROM nodes
LEFT JOIN certificates ON certificates.rowid = (
    SELECT newest.rowid FROM certificates AS newest
    WHERE newest.node = nodes.id ORDER BY newest.issued DESC, newest.rowid DESC LIMIT 1
)
LEFT JOIN records ON records.node = nodes.id
WHERE nodes.deleted IS NULL;

CREATE TABLE reservations (
    name TEXT PRIMARY KEY COLLATE NOCASE,
    prefix_first BLOB NOT NULL UNIQUE CHECK (length(prefix_first) = 16),
    prefix_length INTEGER NOT NULL CHECK (prefix_length BETWEEN 33 AND 120),
    created REAL NOT NULL
) STRICT;

CREATE TABLE tokens_with_uses (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,                                    -- SHA-256 of the token
    name TEXT COLLATE NOCASE,                                       -- NULL: the node may choose
    prefix_length INTEGER NOT NULL,
    created REAL NOT NULL,
    expires REAL NOT NULL,
    maximum_uses INTEGER NOT NULL CHECK (maximum_uses >= 1),
    node INTEGER REFERENCES nodes (id),                             -- whose place it gives back
    revoked REAL,
    CHECK (maximum_uses = 1 OR (name IS NULL AND node IS NULL))
) STRICT;
INSERT INTO tokens_with_uses (id, digest, name, prefix_length, created, expires, maximum_uses)
SELECT id, digest, name, prefix_length, created, expires, 1 FROM tokens;

CREATE TABLE token_uses (
    token INTEGER NOT NULL REFERENCES tokens_with_uses (id),
    key_digest BLOB NOT NULL,                                       -- whose answer may be repeated
    node INTEGER NOT NULL REFERENCES nodes (id),
    used REAL NOT NULL,
    PRIMARY KEY (token, key_digest)
) STRICT;
CREATE INDEX token_uses_by_node ON token_uses (node);
INSERT INTO token_uses (token, key_digest, node, used)
SELECT id, key_digest, node, used FROM tokens WHERE used IS NOT NULL;
DROP TABLE tokens;
ALTER TABLE tokens_with_uses RENAME TO tokens;

CREATE TABLE parameter_history (
    version INTEGER PRIMARY KEY,
    payload BLOB NOT NULL,
    created REAL                                                    -- NULL: before the history was kept
) STRICT;
INSERT INTO parameter_history (version, payload)
SELECT version, payload FROM documents WHERE kind = 'parameters';

-- Who did what, from where and when.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    actor_kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    origin TEXT NOT NULL,                                           -- address, or 'local'
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    details TEXT NOT NULL                                           -- JSON object
) STRICT;
CREATE INDEX audit_by_time ON audit (time);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE (ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE (ABORT, 'the audit log is append-only');
END;

CREATE TABLE operator_tokens (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL COLLATE NOCASE,
    digest BLOB NOT NULL UNIQUE,                                    -- SHA-256 of the token
    scope TEXT NOT NULL CHECK (scope IN ('read', 'write', 'admin')),
    created REAL NOT NULL,
    expires REAL,                                                   -- NULL: never
    revoked REAL
) STRICT;
CREATE UNIQUE INDEX operator_tokens_by_name ON operator_tokens (name) WHERE revoked IS NULL;

-- Answers to requests that may be repeated. They are encrypted with a key that only the operator has.
CREATE TABLE answers (
    operator INTEGER NOT NULL REFERENCES operator_tokens (id),
    key_digest BLOB NOT NULL,                                       -- SHA-256 of the idempotency key
    request_digest BLOB NOT NULL,
    status INTEGER NOT NULL,
    answer BLOB NOT NULL,
    created REAL NOT NULL,
    PRIMARY KEY (operator, key_digest)
) STRICT;
