-- What was spent and what is reserved, in nano-dollars (an integer: money is never floating point), in one table, so
-- that one statement changes all that belongs together, in either database.
-- kind day, week, month: sums of a person (principal is the token's sub). kind pool: the sum of a group's shared budget
-- (principal is the group, period a month). kind usage: what a person asked of a model at an upstream on a day; the
-- rows of a report. kind hold: a reservation (principal is its id), from before its request until after it.
-- period: 2031-02-03, 2031-W06 or 2031-02, UTC. nanos: settled. held: reserved by requests that are under way.
-- requests: how many were settled. cap, source: of a sum, the cap that the last reservation was held against and whose
-- it is; of a hold, what was reserved. state: of a hold, held, settled, released or expired; owner to pool say where it
-- is held. guard is never negative: a change whose condition does not hold any more sets it to -1, and with that the
-- whole statement fails.

CREATE TABLE IF NOT EXISTS spend (
    kind TEXT NOT NULL,
    principal TEXT {binary} NOT NULL,
    period TEXT {binary} NOT NULL,
    model TEXT {binary} NOT NULL DEFAULT '',
    upstream TEXT {binary} NOT NULL DEFAULT '',
    session TEXT {binary} NOT NULL DEFAULT '',
    nanos BIGINT NOT NULL,
    held BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL DEFAULT 0,
    output_tokens BIGINT NOT NULL DEFAULT 0,
    cache_read_tokens BIGINT NOT NULL DEFAULT 0,
    cache_write_tokens BIGINT NOT NULL DEFAULT 0,
    web_searches BIGINT NOT NULL DEFAULT 0,
    updated_at BIGINT NOT NULL,
    cap BIGINT,
    source TEXT NOT NULL,
    state TEXT NOT NULL,
    owner TEXT {binary} NOT NULL,
    day TEXT {binary} NOT NULL,
    week TEXT {binary} NOT NULL,
    month TEXT {binary} NOT NULL,
    pool TEXT {binary} NOT NULL,
    expires_at BIGINT NOT NULL,
    guard BIGINT NOT NULL CONSTRAINT spend_guard CHECK (guard >= 0),
    PRIMARY KEY (kind, principal, period, model, upstream, session)
);

CREATE INDEX IF NOT EXISTS spend_period ON spend (kind, period);

CREATE INDEX IF NOT EXISTS spend_updated_at ON spend (updated_at);

CREATE INDEX IF NOT EXISTS spend_holds ON spend (state, expires_at) WHERE kind = 'hold';
