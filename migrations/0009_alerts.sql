-- Alerts about spend: one row for each threshold that a sum has reached in a period, and for each receiver.
-- id: a digest of all of these, so that a threshold is told once. body: what is sent, JSON. state: due, sent or given_up.
-- next_try: before this instant nobody sends it; whoever does moves it ahead first. Milliseconds since 1970, UTC.

CREATE TABLE IF NOT EXISTS alerts (
    id TEXT PRIMARY KEY,
    webhook TEXT NOT NULL,
    scope TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    next_try BIGINT NOT NULL
);

CREATE INDEX IF NOT EXISTS alerts_due ON alerts (state, next_try);
