-- migrate:up

-- Ids, states, texts and numbers are columns, for people who ask questions with SQL. What the
-- services read back is the protobuf beside them, which also keeps fields that this version of
-- the code does not know. Text columns hold no NUL (PostgreSQL refuses it): it is shown as U+2400.

CREATE TABLE sessions (
    session_id        text PRIMARY KEY CHECK (length(session_id) BETWEEN 1 AND 256),
    tenant            text NOT NULL CHECK (length(tenant) <= 256),
    user_id           text NOT NULL CHECK (length(user_id) <= 256),
    title             text NOT NULL,
    mode              text NOT NULL,
    revision          bigint NOT NULL,
    message_count     bigint NOT NULL,
    parent_session_id text NOT NULL,
    create_time       timestamptz NOT NULL,
    last_used_time    timestamptz,
    delete_time       timestamptz,
    record            bytea NOT NULL,
    ensure_time       timestamptz
);
COMMENT ON COLUMN sessions.delete_time IS 'set: a tombstone, for good; nothing of the session is left but this row and its usage';
COMMENT ON COLUMN sessions.record IS 'maieutic.v1.Session';
COMMENT ON COLUMN sessions.ensure_time IS 'when its unfinished turns were last handed to the session service';
CREATE INDEX sessions_of_user ON sessions (tenant, user_id, create_time DESC, session_id DESC)
    WHERE delete_time IS NULL;

CREATE TABLE turns (
    turn_id             text PRIMARY KEY CHECK (length(turn_id) BETWEEN 1 AND 256),
    session_id          text NOT NULL REFERENCES sessions,
    tenant              text NOT NULL,
    user_id             text NOT NULL,
    request_id          text NOT NULL,
    predecessor_turn_id text NOT NULL CHECK (length(predecessor_turn_id) <= 256),
    lane                text NOT NULL,
    state               text NOT NULL,
    reason              text NOT NULL,
    explanation         text NOT NULL,
    attempts            integer NOT NULL,
    create_time         timestamptz NOT NULL,
    start_time          timestamptz,
    finish_time         timestamptz,
    accept_time         timestamptz NOT NULL DEFAULT now(),
    archive_time        timestamptz,
    accept_order        bigint GENERATED ALWAYS AS IDENTITY,
    job                 bytea NOT NULL,
    finished            bytea,
    CHECK ((finished IS NULL) = (state = 'ACCEPTED')),
    CHECK ((finished IS NULL) = (archive_time IS NULL))
);
COMMENT ON COLUMN turns.state IS 'ACCEPTED, then once and for good the terminal state of the first outcome committed here';
COMMENT ON COLUMN turns.accept_time IS 'when this row was written';
COMMENT ON COLUMN turns.archive_time IS 'when the outcome was written';
COMMENT ON COLUMN turns.job IS 'maieutic.bus.v1.RunTurn';
COMMENT ON COLUMN turns.finished IS 'maieutic.bus.v1.TurnFinished';
CREATE INDEX turns_of_session ON turns (session_id, create_time, accept_order);
CREATE INDEX turns_by_predecessor ON turns (session_id, predecessor_turn_id);
CREATE INDEX turns_unfinished ON turns (accept_time) WHERE finished IS NULL;

CREATE TABLE messages (
    message_id  text PRIMARY KEY CHECK (length(message_id) BETWEEN 1 AND 256),
    session_id  text NOT NULL REFERENCES sessions,
    turn_id     text NOT NULL,
    position    bigint,
    author      text NOT NULL,
    text        text NOT NULL,
    create_time timestamptz,
    citations   jsonb NOT NULL,
    record      bytea NOT NULL
);
COMMENT ON COLUMN messages.position IS 'from 1 in its session; null: its turn is waiting, or ended before the message was said';
COMMENT ON COLUMN messages.record IS 'maieutic.v1.Message';
CREATE INDEX messages_of_session ON messages (session_id, position);

CREATE TABLE usage (
    turn_id       text NOT NULL,
    step_no       integer NOT NULL,
    step          text NOT NULL,
    model         text NOT NULL,
    tenant        text NOT NULL,
    user_id       text NOT NULL,
    session_id    text NOT NULL,
    input_tokens  bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    duration_ms   bigint NOT NULL,
    finish_time   timestamptz,
    PRIMARY KEY (turn_id, step_no)
);
COMMENT ON TABLE usage IS 'what each model call of an archived outcome consumed; outlives a deleted session, as accounts must';
CREATE INDEX usage_of_tenant ON usage (tenant, finish_time);

CREATE TABLE events (
    event_key    text PRIMARY KEY,
    kind         text NOT NULL,
    tenant       text NOT NULL,
    user_id      text NOT NULL,
    session_id   text NOT NULL,
    turn_id      text NOT NULL,
    detail       text NOT NULL,
    event_time   timestamptz,
    archive_time timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE events IS 'each archived fact once; never what was said, so it outlives a deleted session';
CREATE INDEX events_of_session ON events (session_id);

CREATE TABLE documents (
    tenant       text NOT NULL CHECK (length(tenant) <= 256),
    document_id  text NOT NULL CHECK (length(document_id) BETWEEN 1 AND 256),
    name         text NOT NULL,
    format       text NOT NULL,
    state        text NOT NULL,
    size         bigint NOT NULL,
    content_hash text NOT NULL CHECK (length(content_hash) BETWEEN 1 AND 256),
    chunk_count  integer NOT NULL,
    create_time  timestamptz NOT NULL,
    PRIMARY KEY (tenant, document_id),
    UNIQUE (tenant, content_hash)
);

CREATE TABLE document_bytes (
    tenant      text NOT NULL,
    document_id text NOT NULL,
    content     bytea NOT NULL,
    PRIMARY KEY (tenant, document_id),
    FOREIGN KEY (tenant, document_id) REFERENCES documents ON DELETE CASCADE
);

CREATE TABLE document_owners (
    tenant      text NOT NULL,
    user_id     text NOT NULL CHECK (length(user_id) <= 256),
    document_id text NOT NULL,
    PRIMARY KEY (tenant, user_id, document_id),
    FOREIGN KEY (tenant, document_id) REFERENCES documents ON DELETE CASCADE
);
CREATE INDEX owners_of_document ON document_owners (tenant, document_id);

CREATE TABLE document_requests (
    tenant       text NOT NULL,
    user_id      text NOT NULL,
    request_id   text NOT NULL CHECK (length(request_id) <= 256),
    request_hash bytea NOT NULL,
    document_id  text NOT NULL,
    create_time  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, user_id, request_id),
    FOREIGN KEY (tenant, user_id, document_id) REFERENCES document_owners ON DELETE CASCADE
);
COMMENT ON TABLE document_requests IS 'goes with the reference that the request made: after a release it may be made again';
CREATE INDEX requests_of_owner ON document_requests (tenant, user_id, document_id);

-- migrate:down

DROP TABLE document_requests, document_owners, document_bytes, documents;
DROP TABLE events, usage, messages, turns, sessions;
