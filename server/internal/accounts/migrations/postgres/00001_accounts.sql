-- +goose Up

-- Times are nanoseconds since 1970, 0 for none. Ids of keys and volumes are UUIDs as
-- text. Paths are bytes, because those of a volume need not be UTF-8.

-- An API key. Of its secret only the SHA-256 is kept.
CREATE TABLE server_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    org        TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    scopes     BIGINT  NOT NULL,
    volumes    TEXT    NOT NULL, -- ids with spaces between; '': all
    format     TEXT    NOT NULL,
    hash       BYTEA   NOT NULL UNIQUE,
    created    BIGINT  NOT NULL,
    created_by TEXT    NOT NULL,
    expires    BIGINT  NOT NULL,
    revoked    BIGINT  NOT NULL DEFAULT 0,
    last_used  BIGINT  NOT NULL DEFAULT 0
);
CREATE INDEX server_keys_org ON server_keys (org, created, id);

-- What this server alone knows: the secret that volume tokens are signed with.
CREATE TABLE server_secrets (
    name    TEXT    NOT NULL PRIMARY KEY,
    secret  BYTEA   NOT NULL,
    created BIGINT  NOT NULL
);

CREATE TABLE server_audit (
    id         BIGINT  NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         BIGINT  NOT NULL,
    org        TEXT    NOT NULL,
    key_id     TEXT    NOT NULL,
    key_name   TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    volume     TEXT    NOT NULL,
    path       TEXT    NOT NULL, -- for people to read, not bytes
    detail     TEXT    NOT NULL,
    addr       TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    status     BIGINT  NOT NULL
);
CREATE INDEX server_audit_org ON server_audit (org, id);
CREATE INDEX server_audit_at ON server_audit (at);

CREATE TABLE server_idempotency (
    org         TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    claim       BYTEA   NOT NULL, -- random: tells who made the row when an answer was lost
    result      BYTEA   NOT NULL,
    done        BIGINT  NOT NULL DEFAULT 0,
    created     BIGINT  NOT NULL,
    PRIMARY KEY (org, key)
);
CREATE INDEX server_idempotency_created ON server_idempotency (created);

CREATE TABLE server_uploads (
    org       TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    key_id    TEXT    NOT NULL,
    volume    TEXT    NOT NULL,
    path      BYTEA   NOT NULL,
    staging   BYTEA   NOT NULL,
    size      BIGINT  NOT NULL, -- -1: unknown
    mode      BIGINT  NOT NULL,
    exclusive BIGINT  NOT NULL,
    created   BIGINT  NOT NULL,
    expires   BIGINT  NOT NULL,
    PRIMARY KEY (org, id)
);
CREATE INDEX server_uploads_expires ON server_uploads (expires);
