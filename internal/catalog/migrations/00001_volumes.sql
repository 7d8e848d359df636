-- +goose Up

-- A volume. Ids are UUIDv7, so their order is the order of creation and the table,
-- which is kept in that order, is listed newest first without sorting. Times are
-- nanoseconds since 1970, sizes are bytes.
CREATE TABLE volumes (
    id       TEXT    NOT NULL PRIMARY KEY,
    name     TEXT    NOT NULL,
    kind     TEXT    NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('creating', 'ready', 'removing')),
    quota    INTEGER NOT NULL DEFAULT 0,
    capacity INTEGER NOT NULL DEFAULT 0,
    labels   TEXT    NOT NULL DEFAULT '', -- JSON object, '' for none
    created  INTEGER NOT NULL,
    updated  INTEGER NOT NULL,
    used     INTEGER NOT NULL DEFAULT 0,
    stale    INTEGER NOT NULL DEFAULT 0,  -- used may be wrong
    made     INTEGER NOT NULL DEFAULT 0,  -- its directory data was made, durably
    counted  INTEGER NOT NULL DEFAULT 0,  -- how many rows of counting name this volume
    owner    TEXT    NOT NULL DEFAULT ''  -- process that is creating or removing it
) STRICT, WITHOUT ROWID;

-- A volume in removal has given its name up.
CREATE UNIQUE INDEX volumes_name ON volumes (name) WHERE state <> 'removing';

-- What recovery has to look at: never more than what is in flight.
CREATE INDEX volumes_unsettled ON volumes (state) WHERE state <> 'ready';

-- A process that changes files of a volume through the FS. While there is one, the
-- volume's usage is in its counter file; when the process is dead, nobody knows it.
CREATE TABLE counting (
    volume  TEXT NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
    process TEXT NOT NULL,
    PRIMARY KEY (volume, process)
) STRICT, WITHOUT ROWID;

-- A consumer's right to use a volume. It ends with its row, or with its process.
CREATE TABLE attachments (
    id        TEXT    NOT NULL PRIMARY KEY,
    volume    TEXT    NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
    process   TEXT    NOT NULL,
    holder    TEXT    NOT NULL,
    read_only INTEGER NOT NULL,
    host_path INTEGER NOT NULL,
    host      TEXT    NOT NULL,
    pid       INTEGER NOT NULL,
    started   INTEGER NOT NULL,
    since     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX attachments_volume ON attachments (volume);

-- +goose Down
DROP TABLE attachments;
DROP TABLE counting;
DROP TABLE volumes;
