-- migrate:up

-- One row per tenant, locked by every change of who refers to what: they run one after the other.
CREATE TABLE document_tenants (
    tenant   text PRIMARY KEY,
    -- Raised by every change of the tenant's documents.
    revision integer NOT NULL
);

-- Bytes are kept once for each content, however many documents have it.
CREATE TABLE document_contents (
    tenant       text NOT NULL,
    content_hash text NOT NULL,
    content      blob NOT NULL,
    PRIMARY KEY (tenant, content_hash)
);
INSERT INTO document_contents
SELECT tenant, content_hash, content FROM documents JOIN document_bytes USING (tenant, document_id);

-- What refers to the old table is emptied with it.
CREATE TEMPORARY TABLE kept_documents AS SELECT * FROM documents;
CREATE TEMPORARY TABLE kept_owners AS SELECT * FROM document_owners;
CREATE TEMPORARY TABLE kept_requests AS SELECT * FROM document_requests;
DROP TABLE document_requests;
DROP TABLE document_owners;
DROP TABLE document_bytes;
DROP TABLE documents;

CREATE TABLE documents (
    tenant          text NOT NULL CHECK (length(tenant) <= 256),
    document_id     text NOT NULL CHECK (length(document_id) BETWEEN 1 AND 256),
    name            text NOT NULL,
    format          text NOT NULL,
    -- PENDING, READY, FAILED; REMOVING: nobody refers to it, its vectors are to go.
    state           text NOT NULL,
    size            integer NOT NULL,
    -- The content of a document may be replaced by one that another document has.
    content_hash    text NOT NULL CHECK (length(content_hash) BETWEEN 1 AND 256),
    chunk_count     integer NOT NULL,
    create_time     text NOT NULL,
    -- Which content, from 1.
    version         integer NOT NULL DEFAULT 1,
    -- The tenant's, when there was last something to do for the index.
    revision        integer NOT NULL DEFAULT 0,
    -- The version that is in the index; 0 if none, or if it is being removed.
    indexed_version integer NOT NULL DEFAULT 0,
    -- The embedder and the splitter that it was indexed with.
    index_version   text NOT NULL DEFAULT '',
    chunks_embedded integer NOT NULL DEFAULT 0,
    update_time     text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    failure         text NOT NULL DEFAULT '',
    stage           text NOT NULL DEFAULT 'ACCEPTED',
    chunks_done     integer NOT NULL DEFAULT 0,
    chunks_total    integer NOT NULL DEFAULT 0,
    -- Claims of this version that came to no end.
    attempts        integer NOT NULL DEFAULT 0,
    -- Whose work it is until lease_time; empty: nobody's, and lease_time is when to try again.
    claim           text NOT NULL DEFAULT '',
    lease_time      text,
    -- When its work was last handed out.
    sweep_time      text,
    PRIMARY KEY (tenant, document_id)
);
INSERT INTO documents (
    tenant, document_id, name, format, state, size, content_hash, chunk_count, create_time,
    indexed_version, stage
)
SELECT
    tenant, document_id, name, format, state, size, content_hash, chunk_count, create_time,
    state = 'READY', CASE state WHEN 'READY' THEN 'STORED' ELSE 'ACCEPTED' END
FROM kept_documents;
CREATE INDEX documents_of_content ON documents (tenant, content_hash);
CREATE INDEX documents_unfinished ON documents (create_time) WHERE state IN ('PENDING', 'REMOVING');

-- Who has the document; with the last one it goes.
CREATE TABLE document_references (
    tenant         text NOT NULL,
    -- USER, SET, COLLECTION.
    scope          text NOT NULL,
    owner          text NOT NULL CHECK (length(owner) <= 256),
    document_id    text NOT NULL,
    create_time    text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    last_used_time text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    PRIMARY KEY (tenant, scope, owner, document_id),
    FOREIGN KEY (tenant, document_id) REFERENCES documents ON DELETE CASCADE
);
INSERT INTO document_references (tenant, scope, owner, document_id)
SELECT tenant, 'USER', user_id, document_id FROM kept_owners;
CREATE INDEX references_of_document ON document_references (tenant, document_id);

-- What each request did, so that it is done once; kept for a day.
CREATE TABLE document_operations (
    tenant       text NOT NULL,
    user_id      text NOT NULL,
    request_id   text NOT NULL CHECK (length(request_id) <= 256),
    request_hash blob NOT NULL,
    document_id  text NOT NULL,
    -- It gave the index something to do.
    indexes      boolean NOT NULL,
    create_time  text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    PRIMARY KEY (tenant, user_id, request_id)
);
INSERT INTO document_operations
SELECT tenant, user_id, request_id, request_hash, document_id, true, create_time
FROM kept_requests;
CREATE INDEX operations_by_age ON document_operations (create_time);

DROP TABLE kept_requests;
DROP TABLE kept_owners;
DROP TABLE kept_documents;

-- migrate:down

DROP TABLE document_operations;
DROP TABLE document_references;
DROP TABLE document_contents;
DROP TABLE document_tenants;
DROP TABLE documents;
