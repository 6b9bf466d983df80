-- migrate:up

-- Of the ids of the chunks that the index holds for indexed_version.
ALTER TABLE documents ADD COLUMN chunks_hash text NOT NULL DEFAULT '';

-- migrate:down

ALTER TABLE documents DROP COLUMN chunks_hash;
