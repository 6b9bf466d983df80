-- migrate:up

-- Ids, states, texts and numbers are columns, for people who ask questions with SQL. What the
-- services read back is the protobuf beside them, which also keeps fields that this version of
-- the code does not know. Times are text in UTC that sorts by time. As in PostgreSQL, a NUL is
-- shown as U+2400.

CREATE TABLE sessions (
    session_id        text NOT NULL PRIMARY KEY CHECK (length(session_id) BETWEEN 1 AND 256),
    tenant            text NOT NULL CHECK (length(tenant) <= 256),
    user_id           text NOT NULL CHECK (length(user_id) <= 256),
    title             text NOT NULL,
    mode              text NOT NULL,
    revision          integer NOT NULL,
    message_count     integer NOT NULL,
    parent_session_id text NOT NULL,
    create_time       text NOT NULL,
    last_used_time    text,
    -- set: a tombstone, for good; nothing of the session is left but this row and its usage
    delete_time       text,
    -- maieutic.v1.Session
    record            blob NOT NULL,
    -- when its unfinished turns were last handed to the session service
    ensure_time       text
);
CREATE INDEX sessions_of_user ON sessions (tenant, user_id, create_time DESC, session_id DESC)
    WHERE delete_time IS NULL;

CREATE TABLE turns (
    accept_order        integer PRIMARY KEY,
    turn_id             text NOT NULL UNIQUE CHECK (length(turn_id) BETWEEN 1 AND 256),
    session_id          text NOT NULL REFERENCES sessions,
    tenant              text NOT NULL,
    user_id             text NOT NULL,
    request_id          text NOT NULL,
    predecessor_turn_id text NOT NULL CHECK (length(predecessor_turn_id) <= 256),
    lane                text NOT NULL,
    -- ACCEPTED, then once and for good the terminal state of the first outcome committed here
    state               text NOT NULL,
    reason              text NOT NULL,
    explanation         text NOT NULL,
    attempts            integer NOT NULL,
    create_time         text NOT NULL,
    start_time          text,
    finish_time         text,
    -- when this row was written
    accept_time         text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- when the outcome was written
    archive_time        text,
    -- maieutic.bus.v1.RunTurn
    job                 blob NOT NULL,
    -- maieutic.bus.v1.TurnFinished
    finished            blob,
    CHECK ((finished IS NULL) = (state = 'ACCEPTED')),
    CHECK ((finished IS NULL) = (archive_time IS NULL))
);
CREATE INDEX turns_of_session ON turns (session_id, create_time, accept_order);
CREATE INDEX turns_by_predecessor ON turns (session_id, predecessor_turn_id);
CREATE INDEX turns_unfinished ON turns (accept_time) WHERE finished IS NULL;

CREATE TABLE messages (
    message_id  text NOT NULL PRIMARY KEY CHECK (length(message_id) BETWEEN 1 AND 256),
    session_id  text NOT NULL REFERENCES sessions,
    turn_id     text NOT NULL,
    -- from 1 in its session; null: its turn is waiting, or ended before the message was said
    position    integer,
    author      text NOT NULL,
    text        text NOT NULL,
    create_time text,
    citations   text NOT NULL,
    -- maieutic.v1.Message
    record      blob NOT NULL
);
CREATE INDEX messages_of_session ON messages (session_id, position);

-- What each model call of an archived outcome consumed; outlives a deleted session, as accounts must.
CREATE TABLE usage (
    turn_id       text NOT NULL,
    step_no       integer NOT NULL,
    step          text NOT NULL,
    model         text NOT NULL,
    tenant        text NOT NULL,
    user_id       text NOT NULL,
    session_id    text NOT NULL,
    input_tokens  integer NOT NULL,
    output_tokens integer NOT NULL,
    cached_tokens integer NOT NULL,
    duration_ms   integer NOT NULL,
    finish_time   text,
    PRIMARY KEY (turn_id, step_no)
);
CREATE INDEX usage_of_tenant ON usage (tenant, finish_time);

-- Each archived fact once; never what was said, so it outlives a deleted session.
CREATE TABLE events (
    event_key    text NOT NULL PRIMARY KEY,
    kind         text NOT NULL,
    tenant       text NOT NULL,
    user_id      text NOT NULL,
    session_id   text NOT NULL,
    turn_id      text NOT NULL,
    detail       text NOT NULL,
    event_time   text,
    archive_time text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX events_of_session ON events (session_id);

CREATE TABLE documents (
    tenant       text NOT NULL CHECK (length(tenant) <= 256),
    document_id  text NOT NULL CHECK (length(document_id) BETWEEN 1 AND 256),
    name         text NOT NULL,
    format       text NOT NULL,
    state        text NOT NULL,
    size         integer NOT NULL,
    content_hash text NOT NULL CHECK (length(content_hash) BETWEEN 1 AND 256),
    chunk_count  integer NOT NULL,
    create_time  text NOT NULL,
    PRIMARY KEY (tenant, document_id),
    UNIQUE (tenant, content_hash)
);

CREATE TABLE document_bytes (
    tenant      text NOT NULL,
    document_id text NOT NULL,
    content     blob NOT NULL,
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

-- Goes with the reference that the request made: after a release it may be made again.
CREATE TABLE document_requests (
    tenant       text NOT NULL,
    user_id      text NOT NULL,
    request_id   text NOT NULL CHECK (length(request_id) <= 256),
    request_hash blob NOT NULL,
    document_id  text NOT NULL,
    create_time  text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (tenant, user_id, request_id),
    FOREIGN KEY (tenant, user_id, document_id) REFERENCES document_owners ON DELETE CASCADE
);
CREATE INDEX requests_of_owner ON document_requests (tenant, user_id, document_id);

-- migrate:down

DROP TABLE document_requests;
DROP TABLE document_owners;
DROP TABLE document_bytes;
DROP TABLE documents;
DROP TABLE events;
DROP TABLE usage;
DROP TABLE messages;
DROP TABLE turns;
DROP TABLE sessions;
