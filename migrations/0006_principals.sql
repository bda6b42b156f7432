-- Who people are, as their last request said, and which groups they were in on which day.
-- email and name are empty when unknown; member_of is a JSON array.

CREATE TABLE IF NOT EXISTS principals (
    principal TEXT {binary} PRIMARY KEY,
    email TEXT NOT NULL,
    name TEXT NOT NULL,
    member_of TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX IF NOT EXISTS principals_updated_at ON principals (updated_at);

CREATE TABLE IF NOT EXISTS principal_groups (
    day TEXT {binary} NOT NULL,
    principal TEXT {binary} NOT NULL,
    member_of TEXT {binary} NOT NULL,
    PRIMARY KEY (day, principal, member_of)
);
