-- migrate:up

-- Indexes of the documents' chunks, side by side: each has every document.
CREATE TABLE index_versions (
    version_id       text PRIMARY KEY CHECK (length(version_id) BETWEEN 1 AND 64),
    label            text NOT NULL,
    embedder_url     text NOT NULL,
    embedder         text NOT NULL,
    dimension        integer NOT NULL,
    chunk_characters integer NOT NULL,
    chunk_overlap    integer NOT NULL,
    space            text NOT NULL,
    building         boolean NOT NULL,
    dropping         boolean NOT NULL DEFAULT false,
    create_time      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN index_versions.label IS 'embedder, splitter and parameters, in words';
COMMENT ON COLUMN index_versions.space IS 'under which name its vectors are kept';
COMMENT ON COLUMN index_versions.building IS 'a document may be missing in it';

-- One row: the version that is searched. Who changes it locks it; who relies on it shares it.
CREATE TABLE index_pointer (
    only_row integer PRIMARY KEY CHECK (only_row = 1),
    current  text NOT NULL,
    previous text NOT NULL DEFAULT ''
);

CREATE TABLE document_indexes (
    tenant      text NOT NULL,
    document_id text NOT NULL,
    version_id  text NOT NULL REFERENCES index_versions ON DELETE CASCADE,
    version     bigint NOT NULL,
    chunks_hash text NOT NULL,
    failure     text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant, document_id, version_id),
    FOREIGN KEY (tenant, document_id) REFERENCES documents ON DELETE CASCADE
);
COMMENT ON TABLE document_indexes IS 'which content of a document each index has';
COMMENT ON COLUMN document_indexes.failure IS 'set: it cannot have it, for this reason';
CREATE INDEX document_indexes_of_version ON document_indexes (version_id);

-- migrate:down

DROP TABLE document_indexes, index_pointer, index_versions;
