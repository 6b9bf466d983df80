-- migrate:up

-- One row per tenant, locked by every change of who refers to what: they run one after the other.
CREATE TABLE document_tenants (
    tenant   text PRIMARY KEY,
    revision bigint NOT NULL
);
COMMENT ON COLUMN document_tenants.revision IS 'raised by every change of the tenant''s documents';

-- Bytes are kept once for each content, however many documents have it.
CREATE TABLE document_contents (
    tenant       text NOT NULL,
    content_hash text NOT NULL,
    content      bytea NOT NULL,
    PRIMARY KEY (tenant, content_hash)
);
INSERT INTO document_contents
SELECT tenant, content_hash, content FROM documents JOIN document_bytes USING (tenant, document_id);
DROP TABLE document_bytes;

-- The content of a document may be replaced by one that another document has.
ALTER TABLE documents
    DROP CONSTRAINT documents_tenant_content_hash_key,
    ADD COLUMN version bigint NOT NULL DEFAULT 1,
    ADD COLUMN revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN indexed_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN index_version text NOT NULL DEFAULT '',
    ADD COLUMN chunks_embedded integer NOT NULL DEFAULT 0,
    ADD COLUMN update_time timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN failure text NOT NULL DEFAULT '',
    ADD COLUMN stage text NOT NULL DEFAULT 'ACCEPTED',
    ADD COLUMN chunks_done integer NOT NULL DEFAULT 0,
    ADD COLUMN chunks_total integer NOT NULL DEFAULT 0,
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN claim text NOT NULL DEFAULT '',
    ADD COLUMN lease_time timestamptz,
    ADD COLUMN sweep_time timestamptz;
COMMENT ON COLUMN documents.state IS 'PENDING, READY, FAILED; REMOVING: nobody refers to it, its vectors are to go';
COMMENT ON COLUMN documents.version IS 'which content, from 1';
COMMENT ON COLUMN documents.revision IS 'the tenant''s, when there was last something to do for the index';
COMMENT ON COLUMN documents.indexed_version IS 'the version that is in the index; 0 if none, or if it is being removed';
COMMENT ON COLUMN documents.index_version IS 'the embedder and the splitter that it was indexed with';
COMMENT ON COLUMN documents.attempts IS 'claims of this version that came to no end';
COMMENT ON COLUMN documents.claim IS 'whose work it is until lease_time; empty: nobody''s, and lease_time is when to try again';
COMMENT ON COLUMN documents.sweep_time IS 'when its work was last handed out';
UPDATE documents SET indexed_version = 1, stage = 'STORED' WHERE state = 'READY';
CREATE INDEX documents_of_content ON documents (tenant, content_hash);
CREATE INDEX documents_unfinished ON documents (create_time) WHERE state IN ('PENDING', 'REMOVING');

CREATE TABLE document_references (
    tenant         text NOT NULL,
    scope          text NOT NULL,
    owner          text NOT NULL CHECK (length(owner) <= 256),
    document_id    text NOT NULL,
    create_time    timestamptz NOT NULL DEFAULT now(),
    last_used_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, scope, owner, document_id),
    FOREIGN KEY (tenant, document_id) REFERENCES documents ON DELETE CASCADE
);
COMMENT ON TABLE document_references IS 'who has the document; with the last one it goes';
COMMENT ON COLUMN document_references.scope IS 'USER, SET, COLLECTION';
INSERT INTO document_references (tenant, scope, owner, document_id)
SELECT tenant, 'USER', user_id, document_id FROM document_owners;
CREATE INDEX references_of_document ON document_references (tenant, document_id);

CREATE TABLE document_operations (
    tenant       text NOT NULL,
    user_id      text NOT NULL,
    request_id   text NOT NULL CHECK (length(request_id) <= 256),
    request_hash bytea NOT NULL,
    document_id  text NOT NULL,
    indexes      boolean NOT NULL,
    create_time  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, user_id, request_id)
);
COMMENT ON TABLE document_operations IS 'what each request did, so that it is done once; kept for a day';
COMMENT ON COLUMN document_operations.indexes IS 'it gave the index something to do';
INSERT INTO document_operations
SELECT tenant, user_id, request_id, request_hash, document_id, true, create_time
FROM document_requests;
CREATE INDEX operations_by_age ON document_operations (create_time);
DROP TABLE document_requests, document_owners;

-- migrate:down

DROP TABLE document_operations, document_references, document_contents, document_tenants, documents;
