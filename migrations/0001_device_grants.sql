-- Device grants (RFC 8628): one row from the device's request until ten minutes after its decision.
-- device_hash: hex SHA-256 of the device code. sealed: what is kept of the grant in its state, encrypted.
-- polled_early: whether the last poll came too soon. Times are milliseconds since 1970, UTC.

CREATE TABLE IF NOT EXISTS device_grants (
    device_hash TEXT PRIMARY KEY,
    user_code TEXT NOT NULL,
    state TEXT NOT NULL,
    sealed TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    polled_at BIGINT NOT NULL,
    polled_early BIGINT NOT NULL,
    redeemed_at BIGINT
);

CREATE UNIQUE INDEX IF NOT EXISTS device_grants_user_code ON device_grants (user_code);

CREATE INDEX IF NOT EXISTS device_grants_expires_at ON device_grants (expires_at);
