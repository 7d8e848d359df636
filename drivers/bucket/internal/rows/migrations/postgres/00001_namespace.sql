-- +goose Up

-- Ids are UUIDs as 16 bytes. Times are nanoseconds since 1970, sizes are bytes. Names
-- are bytes, so that any name a file system takes is kept, and sorts, exactly.

CREATE TABLE orgs (
    id      BYTEA NOT NULL PRIMARY KEY,
    name    TEXT   NOT NULL UNIQUE,
    created BIGINT NOT NULL
);

-- A process that has an organisation open. What it holds (attachments, drafts, files
-- without a name) is released when it closes, or does not renew the lease in time.
CREATE TABLE sessions (
    id      BYTEA NOT NULL PRIMARY KEY,
    host    TEXT   NOT NULL,
    pid     BIGINT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL
);

-- A volume. Ids are UUIDv7, so their order is that of creation. Every change of a
-- volume's files takes the lock of its row, and raises its generation.
CREATE TABLE volumes (
    org        BYTEA NOT NULL REFERENCES orgs (id),
    id         BYTEA NOT NULL,
    name       TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('creating', 'ready', 'removing')),
    quota      BIGINT NOT NULL DEFAULT 0, -- 0: none
    labels     TEXT   NOT NULL DEFAULT '', -- JSON object, '' for none
    created    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    used       BIGINT NOT NULL DEFAULT 0,
    next_ino   BIGINT NOT NULL DEFAULT 2,
    generation BIGINT NOT NULL DEFAULT 0,
    session    BYTEA, -- the maker of a draft
    writer     BYTEA, -- the attachment that alone may change files; NULL: anyone may
    exported   BIGINT NOT NULL DEFAULT -1, -- generation of the newest manifest
    PRIMARY KEY (org, id)
);

-- Rows of files know their volume by its id alone.
CREATE UNIQUE INDEX volumes_id ON volumes (id);
-- The name of a volume in removal is free.
CREATE UNIQUE INDEX volumes_name ON volumes (org, name) WHERE state <> 'removing';
-- What maintenance has to look at: never more than what is in flight.
CREATE INDEX volumes_unsettled ON volumes (state) WHERE state <> 'ready';

-- One row per file, directory, link or node. The root is inode 1.
CREATE TABLE inodes (
    vol    BYTEA NOT NULL,
    ino    BIGINT NOT NULL,
    mode   BIGINT NOT NULL, -- st_mode of Linux: type and permissions
    uid    BIGINT NOT NULL,
    gid    BIGINT NOT NULL,
    nlink  BIGINT NOT NULL,
    size   BIGINT NOT NULL,
    alloc  BIGINT NOT NULL, -- bytes that are no hole
    atime  BIGINT NOT NULL,
    mtime  BIGINT NOT NULL,
    ctime  BIGINT NOT NULL,
    rdev   BIGINT NOT NULL,
    target BYTEA,        -- of a symbolic link
    PRIMARY KEY (vol, ino)
);

CREATE TABLE dirents (
    vol    BYTEA NOT NULL,
    parent BIGINT NOT NULL,
    name   BYTEA NOT NULL,
    ino    BIGINT NOT NULL,
    PRIMARY KEY (vol, parent, name)
);

CREATE TABLE xattrs (
    vol   BYTEA NOT NULL,
    ino   BIGINT NOT NULL,
    name  BYTEA NOT NULL,
    value BYTEA NOT NULL,
    PRIMARY KEY (vol, ino, name)
);

-- Immutable bytes: in the row when they are few, otherwise an object of the blob
-- store. A row exists before its object does. freed is set while no chunk refers to the
-- blob: from its registration until it is used, and after its last chunk is deleted.
CREATE TABLE blobs (
    org     BYTEA NOT NULL,
    id      BYTEA NOT NULL,
    size    BIGINT NOT NULL,
    sums    BYTEA,       -- CRC-32C of every 64 KiB, 4 bytes each, big-endian
    data    BYTEA,       -- NULL: an object
    created BIGINT NOT NULL,
    freed   BIGINT,
    PRIMARY KEY (org, id)
);

CREATE INDEX blobs_freed ON blobs (freed) WHERE freed IS NOT NULL;

-- A range of a file and where its bytes are. Ranges do not overlap; what none covers
-- is a hole. None is longer than 8 MiB.
CREATE TABLE chunks (
    vol      BYTEA NOT NULL,
    ino      BIGINT NOT NULL,
    pos      BIGINT NOT NULL,
    len      BIGINT NOT NULL,
    org      BYTEA NOT NULL,
    blob     BYTEA NOT NULL,
    blob_pos BIGINT NOT NULL,
    PRIMARY KEY (vol, ino, pos),
    FOREIGN KEY (org, blob) REFERENCES blobs (org, id)
);

CREATE INDEX chunks_blob ON chunks (org, blob);

-- Tombstones: objects to delete, whose rows are gone. A put that failed may still
-- arrive, so the object of a blob that was never used is deleted twice.
CREATE TABLE doomed (
    org   BYTEA NOT NULL,
    id    BYTEA NOT NULL,
    at    BIGINT NOT NULL,
    twice BIGINT NOT NULL, -- 1: this is not the last time
    PRIMARY KEY (org, id)
);

-- Inodes without a name. With a session: a file that the session has open. Without: the
-- root of a tree that is being removed.
CREATE TABLE orphans (
    vol     BYTEA NOT NULL,
    ino     BIGINT NOT NULL,
    session BYTEA,
    PRIMARY KEY (vol, ino)
);

CREATE INDEX orphans_session ON orphans (session);

CREATE TABLE attachments (
    id        BYTEA NOT NULL PRIMARY KEY,
    org       BYTEA NOT NULL,
    vol       BYTEA NOT NULL,
    session   BYTEA NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    holder    TEXT   NOT NULL,
    read_only BIGINT NOT NULL,
    exclusive BIGINT NOT NULL,
    host      TEXT   NOT NULL,
    pid       BIGINT NOT NULL,
    started   BIGINT NOT NULL,
    since     BIGINT NOT NULL
);

CREATE INDEX attachments_vol ON attachments (org, vol);
CREATE INDEX attachments_session ON attachments (session);

-- Recent changes, so that one whose answer was lost is not made twice.
CREATE TABLE ops (
    vol BYTEA NOT NULL,
    op  BYTEA NOT NULL,
    at  BIGINT NOT NULL,
    PRIMARY KEY (vol, op)
);

CREATE INDEX ops_at ON ops (at);

-- Work that one process does at a time.
CREATE TABLE jobs (
    name    TEXT   NOT NULL PRIMARY KEY,
    session BYTEA,
    expires BIGINT NOT NULL
);

-- +goose Down
DROP TABLE jobs;
DROP TABLE ops;
DROP TABLE attachments;
DROP TABLE orphans;
DROP TABLE doomed;
DROP TABLE chunks;
DROP TABLE blobs;
DROP TABLE xattrs;
DROP TABLE dirents;
DROP TABLE inodes;
DROP TABLE volumes;
DROP TABLE sessions;
DROP TABLE orgs;
