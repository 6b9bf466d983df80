-- migrate:up

CREATE TABLE session_documents (
    session_id  text NOT NULL REFERENCES sessions,
    document_id text NOT NULL,
    PRIMARY KEY (session_id, document_id)
);
COMMENT ON TABLE session_documents IS 'what each living session draws from; written with its row, so that both agree';
CREATE INDEX sessions_of_document ON session_documents (document_id);

-- migrate:down

DROP TABLE session_documents;
