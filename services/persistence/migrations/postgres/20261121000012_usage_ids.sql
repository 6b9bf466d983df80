-- migrate:up

-- What an attempt consumed may be told twice, by an outcome and beside it: its id is the same.
-- Empty: the version before told it, which is known by its number in the outcome.
ALTER TABLE usage ADD COLUMN usage_id text NOT NULL DEFAULT '';
ALTER TABLE usage DROP CONSTRAINT usage_pkey;
CREATE UNIQUE INDEX usage_once
    ON usage (turn_id, usage_id, (CASE WHEN usage_id = '' THEN step_no ELSE 0 END));

-- migrate:down

-- What is known by its id alone has no place in the table as it was.
DELETE FROM usage AS late USING usage AS early
WHERE late.turn_id = early.turn_id AND late.step_no = early.step_no
    AND late.usage_id > early.usage_id;
DROP INDEX usage_once;
ALTER TABLE usage ADD PRIMARY KEY (turn_id, step_no);
ALTER TABLE usage DROP COLUMN usage_id;
