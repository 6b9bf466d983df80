-- migrate:up

-- Files that agents have made in turns; they go with the session.
CREATE TABLE artifacts (
    -- derived from turn, path and content
    artifact_id text PRIMARY KEY CHECK (length(artifact_id) BETWEEN 1 AND 256),
    session_id  text NOT NULL REFERENCES sessions,
    turn_id     text NOT NULL CHECK (length(turn_id) <= 256),
    -- of the last attempt that put it
    fence       integer NOT NULL,
    path        text NOT NULL,
    media_type  text NOT NULL,
    size        integer NOT NULL,
    sha256      text NOT NULL,
    content     blob NOT NULL,
    -- the outcome of the turn names it; others go after a day
    named       boolean NOT NULL DEFAULT false,
    -- in milliseconds, as page tokens are
    create_time text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
);
CREATE INDEX artifacts_of_session ON artifacts (session_id, create_time, artifact_id);
CREATE INDEX artifacts_of_turn ON artifacts (turn_id, fence);
CREATE INDEX artifacts_unnamed ON artifacts (create_time) WHERE NOT named;

-- migrate:down

DROP TABLE artifacts;
