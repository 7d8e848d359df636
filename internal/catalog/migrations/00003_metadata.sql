-- +goose Up

-- What a volume keeps beside the bytes of its files: entries, and bytes of names, link
-- targets and attributes. -1: not known, until the volume is measured.
ALTER TABLE volumes ADD COLUMN entries  INTEGER NOT NULL DEFAULT -1;
ALTER TABLE volumes ADD COLUMN metadata INTEGER NOT NULL DEFAULT -1;
UPDATE volumes SET entries = 0, metadata = 0 WHERE made = 0;

-- +goose Down
ALTER TABLE volumes DROP COLUMN metadata;
ALTER TABLE volumes DROP COLUMN entries;
