-- +goose Up

-- A sandbox. A live one is proven alive by the lock of its supervisor, not by its row.
CREATE TABLE sandboxes (
    id        TEXT    NOT NULL PRIMARY KEY,
    name      TEXT    NOT NULL,
    status    TEXT    NOT NULL
        CHECK (status IN ('created', 'starting', 'running', 'draining', 'paused', 'stopped', 'crashed')),
    command   TEXT    NOT NULL,            -- JSON array of strings
    root      TEXT    NOT NULL,            -- 'host', 'dir:PATH' or 'image:PATH'
    runtime   TEXT    NOT NULL,
    detached  INTEGER NOT NULL,
    mounts    TEXT    NOT NULL,            -- JSON array of objects
    pid       INTEGER NOT NULL,            -- the supervisor
    exit_code INTEGER,                     -- NULL until the command ended
    error     TEXT    NOT NULL,            -- '' for none
    created   INTEGER NOT NULL,            -- times are nanoseconds since 1970, 0 for none
    started   INTEGER NOT NULL,
    ended     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX sandboxes_live ON sandboxes (name) WHERE status NOT IN ('stopped', 'crashed');
CREATE INDEX sandboxes_name ON sandboxes (name);

-- +goose Down
DROP TABLE sandboxes;
