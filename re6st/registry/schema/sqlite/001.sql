-- First schema of the registry's database. Times are seconds since the epoch.

CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL COLLATE NOCASE,
    prefix_first BLOB NOT NULL CHECK (length(prefix_first) = 16),  -- first address, network byte order
    prefix_last BLOB NOT NULL CHECK (length(prefix_last) = 16),    -- last address
    prefix_length INTEGER NOT NULL CHECK (prefix_length BETWEEN 33 AND 120),
    created REAL NOT NULL,
    released REAL                                                   -- NULL while the node is a member
) STRICT;

-- Names and prefixes of members are unique; former members keep their row for the quarantine and for history.
CREATE UNIQUE INDEX nodes_by_name ON nodes (name) WHERE released IS NULL;
CREATE UNIQUE INDEX nodes_by_prefix ON nodes (prefix_first) WHERE released IS NULL;

-- The allocator never overlaps; should it ever be wrong, nothing is stored. Of prefixes that overlap one
-- contains the other, so that two look-ups in the index are enough.
CREATE TRIGGER nodes_do_not_overlap BEFORE INSERT ON nodes
WHEN EXISTS (
    SELECT 1 FROM nodes
    WHERE released IS NULL AND prefix_first BETWEEN NEW.prefix_first AND NEW.prefix_last
) OR (
    SELECT prefix_last FROM nodes
    WHERE released IS NULL AND prefix_first <= NEW.prefix_first
    ORDER BY prefix_first DESC LIMIT 1
) >= NEW.prefix_first
BEGIN
    SELECT RAISE (ABORT, 'the prefix overlaps that of another node');
END;

CREATE TABLE certificates (
    serial TEXT PRIMARY KEY,                                        -- lower-case hexadecimal
    node INTEGER NOT NULL REFERENCES nodes (id),
    der BLOB NOT NULL,
    key_digest BLOB NOT NULL,                                       -- SHA-256 of the public key
    issued REAL NOT NULL,
    expires REAL NOT NULL,
    revoked REAL
) STRICT;
CREATE INDEX certificates_by_node ON certificates (node);

CREATE TABLE tokens (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,                                    -- SHA-256 of the token
    name TEXT COLLATE NOCASE,                                       -- NULL: the node may choose
    prefix_length INTEGER NOT NULL,
    created REAL NOT NULL,
    expires REAL NOT NULL,
    used REAL,
    node INTEGER REFERENCES nodes (id),
    key_digest BLOB,                                                -- whose answer may be repeated
    CHECK ((used IS NULL) = (node IS NULL) AND (used IS NULL) = (key_digest IS NULL))
) STRICT;

CREATE TABLE records (
    node INTEGER PRIMARY KEY REFERENCES nodes (id),
    sequence INTEGER NOT NULL,
    serial TEXT NOT NULL REFERENCES certificates (serial),          -- of the certificate that signed it
    payload BLOB NOT NULL,
    signature BLOB NOT NULL,
    reachable INTEGER NOT NULL,
    departed INTEGER NOT NULL,
    software TEXT NOT NULL,
    published REAL NOT NULL
) STRICT;

-- The newest version of each signed document.
CREATE TABLE documents (
    kind TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    payload BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT;
CREATE TRIGGER documents_only_go_forward BEFORE UPDATE ON documents
WHEN NEW.version <= OLD.version
BEGIN
    SELECT RAISE (ABORT, 'a signed document of this or a later version exists');
END;
