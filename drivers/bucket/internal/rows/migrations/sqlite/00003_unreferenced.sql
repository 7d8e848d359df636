-- +goose Up

-- freed is set while no chunk refers to the blob: from its registration until it is used,
-- and after its last chunk is deleted. A blob with expires is a reservation: it was never
-- used, its size is the most that may be put, and nothing puts it any more after that time,
-- or once the process that owns it is dead.
ALTER TABLE blobs ADD COLUMN owner BLOB;      -- the process that may put it; NULL: none, or a client
ALTER TABLE blobs ADD COLUMN expires INTEGER;
ALTER TABLE doomed ADD COLUMN size INTEGER NOT NULL DEFAULT 0; -- 0: the object was deleted once

-- Before, a blob counted as freed when the first of its chunks was deleted.
UPDATE blobs SET freed = NULL WHERE freed IS NOT NULL
    AND EXISTS (SELECT 1 FROM chunks c WHERE c.org = blobs.org AND c.blob = blobs.id);

CREATE INDEX blobs_org_freed ON blobs (org, freed) WHERE freed IS NOT NULL;
CREATE INDEX blobs_expires ON blobs (org, expires) WHERE expires IS NOT NULL;

-- The bytes of each organisation that are stored, or may be, while no chunk refers to
-- them.
CREATE TABLE unreferenced (
    id    INTEGER PRIMARY KEY,
    org   BLOB NOT NULL UNIQUE,
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO unreferenced (org, bytes) SELECT org, sum(size) FROM blobs WHERE freed IS NOT NULL AND size <> 0 GROUP BY org;

-- +goose StatementBegin
CREATE TRIGGER blobs_added AFTER INSERT ON blobs WHEN NEW.freed IS NOT NULL AND NEW.size <> 0 BEGIN
    INSERT INTO unreferenced (org, bytes) VALUES (NEW.org, NEW.size)
        ON CONFLICT (org) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER blobs_changed AFTER UPDATE OF freed, size ON blobs
WHEN (CASE WHEN NEW.freed IS NULL THEN 0 ELSE NEW.size END) <> (CASE WHEN OLD.freed IS NULL THEN 0 ELSE OLD.size END) BEGIN
    INSERT INTO unreferenced (org, bytes) VALUES (NEW.org,
        (CASE WHEN NEW.freed IS NULL THEN 0 ELSE NEW.size END) - (CASE WHEN OLD.freed IS NULL THEN 0 ELSE OLD.size END))
        ON CONFLICT (org) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER blobs_removed AFTER DELETE ON blobs WHEN OLD.freed IS NOT NULL AND OLD.size <> 0 BEGIN
    INSERT INTO unreferenced (org, bytes) VALUES (OLD.org, -OLD.size)
        ON CONFLICT (org) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER doomed_added AFTER INSERT ON doomed WHEN NEW.size <> 0 BEGIN
    INSERT INTO unreferenced (org, bytes) VALUES (NEW.org, NEW.size)
        ON CONFLICT (org) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER doomed_changed AFTER UPDATE OF size ON doomed WHEN NEW.size <> OLD.size BEGIN
    INSERT INTO unreferenced (org, bytes) VALUES (NEW.org, NEW.size - OLD.size)
        ON CONFLICT (org) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER doomed_removed AFTER DELETE ON doomed WHEN OLD.size <> 0 BEGIN
    INSERT INTO unreferenced (org, bytes) VALUES (OLD.org, -OLD.size)
        ON CONFLICT (org) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
-- +goose StatementEnd

-- A chunk that is only replaced takes the mark away again. The two highest times are
-- those of a rebuild, which settles them itself.
-- +goose StatementBegin
CREATE TRIGGER chunks_removed AFTER DELETE ON chunks BEGIN
    UPDATE blobs SET freed = CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000000
        WHERE org = OLD.org AND id = OLD.blob AND freed IS NULL
        AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.org = OLD.org AND c.blob = OLD.blob);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER chunks_added AFTER INSERT ON chunks BEGIN
    UPDATE blobs SET freed = NULL
        WHERE org = NEW.org AND id = NEW.blob AND freed IS NOT NULL AND freed < 9223372036854775806;
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER chunks_added;
DROP TRIGGER chunks_removed;
DROP TRIGGER doomed_removed;
DROP TRIGGER doomed_changed;
DROP TRIGGER doomed_added;
DROP TRIGGER blobs_removed;
DROP TRIGGER blobs_changed;
DROP TRIGGER blobs_added;
DROP TABLE unreferenced;
DROP INDEX blobs_expires;
DROP INDEX blobs_org_freed;
ALTER TABLE doomed DROP COLUMN size;
ALTER TABLE blobs DROP COLUMN expires;
ALTER TABLE blobs DROP COLUMN owner;
