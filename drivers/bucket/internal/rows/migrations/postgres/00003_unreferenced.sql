-- +goose Up

-- freed is set while no chunk refers to the blob: from its registration until it is used,
-- and after its last chunk is deleted. A blob with expires is a reservation: it was never
-- used, its size is the most that may be put, and nothing puts it any more after that time,
-- or once the process that owns it is dead.
ALTER TABLE blobs ADD COLUMN owner BYTEA;    -- the process that may put it; NULL: none, or a client
ALTER TABLE blobs ADD COLUMN expires BIGINT;
ALTER TABLE doomed ADD COLUMN size BIGINT NOT NULL DEFAULT 0; -- 0: the object was deleted once

-- Before, a blob counted as freed when the first of its chunks was deleted.
UPDATE blobs SET freed = NULL WHERE freed IS NOT NULL
    AND EXISTS (SELECT 1 FROM chunks c WHERE c.org = blobs.org AND c.blob = blobs.id);

CREATE INDEX blobs_org_freed ON blobs (org, freed) WHERE freed IS NOT NULL;
CREATE INDEX blobs_expires ON blobs (org, expires) WHERE expires IS NOT NULL;

-- The bytes of each organisation that are stored, or may be, while no chunk refers to
-- them, are the sum of its rows. Rows are only added, so that no change waits for
-- another; who holds the lock of the organisation's row adds some up.
CREATE TABLE unreferenced (
    id    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org   BYTEA NOT NULL,
    bytes BIGINT NOT NULL
);
CREATE INDEX unreferenced_org ON unreferenced (org);
INSERT INTO unreferenced (org, bytes) SELECT org, sum(size) FROM blobs WHERE freed IS NOT NULL AND size <> 0 GROUP BY org;

-- +goose StatementBegin
CREATE FUNCTION vole_count_blobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO unreferenced (org, bytes) SELECT org, sum(size) FROM added WHERE freed IS NOT NULL AND size <> 0 GROUP BY org;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO unreferenced (org, bytes) SELECT org, -sum(size) FROM removed WHERE freed IS NOT NULL AND size <> 0 GROUP BY org;
    ELSE
        INSERT INTO unreferenced (org, bytes) SELECT org, sum(d) FROM (
            SELECT org, size AS d FROM added WHERE freed IS NOT NULL
            UNION ALL SELECT org, -size FROM removed WHERE freed IS NOT NULL) x GROUP BY org HAVING sum(d) <> 0;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER blobs_added AFTER INSERT ON blobs REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION vole_count_blobs();
CREATE TRIGGER blobs_changed AFTER UPDATE ON blobs REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION vole_count_blobs();
CREATE TRIGGER blobs_removed AFTER DELETE ON blobs REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION vole_count_blobs();

-- +goose StatementBegin
CREATE FUNCTION vole_count_doomed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO unreferenced (org, bytes) SELECT org, sum(size) FROM added WHERE size <> 0 GROUP BY org;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO unreferenced (org, bytes) SELECT org, -sum(size) FROM removed WHERE size <> 0 GROUP BY org;
    ELSE
        INSERT INTO unreferenced (org, bytes) SELECT org, sum(d) FROM (
            SELECT org, size AS d FROM added UNION ALL SELECT org, -size FROM removed) x GROUP BY org HAVING sum(d) <> 0;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER doomed_added AFTER INSERT ON doomed REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION vole_count_doomed();
CREATE TRIGGER doomed_changed AFTER UPDATE ON doomed REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION vole_count_doomed();
CREATE TRIGGER doomed_removed AFTER DELETE ON doomed REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION vole_count_doomed();

-- Runs at the commit, when chunks that were only replaced are there again. Of two
-- transactions that each take one of the last two chunks of a blob, the second waits for
-- the blob's row, and then sees what the first has done. The indexes are used whatever
-- the planner thinks of tables that were small when it looked.
-- +goose StatementBegin
CREATE FUNCTION vole_free_blob() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    PERFORM 1 FROM blobs WHERE org = OLD.org AND id = OLD.blob FOR NO KEY UPDATE;
    UPDATE blobs SET freed = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000
        WHERE org = OLD.org AND id = OLD.blob AND freed IS NULL
        AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.org = OLD.org AND c.blob = OLD.blob);
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE CONSTRAINT TRIGGER chunks_removed AFTER DELETE ON chunks DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION vole_free_blob();

-- +goose Down
DROP TRIGGER chunks_removed ON chunks;
DROP TRIGGER doomed_removed ON doomed;
DROP TRIGGER doomed_changed ON doomed;
DROP TRIGGER doomed_added ON doomed;
DROP TRIGGER blobs_removed ON blobs;
DROP TRIGGER blobs_changed ON blobs;
DROP TRIGGER blobs_added ON blobs;
DROP FUNCTION vole_free_blob;
DROP FUNCTION vole_count_doomed;
DROP FUNCTION vole_count_blobs;
DROP TABLE unreferenced;
DROP INDEX blobs_expires;
DROP INDEX blobs_org_freed;
ALTER TABLE doomed DROP COLUMN size;
ALTER TABLE blobs DROP COLUMN expires;
ALTER TABLE blobs DROP COLUMN owner;
