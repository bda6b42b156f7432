-- What was spent, in nano-dollars (an integer: money is never floating point).
-- kind: day, week or month of a person (principal is the token's sub), or pool (principal is a group, period a month).
-- period: 2031-02-03, 2031-W06 or 2031-02, UTC. One request adds to all of its rows in one statement.

CREATE TABLE IF NOT EXISTS spend (
    kind TEXT NOT NULL,
    principal TEXT {binary} NOT NULL,
    period TEXT {binary} NOT NULL,
    nanos BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (kind, principal, period)
);

CREATE INDEX IF NOT EXISTS spend_period ON spend (kind, period);

CREATE INDEX IF NOT EXISTS spend_updated_at ON spend (updated_at);
