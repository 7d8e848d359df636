-- +goose Up

-- Times are nanoseconds since 1970, 0 for none. Ids of keys and volumes are UUIDs as
-- text. Paths are bytes, because those of a volume need not be UTF-8.

-- An API key. Of its secret only the SHA-256 is kept.
CREATE TABLE server_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    org        TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    scopes     INTEGER NOT NULL,
    volumes    TEXT    NOT NULL, -- ids with spaces between; '': all
    format     TEXT    NOT NULL,
    hash       BLOB    NOT NULL UNIQUE,
    created    INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    expires    INTEGER NOT NULL,
    revoked    INTEGER NOT NULL DEFAULT 0,
    last_used  INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX server_keys_org ON server_keys (org, created, id);

-- What this server alone knows: the secret that volume tokens are signed with.
CREATE TABLE server_secrets (
    name    TEXT    NOT NULL PRIMARY KEY,
    secret  BLOB    NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE server_audit (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    org        TEXT    NOT NULL,
    key_id     TEXT    NOT NULL,
    key_name   TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    volume     TEXT    NOT NULL,
    path       TEXT    NOT NULL, -- for people to read, not bytes
    detail     TEXT    NOT NULL,
    addr       TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    status     INTEGER NOT NULL
) STRICT;
CREATE INDEX server_audit_org ON server_audit (org, id);
CREATE INDEX server_audit_at ON server_audit (at);

CREATE TABLE server_idempotency (
    org         TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    claim       BLOB    NOT NULL, -- random: tells who made the row when an answer was lost
    result      BLOB    NOT NULL,
    done        INTEGER NOT NULL DEFAULT 0,
    created     INTEGER NOT NULL,
    PRIMARY KEY (org, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX server_idempotency_created ON server_idempotency (created);

CREATE TABLE server_uploads (
    org       TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    key_id    TEXT    NOT NULL,
    volume    TEXT    NOT NULL,
    path      BLOB    NOT NULL,
    staging   BLOB    NOT NULL,
    size      INTEGER NOT NULL, -- -1: unknown
    mode      INTEGER NOT NULL,
    exclusive INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    expires   INTEGER NOT NULL,
    PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX server_uploads_expires ON server_uploads (expires);
