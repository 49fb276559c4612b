-- The shop's own database (SQLite). Orders, stock and coupons change together, in one transaction.
CREATE TABLE orders (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,           -- pending, paid, cancelled, refunded; void: a check was faster than the order
    sku TEXT, quantity INTEGER,
    coupon TEXT,                    -- NULL: without
    coupon_version INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE stock (
    sku TEXT PRIMARY KEY,
    initial INTEGER NOT NULL,
    available INTEGER NOT NULL CHECK (available >= 0),
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    sold INTEGER NOT NULL CHECK (sold >= 0)
);
CREATE TABLE coupons (
    code TEXT PRIMARY KEY,
    status TEXT NOT NULL,           -- free, locked, used
    order_id TEXT,
    version INTEGER NOT NULL        -- grows with every change
);
CREATE TABLE payments (
    id TEXT PRIMARY KEY,            -- the transaction's id
    order_id TEXT,
    status TEXT NOT NULL,           -- paid, refund; void: a check was faster
    at_ms INTEGER
);
