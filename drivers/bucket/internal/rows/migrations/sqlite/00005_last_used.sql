-- +goose Up

-- When the volume was last attached, detached, or its files changed, by the clock of the
-- database. Volumes from before this column count from now on.
ALTER TABLE volumes ADD COLUMN last_used INTEGER NOT NULL DEFAULT 0;
UPDATE volumes SET last_used = CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000000;

-- +goose Down
ALTER TABLE volumes DROP COLUMN last_used;
