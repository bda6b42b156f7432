-- The copy of the audit trail (audit.store), for as long as audit.retention_days says.
-- entry: the line as it was written to standard error, JSON. The other columns repeat what is searched for; they are
-- empty where the event has no such field. at: milliseconds since 1970, UTC.

CREATE TABLE IF NOT EXISTS audit_events (
    seq {serial},
    at BIGINT NOT NULL,
    evt TEXT {binary} NOT NULL,
    sub TEXT {binary} NOT NULL,
    email TEXT {binary} NOT NULL,
    entry TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS audit_events_at ON audit_events (at);

CREATE INDEX IF NOT EXISTS audit_events_evt ON audit_events (evt, seq);

CREATE INDEX IF NOT EXISTS audit_events_sub ON audit_events (sub, seq);

CREATE INDEX IF NOT EXISTS audit_events_email ON audit_events (email, seq);
