-- Admission without a join link from an operator: requests that wait for approval, open enrolment, mails.

ALTER TABLE tokens ADD COLUMN way TEXT NOT NULL DEFAULT 'link';     -- link, request, open or mail
ALTER TABLE tokens ADD COLUMN key_digest BLOB;                      -- only for this key; NULL: for any
ALTER TABLE tokens ADD COLUMN mailbox TEXT;                         -- to which it was sent
CREATE INDEX tokens_by_mailbox ON tokens (mailbox) WHERE mailbox IS NOT NULL;
CREATE INDEX tokens_by_way ON tokens (way) WHERE way <> 'link';
CREATE INDEX certificates_by_key ON certificates (key_digest);

CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,                                    -- SHA-256 of the node's secret
    key_digest BLOB NOT NULL,                                       -- SHA-256 of its public key
    name TEXT NOT NULL COLLATE NOCASE,                              -- which it wants, or empty
    message TEXT NOT NULL,
    origin TEXT NOT NULL,                                           -- network address
    source TEXT NOT NULL,                                           -- under what it is counted
    state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied')),
    reason TEXT NOT NULL,
    created REAL NOT NULL,
    expires REAL NOT NULL                                           -- until when it can be decided
) STRICT;
CREATE INDEX requests_by_state ON requests (state, expires);
CREATE INDEX requests_by_source ON requests (source, created);
CREATE INDEX requests_by_key ON requests (key_digest);

-- Mails with join links; each link is made when its mail is sent, so that it is written down nowhere.
CREATE TABLE mails (
    id INTEGER PRIMARY KEY,
    mailbox TEXT NOT NULL,
    source TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'refused', 'failed')),
    reason TEXT NOT NULL,
    created REAL NOT NULL,
    due REAL NOT NULL,                                              -- of the next attempt
    attempts INTEGER NOT NULL,
    token INTEGER REFERENCES tokens (id)
) STRICT;
CREATE INDEX mails_by_state ON mails (state, due);
CREATE INDEX mails_by_mailbox ON mails (mailbox, created);
CREATE INDEX mails_by_source ON mails (source, created);
