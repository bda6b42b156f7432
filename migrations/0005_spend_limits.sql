-- Caps, and every change of them: one table, so that one statement writes both, in either database.
-- kind limit: what a cap is now (entry is type:id:period of its scope). kind change: one row for the audit list (entry
-- is that of the cap, #, and the version that the change made). A change is written together with the cap, on the
-- condition that the cap still has the version that the change was made from; otherwise neither is written. What was
-- deleted stays as is_deleted: versions never start again.
-- Amounts are cents. before_image and after_image are JSON, empty for none.

CREATE TABLE IF NOT EXISTS spend_limits (
    seq {serial},
    entry TEXT {binary} NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    version BIGINT NOT NULL,
    is_deleted BIGINT NOT NULL,
    id TEXT NOT NULL,
    scope_type TEXT NOT NULL,
    scope_id TEXT {binary} NOT NULL,
    period TEXT NOT NULL,
    amount BIGINT,
    pool_amount BIGINT,
    pool_paused BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    before_image TEXT NOT NULL,
    after_image TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS spend_limits_scope ON spend_limits (kind, scope_type, scope_id);

CREATE INDEX IF NOT EXISTS spend_limits_id ON spend_limits (id);

CREATE INDEX IF NOT EXISTS spend_limits_changes ON spend_limits (kind, updated_at);
