-- migrate:up

ALTER TABLE usage ADD COLUMN cache_write_tokens bigint NOT NULL DEFAULT 0;
-- in millionths of the currency's unit; null: unknown
ALTER TABLE usage ADD COLUMN cost_micros bigint;
-- ISO 4217; empty: the cost is unknown
ALTER TABLE usage ADD COLUMN currency text NOT NULL DEFAULT '';

-- migrate:down

ALTER TABLE usage DROP COLUMN currency;
ALTER TABLE usage DROP COLUMN cost_micros;
ALTER TABLE usage DROP COLUMN cache_write_tokens;
