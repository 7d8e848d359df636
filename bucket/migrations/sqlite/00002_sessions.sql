-- +goose Up

-- The organisation of a session that a client of servers holds; NULL: a process's own.
ALTER TABLE sessions ADD COLUMN org BLOB REFERENCES orgs (id);

-- +goose Down
ALTER TABLE sessions DROP COLUMN org;
