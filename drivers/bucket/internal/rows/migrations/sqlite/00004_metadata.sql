-- +goose Up

-- What a volume holds beside the bytes of its files is bounded, too: entries, and the
-- bytes of their names, of the targets of links and of attributes, see driver.Metadata.
ALTER TABLE inodes ADD COLUMN xattr_bytes INTEGER NOT NULL DEFAULT 0; -- names and values
ALTER TABLE volumes ADD COLUMN entries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volumes ADD COLUMN metadata INTEGER NOT NULL DEFAULT 0;   -- bytes

UPDATE inodes SET xattr_bytes = x.bytes FROM (SELECT vol, ino, sum(length(name) + length(value)) AS bytes FROM xattrs GROUP BY vol, ino) x
    WHERE inodes.vol = x.vol AND inodes.ino = x.ino;
UPDATE volumes SET
    entries = (SELECT count(*) FROM dirents e WHERE e.vol = volumes.id),
    metadata = coalesce((SELECT sum(length(e.name)) FROM dirents e WHERE e.vol = volumes.id), 0)
        + coalesce((SELECT sum(coalesce(length(i.target), 0) + i.xattr_bytes) FROM inodes i WHERE i.vol = volumes.id), 0);

-- +goose Down
ALTER TABLE volumes DROP COLUMN metadata;
ALTER TABLE volumes DROP COLUMN entries;
ALTER TABLE inodes DROP COLUMN xattr_bytes;
