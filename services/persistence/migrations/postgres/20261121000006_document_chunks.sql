-- migrate:up

ALTER TABLE documents ADD COLUMN chunks_hash text NOT NULL DEFAULT '';
COMMENT ON COLUMN documents.chunks_hash IS 'of the ids of the chunks that the index holds for indexed_version';

-- migrate:down

ALTER TABLE documents DROP COLUMN chunks_hash;
