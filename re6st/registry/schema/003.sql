-- What nodes tell about themselves, for operators.

CREATE TABLE reports (
    node INTEGER PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    received REAL NOT NULL,
    payload BLOB NOT NULL                                           -- JSON of the message
) STRICT;
