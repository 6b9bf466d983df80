-- migrate:up

-- What an attempt consumed may be told twice, by an outcome and beside it: its id is the same.
-- Empty: the version before told it, which is known by its number in the outcome.
ALTER TABLE usage RENAME TO usage_before;
DROP INDEX usage_of_tenant;
CREATE TABLE usage (
    turn_id            text NOT NULL,
    step_no            integer NOT NULL,
    step               text NOT NULL,
    model              text NOT NULL,
    tenant             text NOT NULL,
    user_id            text NOT NULL,
    session_id         text NOT NULL,
    input_tokens       integer NOT NULL,
    output_tokens      integer NOT NULL,
    cached_tokens      integer NOT NULL,
    duration_ms        integer NOT NULL,
    finish_time        text,
    cache_write_tokens integer NOT NULL DEFAULT 0,
    -- in millionths of the currency's unit; null: unknown
    cost_micros        integer,
    -- ISO 4217; empty: the cost is unknown
    currency           text NOT NULL DEFAULT '',
    usage_id           text NOT NULL DEFAULT ''
);
INSERT INTO usage (
    turn_id, step_no, step, model, tenant, user_id, session_id, input_tokens, output_tokens,
    cached_tokens, duration_ms, finish_time, cache_write_tokens, cost_micros, currency
) SELECT
    turn_id, step_no, step, model, tenant, user_id, session_id, input_tokens, output_tokens,
    cached_tokens, duration_ms, finish_time, cache_write_tokens, cost_micros, currency
FROM usage_before;
DROP TABLE usage_before;
CREATE INDEX usage_of_tenant ON usage (tenant, finish_time);
CREATE UNIQUE INDEX usage_once
    ON usage (turn_id, usage_id, (CASE WHEN usage_id = '' THEN step_no ELSE 0 END));

-- migrate:down

-- What is known by its id alone has no place in the table as it was.
ALTER TABLE usage RENAME TO usage_after;
DROP INDEX usage_of_tenant;
DROP INDEX usage_once;
CREATE TABLE usage (
    turn_id            text NOT NULL,
    step_no            integer NOT NULL,
    step               text NOT NULL,
    model              text NOT NULL,
    tenant             text NOT NULL,
    user_id            text NOT NULL,
    session_id         text NOT NULL,
    input_tokens       integer NOT NULL,
    output_tokens      integer NOT NULL,
    cached_tokens      integer NOT NULL,
    duration_ms        integer NOT NULL,
    finish_time        text,
    cache_write_tokens integer NOT NULL DEFAULT 0,
    -- in millionths of the currency's unit; null: unknown
    cost_micros        integer,
    -- ISO 4217; empty: the cost is unknown
    currency           text NOT NULL DEFAULT '',
    PRIMARY KEY (turn_id, step_no)
);
INSERT OR IGNORE INTO usage (
    turn_id, step_no, step, model, tenant, user_id, session_id, input_tokens, output_tokens,
    cached_tokens, duration_ms, finish_time, cache_write_tokens, cost_micros, currency
) SELECT
    turn_id, step_no, step, model, tenant, user_id, session_id, input_tokens, output_tokens,
    cached_tokens, duration_ms, finish_time, cache_write_tokens, cost_micros, currency
FROM usage_after;
DROP TABLE usage_after;
CREATE INDEX usage_of_tenant ON usage (tenant, finish_time);
