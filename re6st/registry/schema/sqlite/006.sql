-- Changes of the network parameters that wait for their time.

CREATE TABLE planned_parameters (
    id INTEGER PRIMARY KEY,
    due REAL NOT NULL,
    changes TEXT NOT NULL,                                          -- JSON object, values as typed
    created REAL NOT NULL
) STRICT;
