-- migrate:up

-- of the turn; empty: the version before told it
ALTER TABLE usage ADD COLUMN kind text NOT NULL DEFAULT '';
CREATE INDEX usage_of_user ON usage (tenant, user_id, finish_time);
CREATE INDEX usage_of_session ON usage (session_id);

-- migrate:down

DROP INDEX usage_of_session;
DROP INDEX usage_of_user;
ALTER TABLE usage DROP COLUMN kind;
