-- migrate:up

-- The notes and bookmarks of a session, as one value with a revision of its own: a change of them
-- and a change of the session may arrive in either order.
CREATE TABLE annotations (
    session_id text NOT NULL PRIMARY KEY REFERENCES sessions,
    revision   integer NOT NULL,
    -- maieutic.bus.v1.SessionAnnotations
    record     blob NOT NULL
);

-- migrate:down

DROP TABLE annotations;
