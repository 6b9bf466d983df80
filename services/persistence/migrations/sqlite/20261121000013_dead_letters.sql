-- migrate:up

-- Messages of the bus that could not be read, or that no consumer survived.
CREATE TABLE dead_letters (
    number       integer PRIMARY KEY AUTOINCREMENT,
    letter_id    text NOT NULL UNIQUE,
    message_id   text NOT NULL,
    routing_key  text NOT NULL,
    reason       text NOT NULL,
    -- JSON
    headers      text NOT NULL,
    body         blob NOT NULL,
    size         integer NOT NULL,
    -- size is larger than the body that is kept
    cut          boolean NOT NULL,
    -- how often it had been redriven when it died
    redrives     integer NOT NULL,
    create_time  text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    redrive_time text
);
CREATE INDEX dead_letters_by_age ON dead_letters (create_time);

-- What each request did, so that it is done once; kept for a day.
CREATE TABLE dead_letter_operations (
    tenant       text NOT NULL,
    user_id      text NOT NULL,
    request_id   text NOT NULL CHECK (length(request_id) <= 256),
    request_hash blob NOT NULL,
    outcome      blob NOT NULL,
    create_time  text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    PRIMARY KEY (tenant, user_id, request_id)
);

-- migrate:down

DROP TABLE dead_letter_operations;
DROP TABLE dead_letters;
