-- migrate:up

CREATE TABLE dead_letters (
    number       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    letter_id    text NOT NULL UNIQUE,
    message_id   text NOT NULL,
    routing_key  text NOT NULL,
    reason       text NOT NULL,
    headers      text NOT NULL,
    body         bytea NOT NULL,
    size         bigint NOT NULL,
    cut          boolean NOT NULL,
    redrives     integer NOT NULL,
    create_time  timestamptz NOT NULL DEFAULT now(),
    redrive_time timestamptz
);
COMMENT ON TABLE dead_letters IS 'messages of the bus that could not be read, or that no consumer survived';
COMMENT ON COLUMN dead_letters.headers IS 'JSON';
COMMENT ON COLUMN dead_letters.cut IS 'size is larger than the body that is kept';
COMMENT ON COLUMN dead_letters.redrives IS 'how often it had been redriven when it died';
CREATE INDEX dead_letters_by_age ON dead_letters (create_time);

CREATE TABLE dead_letter_operations (
    tenant       text NOT NULL,
    user_id      text NOT NULL,
    request_id   text NOT NULL CHECK (length(request_id) <= 256),
    request_hash bytea NOT NULL,
    outcome      bytea NOT NULL,
    create_time  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, user_id, request_id)
);
COMMENT ON TABLE dead_letter_operations IS 'what each request did, so that it is done once; kept for a day';

-- migrate:down

DROP TABLE dead_letter_operations;
DROP TABLE dead_letters;
