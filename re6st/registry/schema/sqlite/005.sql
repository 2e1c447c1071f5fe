-- Random samples of peer records without looking at all of them: each has a lot, drawn anew when it is published.

ALTER TABLE records ADD COLUMN lot INTEGER NOT NULL DEFAULT 0;
UPDATE records SET lot = random();
CREATE INDEX records_by_lot ON records (reachable, lot) WHERE NOT departed;
