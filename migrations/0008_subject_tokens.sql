-- Tokens of programs that were exchanged for a session token (RFC 8693): each is accepted once.
-- digest: hex SHA-256 over issuer and jti. expires_at: when nobody accepts the token anyway, milliseconds since 1970, UTC.

CREATE TABLE IF NOT EXISTS subject_tokens (
    digest TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

CREATE INDEX IF NOT EXISTS subject_tokens_expires_at ON subject_tokens (expires_at);
