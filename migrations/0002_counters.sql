-- Fixed-window counters: rate limits that hold across replicas.
-- expires_at: the end of the window, milliseconds since 1970, UTC.

CREATE TABLE IF NOT EXISTS counters (
    name TEXT PRIMARY KEY,
    uses BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX IF NOT EXISTS counters_expires_at ON counters (expires_at);
