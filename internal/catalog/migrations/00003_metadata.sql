-- +goose Up

-- What a volume keeps beside the bytes of its files: entries, bytes of names and link
-- targets, bytes of attributes. -1: not known, until the volume is measured.
ALTER TABLE volumes ADD COLUMN entries INTEGER NOT NULL DEFAULT -1;
ALTER TABLE volumes ADD COLUMN names   INTEGER NOT NULL DEFAULT -1;
ALTER TABLE volumes ADD COLUMN xattrs  INTEGER NOT NULL DEFAULT -1;
UPDATE volumes SET entries = 0, names = 0, xattrs = 0 WHERE made = 0;

-- +goose Down
ALTER TABLE volumes DROP COLUMN xattrs;
ALTER TABLE volumes DROP COLUMN names;
ALTER TABLE volumes DROP COLUMN entries;
