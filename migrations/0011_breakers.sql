-- Upstreams that are left alone for a while, because they failed again and again: one row each until they work again.
-- model: the upstream's id of it, empty for all of its models. round: how many pauses there were in a row.
-- opened_at: when the first of them began. open_until: before this instant nobody asks; whoever asks then moves it ahead
-- first. Milliseconds since 1970, UTC.

CREATE TABLE IF NOT EXISTS breakers (
    upstream TEXT NOT NULL,
    model TEXT NOT NULL,
    round BIGINT NOT NULL,
    opened_at BIGINT NOT NULL,
    open_until BIGINT NOT NULL,
    PRIMARY KEY (upstream, model)
);

CREATE INDEX IF NOT EXISTS breakers_open_until ON breakers (open_until);
