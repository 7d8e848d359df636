-- +goose Up

-- When the volume was last attached, detached, or changed by an FS. While one changes it,
-- that is in the counter's page. Volumes from before this column count from now on.
ALTER TABLE volumes ADD COLUMN last_used INTEGER NOT NULL DEFAULT 0;
UPDATE volumes SET last_used = CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000000;

-- +goose Down
ALTER TABLE volumes DROP COLUMN last_used;
