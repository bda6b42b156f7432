-- Agreement between replicas: what they all hold to be current under a name, changed by compare-and-set only.
-- Nothing secret is here; a pointer names something in the key-value store, or says when a task is due.

CREATE TABLE IF NOT EXISTS pointers (
    name TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);
