-- +goose Up

-- The name that a volume had when a record was made. Older records do not have it.
ALTER TABLE server_audit ADD COLUMN volume_name TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE server_audit DROP COLUMN volume_name;
