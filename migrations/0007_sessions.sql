-- Sessions: one row from the sign-in until nothing of the session can be valid any more (expires_at), also when it was
-- ended before (ended_at): as long as one of its tokens could pass, the row says that it must not.
-- subject, email, name: as of the last refresh. means: how it began. client: the user agent that fetched the tokens.
-- key_id: the key that signed the newest token. generation: of the newest refresh token; 0 at sign-in.
-- claimed_until: a refresh is under way until then; negative: none is, and nobody waited for the last answer. answer: what the last refresh was answered, sealed, for a client
-- that asks again; empty when there is none. Times are milliseconds since 1970, UTC.

CREATE TABLE IF NOT EXISTS sessions (
    id TEXT {binary} PRIMARY KEY,
    subject TEXT {binary} NOT NULL,
    email TEXT NOT NULL,
    name TEXT NOT NULL,
    means TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_from TEXT NOT NULL,
    client TEXT NOT NULL,
    refreshed_at BIGINT NOT NULL,
    refreshed_from TEXT NOT NULL,
    key_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    claimed_until BIGINT NOT NULL,
    answer TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT
);

CREATE INDEX IF NOT EXISTS sessions_created_at ON sessions (created_at, id);

CREATE INDEX IF NOT EXISTS sessions_subject ON sessions (subject);

CREATE INDEX IF NOT EXISTS sessions_key_id ON sessions (key_id);

CREATE INDEX IF NOT EXISTS sessions_expires_at ON sessions (expires_at);

CREATE INDEX IF NOT EXISTS sessions_answer ON sessions (refreshed_at) WHERE answer <> '';
