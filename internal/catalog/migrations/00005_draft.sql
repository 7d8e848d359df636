-- +goose Up

-- A draft, a volume that its maker fills before anyone else sees it, has a state of its own.
-- Before, it was a volume in creation whose column made was 2: now made says nothing but that
-- the directory data exists. The check keeps a process of an older version that still has the
-- catalog open from making such a draft, which recovery would take for a finished volume.
CREATE TABLE volumes_new (
    id        TEXT    NOT NULL PRIMARY KEY,
    name      TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    state     TEXT    NOT NULL CHECK (state IN ('creating', 'draft', 'ready', 'removing')),
    quota     INTEGER NOT NULL DEFAULT 0,
    capacity  INTEGER NOT NULL DEFAULT 0,
    labels    TEXT    NOT NULL DEFAULT '',                      -- JSON object, '' for none
    created   INTEGER NOT NULL,
    updated   INTEGER NOT NULL,
    used      INTEGER NOT NULL DEFAULT 0,
    stale     INTEGER NOT NULL DEFAULT 0,                       -- used may be wrong
    made      INTEGER NOT NULL DEFAULT 0 CHECK (made IN (0, 1)), -- its directory data was made, durably
    counted   INTEGER NOT NULL DEFAULT 0,                       -- how many rows of counting name this volume
    owner     TEXT    NOT NULL DEFAULT '',                      -- process that is creating or removing it
    entries   INTEGER NOT NULL DEFAULT -1,                      -- -1: not known, until the volume is measured
    names     INTEGER NOT NULL DEFAULT -1,
    xattrs    INTEGER NOT NULL DEFAULT -1,
    last_used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

INSERT INTO volumes_new
SELECT id, name, kind, CASE WHEN state = 'creating' AND made = 2 THEN 'draft' ELSE state END, quota, capacity, labels,
       created, updated, used, stale, min(made, 1), counted, owner, entries, names, xattrs, last_used
FROM volumes;

DROP TABLE volumes;
ALTER TABLE volumes_new RENAME TO volumes;

CREATE UNIQUE INDEX volumes_name ON volumes (name) WHERE state <> 'removing';
CREATE INDEX volumes_unsettled ON volumes (state) WHERE state <> 'ready';

-- +goose Down
CREATE TABLE volumes_old (
    id        TEXT    NOT NULL PRIMARY KEY,
    name      TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    state     TEXT    NOT NULL CHECK (state IN ('creating', 'ready', 'removing')),
    quota     INTEGER NOT NULL DEFAULT 0,
    capacity  INTEGER NOT NULL DEFAULT 0,
    labels    TEXT    NOT NULL DEFAULT '',
    created   INTEGER NOT NULL,
    updated   INTEGER NOT NULL,
    used      INTEGER NOT NULL DEFAULT 0,
    stale     INTEGER NOT NULL DEFAULT 0,
    made      INTEGER NOT NULL DEFAULT 0,
    counted   INTEGER NOT NULL DEFAULT 0,
    owner     TEXT    NOT NULL DEFAULT '',
    entries   INTEGER NOT NULL DEFAULT -1,
    names     INTEGER NOT NULL DEFAULT -1,
    xattrs    INTEGER NOT NULL DEFAULT -1,
    last_used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

INSERT INTO volumes_old
SELECT id, name, kind, CASE state WHEN 'draft' THEN 'creating' ELSE state END, quota, capacity, labels,
       created, updated, used, stale, CASE state WHEN 'draft' THEN 2 ELSE made END, counted, owner, entries, names, xattrs, last_used
FROM volumes;

DROP TABLE volumes;
ALTER TABLE volumes_old RENAME TO volumes;

CREATE UNIQUE INDEX volumes_name ON volumes (name) WHERE state <> 'removing';
CREATE INDEX volumes_unsettled ON volumes (state) WHERE state <> 'ready';
