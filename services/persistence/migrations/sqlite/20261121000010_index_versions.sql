-- migrate:up

-- Indexes of the documents' chunks, side by side: each has every document.
CREATE TABLE index_versions (
    version_id       text PRIMARY KEY CHECK (length(version_id) BETWEEN 1 AND 64),
    -- Embedder, splitter and parameters, in words.
    label            text NOT NULL,
    embedder_url     text NOT NULL,
    embedder         text NOT NULL,
    dimension        integer NOT NULL,
    chunk_characters integer NOT NULL,
    chunk_overlap    integer NOT NULL,
    -- Under which name its vectors are kept.
    space            text NOT NULL,
    -- A document may be missing in it.
    building         boolean NOT NULL,
    dropping         boolean NOT NULL DEFAULT false,
    create_time      text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
);

-- One row: the version that is searched.
CREATE TABLE index_pointer (
    only_row integer PRIMARY KEY CHECK (only_row = 1),
    current  text NOT NULL,
    previous text NOT NULL DEFAULT ''
);

-- Which content of a document each index has.
CREATE TABLE document_indexes (
    tenant      text NOT NULL,
    document_id text NOT NULL,
    version_id  text NOT NULL REFERENCES index_versions ON DELETE CASCADE,
    version     integer NOT NULL,
    chunks_hash text NOT NULL,
    -- Set: it cannot have it, for this reason.
    failure     text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant, document_id, version_id),
    FOREIGN KEY (tenant, document_id) REFERENCES documents ON DELETE CASCADE
);
CREATE INDEX document_indexes_of_version ON document_indexes (version_id);

-- migrate:down

DROP TABLE document_indexes;
DROP TABLE index_pointer;
DROP TABLE index_versions;
