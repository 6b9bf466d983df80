-- migrate:up

CREATE TABLE artifacts (
    artifact_id text PRIMARY KEY CHECK (length(artifact_id) BETWEEN 1 AND 256),
    session_id  text NOT NULL REFERENCES sessions,
    turn_id     text NOT NULL CHECK (length(turn_id) <= 256),
    fence       bigint NOT NULL,
    path        text NOT NULL,
    media_type  text NOT NULL,
    size        bigint NOT NULL,
    sha256      text NOT NULL,
    content     bytea NOT NULL,
    named       boolean NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now())
);
COMMENT ON TABLE artifacts IS 'files that agents have made in turns; they go with the session';
COMMENT ON COLUMN artifacts.artifact_id IS 'derived from turn, path and content';
COMMENT ON COLUMN artifacts.fence IS 'of the last attempt that put it';
COMMENT ON COLUMN artifacts.named IS 'the outcome of the turn names it; others go after a day';
COMMENT ON COLUMN artifacts.create_time IS 'in milliseconds, as page tokens are';
CREATE INDEX artifacts_of_session ON artifacts (session_id, create_time, artifact_id);
CREATE INDEX artifacts_of_turn ON artifacts (turn_id, fence);
CREATE INDEX artifacts_unnamed ON artifacts (create_time) WHERE NOT named;

-- migrate:down

DROP TABLE artifacts;
