-- What three other services keep (PostgreSQL). No unique keys on orders: that each stands there once is the
-- consumer runtime's doing, and what the verdict checks.
CREATE TABLE inventory (order_id text NOT NULL, sku text NOT NULL, quantity integer NOT NULL);
CREATE TABLE points (order_id text NOT NULL, points integer NOT NULL, fence bigint NOT NULL);
CREATE TABLE coupon_usage (code text PRIMARY KEY, order_id text NOT NULL, uses integer NOT NULL, version bigint NOT NULL);
