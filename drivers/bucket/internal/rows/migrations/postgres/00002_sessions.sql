-- +goose Up

-- The organisation of a session that a client of servers holds, and the owner that may
-- resume it; NULL: the session is a process's own.
ALTER TABLE sessions ADD COLUMN org BYTEA REFERENCES orgs (id);
ALTER TABLE sessions ADD COLUMN owner TEXT;

-- +goose Down
ALTER TABLE sessions DROP COLUMN owner;
ALTER TABLE sessions DROP COLUMN org;
