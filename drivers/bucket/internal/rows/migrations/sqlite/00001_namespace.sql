-- +goose Up

-- Ids are UUIDs as 16 bytes. Times are nanoseconds since 1970, sizes are bytes. Names
-- are bytes, so that any name a file system takes is kept, and sorts, exactly.

CREATE TABLE orgs (
    id      BLOB NOT NULL PRIMARY KEY,
    name    TEXT   NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A process that has an organisation open. What it holds (attachments, drafts, files
-- without a name) is released when it closes, or does not renew the lease in time.
CREATE TABLE sessions (
    id      BLOB NOT NULL PRIMARY KEY,
    host    TEXT   NOT NULL,
    pid     INTEGER NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A volume. Ids are UUIDv7, so their order is that of creation. Every change of a
-- volume's files takes the lock of its row, and raises its generation.
CREATE TABLE volumes (
    org        BLOB NOT NULL REFERENCES orgs (id),
    id         BLOB NOT NULL,
    name       TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('creating', 'ready', 'removing')),
    quota      INTEGER NOT NULL DEFAULT 0, -- 0: none
    labels     TEXT   NOT NULL DEFAULT '', -- JSON object, '' for none
    created    INTEGER NOT NULL,
    updated    INTEGER NOT NULL,
    used       INTEGER NOT NULL DEFAULT 0,
    next_ino   INTEGER NOT NULL DEFAULT 2,
    generation INTEGER NOT NULL DEFAULT 0,
    session    BLOB, -- the maker of a draft
    writer     BLOB, -- the attachment that alone may change files; NULL: anyone may
    exported   INTEGER NOT NULL DEFAULT -1, -- generation of the newest manifest
    PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;

-- Rows of files know their volume by its id alone.
CREATE UNIQUE INDEX volumes_id ON volumes (id);
-- The name of a volume in removal is free.
CREATE UNIQUE INDEX volumes_name ON volumes (org, name) WHERE state <> 'removing';
-- What maintenance has to look at: never more than what is in flight.
CREATE INDEX volumes_unsettled ON volumes (state) WHERE state <> 'ready';

-- One row per file, directory, link or node. The root is inode 1.
CREATE TABLE inodes (
    vol    BLOB NOT NULL,
    ino    INTEGER NOT NULL,
    mode   INTEGER NOT NULL, -- st_mode of Linux: type and permissions
    uid    INTEGER NOT NULL,
    gid    INTEGER NOT NULL,
    nlink  INTEGER NOT NULL,
    size   INTEGER NOT NULL,
    alloc  INTEGER NOT NULL, -- bytes that are no hole
    atime  INTEGER NOT NULL,
    mtime  INTEGER NOT NULL,
    ctime  INTEGER NOT NULL,
    rdev   INTEGER NOT NULL,
    target BLOB,        -- of a symbolic link
    PRIMARY KEY (vol, ino)
) STRICT, WITHOUT ROWID;

CREATE TABLE dirents (
    vol    BLOB NOT NULL,
    parent INTEGER NOT NULL,
    name   BLOB NOT NULL,
    ino    INTEGER NOT NULL,
    PRIMARY KEY (vol, parent, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE xattrs (
    vol   BLOB NOT NULL,
    ino   INTEGER NOT NULL,
    name  BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (vol, ino, name)
) STRICT, WITHOUT ROWID;

-- Immutable bytes: in the row when they are few, otherwise an object of the blob
-- store. A row exists before its object does. freed is set while no chunk refers to the
-- blob: from its registration until it is used, and after its last chunk is deleted.
CREATE TABLE blobs (
    org     BLOB NOT NULL,
    id      BLOB NOT NULL,
    size    INTEGER NOT NULL,
    sums    BLOB,       -- CRC-32C of every 64 KiB, 4 bytes each, big-endian
    data    BLOB,       -- NULL: an object
    created INTEGER NOT NULL,
    freed   INTEGER,
    PRIMARY KEY (org, id)
) STRICT;

CREATE INDEX blobs_freed ON blobs (freed) WHERE freed IS NOT NULL;

-- A range of a file and where its bytes are. Ranges do not overlap; what none covers
-- is a hole. None is longer than 8 MiB.
CREATE TABLE chunks (
    vol      BLOB NOT NULL,
    ino      INTEGER NOT NULL,
    pos      INTEGER NOT NULL,
    len      INTEGER NOT NULL,
    org      BLOB NOT NULL,
    blob     BLOB NOT NULL,
    blob_pos INTEGER NOT NULL,
    PRIMARY KEY (vol, ino, pos),
    FOREIGN KEY (org, blob) REFERENCES blobs (org, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX chunks_blob ON chunks (org, blob);

-- Tombstones: objects to delete, whose rows are gone. A put that failed may still
-- arrive, so the object of a blob that was never used is deleted twice.
CREATE TABLE doomed (
    org   BLOB NOT NULL,
    id    BLOB NOT NULL,
    at    INTEGER NOT NULL,
    twice INTEGER NOT NULL, -- 1: this is not the last time
    PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;

-- Inodes without a name. With a session: a file that the session has open. Without: the
-- root of a tree that is being removed.
CREATE TABLE orphans (
    vol     BLOB NOT NULL,
    ino     INTEGER NOT NULL,
    session BLOB,
    PRIMARY KEY (vol, ino)
) STRICT, WITHOUT ROWID;

CREATE INDEX orphans_session ON orphans (session);

CREATE TABLE attachments (
    id        BLOB NOT NULL PRIMARY KEY,
    org       BLOB NOT NULL,
    vol       BLOB NOT NULL,
    session   BLOB NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    holder    TEXT   NOT NULL,
    read_only INTEGER NOT NULL,
    exclusive INTEGER NOT NULL,
    host      TEXT   NOT NULL,
    pid       INTEGER NOT NULL,
    started   INTEGER NOT NULL,
    since     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX attachments_vol ON attachments (org, vol);
CREATE INDEX attachments_session ON attachments (session);

-- Recent changes, so that one whose answer was lost is not made twice.
CREATE TABLE ops (
    vol BLOB NOT NULL,
    op  BLOB NOT NULL,
    at  INTEGER NOT NULL,
    PRIMARY KEY (vol, op)
) STRICT, WITHOUT ROWID;

CREATE INDEX ops_at ON ops (at);

-- Work that one process does at a time.
CREATE TABLE jobs (
    name    TEXT   NOT NULL PRIMARY KEY,
    session BLOB,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

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
