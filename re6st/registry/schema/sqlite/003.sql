-- What nodes tell about themselves, for operators; a second signature while one CA takes over from another.

ALTER TABLE documents ADD COLUMN further_signature BLOB NOT NULL DEFAULT x'';

CREATE TABLE reports (
    node INTEGER PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    received REAL NOT NULL,
    payload BLOB NOT NULL                                           -- JSON of the message
) STRICT;
